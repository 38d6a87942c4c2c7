"""The families of decoders: what tells each from the plain one, out of either kind of file.

The plain decoder has RMSNorm ahead of each block, rotary positions over whole heads, grouped-query
attention, gated SiLU, and biases where config.json says so. A family is an entry of `FAMILIES`,
under the name that it has in its files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

from aobatch.errors import ModelError
from aobatch.models.source.decoder import config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import BASES, CONTEXTS, rope_from_config, rope_from_section
from aobatch.models.spec import DecoderSpec, LayerAttention, Rope

_WINDOWS = (1, 2**24)
_KINDS = {"full_attention": False, "sliding_attention": True}

Refine = Callable[[Fields, DecoderSpec], DecoderSpec]
"""Adds to a plain decoder what further fields of its file say."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a family differs from the plain decoder."""

    required: Mapping[str, object] = field(default_factory=lambda: {"hidden_act": "silu"})
    """What config.json may leave out, but not say otherwise."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the spec that all its models have."""
    is_tied: bool = False
    """Whether the embedding is the output head where config.json does not say."""
    states_head_dim: bool = False
    """Whether config.json has to say how wide heads are."""
    gguf_pairs_neighbours: bool = False
    """Whether GGUF files order the rows of q and k for a rotation of neighbouring pairs."""
    gain_offset: float = 0.0
    """What has to be added to the gains of norms in safetensors files."""
    rope: Callable[[Fields, int], Rope] = rope_from_config
    """Reads the rotary positions of layers that see all tokens, for heads of a width."""
    from_config: Refine = lambda _, spec: spec
    from_gguf: Refine = lambda _, spec: spec


def find(name: str, source: str) -> Family:
    """Find the family that a file names; ModelError names the known ones."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        message = f"{source}: model family {name!r} is not supported; supported are {known}"
        raise ModelError(message)
    return FAMILIES[name]


def spec_from_config(family: Family, name: str, fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json."""
    for key, value in family.required.items():
        fields.require(key, value)
    spec = config_spec(
        fields, (name, vocab_size), family.rope, states_head_dim=family.states_head_dim
    )
    is_tied = fields.flag("tie_word_embeddings", default=family.is_tied)
    spec = replace(spec, is_tied=is_tied, **family.traits)
    return family.from_config(fields, spec)


def spec_from_gguf(family: Family, name: str, fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    return family.from_gguf(fields, replace(gguf_spec(fields, name, vocab_size), **family.traits))


def _with_windows(spec: DecoderSpec, windows: Sequence[int]) -> DecoderSpec:
    """Let each layer see only so many tokens; 0 stands for all."""
    pairs = zip(spec.attentions, windows, strict=True)
    return replace(spec, attentions=tuple(replace(layer, window=size) for layer, size in pairs))


def _windows(
    fields: Fields, num_layers: int, window: int, is_windowed: Callable[[int], bool]
) -> list[int]:
    """Read which layers see only `window` tokens; `is_windowed` says so if config.json does not."""
    kinds = list(fields.texts("layer_types")) if "layer_types" in fields else []
    if kinds and len(kinds) != num_layers:
        fields.refuse(f"'layer_types' has {len(kinds)} entries for {num_layers} layers")
    for kind in kinds:
        if kind not in _KINDS or (_KINDS[kind] and not window):
            fields.refuse(f"a layer of type {kind[:40]!r} is not supported here")
    has_window = [_KINDS[kind] for kind in kinds] or map(is_windowed, range(num_layers))
    return [window if has else 0 for has in has_window]


def _gguf_window(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the window of all layers, if there is one: models of mistral call themselves llama."""
    key = f"{spec.family}.attention.sliding_window"
    window = fields.integer(key, *_WINDOWS) if key in fields else 0
    return _with_windows(spec, [window] * spec.num_layers)


def _mistral_window(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the window of all layers; null is none."""
    is_whole = fields.is_stated("sliding_window") and "sliding_window" not in fields
    window = 0 if is_whole else fields.integer("sliding_window", *_WINDOWS, 4096)
    return _with_windows(spec, [window] * spec.num_layers)


def _qwen_windows(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows of the last layers, if they are used at all."""
    is_used = fields.flag("use_sliding_window", default=False)
    window = fields.integer("sliding_window", 0, _WINDOWS[1], 0) if is_used else 0
    first = fields.integer("max_window_layers", 0, 2**16, 0) if is_used else spec.num_layers
    for unused in () if is_used else ("sliding_window", "max_window_layers"):
        fields.get(unused)
    return _with_windows(spec, _windows(fields, spec.num_layers, window, lambda i: i >= first))


_PATTERN, _PATTERNS = 6, (1, 512)
_LOCAL_BASE, _GLOBAL_BASE = 10_000.0, 1_000_000.0

# The largest gemma3, known by its layers, scales by another width than its heads'.
_LAYERS_OF_LARGEST = 62


def _gemma_ropes(fields: Fields, head_dim: int) -> tuple[Rope, Rope]:
    """Read the rotary positions of layers with a window and of the others."""
    context = fields.integer("max_position_embeddings", *CONTEXTS)
    local = Rope(fields.number("rope_local_base_freq", *BASES, _LOCAL_BASE))
    base = fields.number("rope_theta", *BASES, _GLOBAL_BASE)
    if "rope_parameters" in fields:
        section = fields.section("rope_parameters")
        whole = rope_from_section(section.section("full_attention"), base, head_dim, context)
        part = section.section("sliding_attention")
        local = rope_from_section(part, local.theta, head_dim, context)
        section.check_all_read()
    elif "rope_scaling" in fields:
        whole = rope_from_section(fields.section("rope_scaling"), base, head_dim, context)
    else:
        whole = Rope(base)
    return local, whole


def _gemma_from_config(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    local, _ = _gemma_ropes(fields, spec.head_dim)
    pattern = fields.integer("_sliding_window_pattern", *_PATTERNS, _PATTERN)
    pattern = fields.integer("sliding_window_pattern", *_PATTERNS, pattern)
    window = fields.integer("sliding_window", *_WINDOWS)
    windows = _windows(fields, spec.num_layers, window, lambda i: (i + 1) % pattern > 0)
    return _gemma(spec, fields.number("query_pre_attn_scalar", 1e-3, 1e6, 256), windows, local)


def _gemma_from_gguf(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    window = fields.integer("gemma3.attention.sliding_window", *_WINDOWS)
    pattern = fields.integer("gemma3.attention.sliding_window_pattern", *_PATTERNS, _PATTERN)
    local = Rope(fields.number("gemma3.rope.freq_base_swa", *BASES, _LOCAL_BASE))
    windows = [window if (index + 1) % pattern else 0 for index in range(spec.num_layers)]
    is_largest = spec.num_layers == _LAYERS_OF_LARGEST
    width = spec.hidden_size / spec.num_heads if is_largest else spec.head_dim
    return _gemma(spec, width, windows, local)


def _gemma(spec: DecoderSpec, width: float, windows: list[int], local: Rope) -> DecoderSpec:
    whole = spec.attentions[0].rope
    return replace(
        spec,
        attentions=tuple(LayerAttention(local if size else whole, size) for size in windows),
        attention_scale=1 / sqrt(width),
        embedding_scale=sqrt(spec.hidden_size),
    )


FAMILIES: Mapping[str, Family] = {
    # Norms also behind each block; every n-th layer sees all, with rotary positions of its own.
    "gemma3": Family(
        required={"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"},
        traits={"activation": "gelu_tanh", "has_head_norms": True, "has_post_norms": True},
        is_tied=True,
        states_head_dim=True,
        gain_offset=1.0,
        rope=lambda fields, head_dim: _gemma_ropes(fields, head_dim)[1],
        from_config=_gemma_from_config,
        from_gguf=_gemma_from_gguf,
    ),
    "llama": Family(gguf_pairs_neighbours=True, from_gguf=_gguf_window),
    "mistral": Family(
        required={"hidden_act": "silu", "attention_bias": False},
        gguf_pairs_neighbours=True,
        from_config=_mistral_window,
        from_gguf=_gguf_window,
    ),
    "qwen2": Family(
        required={"hidden_act": "silu", "attention_bias": True, "mlp_bias": False},
        traits={"biases": frozenset("qkv")},
        from_config=_qwen_windows,
    ),
    "qwen3": Family(
        traits={"has_head_norms": True}, states_head_dim=True, from_config=_qwen_windows
    ),
}
