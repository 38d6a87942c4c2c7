"""How large a decoder will be after conversion, known from its sizes alone."""

from math import prod

from aobatch.models.shapes import decoder_shapes
from aobatch.models.spec import DecoderSpec

_EMBEDDING = "embedding"
_MATRIX = 2
"""Dimensions of what is quantised; gains and biases stay float32."""


def converted_bytes(spec: DecoderSpec) -> dict[str, int]:
    """Give about how many bytes the graph's weights take, by precision."""
    shapes = decoder_shapes(spec)
    matrices = [s for name, s in shapes.items() if len(s) == _MATRIX and name != _EMBEDDING]
    num_weights, num_rows = sum(map(prod, matrices)), sum(rows for rows, _ in matrices)
    num_embeddings = prod(shapes[_EMBEDDING])
    others = 4 * sum(prod(shape) for shape in shapes.values() if len(shape) < _MATRIX)
    others += 4 * spec.context_length * spec.head_dim * len({x.rope for x in spec.attentions})
    return {
        "int8": num_weights + 4 * num_rows + 2 * num_embeddings + others,
        "nbits8": num_weights + num_weights // 8 + 2 * num_embeddings + others,
        "fp32": 4 * (num_weights + num_embeddings) + others,
    }
