"""What one decoder is made of, whatever file it came from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Weight: TypeAlias = NDArray[np.floating]
"""A weight matrix [out, in], or a gain [hidden]."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The sizes and constants that a decoder graph is built from."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_epsilon: float
    rope_theta: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A decoder as its importer found it.

    `load(name)` gives a weight by its canonical name (`embedding`, `final_norm`, `head`,
    `layers.0.q`, …; see a module of `families`) as float32 [out, in], read when it is asked for.
    """

    spec: DecoderSpec
    load: Callable[[str], Weight]
    tokenizer_json: bytes
    eos_token_ids: tuple[int, ...]
    document_start_token_id: int
    adds_document_start: bool
    infill_token_ids: tuple[int, ...]
    """Ahead of a prefix, a suffix and the middle; empty if there are no such tokens."""
    name: str
    licence: str
    source: str
    sha256: str
