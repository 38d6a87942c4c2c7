"""How much memory a protobuf takes when it is parsed, found without parsing it.

An empty message is two bytes on the wire and some 160 in memory, so that the size of a file says
little: two gigabytes of empty nodes would take 160.
"""

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from aobatch.models.checks.limits import MAX_NESTING, MAX_PARSED_BYTES

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE_COST, _FIELD_COST, _PACKED_COST = 160, 64, 8
_MAX_GROWTH = _MESSAGE_COST // 2
_FIXED_TYPES = {
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
}


class WireError(ValueError):
    """The bytes are no protobuf, or would take too much memory."""


class WireReader:
    """Walks the bytes of one message and the messages within."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_PARSED_BYTES

    def check(self, descriptor: Descriptor) -> None:
        """Raise WireError if so many bytes parse to more than the limit, or to nothing."""
        if len(self._content) * _MAX_GROWTH <= MAX_PARSED_BYTES:
            return  # every graph of ours, in no time
        try:
            self._message(0, len(self._content), descriptor, 0)
        except IndexError as error:
            message = "it ends in the middle of a field"
            raise WireError(message) from error

    def _message(self, position: int, end: int, descriptor: Descriptor, depth: int) -> None:
        if depth > MAX_NESTING:
            message = f"messages nest more than {MAX_NESTING} deep"
            raise WireError(message)
        self._spend(_MESSAGE_COST)
        kinds = _kinds(descriptor)
        while position < end:
            tag, position = self._varint(position)
            start, position = self._value(tag & 7, position)
            if position > end:
                message = "a field is longer than the message that it is in"
                raise WireError(message)
            kind = kinds.get(tag >> 3, 0)
            if tag & 7 != _BYTES or isinstance(kind, int):
                self._spend(_FIELD_COST + (position - start) * (kind if tag & 7 == _BYTES else 0))
            else:
                self._message(start, position, kind, depth + 1)

    def _value(self, wire_type: int, position: int) -> tuple[int, int]:
        """Give where a field's value begins and ends."""
        if wire_type == _BYTES:
            length, position = self._varint(position)
            return position, position + length
        if wire_type == _VARINT:
            return position, self._varint(position)[1]
        if wire_type in (_FIXED32, _FIXED64):
            return position, position + (8 if wire_type == _FIXED64 else 4)
        message = f"a field has the unknown wire type {wire_type}"
        raise WireError(message)

    def _varint(self, position: int) -> tuple[int, int]:
        byte = self._content[position]
        if byte < 128:
            return byte, position + 1
        value = shift = 0
        for place in range(position, position + 10):
            byte = self._content[place]
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place + 1
            shift += 7
        message = "a number has more than 64 bits"
        raise WireError(message)

    def _spend(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            message = f"reading it would take more than {MAX_PARSED_BYTES} bytes of memory"
            raise WireError(message)


@cache
def _kinds(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """Give for each field its kind of message, or what a byte of it costs beside itself."""
    return {
        field.number: field.message_type or (0 if field.type in _FIXED_TYPES else _PACKED_COST)
        for field in descriptor.fields
    }
