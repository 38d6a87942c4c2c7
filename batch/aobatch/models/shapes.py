"""Which weights a decoder has and their shapes, held against what a file has."""

from collections.abc import Container, Mapping
from typing import TypeAlias

from aobatch.models.fields import Fields, shown
from aobatch.models.spec import DecoderSpec

Shape: TypeAlias = tuple[int, ...]
"""[out, in] of a matrix, [hidden] of a gain."""


def decoder_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Give the canonical names of a plain decoder's weights, and their shapes."""
    hidden, intermediate = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    layer: dict[str, Shape] = {
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
    shapes: dict[str, Shape] = {
        "embedding": (spec.vocab_size, hidden),
        "final_norm": (hidden,),
        "head": (spec.vocab_size, hidden),
    }
    for index in range(spec.num_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def check_shapes(
    expected: Mapping[str, Shape], stored: Mapping[str, Shape], fields: Fields
) -> None:
    """Raise ModelError if a weight is missing, has another shape, or is none of the decoder's.

    A weight that nothing reads would be left out of the model without a word.
    """
    for name, shape in expected.items():
        check_presence(name, stored, fields)
        if stored[name] != shape:
            fields.refuse(
                f"weight {name!r} has shape {stored[name]}, and by the sizes that the file states "
                f"it has to be {shape}"
            )
    others = [name for name in stored if name not in expected]
    if others:
        fields.refuse(f"weight {shown(others[0])} belongs to no model that is supported here")


def check_presence(name: str, stored: Container[str], fields: Fields) -> None:
    """Raise ModelError if a weight is missing."""
    if name not in stored:
        fields.refuse(f"weight {name!r} is missing; the file is incomplete or of another family")
