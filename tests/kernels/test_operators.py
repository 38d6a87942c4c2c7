"""The operators against their references, and the bits that no neighbour may change."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aobatch.kernels import (
    BLOCK,
    CacheDtype,
    KernelsError,
    block_bytes,
    library,
    reference,
)
from aobatch.runners.operators import compute

try:
    library()
except KernelsError as error:
    pytest.skip(str(error), allow_module_level=True)

EPSILON = 1e-5
WIDTHS = st.integers(1, 20).map(lambda count: 16 * count)
ROWS = st.integers(0, 20)
SEEDS = st.integers(0, 2**32 - 1)
CASES = settings(max_examples=25, deadline=None)
BOUNDS: dict[CacheDtype, float] = {"int8": 0.03, "bf16": 0.01, "fp32": 1e-5}
"""Root of the mean square error of attention, as a part of that of what is right."""


def maybe(seed: int, bit: int, array: NDArray[Any]) -> NDArray[Any] | None:
    """Leave an input out for half of the seeds."""
    return array if seed >> bit & 1 else None


@CASES
@given(seed=SEEDS, rows=ROWS, width=WIDTHS, is_clipped=st.booleans())
def test_norms_are_those_of_the_reference(
    seed: int, rows: int, width: int, is_clipped: bool
) -> None:
    """The sum to single precision, bytes to one of 255, whatever is left out."""
    rng = np.random.default_rng(seed)
    residual, product = rng.standard_normal((2, rows, width)).astype(np.float32)
    scale = maybe(seed, 0, rng.random((rows, 1)).astype(np.float32))
    bias, post_gain, gain = (
        maybe(seed, bit, rng.standard_normal(width).astype(np.float32)) for bit in (1, 2, 3)
    )
    block, clip = (1, 4.0) if is_clipped else (width & -width, 0.0)
    found, total, *peaks = compute(
        "NormQuantise",
        [residual, product, scale, bias, post_gain, gain],
        2 if is_clipped else 3,
        {"clip": clip, "block": block, "epsilon": EPSILON},
    )

    added = product * np.float64(1 if scale is None else scale) + np.float64(0)
    added = added if bias is None else added + bias
    added = added if post_gain is None else reference.rms_norm(added, post_gain, EPSILON)
    expected = residual + added
    normed = reference.rms_norm(expected, 1.0 if gain is None else gain, EPSILON)
    turned = normed if is_clipped else reference.hadamard(normed, block)
    rows_expected, peaks_expected = reference.quantised(turned, clip)
    assert np.abs(total - expected).max(initial=0) < 1e-5
    assert np.abs(found.astype(int) - rows_expected).max(initial=0) <= 1
    if peaks:
        assert np.allclose(peaks[0], peaks_expected, rtol=1e-4)


@CASES
@given(
    seed=SEEDS,
    rows=ROWS,
    width=WIDTHS,
    kind=st.sampled_from([(0, "none"), (1, "silu"), (2, "gelu_tanh")]),
)
def test_activations_are_those_of_the_reference(
    seed: int, rows: int, width: int, kind: tuple[int, Any]
) -> None:
    """Peaks to single precision, bytes to one of 255, turned by blocks or not."""
    rng = np.random.default_rng(seed)
    gate, up = (3 * rng.standard_normal((2, rows, width))).astype(np.float32)
    scale = maybe(seed, 0, rng.random((rows, 1)).astype(np.float32))
    biases = [maybe(seed, bit, rng.standard_normal(width).astype(np.float32)) for bit in (1, 2)]
    block = min(64, width & -width) if seed & 8 else 1
    found, peaks = compute(
        "ActivateQuantise",
        [gate, up, scale, *biases],
        2,
        {"activation": kind[0], "block": block},
    )

    x, y = (
        part * np.float64(1 if scale is None else scale) + (0 if bias is None else bias)
        for part, bias in zip((gate, up), biases, strict=True)
    )
    expected, peaks_expected = reference.quantised(
        reference.hadamard(reference.activated(kind[1], x) * y, block), 0.0
    )
    assert np.allclose(peaks, peaks_expected, rtol=1e-4)
    assert np.abs(found.astype(int) - expected).max(initial=0) <= 1


@dataclass(frozen=True, slots=True)
class Case:
    """Sequences of some lengths in slots, the heads of a model, and random rows for them."""

    heads: reference.Heads
    lengths: tuple[int, ...]
    rows: NDArray[np.float32]
    options: tuple[NDArray[np.float32] | None, ...]
    """Scale, bias, gains of queries and of keys."""

    @property
    def slots(self) -> NDArray[np.int32]:
        """The slot of each token; those in use are not in order."""
        return np.repeat(np.arange(len(self.lengths))[::-1], self.lengths).astype(np.int32)

    @property
    def positions(self) -> NDArray[np.int32]:
        """The place of each token in its sequence."""
        return np.concatenate([np.arange(n) for n in self.lengths]).astype(np.int32)


def draw_case(
    seed: int, heads: tuple[int, int, int], lengths: tuple[int, ...], window: int
) -> Case:
    """Draw the rows of a case."""
    rng = np.random.default_rng(seed)
    num_heads, num_kv_heads, head_dim = heads
    width = (num_heads + 2 * num_kv_heads) * head_dim
    rows = (0.6 * rng.standard_normal((sum(lengths), width))).astype(np.float32)
    scale = 0.5 + rng.random((len(rows), 1))
    sizes = (scale, 0.1 * rng.standard_normal(width), *(0.5 + rng.random((2, head_dim))))
    options = tuple(maybe(seed, bit, x.astype(np.float32)) for bit, x in enumerate(sizes))
    return Case(reference.Heads(*heads, window), lengths, rows, options)


def tables_of(case: Case) -> tuple[NDArray[np.float32], ...]:
    """Give cosines and sines for as many places as a case may have."""
    half = case.heads.head_dim // 2
    angles = np.arange(2048)[:, None] / 10_000 ** (np.arange(half) / half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def empty_cache(case: Case, dtype: CacheDtype) -> NDArray[np.uint8]:
    """Give a cache full of bytes that are not a number."""
    blocks = -(-max(case.lengths) // 64) * 64 // BLOCK
    size = block_bytes(dtype, case.heads.head_dim)
    return np.full((len(case.lengths), case.heads.num_kv_heads, blocks, size), 255, np.uint8)


def attend(
    case: Case,
    cache: NDArray[np.uint8],
    chosen: slice = slice(None),
    threads: int = 1,
) -> NDArray[np.float32]:
    """Take in some tokens of a case."""
    scale, *options = case.options
    heads = case.heads
    inputs = [case.rows, cache, case.slots, case.positions, *tables_of(case), scale, *options]
    for place in (0, 2, 3, 6):
        if inputs[place] is not None:
            inputs[place] = np.ascontiguousarray(inputs[place][chosen])  # type: ignore[index]
    sizes = {"num_heads": heads.num_heads, "num_kv_heads": heads.num_kv_heads}
    attributes = {**sizes, "head_dim": heads.head_dim, "window": heads.window, "epsilon": EPSILON}
    found, _ = compute("AttendSlots", inputs, 2, attributes, threads=threads)
    return found


def expected_of(case: Case) -> NDArray[np.float64]:
    """Attend as the reference does, sequence by sequence."""
    scale, bias, q_gain, k_gain = case.options
    heads = case.heads
    x = case.rows * np.float64(1 if scale is None else scale) + (0 if bias is None else bias)
    x = x.reshape(len(x), -1, heads.head_dim)
    q, k, v = np.split(x, [heads.num_heads, heads.num_heads + heads.num_kv_heads], axis=1)
    q = q if q_gain is None else reference.rms_norm(q, q_gain, EPSILON)
    k = k if k_gain is None else reference.rms_norm(k, k_gain, EPSILON)
    tables = [table[case.positions].astype(np.float64) for table in tables_of(case)]
    q, k = reference.turned(q, *tables), reference.turned(k, *tables)
    parts = np.split(np.arange(len(x)), np.cumsum(case.lengths)[:-1])
    found = [reference.attended(q[p], k[p], v[p], heads.window) for p in parts]
    return np.concatenate(found).reshape(len(x), -1)


HEADS = st.sampled_from([(9, 3, 64), (4, 4, 16), (8, 1, 128), (2, 1, 256), (6, 2, 80), (14, 2, 32)])
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from(["int8", "bf16", "fp32"])


@CASES
@given(seed=SEEDS, heads=HEADS, lengths=LENGTHS, dtype=DTYPES, window=st.sampled_from([0, 5, 40]))
def test_attention_is_that_of_the_reference(
    seed: int, heads: tuple[int, int, int], lengths: tuple[int, ...], dtype: CacheDtype, window: int
) -> None:
    """Any heads, lengths, window and cache; what no token was written to may hold anything."""
    case = draw_case(seed, heads, lengths, window)

    found = attend(case, empty_cache(case, dtype))

    expected = expected_of(case)
    error = np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())
    assert error < BOUNDS[dtype]


@CASES
@given(seed=SEEDS, heads=HEADS, lengths=LENGTHS, dtype=DTYPES, window=st.sampled_from([0, 30]))
def test_a_token_has_the_same_bits_whatever_is_computed_beside_it(
    seed: int, heads: tuple[int, int, int], lengths: tuple[int, ...], dtype: CacheDtype, window: int
) -> None:
    """All at once, in random chunks, and by two threads."""
    case = draw_case(seed, heads, lengths, window)
    whole, cache, rng = attend(case, empty_cache(case, dtype)), empty_cache(case, dtype), None
    rng = np.random.default_rng(seed)
    ends = np.cumsum(case.lengths)
    found = np.empty_like(whole)
    for start, end in zip(ends - case.lengths, ends, strict=True):
        while start < end:
            stop = int(rng.integers(start + 1, min(start + 9, end) + 1))
            found[start:stop] = attend(case, cache, slice(start, stop))
            start = stop

    assert np.array_equal(found, whole)
    assert np.array_equal(attend(case, empty_cache(case, dtype), threads=2), whole)


@pytest.mark.parametrize("dtype", ["int8", "bf16", "fp32"])
def test_long_sequences_are_attended_in_segments(dtype: CacheDtype) -> None:
    """Sums over more tokens than scores are kept of at a time are right, and the same in chunks."""
    case = draw_case(0, (3, 1, 64), (1500,), 0)

    whole = attend(case, empty_cache(case, dtype))

    expected = expected_of(case)
    assert np.sqrt(((whole - expected) ** 2).mean() / (expected**2).mean()) < BOUNDS[dtype]
    cache = empty_cache(case, dtype)
    parts = [slice(0, 1000), slice(1000, 1023), slice(1023, 1500)]
    assert np.array_equal(np.concatenate([attend(case, cache, p) for p in parts]), whole)


@pytest.mark.parametrize(
    ("place", "value"),
    [(2, 7), (2, -1), (3, 64), (3, -1)],
    ids=["slot", "slot-", "place", "place-"],
)
def test_tokens_outside_of_the_cache_are_refused(place: int, value: int) -> None:
    """Nothing is read or written outside of what was bound."""
    case = draw_case(0, (2, 1, 16), (5,), 0)
    inputs: list[Any] = [case.rows, empty_cache(case, "fp32"), case.slots, case.positions]
    inputs[place] = np.full_like(inputs[place], value)
    sizes = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 16, "window": 0, "epsilon": EPSILON}

    with pytest.raises(Exception, match="outside of the cache"):
        compute("AttendSlots", [*inputs, *tables_of(case)], 2, sizes)
