"""Which ways there are to compute in a precision, the quickest first."""

from collections.abc import Mapping

from aobatch.errors import ModelError
from aobatch.models.int8 import BlockInt8, Int8
from aobatch.models.nbits8 import Nbits8
from aobatch.models.precision import Fp32, Precision
from aobatch.models.spec import DecoderSpec

PRECISIONS = ("int8", "nbits8", "fp32")


def recipes(precision: str, spec: DecoderSpec) -> Mapping[str, Precision]:
    """Give the ways for a decoder by name; the first that is close enough to fp32 is to be used.

    Raises ModelError for an unknown precision.
    """
    if precision == "fp32":
        return {"fp32": Fp32()}
    if precision == "nbits8":
        return {"blocks of 32": Nbits8()}
    if precision != "int8":
        message = f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}"
        raise ModelError(message)
    rotated: dict[str, Precision] = {} if spec.has_post_norms else {"rotated": Int8()}
    return rotated | {"Hadamard blocks": BlockInt8(spec.hidden_size), "blocks of 32": Nbits8()}
