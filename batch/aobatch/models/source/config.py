"""What a config.json says beside what its family reads: its part for text, packed weights, keys.

A key that is known to matter and that nobody read is refused unless its value changes nothing. One
that is known to say nothing of a completion is passed by. Any other gives a warning, for it may
change what the model computes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from aobatch.models.checks import printable, shown
from aobatch.models.source.fields import Fields

EXPORT = (
    "export its original to ONNX (`optimum-cli export onnx --model ORG/NAME FOLDER`) and run the "
    "export as it is (--model FOLDER)"
)
"""What to do with a decoder that is not computed here."""

# What says nothing of what a model computes when it completes texts.
_INERT_NAMES = """
    _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled _from_model_config
    activation architectures attention_softmax_in_fp32 attn_implementation bad_words_ids
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id full_attn_mod gradient_checkpointing id2label
    initializer_range internal_version interpolate_factor is_causal is_decoder is_llama_config
    label2id layer_norm_eps layer_norm_epsilon layer_switch length_penalty license max_length
    max_new_tokens max_sequence_length min_length model_max_length model_type no_repeat_ngram_size
    norm_eps norm_epsilon num_beam_groups num_beams num_labels num_return_sequences
    original_max_position_embeddings output_attentions output_hidden_states output_scores pad_token
    pad_token_id prefix pretraining_tp problem_type pruned_heads remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate scale_attention_softmax_in_fp32
    sep_token_id seq_length sliding_window_size suppress_tokens task_specific_params temperature
    tf_legacy_loss tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    typical_p unsloth_fixed use_bfloat16 use_cache use_embedding_sharing use_flash_attn
    use_parallel_embedding
"""
INERT = frozenset(_INERT_NAMES.split())
_INERT_KINDS = re.compile(r"dropout|pdrop|layerdrop|(_name|_path|_version|_hash)$|^_name_or_path$")
"""What shapes training alone, and names of things."""

_MATTERING_NAMES = """
    activation_function add_cross_attention alibi attention_chunk_size attention_multiplier
    attn_logit_softcapping audio_config clip_qkv compression_ratio embedding_multiplier
    final_logit_softcapping first_k_dense_replace hidden_act hidden_activation is_encoder_decoder
    kv_lora_rank layer_types lm_head_bias logit_scale logits_scaling moe_intermediate_size
    moe_num_experts multi_query n_routed_experts n_shared_experts no_rope_layers num_experts
    num_experts_per_tok num_local_experts order_of_interleaved_layers parallel_attn
    partial_rotary_factor position_embedding_type q_lora_rank qk_layernorm qk_norm
    query_pre_attn_scalar residual_multiplier rope_interleaved rope_local_base_freq rope_ratio
    rotary_dim rotary_emb_base rotary_pct scale_attn_weights scale_depth scale_emb sliding_window
    sliding_window_pattern text_config use_bias use_bidirectional_attention use_dynamic_ntk
    use_gated_activation use_logn_attn use_parallel_block use_parallel_residual use_qk_norm
    use_qkv_bias use_sliding_window vision_config
"""
MATTERING = frozenset(_MATTERING_NAMES.split())
_NEUTRAL: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(
        (
            *("attention_multiplier", "embedding_multiplier", "logit_scale", "logits_scaling"),
            *("partial_rotary_factor", "residual_multiplier", "rope_ratio", "rotary_pct"),
            *("compression_ratio", "scale_depth", "scale_emb"),
        ),
        lambda value: value == 1,
    ),
    "layer_types": lambda value: isinstance(value, list) and {*value} == {"full_attention"},
    "scale_attn_weights": lambda value: value is True,
    "position_embedding_type": lambda value: value in ("rope", "absolute"),
    "use_gated_activation": lambda value: value is True,
    "no_rope_layers": lambda value: isinstance(value, list) and all(value),
}
"""Which values change nothing, beside those that are empty or 0."""
_MAX_LISTED = 5


def check_config(fields: Fields, family: str) -> tuple[str, ...]:
    """Give a warning of what is not known; ModelError for what is known and not computed here."""
    unknown, warnings = [], []
    for key, value in fields.unread():
        if key in MATTERING:
            if key not in _NEUTRAL or not _NEUTRAL[key](value):
                what = f"{key!r} is {shown(value)}, which is not computed here for {family}"
                fields.refuse(f"{what}; {EXPORT}")
        elif key == "auto_map":
            warnings.append(
                f"{fields.source}: the model comes with code of its own (auto_map), which is not "
                f"run; it is computed as any {family}"
            )
        elif key not in INERT and key not in _PACKING and not _INERT_KINDS.search(key):
            unknown.append(f"{shown(key)} is {shown(value)}")
    if unknown:
        more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
        warnings.append(
            f"{fields.source} says that {', '.join(unknown[:_MAX_LISTED])}{more}, which is not "
            "known here and may change what the model computes; compare some answers with the "
            "original's"
        )
    return tuple(warnings)


_TEXT_PARTS: Mapping[str, str] = {"gemma3": "gemma3_text", "mistral3": "mistral"}
"""Models of pictures and text by their types, and the type of their text's part by default."""
_TEXT_PREFIXES = {"language_model.": "", "model.language_model.": "model."}
_PICTURES = ("vision_tower.", "multi_modal_projector.")
_SHARED = ("bos_token_id", "eos_token_id", "quantization_config")
_Tensor = TypeVar("_Tensor")


def text_config(config: Fields) -> Fields:
    """Give the description of the part that reads text, of a model that also reads pictures."""
    kind = config.text("model_type")
    if kind not in _TEXT_PARTS or "text_config" not in config:
        return config
    text = config.section("text_config")
    ties = [f.flag("tie_word_embeddings") for f in (config, text) if "tie_word_embeddings" in f]
    defaults = {key: config.get(key) for key in _SHARED if key in config}
    # A head that is stored and differs is used whatever they say.
    tied = text.replaced({"tie_word_embeddings": any(ties) or not ties})
    return tied.with_defaults({"model_type": _TEXT_PARTS[kind], **defaults})


def text_weights(stored: Mapping[str, _Tensor]) -> tuple[dict[str, _Tensor], str]:
    """Give the weights of that part by the names that it has alone, and say what is left out."""
    prefix = next((p for p in _TEXT_PREFIXES if any(name.startswith(p) for name in stored)), "")
    if not prefix:
        return {**stored}, ""
    whole = prefix.removesuffix("language_model.")
    pictures = tuple(f"{whole}{part}" for part in _PICTURES)
    kept = {
        _TEXT_PREFIXES[prefix] + name.removeprefix(prefix) if name.startswith(prefix) else name: at
        for name, at in stored.items()
        if not name.startswith(pictures)
    }
    count = len(stored) - len(kept)
    return kept, f"{count} weights that read pictures are left out; it reads text alone"


_PACKED: Mapping[str, tuple[str, ...]] = {
    "GPTQ": (".g_idx",),
    "AWQ": (".qweight", ".qzeros"),
    "bitsandbytes": (".absmax", ".quant_map", ".SCB"),
    "MLX": (".scales", ".biases"),
    "compressed-tensors": (".weight_packed", ".weight_scale", ".weight_zero_point"),
    "FP8": (".weight_scale_inv",),
    "HQQ": (".W_q",),
    "AQLM": (".codebooks",),
}
"""How weights were packed, by the ends of names that this leaves in a file; GPTQ has AWQ's too."""
_PACKING = ("quantization", "quantization_config")


def check_weights(config: Fields, stored: Iterable[tuple[str, str]]) -> None:
    """Raise ModelError for packed weights, which are told by their names and types.

    What config.json says of them may be left over, where they were unpacked to merge something.
    """
    names = dict(stored)
    ends = (end for end in _PACKED.items() if any(n.endswith(end[1]) for n in names))
    how = next((kind for kind, _ in ends), "")
    if not how and any(dtype.startswith("F8") for dtype in names.values()):
        how = "FP8"
    stated = config.get("quantization_config")
    if how and isinstance(stated, Mapping) and isinstance(stated.get("quant_method"), str):
        how = printable(stated["quant_method"])
    if how:
        config.refuse(
            f"its weights are quantised already ({how}), which is not read; take the model that "
            "it was made of, in BF16, F16 or F32, or a GGUF file of it"
        )
