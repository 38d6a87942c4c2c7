"""How an engine is to run, and what it counted."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits and defaults of one engine; those that shape results are marked so."""

    max_num_seqs: int = 64
    """Sequences decoded together."""
    kv_cache_bytes: int = 4 << 30
    """Room for keys and values; long requests get fewer slots."""
    lookahead: int = 512
    """Prompts that may wait, tokenised, for a slot."""
    seed: int = 0
    """Shapes results: draws of requests without a seed of their own."""
    clamp_max_tokens: bool = False
    """Shapes results: shorten max_tokens to what the context holds instead of refusing."""
    logprobs_mode: Literal["raw", "processed"] = "raw"
    """Shapes results: whether logprobs are those before or after bias, penalties and filters."""


@dataclass(slots=True)
class EngineStatistics:
    """Counts and seconds since the engine was opened."""

    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_steps: int = 0
    decode_rows: int = 0
    """Rows over all decode steps; divided by steps, the mean batch."""
    decode_seconds: float = 0.0
    sample_seconds: float = 0.0
    max_rows: int = 0
    suffixes_infilled: int = 0
    """Prompts whose suffix the model read by its infill tokens."""
    suffixes_resampled: int = 0
    """Prompts whose suffix chose among candidates, the model having no infill tokens."""
