"""The llama family: RMSNorm, rotary positions, grouped-query attention, gated SiLU."""

from aobatch.models.fields import Fields
from aobatch.models.shapes import Shape, decoder_shapes
from aobatch.models.sizes import gguf_spec
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


def spec_from_gguf(fields: Fields, vocab_size: int) -> DecoderSpec:
    """Read the sizes from a GGUF's metadata."""
    return gguf_spec(fields, "llama", vocab_size)


def shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Say which canonical weights there are, and their shapes."""
    return decoder_shapes(spec)


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
