"""What further fields of a file say of a family's decoder: windows, positions, multipliers, biases.

Each function adds to a plain decoder, or reads the rotary positions of its layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt

from aobatch.models.checks import shown
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import BASES, contexts, rope_from_config, rope_from_section
from aobatch.models.spec import DecoderSpec, Experts, LayerAttention, Rope

_WINDOWS = (1, 2**24)
_KINDS = {"full_attention": False, "sliding_attention": True}


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


def mistral_window(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the window of all layers; null is none."""
    is_whole = fields.is_stated("sliding_window") and "sliding_window" not in fields
    window = 0 if is_whole else fields.integer("sliding_window", *_WINDOWS, 4096)
    return _with_windows(spec, [window] * spec.num_layers)


def qwen_windows(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows of the last layers, if they are used at all."""
    is_used = fields.flag("use_sliding_window", default=False)
    window = fields.integer("sliding_window", 0, _WINDOWS[1], 0) if is_used else 0
    first = fields.integer("max_window_layers", 0, 2**16, 0) if is_used else spec.num_layers
    for unused in () if is_used else ("sliding_window", "max_window_layers"):
        fields.get(unused)
    return _with_windows(spec, _windows(fields, spec.num_layers, window, lambda i: i >= first))


_PATTERN, _PATTERNS = 6, (1, 512)
_LOCAL_BASE, _GLOBAL_BASE = 10_000.0, 1_000_000.0


def gemma_ropes(fields: Fields, head_dim: int) -> tuple[Rope, Rope]:
    """Read the rotary positions of layers with a window and of the others."""
    context = contexts(fields)
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


def gemma_from_config(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows and the two kinds of positions of gemma3."""
    local, _ = gemma_ropes(fields, spec.head_dim)
    pattern = fields.integer("_sliding_window_pattern", *_PATTERNS, _PATTERN)
    pattern = fields.integer("sliding_window_pattern", *_PATTERNS, pattern)
    window = fields.integer("sliding_window", *_WINDOWS)
    windows = _windows(fields, spec.num_layers, window, lambda i: (i + 1) % pattern > 0)
    return _gemma(spec, fields.number("query_pre_attn_scalar", 1e-3, 1e6, 256), windows, local)


def _gemma(spec: DecoderSpec, width: float, windows: list[int], local: Rope) -> DecoderSpec:
    whole = spec.attentions[0].rope
    return replace(
        spec,
        attentions=tuple(LayerAttention(local if size else whole, size) for size in windows),
        attention_scale=1 / sqrt(width),
        embedding_scale=sqrt(spec.hidden_size),
    )


def first_gemma(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Scale embeddings; the gate is one of GELU by tanh, whatever old files call it."""
    for name in ("hidden_act", "hidden_activation"):
        if fields.get(name) not in (None, "gelu", "gelu_pytorch_tanh"):
            fields.refuse(f"{name!r} is {shown(fields.get(name))}, which gemma does not have")
    return replace(spec, embedding_scale=sqrt(spec.hidden_size))


def second_gemma(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows of every second layer, and the caps."""
    window = fields.integer("sliding_window", *_WINDOWS)
    windows = _windows(fields, spec.num_layers, window, lambda i: i % 2 == 0)
    width = fields.number("query_pre_attn_scalar", 1e-3, 1e6, 256)
    fields.require("hidden_act", "gelu_pytorch_tanh")
    spec = _gemma(spec, width, windows, spec.attentions[0].rope)
    return replace(
        spec,
        attention_cap=fields.number("attn_logit_softcapping", *_CAPS, 50.0),
        logits_cap=fields.number("final_logit_softcapping", *_CAPS, 30.0),
    )


_CAPS, _SCALES = (1e-3, 1e6), (1e-6, 1e6)


def granite_multipliers(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read what embeddings, scores, blocks' outputs and logits are multiplied by."""
    return replace(
        spec,
        attention_scale=fields.number("attention_multiplier", *_SCALES, 1.0),
        embedding_scale=fields.number("embedding_multiplier", *_SCALES, 1.0),
        residual_scale=fields.number("residual_multiplier", *_SCALES, 1.0),
        logits_scale=1 / fields.number("logits_scaling", *_SCALES, 1.0),
    )


def smollm_ropes(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Leave some layers without positions."""
    spec = qwen_windows(fields, spec)
    interval = fields.integer("no_rope_layer_interval", 1, 512, 4)
    turned = [int((index + 1) % interval > 0) for index in range(spec.num_layers)]
    if "no_rope_layers" in fields:
        turned = list(fields.integers("no_rope_layers", 0, 1))
    if len(turned) != spec.num_layers:
        fields.refuse(f"'no_rope_layers' has {len(turned)} entries for {spec.num_layers} layers")
    plain = replace(spec.attentions[0].rope, width=0, divisors=(), gain=1.0)
    layers = zip(spec.attentions, turned, strict=True)
    return replace(
        spec,
        attentions=tuple(x if turns else replace(x, rope=plain) for x, turns in layers),
    )


def _full_without_positions(spec: DecoderSpec) -> DecoderSpec:
    """Turn queries and keys of layers with a window alone, if there are any."""
    if not any(x.window for x in spec.attentions):
        return spec
    plain = Rope(1.0, width=0)
    layers = (x if x.window else replace(x, rope=plain) for x in spec.attentions)
    return replace(spec, attentions=tuple(layers))


def exaone(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read windows; layers without one have no positions where others have one."""
    fields.get("sliding_window_pattern")  # layer_types says the same
    window = fields.integer("sliding_window", *_WINDOWS) if "sliding_window" in fields else 0
    windows = _windows(fields, spec.num_layers, window, lambda _: False)
    return _full_without_positions(_with_windows(spec, windows))


def cohere(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the same, and the scale of the logits."""
    pattern = fields.integer("sliding_window_pattern", *_PATTERNS, 4)
    pattern = fields.integer("_sliding_window_pattern", *_PATTERNS, pattern)
    window = fields.integer("sliding_window", *_WINDOWS, 4096)
    windows = _windows(fields, spec.num_layers, window, lambda i: (i + 1) % pattern > 0)
    scale = fields.number("logit_scale", *_SCALES, 0.0625)
    return _full_without_positions(replace(_with_windows(spec, windows), logits_scale=scale))


def ropes_by_kind(fields: Fields, head_dim: int) -> tuple[Rope, Rope]:
    """Read the positions of layers with a window, and of the others, which may be stretched."""
    base, lengths = fields.number("rope_theta", *BASES, 500_000.0), contexts(fields)
    if "rope_parameters" not in fields:
        return Rope(base), rope_from_config(fields, head_dim)
    section = fields.section("rope_parameters")
    if "rope_type" in section:
        return Rope(base), rope_from_config(fields, head_dim)
    parts = [section.section(kind) for kind in ("sliding_attention", "full_attention")]
    section.check_all_read()
    local, whole = (rope_from_section(part, base, head_dim, lengths) for part in parts)
    return local, whole


def third_olmo(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read windows, and positions that are stretched for layers without one alone."""
    window = fields.integer("sliding_window", *_WINDOWS, 4096)
    windows = _windows(fields, spec.num_layers, window, lambda i: (i + 1) % 4 > 0)
    local, whole = ropes_by_kind(fields, spec.head_dim)
    layers = (LayerAttention(local if size else whole, size) for size in windows)
    return replace(spec, attentions=tuple(layers))


def ministral_rope(fields: Fields, head_dim: int) -> Rope:
    """Read positions, which are stretched."""
    section = fields.section("rope_parameters")
    section.get("llama_4_scaling_beta")
    base = section.number("rope_theta", *BASES, 1e6)
    return rope_from_section(section, base, head_dim, contexts(fields))


def ministral(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Take the original context alone: beyond it queries grow by their position."""
    old = fields.section("rope_parameters").integer(
        "original_max_position_embeddings", 1, spec.context_length, spec.context_length
    )
    return mistral_window(fields, replace(spec, context_length=old))


def phi_windows(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the window of all layers; a stretched context is taken up to the original one."""
    whole, old = contexts(fields)
    if any(x.rope.divisors for x in spec.attentions):
        spec = replace(spec, context_length=min(whole, old))
    window = fields.integer("sliding_window", *_WINDOWS) if "sliding_window" in fields else 0
    return _with_windows(spec, [window] * spec.num_layers)


def ernie_biases(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read whether all matrices add biases."""
    has = fields.flag("use_bias", default=False)
    names = ("q", "k", "v", "o", "gate", "up", "down")
    return replace(spec, biases=frozenset(names if has else ()))


def starcoder(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read whether all matrices add biases, and the window of all layers."""
    has = fields.flag("use_bias", default=True)
    names = ("q", "k", "v", "o", "up", "down")
    window = fields.integer("sliding_window", *_WINDOWS) if "sliding_window" in fields else 0
    spec = replace(spec, biases=frozenset(names if has else ()))
    return _with_windows(spec, [window] * spec.num_layers)


def stablelm_biases(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read whether queries, keys and values add biases."""
    has = fields.flag("use_qkv_bias", default=False)
    return replace(spec, biases=frozenset("qkv" if has else ""))


def neox_rope(fields: Fields, head_dim: int) -> Rope:
    """Read which part of a head is turned, a quarter by default."""
    part = fields.number("rotary_pct", 0, 1, 0.25)
    base = fields.number("rotary_emb_base", *BASES, 10_000.0)
    if "rope_parameters" in fields:
        section = fields.section("rope_parameters")
        return rope_from_section(section, base, head_dim, contexts(fields), part)
    return Rope(base, width=int(head_dim * part))


def neox(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read whether blocks are parallel; every head has keys and values of its own."""
    if spec.num_kv_heads != spec.num_heads:  # a field that such models do not know
        spec = replace(spec, num_kv_heads=spec.num_heads)
    return replace(spec, is_parallel=fields.flag("use_parallel_residual", default=True))


_MOST_EXPERTS = 1024


def _with_experts(fields: Fields, spec: DecoderSpec, *, shares_whole: bool = True) -> DecoderSpec:
    """Read how many experts there are, and how many of them a token goes through."""
    name = "num_local_experts" if "num_local_experts" in fields else "num_experts"
    count = fields.integer(name, 1, _MOST_EXPERTS)
    used = fields.integer("num_experts_per_tok", 1, count)
    for training in ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"):
        fields.get(training)
    return replace(spec, experts=Experts(count, used, shares_whole))


def qwen_experts(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read windows and experts, which have a width of their own."""
    width = fields.integer("moe_intermediate_size", 1, 2**20)
    spec = qwen_windows(fields, replace(spec, intermediate_size=width))
    return _with_experts(fields, spec, shares_whole=fields.flag("norm_topk_prob", default=False))


def olmo_experts(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read experts, whose weights add up to one if all of them are counted."""
    return _with_experts(fields, spec, shares_whole=fields.flag("norm_topk_prob", default=False))


def mixtral_experts(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read experts, and the window of all layers; none is the default."""
    window = fields.integer("sliding_window", *_WINDOWS) if "sliding_window" in fields else 0
    return _with_windows(_with_experts(fields, spec), [window] * spec.num_layers)


def granite_experts(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read experts and multipliers."""
    return _with_experts(fields, granite_multipliers(fields, spec))


def gpt_oss_rope(fields: Fields, head_dim: int) -> Rope:
    """Read positions, which are stretched, whichever way config.json spells them."""
    base = fields.number("rope_theta", *BASES, 150_000.0)
    section = fields.section("rope_parameters" if "rope_parameters" in fields else "rope_scaling")
    return rope_from_section(section, base, head_dim, contexts(fields))


def gpt_oss(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows of every second layer, experts, and where their gates are cut off."""
    for same in ("experts_per_token", "initial_context_length"):
        fields.get(same)  # as num_experts_per_tok and the positions say
    window = fields.integer("sliding_window", *_WINDOWS, 128)
    windows = _windows(fields, spec.num_layers, window, lambda i: i % 2 == 0)
    spec = _with_experts(fields, _with_windows(spec, windows))
    assert spec.experts is not None
    gates = replace(
        spec.experts,
        sharpness=fields.number("swiglu_alpha", 0, 1e3, 1.702),
        limit=fields.number("swiglu_limit", *_CAPS, 7.0),
        offset=1.0,
    )
    return replace(spec, experts=gates)
