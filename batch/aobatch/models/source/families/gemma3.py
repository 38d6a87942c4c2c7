"""The gemma3 family: norms ahead of and behind each block, most layers with a window.

Every n-th layer sees all tokens, with rotary positions of its own. Gains are stored as what they
differ from one by, except in GGUF files.
"""

from dataclasses import replace
from math import sqrt

from aobatch.models.source.config import (
    BASES,
    WINDOWS,
    config_biases,
    config_windows,
    require,
    rope_from_section,
)
from aobatch.models.source.decoder import CONTEXT, HEAD_DIM, config_spec, gguf_spec
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec, LayerAttention, Rope

GGUF_PAIRS_NEIGHBOURS = False
GAIN_OFFSET = 1.0

_PATTERN, _PATTERNS = 6, (1, 512)
_LOCAL_BASE, _GLOBAL_BASE = 10_000.0, 1_000_000.0
_SCALARS = (1e-3, 1e6)

# The largest model of the family, known by its layers, scales by another width than its heads'.
_LAYERS_OF_LARGEST = 62


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a GGUF's metadata."""
    spec = gguf_spec(fields, "gemma3", vocab_size)
    window = fields.integer("gemma3.attention.sliding_window", *WINDOWS)
    pattern = fields.integer("gemma3.attention.sliding_window_pattern", *_PATTERNS, _PATTERN)
    local = Rope(fields.number("gemma3.rope.freq_base_swa", *BASES, _LOCAL_BASE))
    windows = [window if (index + 1) % pattern else 0 for index in range(spec.num_layers)]
    is_largest = spec.num_layers == _LAYERS_OF_LARGEST
    width = spec.hidden_size / spec.num_heads if is_largest else spec.head_dim
    return _gemma(spec, width, windows, (local, spec.attentions[0].rope))


def spec_from_config(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json."""
    require(fields, "hidden_activation", "gelu_pytorch_tanh")
    require(fields, "hidden_act", "gelu_pytorch_tanh")
    fields.integer("head_dim", *HEAD_DIM)
    ropes = _ropes(fields)
    spec = replace(
        config_spec(fields, "gemma3", vocab_size, ropes[1]),
        biases=config_biases(fields),
        is_tied=fields.flag("tie_word_embeddings", default=True),
    )
    pattern = fields.integer("_sliding_window_pattern", *_PATTERNS, _PATTERN)
    pattern = fields.integer("sliding_window_pattern", *_PATTERNS, pattern)
    window = fields.integer("sliding_window", *WINDOWS)
    windows = config_windows(
        fields, spec.num_layers, window, lambda index: (index + 1) % pattern > 0
    )
    width = fields.number("query_pre_attn_scalar", *_SCALARS, 256)
    return _gemma(spec, width, windows, ropes)


def _ropes(fields: Fields) -> tuple[Rope, Rope]:
    """Read the rotary positions of layers with a window and of the others."""
    head_dim = fields.integer("head_dim", *HEAD_DIM)
    context = fields.integer("max_position_embeddings", *CONTEXT)
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


def _gemma(
    spec: DecoderSpec, width: float, windows: list[int], ropes: tuple[Rope, Rope]
) -> DecoderSpec:
    local, whole = ropes
    return replace(
        spec,
        attentions=tuple(LayerAttention(local if size else whole, size) for size in windows),
        attention_scale=1 / sqrt(width),
        embedding_scale=sqrt(spec.hidden_size),
        activation="gelu_tanh",
        has_head_norms=True,
        has_post_norms=True,
    )
