"""Laws of exports as they are: the reference's numbers, and rows that do not feel one another."""

from pathlib import Path

import numpy as np
import pytest
from export_files import EXPORTS, exported, greedy, reference, runner_of

from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.foreign import ExportedRunner

TOKENS = np.random.default_rng(4).integers(4, 512, (30, 100))
STEPS = 3
QUANTISED = ("llama-genai-int4", "llama-optimum-int8", "llama-optimum-q4")


@pytest.fixture(scope="module", params=[*EXPORTS, *QUANTISED])
def name(request: pytest.FixtureRequest) -> str:
    """Give each export in turn."""
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay out an export."""
    return exported(name, tmp_path_factory.mktemp("export") / name)


@pytest.fixture(scope="module")
def opened(folder: Path) -> ModelRunner:
    """Open its runner."""
    return runner_of(folder)


@pytest.fixture
def runner(opened: ModelRunner) -> ModelRunner:
    """Give a runner with slots of its own."""
    return opened.sibling()


@pytest.fixture(scope="module")
def alone(opened: ModelRunner) -> np.ndarray:
    """Give the logits of row 3 without neighbours."""
    return computed(opened.sibling(), [3])


def computed(runner: ModelRunner, rows: list[int], capacity: int = 256, cut: int = 0) -> np.ndarray:
    """Prefill ragged prompts, decode some steps; give the logits of row 3 throughout."""
    runner.reserve(len(rows), capacity, [])
    sizes = np.array([1 if row == 9 else 40 + (row * 17) % 55 for row in rows])
    if cut:
        runner.prefill([Chunk(i, 0, TOKENS[row, :cut], 0) for i, row in enumerate(rows)])
    chunks = [Chunk(i, cut, TOKENS[row, cut : sizes[i]], 1) for i, row in enumerate(rows)]
    place = rows.index(3)
    found = [runner.prefill(chunks)[place].copy()]
    found += [
        runner.decode(TOKENS[rows, 96 + step], sizes + step)[place].copy() for step in range(STEPS)
    ]
    return np.stack(found)


@pytest.mark.parametrize("name", EXPORTS, indirect=True, scope="module")
def test_ragged_batches_give_the_references_numbers(name: str, runner: ModelRunner) -> None:
    """Logits are within 2e-4, also beside shorter prompts, and 40 greedy tokens the reference's."""
    expected = reference(name)
    runner.reserve(3, 128, [])
    ids, prompt = expected["input_ids"], expected["greedy_prompt"]
    chunks = [Chunk(0, 0, ids[:9], 9), Chunk(1, 0, ids, len(ids)), Chunk(2, 0, ids[:1], 1)]

    logits = runner.prefill(chunks)
    wanted = np.concatenate([expected["logits"][:9], expected["logits"], expected["logits"][:1]])
    np.testing.assert_allclose(wanted, logits, atol=2e-4)
    found = greedy(runner, [ids[:5], prompt, ids], 40)
    assert found[1] == expected["greedy_completion"].tolist()


def test_neighbours_threads_and_room_change_no_bit(
    name: str, folder: Path, runner: ModelRunner, alone: np.ndarray
) -> None:
    """Alone, among 20 ragged rows, on two threads, with more room, cut alike: the same bits."""
    other = runner_of(folder, threads=2)

    np.testing.assert_array_equal(alone, computed(runner, [*range(20)]))
    np.testing.assert_array_equal(alone, computed(other, [2, 3, 9]))
    np.testing.assert_array_equal(alone, computed(other, [9, 3], capacity=512))
    alone_cut = computed(runner, [3], cut=33)
    np.testing.assert_array_equal(alone_cut, computed(other, [*range(9)], cut=33))
    if name != "llama-optimum-int8":  # its scales hang on what a chunk holds
        np.testing.assert_allclose(alone, alone_cut, atol=1e-3)


def test_prompts_may_be_cut_anywhere_only_if_bits_say_so(
    name: str, runner: ExportedRunner, alone: np.ndarray
) -> None:
    """Where the runner claims it, cuts change no bit.

    Sums over a longer cache do not claim it, nor what has to compute each row apart on this
    processor, as products of four bits have to where there is no AVX-512.
    """
    claims = runner.splits_freely

    if claims:
        for cut in (2, 17, 38):
            np.testing.assert_array_equal(alone, computed(runner, [1, 3], cut=cut))
    assert claims == ("genai" in name and runner.schedule.max_rows > 1)


def test_copies_and_growth_keep_what_a_slot_holds(runner: ModelRunner) -> None:
    """A copied slot, in a cache that was made larger, goes on as the original would."""
    runner.reserve(1, 64, [])
    runner.prefill([Chunk(0, 0, TOKENS[0, :40], 1)])
    expected = runner.decode(TOKENS[1, :1], np.array([40])).copy()
    runner.reserve(3, 128, [40])
    runner.copy(0, 2, 40)
    runner.copy(2, 1, 40)
    found = runner.decode(TOKENS[[3, 1], 0], np.array([40, 40]))

    np.testing.assert_array_equal(expected[0], found[1])


def test_wanted_logits_are_the_last_ones(runner: ModelRunner) -> None:
    """num_logits picks the last positions of each chunk, in the order of the chunks."""
    runner.reserve(2, 64, [])
    every = runner.prefill([Chunk(0, 0, TOKENS[0, :40], 40), Chunk(1, 0, TOKENS[1, :9], 9)]).copy()
    some = runner.prefill([Chunk(0, 0, TOKENS[0, :40], 2), Chunk(1, 0, TOKENS[1, :9], 1)])

    np.testing.assert_array_equal(every[[38, 39, 48]], some)


def test_runs_that_are_broken_off_raise(runner: ModelRunner) -> None:
    """While a runner is interrupted its runs fail; afterwards they work again."""
    runner.reserve(1, 64, [])
    chunk = Chunk(0, 0, TOKENS[0, :40], 1)
    expected = runner.prefill([chunk]).copy()

    sibling = runner.sibling()
    sibling.reserve(1, 64, [])
    with runner.interrupted(), pytest.raises(RuntimeError):
        sibling.prefill([chunk])
    np.testing.assert_array_equal(expected, runner.prefill([chunk]))
