"""Laws of the random streams; numpy's Generator over the same Philox is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling_strategies import unhurried

from aobatch.sampling.columns import UniformColumns, stream_key, uniforms_of

KEY = stream_key("a key")

Part = bytes | str | int


def oracle(key: bytes, count: int) -> np.ndarray:
    """Give the first numbers that numpy's own generator makes of the key."""
    words = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    return np.random.Generator(np.random.Philox(key=np.array(words, dtype=np.uint64))).random(count)


@unhurried
@given(start=st.integers(0, 300), count=st.integers(0, 100))
def test_block_is_a_slice_of_numpys_stream(start: int, count: int) -> None:
    """Any block is that part of what Generator.random gives from the beginning."""
    block = uniforms_of(KEY, start, count)

    np.testing.assert_array_equal(block, oracle(KEY, 400)[start : start + count])


def test_far_blocks_agree_with_advance() -> None:
    """A block far away is where numpy's advance leads."""
    philox = np.random.Philox(key=np.frombuffer(KEY, dtype=np.uint64))
    philox.advance(10**15)

    expected = np.random.Generator(philox).random(5)

    np.testing.assert_array_equal(uniforms_of(KEY, 4 * 10**15, 5), expected)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        pytest.param(("ab", "c"), ("a", "bc"), id="border"),
        pytest.param((1,), ("1",), id="type"),
        pytest.param(("1",), (b"1",), id="bytes"),
        pytest.param(("a",), ("a", ""), id="number"),
        pytest.param((1, 2), (2, 1), id="order"),
        pytest.param((12,), (1, 2), id="digits"),
        pytest.param((-1,), (1,), id="sign"),
    ],
)
def test_different_parts_give_different_keys(
    left: tuple[Part, ...], right: tuple[Part, ...]
) -> None:
    """Parts never run into each other."""
    assert stream_key(*left) != stream_key(*right)


def test_key_does_not_change_between_versions() -> None:
    """A key is part of what makes a seeded text repeatable: 16 bytes, these ones."""
    assert stream_key(7, "request", b"\x00", 0).hex() == "0bc66b6d23d5c03c6051b385f96b4d65"
    assert len(KEY) == 16


def test_columns_read_every_slots_own_stream() -> None:
    """Numbers over the edges of blocks, of slots at different places, are the streams' numbers."""
    columns = UniformColumns(3)
    keys = [stream_key(slot) for slot in range(3)]
    for slot, key in enumerate(keys):
        columns.admit(slot, key)
    starts = np.array([0, 50, 1000])

    taken = [columns.take(np.arange(3), starts + step) for step in range(150)]

    for slot, key in enumerate(keys):
        expected = oracle(key, 1200)[starts[slot] : starts[slot] + 150]
        np.testing.assert_array_equal(np.array(taken)[:, slot], expected)


def test_stream_goes_on_after_a_move() -> None:
    """A moved sequence draws the numbers it would have drawn."""
    columns = UniformColumns(2)
    columns.admit(1, KEY)
    columns.admit(0, stream_key("gone"))
    columns.take(np.array([0]), np.array([columns.BLOCK]))
    taken = [columns.take(np.array([1]), np.array([t]))[0] for t in range(columns.BLOCK)]
    columns.move(1, 0)
    columns.admit(1, stream_key("another"))
    taken += [columns.take(np.array([0]), np.array([t]))[0] for t in range(columns.BLOCK, 200)]

    np.testing.assert_array_equal(taken, oracle(KEY, 200))
