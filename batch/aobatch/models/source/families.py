"""The families of decoders: what tells each from the plain one.

The plain decoder has RMSNorm ahead of each block, rotary positions over whole heads, grouped-query
attention, gated SiLU, and biases where config.json says so. A family is an entry of `FAMILIES`,
under the name that it has in its files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aobatch.errors import ModelError
from aobatch.models.source import experts, traits
from aobatch.models.source.config import EXPORT
from aobatch.models.source.decoder import Naming, config_spec, safetensors_naming
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import rope_from_config, stretched_context
from aobatch.models.spec import DecoderSpec, Rope

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
    defaults: Mapping[str, object] = field(default_factory=dict)
    """What fields of config.json are that it does not state."""
    naming: Naming = field(default_factory=safetensors_naming)
    """How safetensors files name its weights."""
    norm_epsilon: str = "rms_norm_eps"
    """How config.json calls what is added to the variance."""
    pairs_neighbours: bool = False
    """Whether neighbouring numbers of heads are turned together, not those of two halves."""
    gain_offset: float = 0.0
    """What has to be added to the gains of norms in safetensors files."""
    rope: Callable[[Fields, int], Rope] = rope_from_config
    """Reads the rotary positions of layers that see all tokens, for heads of a width."""
    from_config: Refine = lambda _, spec: spec


def find(name: str, source: str) -> Family:
    """Find the family that a file names; ModelError names the known ones."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        message = (
            f"{source}: model family {name!r} is not supported; supported are {known}; {EXPORT}"
        )
        raise ModelError(message)
    return FAMILIES[name]


def spec_from_config(family: Family, name: str, fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from a config.json."""
    for key, value in family.required.items():
        fields.require(key, value, advice=f"; {EXPORT}")
    spec = config_spec(
        fields,
        (name, vocab_size),
        family.rope,
        family.norm_epsilon,
        states_head_dim="head_dim" in family.defaults,
    )
    fields.get("rms_norm_eps")  # written also for families that have another norm
    is_tied = fields.flag("tie_word_embeddings", default=family.is_tied)
    context = stretched_context(fields, spec.context_length)
    spec = replace(spec, is_tied=is_tied, context_length=context, **family.traits)
    return family.from_config(fields, spec)


# The larger ones, as published, leave most of it to the family.
_GEMMA3_DEFAULTS: Mapping[str, object] = {
    "head_dim": 256,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 131_072,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "vocab_size": 262_208,
}
_GEMMA_NAMES = safetensors_naming(mlp_norm="pre_feedforward_layernorm")
_LAYER_NORM = {"centres": True, "has_norm_biases": True}
_NORMS_BEHIND = {"has_head_norms": True, "has_post_norms": True, "has_pre_norms": False}
_NAMES_BEHIND = safetensors_naming(
    attention_post_norm="post_attention_layernorm", mlp_post_norm="post_feedforward_layernorm"
)
_NEOX_STEMS = {
    "embedding": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    "attention_norm": "input_layernorm",
    "o": "attention.dense",
    "mlp_norm": "post_attention_layernorm",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
_APART = experts.apart("mlp.experts", "gate_proj", "up_proj", "down_proj")
_NEOX_FUSED = {"attention.query_key_value": ("q", "k", "v")}


FAMILIES: Mapping[str, Family] = {
    # Norms also behind each block; every n-th layer sees all, with rotary positions of its own.
    "gemma3": Family(
        required={"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh"},
        traits={"activation": "gelu_tanh", "has_head_norms": True, "has_post_norms": True},
        naming=_GEMMA_NAMES,
        is_tied=True,
        defaults=_GEMMA3_DEFAULTS,
        gain_offset=1.0,
        rope=lambda fields, head_dim: traits.gemma_ropes(fields, head_dim)[1],
        from_config=traits.gemma_from_config,
    ),
    "llama": Family(),
    # Gemma of 2024: no norms behind blocks, and the name of one activation for another.
    "gemma": Family(
        required={"attention_bias": False},
        traits={"activation": "gelu_tanh"},
        is_tied=True,
        defaults={"head_dim": 256, "num_key_value_heads": 16},
        gain_offset=1.0,
        from_config=traits.first_gemma,
    ),
    "gemma2": Family(
        required={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
        traits={"activation": "gelu_tanh", "has_post_norms": True},
        naming=_GEMMA_NAMES,
        is_tied=True,
        defaults={"head_dim": 256, "num_key_value_heads": 4},
        gain_offset=1.0,
        from_config=traits.second_gemma,
    ),
    "granite": Family(from_config=traits.granite_multipliers),
    "smollm3": Family(
        defaults={"num_key_value_heads": 4, "rope_theta": 2e6},
        is_tied=True,
        from_config=traits.smollm_ropes,
    ),
    # Queries grow beyond the original context, which is therefore all that is taken.
    "ministral3": Family(
        defaults={"head_dim": 128, "num_key_value_heads": 8},
        rope=traits.ministral_rope,
        from_config=traits.ministral,
    ),
    "phi3": Family(
        naming=safetensors_naming(
            {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}
        ),
        from_config=traits.phi_windows,
    ),
    "ernie4_5": Family(
        defaults={"head_dim": 128, "num_key_value_heads": 2, "rope_theta": 5e5},
        pairs_neighbours=True,
        is_tied=True,
        from_config=traits.ernie_biases,
    ),
    "helium": Family(
        defaults={"head_dim": 128, "num_key_value_heads": 20, "rope_theta": 1e5},
        pairs_neighbours=True,
    ),
    "seed_oss": Family(
        defaults={"head_dim": 128, "num_key_value_heads": 8},
        required={"hidden_act": "silu", "attention_bias": True, "attention_out_bias": False},
        traits={"biases": frozenset("qkv")},
    ),
    "olmo": Family(
        required={"hidden_act": "silu", "attention_bias": False, "clip_qkv": None},
        traits={"centres": True, "has_norm_gains": False, "norm_epsilon": 1e-5},
        norm_epsilon="",
    ),
    # Norms behind blocks alone, those of queries and keys over all heads.
    "olmo2": Family(
        required={"hidden_act": "silu", "attention_bias": False},
        traits={"norms_whole_rows": True, **_NORMS_BEHIND},
        naming=_NAMES_BEHIND,
    ),
    "olmo3": Family(
        required={"hidden_act": "silu", "attention_bias": False},
        traits={"norms_whole_rows": True, **_NORMS_BEHIND},
        naming=_NAMES_BEHIND,
        rope=lambda fields, head_dim: traits.ropes_by_kind(fields, head_dim)[1],
        from_config=traits.third_olmo,
    ),
    "exaone4": Family(
        defaults={"num_key_value_heads": 32},
        traits=_NORMS_BEHIND,
        naming=_NAMES_BEHIND,
        from_config=traits.exaone,
    ),
    "arcee": Family(
        required={"hidden_act": "relu2"}, traits={"activation": "relu_squared", "is_gated": False}
    ),
    "nemotron": Family(
        required={"hidden_act": "relu2"},
        traits={"activation": "relu_squared", "is_gated": False, **_LAYER_NORM},
        norm_epsilon="norm_eps",
        gain_offset=1.0,
    ),
    "cohere2": Family(
        required={
            "hidden_act": "silu",
            "order_of_interleaved_layers": "local_attn_first",
            "position_embedding_type": "rope_gptj",
            "use_gated_activation": True,
            "use_parallel_block": True,
        },
        traits={"centres": True, "is_parallel": True, "shares_norms": True},
        norm_epsilon="layer_norm_eps",
        pairs_neighbours=True,
        is_tied=True,
        from_config=traits.cohere,
    ),
    "glm4": Family(
        required={"hidden_act": "silu"},
        traits={"has_post_norms": True, "biases": frozenset("qkv")},
        naming=safetensors_naming(
            {"mlp.gate_up_proj": ("gate", "up")},
            attention_post_norm="post_self_attn_layernorm",
            mlp_post_norm="post_mlp_layernorm",
        ),
        pairs_neighbours=True,
        defaults={"head_dim": 128, "num_key_value_heads": 2},
    ),
    "starcoder2": Family(
        defaults={"num_key_value_heads": 2},
        required={
            "hidden_act": "gelu_pytorch_tanh",
            "mlp_type": "default",
            "norm_type": "layer_norm",
        },
        traits={"activation": "gelu_tanh", "is_gated": False, **_LAYER_NORM},
        naming=safetensors_naming(up="mlp.c_fc", down="mlp.c_proj"),
        norm_epsilon="norm_epsilon",
        is_tied=True,
        from_config=traits.starcoder,
    ),
    "stablelm": Family(
        defaults={"num_key_value_heads": 32},
        required={"hidden_act": "silu", "use_parallel_residual": False, "qk_layernorm": False},
        traits=_LAYER_NORM,
        norm_epsilon="layer_norm_eps",
        from_config=traits.stablelm_biases,
    ),
    "gpt_neox": Family(
        required={"hidden_act": "gelu", "attention_bias": True},
        traits={
            "activation": "gelu",
            "is_gated": False,
            "biases": frozenset(("q", "k", "v", "o", "up", "down")),
            **_LAYER_NORM,
        },
        naming=Naming("gpt_neox.layers.", _NEOX_STEMS, _NEOX_FUSED, is_by_head=True),
        norm_epsilon="layer_norm_eps",
        rope=traits.neox_rope,
        from_config=traits.neox,
    ),
    "phi": Family(
        required={"hidden_act": "gelu_new", "qk_layernorm": False},
        traits={
            "activation": "gelu_tanh",
            "is_gated": False,
            "is_parallel": True,
            "shares_norms": True,
            **_LAYER_NORM,
            "biases": frozenset(("q", "k", "v", "o", "up", "down", "head")),
        },
        naming=safetensors_naming(
            final_norm="model.final_layernorm", o="self_attn.dense", up="mlp.fc1", down="mlp.fc2"
        ),
        norm_epsilon="layer_norm_eps",
    ),
    "mistral": Family(
        defaults={"num_key_value_heads": 8},
        required={"hidden_act": "silu", "attention_bias": False},
        from_config=traits.mistral_window,
    ),
    "qwen2": Family(
        defaults={"num_key_value_heads": 32},
        required={"hidden_act": "silu", "attention_bias": True, "mlp_bias": False},
        traits={"biases": frozenset("qkv")},
        from_config=traits.qwen_windows,
    ),
    "qwen3": Family(
        traits={"has_head_norms": True},
        defaults={"head_dim": 128, "num_key_value_heads": 32},
        from_config=traits.qwen_windows,
    ),
    "qwen3_moe": Family(
        required={"hidden_act": "silu", "decoder_sparse_step": 1, "mlp_only_layers": []},
        traits={"has_head_norms": True},
        defaults={"num_key_value_heads": 4},
        naming=replace(safetensors_naming(), experts=_APART),
        from_config=traits.qwen_experts,
    ),
    "olmoe": Family(
        required={"hidden_act": "silu", "attention_bias": False, "clip_qkv": None},
        traits={"has_head_norms": True, "norms_whole_rows": True},
        naming=replace(safetensors_naming(), experts=_APART),
        from_config=traits.olmo_experts,
    ),
    "mixtral": Family(
        defaults={"num_key_value_heads": 8},
        naming=replace(
            safetensors_naming(router="block_sparse_moe.gate"),
            experts=experts.apart("block_sparse_moe.experts", "w1", "w3", "w2"),
        ),
        from_config=traits.mixtral_experts,
    ),
    "granitemoe": Family(
        naming=replace(
            safetensors_naming(router="block_sparse_moe.router.layer"), experts=experts.GRANITE
        ),
        from_config=traits.granite_experts,
    ),
    # A token without a value beside those of each head, and weights that may be of four bits.
    "gpt_oss": Family(
        required={"hidden_act": "silu", "attention_bias": True},
        traits={
            "has_sinks": True,
            "biases": frozenset(("q", "k", "v", "o", "router", "gate", "up", "down")),
        },
        defaults={"head_dim": 64, "num_key_value_heads": 8},
        naming=replace(
            safetensors_naming(router="mlp.router"),
            experts=experts.GPT_OSS,
            bare=frozenset(("sinks",)),
        ),
        rope=traits.gpt_oss_rope,
        from_config=traits.gpt_oss,
    ),
}
