"""Traits of a decoder that a config.json states, each honoured or refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from aobatch.models.fields import Fields, shown
from aobatch.models.spec import DecoderSpec

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
