"""The compiled sampler against the one in numpy, whose bits it must have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aobatch.arrays import Logits
from aobatch.kernels import KernelsError, library
from aobatch.kernels.blocks import blocks_with, fastest_blocks
from aobatch.sampling.blocks import Blocks
from aobatch.sampling.draw import stream_key
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
@given(step=steps(), floor=st.sampled_from([None, -2.0, 0.5]), order=st.permutations(range(ROWS)))
def test_compiled_blocks_have_the_bits_of_numpy(
    step: tuple[Logits, Masks | None, NDArray[np.float64]], floor: float | None, order: list[int]
) -> None:
    """Maxima and sums are the same bits, and the same logits are found, whatever the rows hold."""
    logits, masks, temperatures = step
    floors = None if floor is None else np.full(ROWS, floor, np.float32)
    rows = np.array(order)
    plain, compiled = Blocks(logits, masks), COMPILED(logits, masks)
    with np.errstate(invalid="ignore"):
        expected = plain.measure(rows, temperatures, floors)
        found = compiled.measure(rows, temperatures, floors)
        maxima = plain.measure(rows, np.zeros(ROWS)).maxima

        np.testing.assert_array_equal(found.maxima, expected.maxima)
        is_number = ~np.isnan(expected.maxima)
        np.testing.assert_array_equal(found.sums[is_number], expected.sums[is_number])
        bounds, ceilings = np.full((2, ROWS), [[-0.5], [1.5]], np.float32)
        bounds[0] = -np.inf
        for limits in ((bounds, None), (bounds, ceilings)):
            looked_for = plain.find(rows, maxima, *limits), compiled.find(rows, maxima, *limits)
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
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 900), min_size=1, max_size=5),
    spread=st.sampled_from([0.0, 1e-6, 1.0, 40.0]),
    share=st.floats(0, 1.2),
)
def test_logits_are_weighed_and_marked_to_the_bits_of_numpy(
    seed: int, sizes: list[int], spread: float, share: float
) -> None:
    """Weights, and the best until they reach a target, also where many logits are the same."""
    random, counts = np.random.default_rng(seed), np.array(sizes)
    logits = np.round(random.normal(0, spread, counts.sum()), random.integers(1, 8))
    logits = logits.astype(np.float32)
    peaks = np.maximum.reduceat(logits, np.cumsum(counts) - counts) + np.float32(0.5)
    temperatures = random.choice([0.3, 1.0, 2.0], len(counts))
    plain, compiled = (blocks(np.zeros((1, 1), np.float32), None) for blocks in (Blocks, COMPILED))

    weights = plain.weigh(logits, counts, peaks, temperatures)
    targets = share * np.add.reduceat(weights, np.cumsum(counts) - counts)
    mask = plain.best_until(counts, logits, weights, targets)

    found = compiled.weigh(logits, counts, peaks, temperatures)
    np.testing.assert_array_equal(found, weights)
    np.testing.assert_array_equal(compiled.best_until(counts, logits, weights, targets), mask)


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
