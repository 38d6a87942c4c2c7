"""The compiled sampler against the one in numpy, whose bits it must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aobatch.arrays import Logits
from aobatch.kernels import KernelsError, library
from aobatch.kernels.blocks import blocks_with, fastest_blocks
from aobatch.sampling.blocks import Blocks, rows_of
from aobatch.sampling.columns import ROW, stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.processors import Masks
from aobatch.sampling.sampler import Sampler

try:
    COMPILED = blocks_with(library())
except KernelsError as error:
    pytest.skip(str(error), allow_module_level=True)

ROWS = 4
CASES = settings(max_examples=30, deadline=None)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Logits, Masks | None, NDArray[np.float64]]:
    """Draw logits [4, V], masks of some rows, and temperatures, 0 among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vocab_size = draw(st.sampled_from([1, 15, 256, 257, 700, 5120, 6001]))
    spread = draw(st.sampled_from([0.0, 1.0, 30.0]))
    logits = random.normal(0, spread, (ROWS, vocab_size)).astype(np.float32)
    if draw(st.booleans()):
        logits[random.random(logits.shape) < draw(st.sampled_from([0.1, 0.99]))] = -np.inf
    if draw(st.booleans()):
        logits[0, random.integers(vocab_size)] = np.nan
    masks = None
    if draw(st.booleans()):
        bits = random.integers(0, 2**32, (2, -(-vocab_size // 32)), dtype=np.uint32)
        masks = Masks(np.array([1, 3]), bits)
    return logits, masks, random.choice([0.0, 0.3, 1.0, 2.0], ROWS)


@CASES
@given(step=steps(), order=st.permutations(range(ROWS)))
def test_compiled_blocks_have_the_bits_of_numpy(
    step: tuple[Logits, Masks | None, NDArray[np.float64]], order: list[int]
) -> None:
    """Maxima and sums are the same bits, and the same logits are found, whatever the rows hold."""
    logits, masks, temperatures = step
    rows = np.array(order)
    plain, compiled = Blocks(logits, masks), COMPILED(logits, masks)
    with np.errstate(invalid="ignore"):
        expected = plain.measure(rows, temperatures)
        found = compiled.measure(rows, temperatures)
        maxima = plain.measure(rows, np.zeros(ROWS)).maxima

        np.testing.assert_array_equal(found.maxima, expected.maxima)
        is_number = ~np.isnan(expected.maxima)
        np.testing.assert_array_equal(found.sums[is_number], expected.sums[is_number])
        bounds = np.full(ROWS, -0.5, np.float32)
        bounds[0] = -np.inf
        looked_for = plain.find(rows, maxima, bounds), compiled.find(rows, maxima, bounds)
        for ours, theirs in zip(*looked_for, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@CASES
@given(step=steps(), order=st.permutations(range(ROWS)))
def test_the_best_of_rows_is_that_of_numpy(
    step: tuple[Logits, Masks | None, NDArray[np.float64]], order: list[int]
) -> None:
    """The first of equals, or of what is not a number."""
    logits, _, _ = step
    expected = logits[order].argmax(axis=1)
    for blocks in (Blocks(logits), COMPILED(logits, None)):
        np.testing.assert_array_equal(blocks.best(np.array(order)), expected)


@CASES
@given(
    step=steps(),
    top_p=st.sampled_from([0.0, 0.5, 0.95, 0.9999, 1 - 1e-15, 1.0]),
    top_k=st.sampled_from([1, 40, 3000, 9000]),
    min_p=st.sampled_from([0.0, 1e-12, 0.02, 1.0]),
    seed=st.integers(0, 99),
)
def test_compiled_draws_have_the_bits_of_numpy(
    step: tuple[Logits, Masks | None, NDArray[np.float64]],
    top_p: float,
    top_k: int,
    min_p: float,
    seed: int,
) -> None:
    """The same token of the same ones that are left, however many candidates either looks at."""
    logits, masks, temperatures = step
    table = np.zeros(ROWS, ROW)
    table["temperature"] = np.where(temperatures == 0.0, 9.0, temperatures)
    table["top_p"], table["min_p"] = top_p, min_p
    table["top_k"] = min(top_k, logits.shape[1])
    uniforms = np.random.default_rng(seed).random(ROWS)
    plain, compiled = Blocks(logits, masks), COMPILED(logits, masks)
    with np.errstate(invalid="ignore"):
        measured = plain.measure(np.arange(ROWS), table["temperature"])
        peaks = measured.maxima.max(axis=1)
        rows = rows_of(plain, np.arange(ROWS), peaks, table, measured)
        possible = np.flatnonzero(np.isfinite(peaks))
        if not possible.size:
            return
        rows = rows.take(possible)
        for ours, theirs in zip(
            compiled.draw(rows, uniforms[: possible.size]),
            plain.draw(rows, uniforms[: possible.size]),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("vocab_size", [9001, 49_152])
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 2.5, 6.0])
def test_compiled_draws_of_long_nuclei_have_the_bits_of_numpy(
    vocab_size: int, spread: float
) -> None:
    """Also where thousands of tokens are left, evenly spread or not, and where samples mislead."""
    random = np.random.default_rng(7)
    logits = random.normal(0, spread, (6, vocab_size)).astype(np.float32)
    logits[1] = np.round(logits[1], 1)
    logits[2].sort()
    logits[3, ::16] += 2
    logits[4, : vocab_size // 2] -= 1
    logits[5] = 0.0
    table = np.zeros(6, ROW)
    table["temperature"], table["top_p"] = 1.0, [0.95, 0.9, 0.99, 0.8, 0.95, 0.5]
    table["top_k"] = vocab_size
    plain, compiled = Blocks(logits), COMPILED(logits, None)
    measured = plain.measure(np.arange(6), np.ones(6))
    rows = rows_of(plain, np.arange(6), logits.max(axis=1), table, measured)
    for _ in range(3):
        uniforms = random.random(6)
        for ours, theirs in zip(
            compiled.draw(rows, uniforms), plain.draw(rows, uniforms), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_whole_steps_have_the_bits_of_numpy() -> None:
    """Every way to choose and to score gives the same tokens and figures with either."""
    ways = [
        SamplingParams(num_logprobs=5),
        SamplingParams(0.0, num_logprobs=2, logit_bias=((300, 2.0),)),
        SamplingParams(0.7, top_p=0.9, num_logprobs=1),
        SamplingParams(2.0, top_p=0.99, presence_penalty=1.0),
        SamplingParams(top_k=40, top_p=0.8),
        SamplingParams(top_k=7000),
        SamplingParams(min_p=0.05),
        SamplingParams(top_p=0.95, min_p=0.01, num_logprobs=3),
    ]
    random = np.random.default_rng(1)
    logits = random.normal(0, 2, (3, len(ways), 9001)).astype(np.float32)
    bits = random.integers(0, 2**32, (2, 282), dtype=np.uint32)
    for mode in ("raw", "processed"):
        samplers = [Sampler(len(ways), 9001, mode, blocks) for blocks in (Blocks, COMPILED)]  # type: ignore[arg-type]
        for step in logits:
            results = []
            for sampler in samplers:
                for slot, params in enumerate(ways):
                    sampler.admit(slot, params, stream_key(slot), np.arange(9))
                results.append(sampler.sample(step.copy(), masks=Masks(np.array([2, 4]), bits)))
            for ours, theirs in zip(*results, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_logits_that_lie_apart_are_read_by_numpy() -> None:
    """Where the library cannot look, the result is the same."""
    logits = np.random.default_rng(2).normal(0, 1, (3, 1000)).astype(np.float32)
    rows, ones = np.arange(3), np.ones(3)
    apart = logits.repeat(2, axis=1)[:, ::2]

    for ours, theirs in zip(
        COMPILED(apart, None).measure(rows, ones), Blocks(logits).measure(rows, ones), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_without_a_compiler_the_sampler_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot have the library samples all the same."""

    def fail() -> None:
        message = "no C compiler was found"
        raise KernelsError(message)

    monkeypatch.setattr("aobatch.kernels.blocks.library", fail)
    fastest_blocks.cache_clear()

    assert fastest_blocks() is Blocks
    fastest_blocks.cache_clear()
