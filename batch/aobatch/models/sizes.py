"""The sizes of a decoder as a file states them, within the bounds that every family keeps."""

from aobatch.models.fields import Fields
from aobatch.models.spec import DecoderSpec

_LAYERS = (1, 512)
_HIDDEN = (1, 65_536)
_INTERMEDIATE = (1, 1_048_576)
_HEADS = (1, 1024)
_HEAD_DIM = (16, 1024)
_CONTEXT = (1, 2**24)
_EPSILON = (1e-12, 1.0)
_ROPE_BASE = (1.0, 1e12)
_MAX_VOCABULARY = 2**21
_HEAD_DIM_MULTIPLE = 16  # GroupQueryAttention turns vectors of 16 numbers

# Bytes that conversion takes at its peak: for the angles of a position and a channel with their
# cosines and sines, and for a number of the random rotation with its factors.
_ROTARY_BYTES, _ROTATION_BYTES = 16, 32

# How many bytes of memory a byte of a file may ask for, and what any file may ask for.
_EXPANSION, _ALLOWANCE = 8, 64 * 2**20


def memory_budget(file_size: int) -> int:
    """Give the bytes that one array made from a file of that size may take."""
    return _EXPANSION * file_size + _ALLOWANCE


def gguf_spec(fields: Fields, family: str, vocab_size: int) -> DecoderSpec:
    """Read the sizes under the names that GGUF files of every family have, prefixed by it."""

    def integer(key: str, bounds: tuple[int, int], default: int | None = None) -> int:
        return fields.integer(f"{family}.{key}", *bounds, default)

    num_heads = integer("attention.head_count", _HEADS)
    hidden_size = integer("embedding_length", _HIDDEN)
    head_dim = integer("attention.key_length", _HEAD_DIM, hidden_size // num_heads)
    for same in ("attention.value_length", "rope.dimension_count"):
        integer(same, (head_dim, head_dim), head_dim)
    return DecoderSpec(
        family=family,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=integer("feed_forward_length", _INTERMEDIATE),
        num_layers=integer("block_count", _LAYERS),
        num_heads=num_heads,
        num_kv_heads=integer("attention.head_count_kv", _HEADS, num_heads),
        head_dim=head_dim,
        context_length=integer("context_length", _CONTEXT),
        norm_epsilon=fields.number(f"{family}.attention.layer_norm_rms_epsilon", *_EPSILON),
        rope_theta=fields.number(f"{family}.rope.freq_base", *_ROPE_BASE, 10000.0),
    )


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
