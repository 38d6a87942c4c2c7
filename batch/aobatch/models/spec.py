"""What one decoder is made of, whatever file it came from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aobatch.files import file_digests
from aobatch.models import MergedAdapter, SpecialTokens

Weight: TypeAlias = NDArray[np.floating]
"""A weight matrix [out, in], or a gain or bias [out]."""

Activation: TypeAlias = Literal["silu", "gelu_tanh", "gelu", "relu_squared"]
"""What the gate of a feed-forward block goes through, or all of it if there is no gate."""

DOMAIN = "aobatch"
"""The domain of our own operators in graphs."""
MICROSOFT = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

EXPERT_PARTS = ("gate", "up", "down")
"""The matrices of an expert."""

CAPACITY_STEP = 64
"""Slots hold a multiple of this many tokens, so that a chunk padded by one always fits."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions: the base of the frequencies, and what each of them is divided by."""

    theta: float
    divisors: tuple[float, ...] = ()
    """One a frequency, [width / 2]; empty if none is divided."""
    width: int | None = None
    """How many of a head's numbers are turned; None for all."""
    gain: float = 1.0
    """What turned numbers are multiplied by."""


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """How one layer attends."""

    rope: Rope
    window: int = 0
    """How many of the last tokens a token sees, itself among them; 0 for all."""


@dataclass(frozen=True, slots=True)
class Experts:
    """How feed-forward blocks are divided into experts, of which a router chooses some a token."""

    count: int
    used: int
    """How many a token goes through."""
    shares_whole: bool = True
    """Whether their weights add up to one; if not, those of all experts do."""
    sharpness: float = 1.0
    """What gates are multiplied by within their sigmoid."""
    limit: float = 0.0
    """Gates are cut off above it, what they are multiplied with on both sides; 0 for never."""
    offset: float = 0.0
    """What is added to what gates are multiplied with."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The sizes, constants and traits that a decoder graph is built from."""

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
    attentions: tuple[LayerAttention, ...]
    """One a layer."""
    attention_scale: float
    """What products of queries and keys are multiplied by."""
    embedding_scale: float = 1.0
    activation: Activation = "silu"
    is_tied: bool = False
    """Whether the output head is the embedding."""
    biases: frozenset[str] = frozenset()
    """Which of q, k, v, o, router, gate, up and down add a bias."""
    has_head_norms: bool = False
    """Whether each head's queries and keys are normed before they are turned."""
    norms_whole_rows: bool = False
    """Whether these norms go over all heads at once."""
    has_post_norms: bool = False
    """Whether what a block adds to the residual stream is normed."""
    has_pre_norms: bool = True
    """Whether what a block reads is normed."""
    centres: bool = False
    """Whether norms subtract the mean: LayerNorm (Ba et al. 2016)."""
    has_norm_biases: bool = False
    has_norm_gains: bool = True
    head_share: float = 1.0
    """Which part of each head its checkpoint has; zeros are the rest."""
    is_gated: bool = True
    """Whether a feed-forward block multiplies what it activates."""
    is_parallel: bool = False
    """Whether both blocks of a layer read the same residual stream."""
    shares_norms: bool = False
    """Whether they read it through one norm."""
    residual_scale: float = 1.0
    """What blocks' outputs are multiplied by."""
    logits_scale: float = 1.0
    attention_cap: float = 0.0
    """Attention's scores are cap * tanh(score / cap); 0 for none."""
    logits_cap: float = 0.0
    has_sinks: bool = False
    """Whether each head's scores have one more beside them, of a token without a value."""
    experts: Experts | None = None
    """None if every token goes through the same matrices."""

    @property
    def head_norm_epsilon(self) -> float:
        """What norms of heads add to a mean that goes over zeros too."""
        return self.norm_epsilon * self.head_share


DESCRIBED_SIZES = (
    *("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim"),
    "context_length",
)
"""The sizes of a decoder that a model's description and its facts have, too."""
DESCRIBED_TOKENS = (
    *("eos_token_ids", "document_start_token_id", "adds_document_start", "infill_token_ids"),
    *("infill_order", "chat_format"),
)
"""What they have of a checkpoint's tokens."""


class WeightLoader(Protocol):
    """Gives weights by their canonical names, read when they are asked for."""

    def __call__(self, name: str, start: int = 0, stop: int | None = None) -> Weight:
        """Give rows start to stop of a weight as float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint(SpecialTokens):
    """A decoder as its importer found it.

    `load(name)` gives a weight by its canonical name (`embedding`, `final_norm`, `head`,
    `layers.0.q`, …; see `decoder_shapes`) as float32 [out, in], experts' as [experts, out, in].
    """

    spec: DecoderSpec
    load: WeightLoader
    tokenizer_json: bytes
    licence: str
    source: str
    files: tuple[Path, ...]
    """Where the weights lie."""
    adapters: tuple[MergedAdapter, ...] = ()
    """What was merged into the weights, in this order."""
    warnings: tuple[str, ...] = ()
    """What its description says that may change what it computes and is not known here."""
    left_out: str = ""
    """Which of its weights are not taken, if any; those of pictures."""

    def gain(self, name: str) -> Weight:
        """Give the gain of a norm, ones where it has none."""
        if self.spec.has_norm_gains:
            return self.load(name)
        return np.ones(self.spec.hidden_size, np.float32)

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """The checksum of each file, which is read through for it, once."""
        return file_digests(self.files)
