"""Which weights a decoder has and their shapes, held against what a file has."""

from collections.abc import Collection, Container, Mapping
from typing import TypeAlias

from aobatch.models.fields import Fields, shown
from aobatch.models.spec import DecoderSpec

Shape: TypeAlias = tuple[int, ...]
"""[out, in] of a matrix, [out] of a gain or bias."""


def decoder_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """Give the canonical names of a decoder's weights, and their shapes."""
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


def check_shapes(
    expected: Mapping[str, Shape],
    stored: Mapping[str, Shape],
    fields: Fields,
    unneeded: Collection[str] = (),
) -> None:
    """Raise ModelError if a weight is missing, has another shape, or is none of the decoder's.

    A weight that nothing reads would be left out of the model without a word; `unneeded` ends the
    names of those that a model does not need.
    """
    for name, shape in expected.items():
        check_presence(name, stored, fields)
        if stored[name] != shape:
            fields.refuse(
                f"weight {name!r} has shape {stored[name]}, and by the sizes that the file states "
                f"it has to be {shape}"
            )
    ends = tuple(unneeded)
    others = [name for name in stored if name not in expected and not name.endswith(ends)]
    if others:
        fields.refuse(f"weight {shown(others[0])} belongs to no model that is supported here")


def check_presence(name: str, stored: Container[str], fields: Fields) -> None:
    """Raise ModelError if a weight is missing."""
    if name not in stored:
        fields.refuse(f"weight {name!r} is missing; the file is incomplete or of another family")
