"""Tensors of a graph: their sizes in exact integers, and the files that hold their data."""

import math
from collections.abc import Mapping
from pathlib import Path

from onnx import TensorProto

from aobatch.errors import ModelError
from aobatch.models.checks import refusal, shown
from aobatch.models.checks.files import neighbour, owned_size
from aobatch.models.checks.limits import MAX_ELEMENTS, MAX_RANK
from aobatch.models.checks.links import own_file

_BITS: Mapping[int, int] = {
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
}
_INT32_TYPES = {kind for kind, bits in _BITS.items() if bits <= 16} | {TensorProto.INT32}
_DATA_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    **dict.fromkeys(_INT32_TYPES, "int32_data"),
}
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}
_MAX_DIGITS = 19


class TensorCheck:
    """Checks the tensors of one graph file; remembers how much of each data file they take."""

    def __init__(self, graph: Path) -> None:
        self._graph = graph
        self._unclaimed: dict[str, int] = {}

    def check(self, tensor: TensorProto) -> None:
        """Raise ModelError if the data is not there in full, in the graph or beside it."""
        num_bytes = self._num_bytes(tensor)
        if tensor.HasField("segment"):
            raise self._refusal(tensor, "is a segment")
        inline = [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]
        if tensor.data_location == TensorProto.EXTERNAL:
            # Protobuf calls the list of keys and values external_data.
            if inline != ["external_data"]:
                raise self._refusal(tensor, "has no data, or data in two places")
            self._check_external(tensor, num_bytes)
        elif inline not in ([], ["raw_data"], [_DATA_FIELDS[tensor.data_type]]):
            raise self._refusal(tensor, f"has data in {', '.join(inline)}, not as its type has it")
        elif _inline_bytes(tensor) != num_bytes:
            raise self._refusal(
                tensor, f"needs {num_bytes} bytes and holds {_inline_bytes(tensor)}"
            )

    def _num_bytes(self, tensor: TensorProto) -> int:
        if tensor.data_type not in _BITS:
            raise self._refusal(tensor, f"has the element type {tensor.data_type}")
        sizes = list(tensor.dims)
        # A size of 0 must not hide a product that wraps around in 64 bits.
        product = math.prod(max(size, 1) for size in sizes)
        if len(sizes) > MAX_RANK or min(sizes, default=0) < 0 or product > MAX_ELEMENTS:
            raise self._refusal(tensor, f"has the dimensions {shown(sizes)}")
        num_bits: int = math.prod(sizes) * _BITS[tensor.data_type]
        return -(-num_bits // 8)

    def _check_external(self, tensor: TensorProto, num_bytes: int) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) != len(tensor.external_data) or not entries.keys() <= _EXTERNAL_KEYS:
            raise self._refusal(tensor, f"has the external data keys {shown(sorted(entries))}")
        location = entries.get("location", "")
        path = neighbour(self._graph, location)
        offset = self._integer(tensor, entries.get("offset", "0"))
        if self._integer(tensor, entries.get("length", str(num_bytes))) != num_bytes:
            raise self._refusal(tensor, f"needs {num_bytes} bytes, not {entries['length']}")
        size = self._size(path)
        if offset + num_bytes > size:
            end = offset + num_bytes
            raise self._refusal(tensor, f"ends at byte {end} of {location}, which has {size}")
        # Weights that share bytes would take many times the file's size when they are packed.
        self._unclaimed[location] = self._unclaimed.get(location, size) - num_bytes
        if self._unclaimed[location] < 0:
            raise self._refusal(tensor, f"shares the bytes of other tensors in {location}")

    def _size(self, path: Path) -> int:
        try:
            return owned_size(own_file(path))
        except ModelError as error:
            message = f"{self._graph} needs a file beside it, and {error}"
            raise ModelError(message) from error

    def _integer(self, tensor: TensorProto, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
            raise self._refusal(tensor, f"has the offset or length {shown(text)}")
        return int(text)

    def _refusal(self, tensor: TensorProto, what: str) -> ModelError:
        return refusal(self._graph, f"tensor {shown(tensor.name)} {what}")


def stored_bytes(tensor: TensorProto) -> int:
    """Give how many bytes the elements of a checked tensor take."""
    num_bits: int = math.prod(tensor.dims) * _BITS[tensor.data_type]
    return -(-num_bits // 8)


def _inline_bytes(tensor: TensorProto) -> int:
    """Count the bytes of the elements that a tensor holds itself."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    count = len(getattr(tensor, _DATA_FIELDS[tensor.data_type]))
    # Elements of four bits stand two to a number.
    return count * max(8, _BITS[tensor.data_type]) // 8
