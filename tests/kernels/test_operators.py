"""The operators against their references, and the bits that no neighbour may change."""

from dataclasses import dataclass, replace
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
from aobatch.runners.operators import compute, mix, transform

try:
    library()
except KernelsError as error:
    pytest.skip(str(error), allow_module_level=True)

EPSILON = 1e-5
WIDTHS = st.integers(1, 20).map(lambda count: 16 * count)
SEEDS = st.integers(0, 2**32 - 1)
CASES = settings(max_examples=25, deadline=None)
KINDS: tuple[reference.Activation, ...] = ("silu", "gelu_tanh", "gelu", "relu_squared")
BOUNDS: dict[CacheDtype, float] = {"int8": 0.03, "bf16": 0.01, "fp32": 1e-5}
"""Root of the mean square error of attention, as a part of that of what is right."""


def maybe(seed: int, bit: int, array: NDArray[Any]) -> NDArray[Any] | None:
    """Leave an input out for half of the seeds."""
    return array if seed >> bit & 1 else None


@dataclass(frozen=True, slots=True)
class Layer:
    """Random rows, and the weights and gains that a decoder puts them through."""

    residual: NDArray[np.float32]
    attended: NDArray[np.float32] | None
    linears: dict[str, reference.Linear]
    gains: dict[str, NDArray[np.float32]]
    settings: reference.RowSettings

    def computed(
        self, chosen: slice = slice(None), threads: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Put some rows through the operator."""
        attended = None if self.attended is None else self.attended[chosen]
        rest = self.linears, self.gains, self.settings
        return transform(self.residual[chosen], attended, *rest, threads=threads)

    def expected(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Put all rows through the reference."""
        attended = None if self.attended is None else self.attended.astype(np.float64)
        rest = self.linears, self.gains, self.settings
        return reference.transformed(self.residual.astype(np.float64), attended, *rest)


def draw_layer(seed: int, rows: int, widths: tuple[int, int, int], vocabulary: int) -> Layer:
    """Draw a layer of some widths, with or without biases, gains, rotation and attended rows."""
    rng = np.random.default_rng(seed)
    width, heads, inner = widths
    sizes = {"o": (heads, width), "gate": (width, inner), "up": (width, inner)}
    sizes |= {"down": (inner, width), "next": (width, vocabulary)}
    is_whole, is_clipped = bool(seed & 1), bool(seed & 2)
    linears = {
        name: reference.Linear(
            rng.integers(-127, 128, size).astype(np.int8),
            ((0.5 + rng.random(size[1])) / (73 * np.sqrt(size[0]))).astype(np.float32),
            maybe(seed, 2, rng.standard_normal(size[1])),
        )
        for name, size in sizes.items()
        if name == "next" or (is_whole and (name != "up" or seed & 32))
    }
    names = ("out", "middle", "down", "last")
    drawn = {name: maybe(seed, 3, 0.5 + rng.random(width)) for name in names}
    block = min(128, width & -width)
    return Layer(
        residual=rng.standard_normal((rows, width)).astype(np.float32),
        attended=rng.standard_normal((rows, heads)).astype(np.float32) if is_whole else None,
        linears=linears,
        gains={name: gain.astype(np.float32) for name, gain in drawn.items() if gain is not None},
        settings=reference.RowSettings(
            *((4.0, 1) if is_clipped else (0.0, block)),
            min(64, inner & -inner),
            KINDS[seed >> 6 & 3],
            EPSILON,
            is_parallel=bool(seed & 256),
            is_plain=(bool(seed & 512), bool(seed & 1024)),
            cap=2.0 if seed & 2048 else 0.0,
        ),
    )


LAYERS = {
    "seed": SEEDS,
    "rows": st.integers(0, 40),
    "widths": st.tuples(WIDTHS, WIDTHS, WIDTHS),
    "vocabulary": st.integers(1, 120),
}


@CASES
@given(**LAYERS)
def test_rows_become_those_of_the_reference(
    seed: int, rows: int, widths: tuple[int, int, int], vocabulary: int
) -> None:
    """Whatever is left out; a number that rounds to another byte is all that differs."""
    layer = draw_layer(seed, rows, widths, vocabulary)

    for found, expected in zip(layer.computed(), layer.expected(), strict=True):
        error = np.sqrt(((found - expected) ** 2).sum() / max(1, (expected**2).sum()))
        assert found.shape == expected.shape
        assert error < 0.01


@CASES
@given(seed=SEEDS, rows=st.integers(1, 20), width=WIDTHS, outputs=st.integers(1, 120))
def test_products_of_bytes_are_exact(seed: int, rows: int, width: int, outputs: int) -> None:
    """Integers are those of numpy, over bytes that a product with ones shows."""
    rng = np.random.default_rng(seed)
    residual = rng.standard_normal((rows, width)).astype(np.float32)
    settings = reference.RowSettings(3.0, 1, 1, "silu", EPSILON)
    weight = rng.choice(np.array([-127, 127, 0, 1], np.int8), (width, outputs))
    unit = np.float32(3) / np.float32(127)

    def product(weight: NDArray[np.int8]) -> NDArray[np.float32]:
        linear = reference.Linear(weight, np.ones(weight.shape[1]))
        return transform(residual, None, {"next": linear}, {}, settings)[0]

    found = np.rint(product(np.eye(width, dtype=np.int8)) / unit).astype(np.int64)

    expected = reference.rms_norm(residual.astype(np.float64), 1.0, EPSILON)
    assert np.abs(found - (reference.quantised(expected, 3.0)[0].astype(int) - 128)).max() <= 1
    assert np.array_equal(product(weight), (found @ weight.astype(int)).astype(np.float32) * unit)


@CASES
@given(seed=SEEDS, widths=st.tuples(WIDTHS, WIDTHS, WIDTHS))
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(
    seed: int, widths: tuple[int, int, int]
) -> None:
    """Alone, among few that threads share by columns, and among many that they share by rows."""
    layer = draw_layer(seed | 1, 150, widths, 50)
    whole = layer.computed()

    for chosen in (slice(0, 1), slice(70, 71), slice(140, 147), slice(0, 80)):
        for threads in (1, 2):
            for part, all_rows in zip(layer.computed(chosen, threads), whole, strict=True):
                assert np.array_equal(part, all_rows[chosen])


def draw_experts(
    seed: int, rows: int, widths: tuple[int, int, int], count: int
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], tuple[Any, ...]]:
    """Draw rows, and a layer of experts of some widths, with or without biases and a gain."""
    rng = np.random.default_rng(seed)
    width, heads, inner = widths

    def linear(inputs: int, outputs: int) -> reference.Linear:
        weight = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
        scales = (0.5 + rng.random(outputs)) / (73 * np.sqrt(inputs))
        return reference.Linear(weight, scales, maybe(seed, 0, rng.standard_normal(outputs)))

    sizes = {"gate": (width, inner), "up": (width, inner), "down": (inner, width)}
    experts = [{name: linear(*size) for name, size in sizes.items()} for _ in range(count)]
    # Scores are far apart, so that no rounding changes a choice.
    bias = 3.0 * rng.permutation(count)
    routing = reference.Routing(
        0.01 * rng.standard_normal((width, count)) / np.sqrt(width),
        *(bias, int(rng.integers(1, count + 1)), bool(seed & 2), 1.0 + (seed & 1)),
        *((1.5, 1.0) if seed & 4 else (0.0, 0.0)),
    )
    how = (4.0, 1) if seed & 8 else (0.0, min(128, width & -width))
    settings = reference.RowSettings(*how, min(64, inner & -inner), "silu", EPSILON)
    gain = maybe(seed, 4, 0.5 + rng.random(width))
    drawn = tuple(rng.standard_normal((rows, size)).astype(np.float32) for size in (width, heads))
    return (drawn[0], drawn[1]), ((linear(heads, width), gain), experts, routing, settings)


@CASES
@given(
    seed=SEEDS,
    rows=st.integers(0, 20),
    widths=st.tuples(WIDTHS, WIDTHS, WIDTHS),
    count=st.integers(1, 20),
)
def test_experts_give_what_the_reference_gives(
    seed: int, rows: int, widths: tuple[int, int, int], count: int
) -> None:
    """Whatever their number, their activation, and how many a row goes through."""
    (residual, attended), rest = draw_experts(seed, rows, widths, count)

    found = mix((residual, attended), *rest)

    pair = residual.astype(np.float64), attended.astype(np.float64)
    expected = reference.mixed(pair, *rest)
    assert found.shape == expected.shape
    assert np.sqrt(((found - expected) ** 2).sum() / max(1, (expected**2).sum())) < 0.01


@CASES
@given(seed=SEEDS, widths=st.tuples(WIDTHS, WIDTHS, WIDTHS), count=st.integers(2, 9))
def test_an_expert_gives_a_row_the_same_bits_alone_and_among_many(
    seed: int, widths: tuple[int, int, int], count: int
) -> None:
    """Rows choose differently here; one may be its experts' only one, or one of hundreds."""
    rows, (before, experts, routing, settings) = draw_experts(seed, 600, widths, count)
    routing = replace(routing, router=100 * routing.router, bias=None)
    rest = before, experts, routing, settings
    whole = mix(rows, *rest)

    for chosen in (slice(0, 1), slice(70, 71), slice(140, 157), slice(500, 590)):
        for threads in (1, 2):
            part = mix((rows[0][chosen], rows[1][chosen]), *rest, threads=threads)
            assert np.array_equal(part, whole[chosen])


@dataclass(frozen=True, slots=True)
class Case:
    """Sequences of some lengths in slots, the heads of a model, and random rows for them."""

    heads: reference.Heads
    lengths: tuple[int, ...]
    rows: NDArray[np.float32]
    options: tuple[NDArray[np.float32] | None, ...]
    """Bias, gains of queries and of keys, sinks."""

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
    size = 0.6 * (64 / head_dim) ** 0.25  # so that scores of all heads spread as far
    rows = (size * rng.standard_normal((sum(lengths), width))).astype(np.float32)
    together = (num_heads, num_kv_heads) if seed & 16 else (1, 1)  # heads that are normed
    gains = [size * (0.5 + rng.random(count * head_dim)) for count in together]
    sizes = (0.1 * rng.standard_normal(width), *gains, 3 * rng.standard_normal(num_heads))
    options = tuple(maybe(seed, bit, x.astype(np.float32)) for bit, x in enumerate(sizes))
    cap = 1.5 if seed & 32 else 0.0
    return Case(reference.Heads(*heads, window, cap), lengths, rows, options)


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
    heads = case.heads
    rows, *places = (
        np.ascontiguousarray(x[chosen]) for x in (case.rows, case.slots, case.positions)
    )
    inputs = [rows, cache, *places, *tables_of(case), *case.options]
    sizes = {"num_heads": heads.num_heads, "num_kv_heads": heads.num_kv_heads}
    attributes = {**sizes, "head_dim": heads.head_dim, "window": heads.window, "epsilon": EPSILON}
    attributes["cap"] = heads.cap
    found, _ = compute("AttendSlots", inputs, attributes, threads=threads)
    return found


def normed_heads(x: NDArray[np.float64], gain: NDArray[np.float32] | None) -> NDArray[np.float64]:
    """Norm heads [N, H, D], or all of a token together where the gain is that long."""
    if gain is None:
        return x
    together = x.reshape(len(x), -1, len(gain))
    return reference.rms_norm(together, gain, EPSILON).reshape(x.shape)


def expected_of(case: Case) -> NDArray[np.float64]:
    """Attend as the reference does, sequence by sequence."""
    bias, q_gain, k_gain, sinks = case.options
    heads = case.heads
    x = case.rows.astype(np.float64) + (0 if bias is None else bias)
    x = x.reshape(len(x), -1, heads.head_dim)
    q, k, v = np.split(x, [heads.num_heads, heads.num_heads + heads.num_kv_heads], axis=1)
    q, k = (normed_heads(part, gain) for part, gain in ((q, q_gain), (k, k_gain)))
    tables = [table[case.positions].astype(np.float64) for table in tables_of(case)]
    q, k = reference.turned(q, *tables), reference.turned(k, *tables)
    parts = np.split(np.arange(len(x)), np.cumsum(case.lengths)[:-1])
    found = [reference.attended(q[p], k[p], v[p], heads, sinks=sinks) for p in parts]
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
        compute("AttendSlots", [*inputs, *tables_of(case)], sizes)
