"""The llama family: RMSNorm, rotary positions, grouped-query attention, gated SiLU."""

from aobatch.models.spec import DecoderSpec

_GGUF_NAMES = {
    "embedding": "token_embd.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "attention_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}


def spec_from_gguf(metadata: dict[str, object], vocab_size: int) -> DecoderSpec:
    """Read the sizes from a GGUF's metadata."""

    def number(key: str, default: float | None = None) -> float:
        value = metadata.get(f"llama.{key}", default)
        return float(value)  # type: ignore[arg-type]

    num_heads, hidden_size = int(number("attention.head_count")), int(number("embedding_length"))
    return DecoderSpec(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=int(number("feed_forward_length")),
        num_layers=int(number("block_count")),
        num_heads=num_heads,
        num_kv_heads=int(number("attention.head_count_kv", num_heads)),
        head_dim=int(number("attention.key_length", hidden_size // num_heads)),
        context_length=int(number("context_length")),
        norm_epsilon=number("attention.layer_norm_rms_epsilon"),
        rope_theta=number("rope.freq_base", 10000.0),
    )


def gguf_name(name: str) -> str:
    """Say under which name a GGUF stores a canonical weight."""
    layer, _, weight = name.removeprefix("layers.").rpartition(".")
    stored = _GGUF_NAMES[weight]
    return f"blk.{layer}.{stored}" if layer else stored


def gguf_heads(name: str, spec: DecoderSpec) -> int | None:
    """Say over how many heads a GGUF interleaves the rows of a weight; None if it does not.

    GGUF files of this family order the rows of q and k for a rotation of neighbouring pairs.
    """
    return {"q": spec.num_heads, "k": spec.num_kv_heads}.get(name.rpartition(".")[2])
