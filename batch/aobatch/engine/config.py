"""How an engine is to run, and what it counted."""

from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits and defaults of one engine; those that shape results are marked so."""

    max_num_seqs: int = 128
    """Sequences decoded together, over all lanes."""
    num_lanes: int = 2
    """Batches that are decoded side by side, each by a thread of its own."""
    kv_cache_bytes: int = 4 << 30
    """Room for keys and values, over all lanes; long requests get fewer slots."""
    shares_prefixes: bool = True
    """Whether the beginning that prompts have in common is computed once."""
    lookahead: int = 512
    """Prompts that may wait, tokenised, for a slot."""
    awaited_slots: int = 0
    """Slots, over all lanes, that only requests get for which somebody waits."""
    step_seconds: float = 600.0
    """A run of the model that takes longer has timed out."""
    seed: int = 0
    """Shapes results: draws of requests without a seed of their own."""
    clamp_max_tokens: bool = False
    """Shapes results: shorten max_tokens to what the context holds instead of refusing."""
    chat_format: str | None = None
    """Shapes results: how chats are written; None: as the model's description says."""
    logprobs_mode: Literal["raw", "processed"] = "raw"
    """Shapes results: whether logprobs are those before or after bias, penalties and filters."""


@dataclass(slots=True)
class EngineStatistics:
    """Counts, and seconds over all lanes, since the engine was opened."""

    prefill_tokens: int = 0
    """Prompt tokens that were computed."""
    prefix_tokens_shared: int = 0
    """Prompt tokens that were copied from another prompt that begins with them."""
    prefill_seconds: float = 0.0
    decode_steps: int = 0
    decode_rows: int = 0
    """Rows over all decode steps; divided by steps, the mean batch."""
    decode_slots: int = 0
    """Slots over all decode steps; decode_rows are the part of them that was occupied."""
    decode_seconds: float = 0.0
    sampled_tokens: int = 0
    """Tokens that were drawn, also for candidates that are not returned."""
    sample_seconds: float = 0.0
    lane_seconds: float = 0.0
    """Time in which lanes had something to do; beside the three above it is bookkeeping."""
    run_seconds: float = 0.0
    """Time from the first request that was read to the last result."""
    busy_rows: int = 0
    """Rows of decode steps while more sequences waited."""
    busy_slots: int = 0
    """Slots of the same steps; busy_rows are the part of them that was occupied."""
    requests_shared: int = 0
    """Requests answered with the result of an equal one."""
    suffixes_infilled: int = 0
    """Prompts whose suffix the model read by its infill tokens."""
    suffixes_resampled: int = 0
    """Prompts whose suffix chose among candidates, the model having no infill tokens."""
    requests_shaped: int = 0
    """Requests that asked for answers of a shape."""

    def add(self, other: "EngineStatistics") -> None:
        """Add what another lane counted."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
