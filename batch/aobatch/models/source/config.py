"""Traits of a decoder that a config.json states, each honoured or refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import pi

import numpy as np

from aobatch.models.source.fields import Fields, shown
from aobatch.models.spec import DecoderSpec, Rope

BASES = (1.0, 1e12)
_FACTORS = (1e-3, 1e6)
_DEFAULT_BASE = 10000.0
_CONTEXT = (1, 2**24)


def rope_from_config(fields: Fields, head_dim: int) -> Rope:
    """Read a base and its scaling from config.json, whichever way it spells them.

    Raises ModelError for a scaling that is not supported.
    """
    base = fields.number("rope_theta", *BASES, _DEFAULT_BASE)
    for key in ("rope_parameters", "rope_scaling"):
        if key in fields:
            context_length = fields.integer("max_position_embeddings", *_CONTEXT)
            return rope_from_section(fields.section(key), base, head_dim, context_length)
    return Rope(base)


def rope_from_section(section: Fields, base: float, head_dim: int, context_length: int) -> Rope:
    """Read one object of config.json that describes a scaling; ModelError for an unknown one."""
    rope = Rope(section.number("rope_theta", *BASES, base))
    if section.number("partial_rotary_factor", 0, 1, 1.0) != 1:
        section.refuse("only a part of each head is turned, which is not supported")
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "linear":
        rope = replace(rope, divisors=_linear(section.number("factor", *_FACTORS), head_dim))
    elif kind == "llama3":
        rope = replace(rope, divisors=_llama3(section, rope.theta, head_dim, context_length))
    elif kind != "default":
        section.refuse(
            f"rotary scaling {kind!r} is not supported; supported are default, linear, llama3"
        )
    section.check_all_read()
    return rope


def rope_from_gguf(fields: Fields, family: str, head_dim: int) -> Rope:
    """Read a base and its scaling from a GGUF's metadata; ModelError for an unknown one."""
    rope = Rope(fields.number(f"{family}.rope.freq_base", *BASES, _DEFAULT_BASE))
    key = f"{family}.rope.scaling"
    kind = fields.text(f"{key}.type", "none")
    old = fields.number(f"{family}.rope.scale_linear", *_FACTORS, 1.0)
    factor = fields.number(f"{key}.factor", *_FACTORS, old)
    if fields.number(f"{key}.attn_factor", *_FACTORS, 1.0) != 1:
        fields.refuse(f"'{key}.attn_factor' is not supported unless it is 1")
    if kind not in ("none", "linear"):
        fields.refuse(f"rotary scaling {kind!r} is not supported; supported are none, linear")
    is_scaled = factor != 1 and (kind == "linear" or old != 1)
    return replace(rope, divisors=_linear(factor, head_dim)) if is_scaled else rope


def with_divisors(rope: Rope, divisors: np.ndarray) -> Rope:
    """Divide each frequency of a rope by one more number."""
    before = np.array(rope.divisors) if rope.divisors else np.ones(len(divisors))
    return replace(rope, divisors=tuple((before * divisors).tolist()))


def angles(rope: Rope, head_dim: int, num_positions: int) -> np.ndarray:
    """Give the angle of each position and frequency, [positions, head_dim / 2]."""
    frequencies = _frequencies(rope.theta, head_dim)
    if rope.divisors:
        frequencies = frequencies / np.array(rope.divisors)
    return np.asarray(np.arange(num_positions)[:, None] * frequencies[None])


def _frequencies(theta: float, head_dim: int) -> np.ndarray:
    return np.asarray(theta ** -(np.arange(0, head_dim, 2) / head_dim))


def _linear(factor: float, head_dim: int) -> tuple[float, ...]:
    return (factor,) * (head_dim // 2)


def _llama3(section: Fields, theta: float, head_dim: int, context: int) -> tuple[float, ...]:
    """Stretch long waves by a factor, keep short ones, and blend between."""
    factor = section.number("factor", *_FACTORS)
    low = section.number("low_freq_factor", *_FACTORS)
    high = section.number("high_freq_factor", *_FACTORS)
    old = section.integer("original_max_position_embeddings", *_CONTEXT, context)
    if high <= low:
        section.refuse("'high_freq_factor' has to be greater than 'low_freq_factor'")
    turns = old * _frequencies(theta, head_dim) / (2 * pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - kept) / factor + kept)).tolist())


# What says nothing of what a model computes when it completes texts.
_INERT_NAMES = """
    _attn_implementation _attn_implementation_autoset _from_model_config _name_or_path
    add_cross_attention architectures attention_dropout attn_implementation bad_words_ids
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing hidden_dropout id2label
    initializer_range is_encoder_decoder is_llama_config label2id length_penalty max_length
    is_decoder min_length model_type no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix
    pretraining_tp problem_type pruned_heads remove_invalid_values repetition_penalty resid_pdrop
    return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype
    torchscript transformers.js_config transformers_version typical_p unsloth_fixed
    unsloth_version use_bfloat16 use_cache
"""
INERT = frozenset(_INERT_NAMES.split())

WINDOWS = (1, 2**24)
_KINDS = {"full_attention": False, "sliding_attention": True}


def check_config(fields: Fields) -> None:
    """Raise ModelError if a config.json asks for anything that no family here computes."""
    if "quantization_config" in fields:
        fields.refuse("the weights are quantised already; take the model's original or its GGUF")
    if "auto_map" in fields:
        fields.refuse("the model comes with code of its own, which is not run")
    require(fields, "partial_rotary_factor", 1)
    for key in ("rope_interleaved", "use_bidirectional_attention"):
        require(fields, key, value=False)
    fields.check_all_read(ignored=INERT)


def require(fields: Fields, key: str, value: object) -> None:
    """Raise ModelError if a field is there and has another value."""
    if fields.get(key, value) != value:
        fields.refuse(f"{key!r} is supported only as {value!r}, and is {shown(fields.get(key))}")


def config_biases(fields: Fields) -> frozenset[str]:
    """Read which matrices add a bias."""
    attention = "qkvo" if fields.flag("attention_bias", default=False) else ""
    mlp = ("gate", "up", "down") if fields.flag("mlp_bias", default=False) else ()
    return frozenset((*attention, *mlp))


def with_windows(spec: DecoderSpec, windows: Sequence[int]) -> DecoderSpec:
    """Let each layer see only so many tokens; 0 stands for all."""
    pairs = zip(spec.attentions, windows, strict=True)
    return replace(spec, attentions=tuple(replace(layer, window=size) for layer, size in pairs))


def config_windows(
    fields: Fields, num_layers: int, window: int, is_windowed: Callable[[int], bool]
) -> list[int]:
    """Read which layers see only `window` tokens; where nothing is stated, `is_windowed` says so.

    Raises ModelError for a kind of layer that is not known, or one with a window of 0.
    """
    kinds = list(fields.texts("layer_types")) if "layer_types" in fields else []
    if not kinds:
        return [window if is_windowed(index) else 0 for index in range(num_layers)]
    if len(kinds) != num_layers:
        fields.refuse(f"'layer_types' has {len(kinds)} entries for {num_layers} layers")
    for kind in kinds:
        if kind not in _KINDS or (_KINDS[kind] and not window):
            fields.refuse(f"a layer of type {kind[:40]!r} is not supported here")
    return [window if _KINDS[kind] else 0 for kind in kinds]


def qwen_windows(fields: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read the windows of the qwen families: if they are used at all, in the last layers."""
    is_used = fields.flag("use_sliding_window", default=False)
    window = fields.integer("sliding_window", 0, WINDOWS[1], 0) if is_used else 0
    first = fields.integer("max_window_layers", 0, 2**16, 0) if is_used else spec.num_layers
    for unused in () if is_used else ("sliding_window", "max_window_layers"):
        fields.get(unused)
    windows = config_windows(fields, spec.num_layers, window, lambda index: index >= first)
    return with_windows(spec, windows)
