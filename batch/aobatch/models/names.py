"""What files of each kind call the weights of a decoder."""

from collections.abc import Container, Mapping

from aobatch.models.spec import DecoderSpec

BIASED = ("q", "k", "v", "o", "gate", "up", "down")
"""The matrices that may add a bias."""

_GGUF: Mapping[str, str] = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "mlp_post_norm": "post_ffw_norm",
}

_SAFETENSORS: Mapping[str, str] = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    "attention_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# With norms behind the blocks, the name of the one ahead of a feed-forward block is taken.
_SAFETENSORS_POST_NORMS: Mapping[str, str] = {
    **_SAFETENSORS,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}


def gguf_name(name: str) -> str:
    """Say under which name a GGUF stores a canonical weight."""
    return _stored_name(name, _GGUF, "blk.")


def safetensors_name(name: str, spec: DecoderSpec) -> str:
    """Say under which name a safetensors file stores a canonical weight."""
    names = _SAFETENSORS_POST_NORMS if spec.has_post_norms else _SAFETENSORS
    return _stored_name(name, names, "model.layers.")


def gguf_biases(stored: Container[str]) -> frozenset[str]:
    """Say which matrices of a GGUF's layers add a bias, by the names that are there."""
    return frozenset(name for name in BIASED if gguf_name(f"layers.0.{name}_bias") in stored)


def _stored_name(name: str, names: Mapping[str, str], layers: str) -> str:
    layer, _, weight = name.removeprefix("layers.").rpartition(".")
    stem = weight.removesuffix("_bias")
    stored = f"{names[stem]}.{'weight' if stem == weight else 'bias'}"
    return f"{layers}{layer}.{stored}" if layer else stored
