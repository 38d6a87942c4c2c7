"""The sizes of a decoder as a file states them, within the bounds that every family keeps."""

from collections.abc import Callable, Mapping
from math import sqrt

from aobatch.models.fields import Fields
from aobatch.models.rope import rope_from_config, rope_from_gguf
from aobatch.models.spec import DecoderSpec, LayerAttention, Rope

_LAYERS = (1, 512)
_HIDDEN = (1, 65_536)
_INTERMEDIATE = (1, 1_048_576)
_HEADS = (1, 1024)
HEAD_DIM = (16, 1024)
CONTEXT = (1, 2**24)
_EPSILON = (1e-12, 1.0)
_MAX_VOCABULARY = 2**21
_HEAD_DIM_MULTIPLE = 16  # GroupQueryAttention turns vectors of 16 numbers

# Bytes that conversion takes at its peak: for the angles of a position and a channel with their
# cosines and sines, and for a number of the random rotation with its factors.
_ROTARY_BYTES, _ROTATION_BYTES = 16, 32

# How many bytes of memory a byte of a file may ask for, and what any file may ask for.
_EXPANSION, _ALLOWANCE = 8, 64 * 2**20

GGUF_KEYS: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}
"""What GGUF files call the sizes of a config.json, behind the name of the family."""

ReadRope = Callable[[int], Rope]
"""Gives the rotary positions of heads of a width."""


def memory_budget(file_size: int) -> int:
    """Give the bytes that one array made from a file of that size may take."""
    return _EXPANSION * file_size + _ALLOWANCE


def gguf_spec(fields: Fields, family: str, vocab_size: int) -> DecoderSpec:
    """Read the sizes under the names that GGUF files of every family have, prefixed by it."""
    names = {name: f"{family}.{key}" for name, key in GGUF_KEYS.items()}
    spec = _plain_spec(
        fields, names, (family, vocab_size), lambda width: rope_from_gguf(fields, family, width)
    )
    for same in ("attention.value_length", "rope.dimension_count"):
        fields.integer(f"{family}.{same}", spec.head_dim, spec.head_dim, spec.head_dim)
    return spec


def config_spec(
    fields: Fields, family: str, vocab_size: int, rope: Rope | None = None
) -> DecoderSpec:
    """Read the sizes under the names that a config.json of every family has.

    The rotary positions too, unless the caller has read them.
    """
    names = {name: name for name in GGUF_KEYS}
    fields.integer("vocab_size", vocab_size, vocab_size)
    return _plain_spec(
        fields, names, (family, vocab_size), lambda width: rope or rope_from_config(fields, width)
    )


def _plain_spec(
    fields: Fields, names: Mapping[str, str], head: tuple[str, int], rope: ReadRope
) -> DecoderSpec:
    """Read the sizes of a decoder without anything special, each under the name that it has."""

    def integer(name: str, bounds: tuple[int, int], default: int | None = None) -> int:
        return fields.integer(names[name], *bounds, default)

    num_heads = integer("num_attention_heads", _HEADS)
    hidden_size = integer("hidden_size", _HIDDEN)
    head_dim = integer("head_dim", HEAD_DIM, hidden_size // num_heads)
    num_layers = integer("num_hidden_layers", _LAYERS)
    return DecoderSpec(
        *head,
        hidden_size=hidden_size,
        intermediate_size=integer("intermediate_size", _INTERMEDIATE),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=integer("num_key_value_heads", _HEADS, num_heads),
        head_dim=head_dim,
        context_length=integer("max_position_embeddings", CONTEXT),
        norm_epsilon=fields.number(names["rms_norm_eps"], *_EPSILON),
        attentions=(LayerAttention(rope(head_dim)),) * num_layers,
        attention_scale=1 / sqrt(head_dim),
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
