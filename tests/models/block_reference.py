"""GGUF's quantised blocks by the letter of their definitions: one number at a time."""

import struct
from collections.abc import Callable
from dataclasses import dataclass


def half(data: bytes) -> float:
    """Read two bytes as a float16."""
    return struct.unpack("<e", data)[0]


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _nibble(data: bytes, index: int, count: int) -> int:
    """Give a 4-bit number: the lower halves of all bytes come ahead of the upper ones."""
    return data[index] & 15 if index < count else data[index - count] >> 4


def _bit(data: bytes, index: int) -> int:
    return data[index // 8] >> (index % 8) & 1


def q8_0(block: bytes) -> list[float]:
    """32 signed bytes behind a scale."""
    return [half(block[:2]) * _signed(byte) for byte in block[2:]]


def q4_0(block: bytes) -> list[float]:
    """32 numbers from -8 behind a scale."""
    return [half(block[:2]) * (_nibble(block[2:], i, 16) - 8) for i in range(32)]


def q4_1(block: bytes) -> list[float]:
    """32 numbers from 0 behind a scale and a least value."""
    return [half(block[:2]) * _nibble(block[4:], i, 16) + half(block[2:4]) for i in range(32)]


def _five(bits: bytes, low: bytes, index: int) -> int:
    return _nibble(low, index, 16) + 16 * _bit(bits, index)


def q5_0(block: bytes) -> list[float]:
    """32 numbers from -16 behind a scale and their fifth bits."""
    return [half(block[:2]) * (_five(block[2:6], block[6:], i) - 16) for i in range(32)]


def q5_1(block: bytes) -> list[float]:
    """32 numbers from 0 behind a scale, a least value and their fifth bits."""
    scale, least = half(block[:2]), half(block[2:4])
    return [scale * _five(block[4:8], block[8:], i) + least for i in range(32)]


def _six_bit_pair(scales: bytes, group: int) -> tuple[int, int]:
    """Unpack one of the eight 6-bit scales and leasts out of twelve bytes."""
    if group < 4:
        return scales[group] & 63, scales[group + 4] & 63
    low, high = scales[group + 4], scales[group - 4] >> 6
    return (low & 15) + 16 * high, (low >> 4) + 16 * (scales[group] >> 6)


def _k_value(block: bytes, index: int, number: int) -> float:
    scale, least = _six_bit_pair(block[4:16], index // 32)
    return half(block[:2]) * scale * number - half(block[2:4]) * least


def q4_k(block: bytes) -> list[float]:
    """256 numbers in eight groups, each with a 6-bit scale and least value; 64 share 32 bytes."""
    quants = block[16:]
    return [
        _k_value(block, i, _nibble(quants[32 * (i // 64) : 32 * (i // 64) + 32], i % 64, 32))
        for i in range(256)
    ]


def q5_k(block: bytes) -> list[float]:
    """The same with a fifth bit: bit g of byte i belongs to number i of group g."""
    high, quants = block[16:48], block[48:]
    return [
        _k_value(
            block,
            i,
            _nibble(quants[32 * (i // 64) : 32 * (i // 64) + 32], i % 64, 32)
            + 16 * (high[i % 32] >> (i // 32) & 1),
        )
        for i in range(256)
    ]


def q6_k(block: bytes) -> list[float]:
    """256 numbers from -32, in groups of 16 with a signed scale; 128 share 64 and 32 bytes."""
    low, high, scales, scale = block[:128], block[128:192], block[192:208], half(block[208:])
    values = []
    for i in range(256):
        side, place = divmod(i, 128)
        quarter, column = divmod(place, 32)
        byte = low[64 * side + column + 32 * (quarter % 2)]
        nibble = byte & 15 if quarter < 2 else byte >> 4
        upper = high[32 * side + column] >> (2 * quarter) & 3
        values.append(scale * _signed(scales[i // 16]) * (nibble + 16 * upper - 32))
    return values


def q1_0(block: bytes) -> list[float]:
    """128 signs behind a scale, the lowest bit of a byte first."""
    return [half(block[:2]) * (1 if _bit(block[2:], i) else -1) for i in range(128)]


def _two_bits(block: bytes, count: int) -> list[float]:
    return [half(block[:2]) * ((block[2 + i // 4] >> 2 * (i % 4) & 3) - 1) for i in range(count)]


def q2_0(block: bytes) -> list[float]:
    """64 numbers from -1 to 2 behind a scale, the lowest two bits of a byte first."""
    return _two_bits(block, 64)


def older_q2_0(block: bytes) -> list[float]:
    """128 of them, as they were before ggml took them over."""
    return _two_bits(block, 128)


@dataclass(frozen=True)
class Kind:
    """A type of block: its number, its sizes, where its float16 scales are, and its meaning."""

    number: int
    block_size: int
    num_bytes: int
    scales: tuple[int, ...]
    read: Callable[[bytes], list[float]]


KINDS = {
    "Q8_0": Kind(8, 32, 34, (0,), q8_0),
    "Q4_0": Kind(2, 32, 18, (0,), q4_0),
    "Q4_1": Kind(3, 32, 20, (0, 2), q4_1),
    "Q5_0": Kind(6, 32, 22, (0,), q5_0),
    "Q5_1": Kind(7, 32, 24, (0, 2), q5_1),
    "Q4_K": Kind(12, 256, 144, (0, 2), q4_k),
    "Q5_K": Kind(13, 256, 176, (0, 2), q5_k),
    "Q1_0": Kind(41, 128, 18, (0,), q1_0),
    "Q2_0": Kind(42, 64, 18, (0,), q2_0),
    "Q2_0 of 128": Kind(42, 128, 34, (0,), older_q2_0),
    "Q6_K": Kind(14, 256, 210, (208,), q6_k),
}
