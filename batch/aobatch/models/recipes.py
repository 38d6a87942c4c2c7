"""Which ways there are to compute in a precision, the quickest first."""

from aobatch.errors import ModelError
from aobatch.models.int8 import Int8, RowInt8
from aobatch.models.nbits8 import Nbits8
from aobatch.models.precision import Fp32, Precision
from aobatch.models.spec import DecoderSpec

PRECISIONS = ("int8", "nbits8", "fp32")


def recipes(precision: str, spec: DecoderSpec) -> list[Precision]:
    """Give the ways for a decoder; the first one that is close enough to fp32 is to be used.

    Raises ModelError for an unknown precision.
    """
    ways: dict[str, list[Precision]] = {
        "int8": [RowInt8() if spec.has_post_norms else Int8()],
        "nbits8": [Nbits8()],
        "fp32": [Fp32()],
    }
    if precision not in ways:
        message = f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}"
        raise ModelError(message)
    return ways[precision]
