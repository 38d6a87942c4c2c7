"""A decoder's sizes out of either kind of file, and the weights that it then has to have."""

from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any, TypeAlias

from aobatch.models.checks import shown
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import rope_from_gguf
from aobatch.models.spec import DecoderSpec, LayerAttention, Rope

_BIASED = ("q", "k", "v", "o", "gate", "up", "down")

_NAMES: Mapping[str, tuple[str, str]] = {
    "embedding": ("token_embd", "model.embed_tokens"),
    "final_norm": ("output_norm", "model.norm"),
    "head": ("output", "lm_head"),
    "attention_norm": ("attn_norm", "input_layernorm"),
    "q": ("attn_q", "self_attn.q_proj"),
    "k": ("attn_k", "self_attn.k_proj"),
    "v": ("attn_v", "self_attn.v_proj"),
    "o": ("attn_output", "self_attn.o_proj"),
    "q_norm": ("attn_q_norm", "self_attn.q_norm"),
    "k_norm": ("attn_k_norm", "self_attn.k_norm"),
    "attention_post_norm": ("post_attention_norm", "post_attention_layernorm"),
    "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
    "gate": ("ffn_gate", "mlp.gate_proj"),
    "up": ("ffn_up", "mlp.up_proj"),
    "down": ("ffn_down", "mlp.down_proj"),
    "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
}
"""How GGUF and safetensors files call each canonical weight."""


def gguf_name(name: str) -> str:
    """Say under which name a GGUF stores a canonical weight."""
    return _stored_name(name, "blk.", lambda stem: _NAMES[stem][0])


def safetensors_name(name: str, spec: DecoderSpec) -> str:
    """Say under which name a safetensors file stores a canonical weight."""

    def stored(stem: str) -> str:
        # With norms behind the blocks, the name of the one ahead of a feed-forward block is taken.
        is_moved = spec.has_post_norms and stem == "mlp_norm"
        return "pre_feedforward_layernorm" if is_moved else _NAMES[stem][1]

    return _stored_name(name, "model.layers.", stored)


def _stored_name(name: str, layers: str, stored: Callable[[str], str]) -> str:
    layer, _, weight = name.removeprefix("layers.").rpartition(".")
    stem = weight.removesuffix("_bias")
    found = f"{stored(stem)}.{'weight' if stem == weight else 'bias'}"
    return f"{layers}{layer}.{found}" if layer else found


def gguf_biases(stored: Container[str]) -> frozenset[str]:
    """Say which matrices of a GGUF's layers add a bias, by the names that are there."""
    return frozenset(name for name in _BIASED if gguf_name(f"layers.0.{name}_bias") in stored)


SIZES: Mapping[str, tuple[str, str, int, int]] = {
    "num_heads": ("num_attention_heads", "attention.head_count", 1, 1024),
    "hidden_size": ("hidden_size", "embedding_length", 1, 65_536),
    "intermediate_size": ("intermediate_size", "feed_forward_length", 1, 1_048_576),
    "num_layers": ("num_hidden_layers", "block_count", 1, 512),
    "num_kv_heads": ("num_key_value_heads", "attention.head_count_kv", 1, 1024),
    "head_dim": ("head_dim", "attention.key_length", 16, 1024),
    "context_length": ("max_position_embeddings", "context_length", 1, 2**24),
}
"""How a config.json and a GGUF file, there behind the family's name, call each size; its bounds."""

_EPSILON = (1e-12, 1.0)
_MAX_VOCABULARY = 2**21
_HEAD_DIM_MULTIPLE = 16  # GroupQueryAttention turns vectors of 16 numbers

# Bytes that conversion takes at its peak: for the angles of a position and a channel with their
# cosines and sines, and for a number of the random rotation with its factors.
_ROTARY_BYTES, _ROTATION_BYTES = 16, 32


def memory_budget(file_size: int) -> int:
    """Say how many bytes one array may take that is made from a file of that size."""
    return 8 * file_size + 64 * 2**20


def gguf_spec(fields: Fields, family: str, vocab_size: int) -> DecoderSpec:
    """Read the sizes under the names that GGUF files of every family have, prefixed by it."""
    names = {name: f"{family}.{gguf}" for name, (_, gguf, _, _) in SIZES.items()}
    names["norm_epsilon"] = f"{family}.attention.layer_norm_rms_epsilon"
    spec = _plain_spec(fields, names, (family, vocab_size))
    for same in ("attention.value_length", "rope.dimension_count"):
        fields.integer(f"{family}.{same}", spec.head_dim, spec.head_dim, spec.head_dim)
    return _with_rope(spec, rope_from_gguf(fields, family, spec.head_dim))


def config_spec(
    fields: Fields,
    head: tuple[str, int],
    read_rope: Callable[[Fields, int], Rope],
    *,
    states_head_dim: bool,
) -> DecoderSpec:
    """Read the sizes under the names that a config.json of every family has, and the biases.

    `head` is the family and the size of its vocabulary.
    """
    names = {name: config for name, (config, _, _, _) in SIZES.items()}
    names["norm_epsilon"] = "rms_norm_eps"
    fields.integer("vocab_size", head[1], head[1])
    spec = _plain_spec(fields, names, head, states_head_dim=states_head_dim)
    attention = "qkvo" if fields.flag("attention_bias", default=False) else ""
    mlp = ("gate", "up", "down") if fields.flag("mlp_bias", default=False) else ()
    spec = replace(spec, biases=frozenset((*attention, *mlp)))
    return _with_rope(spec, read_rope(fields, spec.head_dim))


def _plain_spec(
    fields: Fields,
    names: Mapping[str, str],
    head: tuple[str, int],
    *,
    states_head_dim: bool = False,
) -> DecoderSpec:
    """Read the sizes of a decoder, each under the name that it has in the file."""
    sizes: dict[str, Any] = {}
    for name, (_, _, low, high) in SIZES.items():
        default = None
        if name == "num_kv_heads":
            default = sizes["num_heads"]
        elif name == "head_dim" and not states_head_dim:
            default = sizes["hidden_size"] // sizes["num_heads"]
        sizes[name] = fields.integer(names[name], low, high, default)
    return DecoderSpec(
        *head,
        **sizes,
        norm_epsilon=fields.number(names["norm_epsilon"], *_EPSILON),
        attentions=(),
        attention_scale=1 / sqrt(sizes["head_dim"]),
    )


def _with_rope(spec: DecoderSpec, rope: Rope) -> DecoderSpec:
    return replace(spec, attentions=(LayerAttention(rope),) * spec.num_layers)


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
_INERT = frozenset(_INERT_NAMES.split())


def check_config(fields: Fields) -> None:
    """Raise ModelError if a config.json asks for anything that no family here computes."""
    if "quantization_config" in fields:
        fields.refuse("the weights are quantised already; take the model's original or its GGUF")
    if "auto_map" in fields:
        fields.refuse("the model comes with code of its own, which is not run")
    fields.require("partial_rotary_factor", 1)
    for key in ("rope_interleaved", "use_bidirectional_attention"):
        fields.require(key, value=False)
    fields.check_all_read(ignored=_INERT)


def check_spec(spec: DecoderSpec, fields: Fields, budget: int) -> None:
    """Hold sizes against each other, and the tables that are made of them against the budget.

    Raises ModelError for the first thing that does not fit.
    """
    if spec.vocab_size > _MAX_VOCABULARY:
        fields.refuse(f"{spec.vocab_size} embeddings are more than {_MAX_VOCABULARY}")
    if spec.num_heads % spec.num_kv_heads:
        fields.refuse(
            f"{spec.num_heads} heads of queries cannot share {spec.num_kv_heads} of keys and values"
        )
    if spec.head_dim % _HEAD_DIM_MULTIPLE:
        fields.refuse(f"a head's width of {spec.head_dim} is no multiple of {_HEAD_DIM_MULTIPLE}")
    if _ROTARY_BYTES * spec.context_length * spec.head_dim > budget:
        fields.refuse(f"a context of {spec.context_length} is out of proportion to the file's size")
    if _ROTATION_BYTES * spec.hidden_size**2 > budget:
        fields.refuse(f"a width of {spec.hidden_size} is out of proportion to the file's size")


Shape: TypeAlias = tuple[int, ...]
"""[out, in] of a matrix, [out] of a gain or bias."""


def decoder_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """List the weights that a decoder has by their canonical names, with their shapes."""
    layer = _layer_shapes(spec)
    shapes: dict[str, Shape] = {
        "embedding": (spec.vocab_size, spec.hidden_size),
        "final_norm": (spec.hidden_size,),
        "head": (spec.vocab_size, spec.hidden_size),
    }
    for index in range(spec.num_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    hidden, intermediate = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes: dict[str, Shape] = {
        "attention_norm": (hidden,),
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
        "mlp_norm": (hidden,),
        "gate": (intermediate, hidden),
        "up": (intermediate, hidden),
        "down": (hidden, intermediate),
    }
    shapes |= {f"{name}_bias": shapes[name][:1] for name in sorted(spec.biases)}
    if spec.has_head_norms:
        shapes |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    if spec.has_post_norms:
        shapes |= {"attention_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    return shapes


def stored_names(
    spec: DecoderSpec,
    name_of: Callable[[str], str],
    fields: Fields,
    stored: Mapping[str, Shape],
    further: Mapping[str, Shape],
    unneeded: tuple[str, ...] = (),
) -> dict[str, str]:
    """Say under which name each canonical weight is stored.

    Raises ModelError if one is missing, has another shape, or is none of the decoder's nor further:
    it would be left out of the model without a word, as those may be whose names `unneeded` ends.
    """
    shapes = decoder_shapes(spec)
    names = {name: name_of(name) for name in shapes}
    if spec.is_tied:
        names["head"] = names["embedding"]
    expected = {names[name]: shape for name, shape in shapes.items()} | dict(further)
    for name, shape in expected.items():
        check_presence(name, stored, fields)
        if stored[name] != shape:
            fields.refuse(
                f"weight {name!r} has shape {stored[name]}, and by the sizes that the file states "
                f"it has to be {shape}"
            )
    others = [name for name in stored if name not in expected and not name.endswith(unneeded)]
    if others:
        fields.refuse(f"weight {shown(others[0])} belongs to no model that is supported here")
    return names


def check_presence(name: str, stored: Container[str], fields: Fields) -> None:
    """Raise ModelError if a weight is missing."""
    if name not in stored:
        fields.refuse(f"weight {name!r} is missing; the file is incomplete or of another family")
