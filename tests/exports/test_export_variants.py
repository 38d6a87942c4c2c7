"""Laws of the layouts that exports come in: the numbers of the plain one, or a refusal."""

from pathlib import Path

import numpy as np
import pytest
from export_files import exported, greedy, reference, runner_of
from graph_surgery import (
    Change,
    blind_to_padding,
    changed,
    feeling_neighbours,
    fused_cache,
    half_precision_cache,
    legacy_names,
    mixed_up_cache,
    one_row,
    whole_numbers,
    with_branches,
    with_kept_logits,
    without_positions,
)

from aobatch.errors import ModelError
from aobatch.runners import Chunk
from aobatch.runners.foreign import ExportedRunner
from aobatch.runners.foreign_trial import Schedule

EXACT = {
    "int32": (whole_numbers,),
    "no positions": (without_positions,),
    "merged": (with_branches,),
    "kept logits": (with_kept_logits([]),),
    "kept logits [1]": (with_kept_logits([1]),),
    "fused": (fused_cache,),
    "legacy names": (legacy_names,),
    "legacy int32 fused": (fused_cache, whole_numbers),
    "one row": (one_row,),
    "blind": (blind_to_padding,),
}
"""Changes that leave every number as it was."""


def scores(runner: ExportedRunner) -> np.ndarray:
    """Give the logits of all positions of two prompts, of two more tokens and of a step."""
    ids = reference("llama-optimum")["input_ids"]
    runner.reserve(2, 128, [])
    found = [runner.prefill([Chunk(0, 0, ids[:37], 37), Chunk(1, 0, ids[:5], 5)]).copy()]
    found.append(runner.decode(ids[[37, 5]], np.array([37, 5])).copy())
    found.append(runner.prefill([Chunk(0, 38, ids[38:41], 2), Chunk(1, 6, ids[6:9], 0)]).copy())
    return np.concatenate(found)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Give the logits of the export as it is."""
    return scores(runner_of(exported("llama-optimum", tmp_path_factory.mktemp("plain") / "llama")))


@pytest.mark.parametrize("changes", EXACT.values(), ids=EXACT)
def test_layouts_give_the_plain_ones_numbers(
    changes: tuple[Change, ...], plain: np.ndarray, tmp_path: Path
) -> None:
    """Whatever the inputs and outputs are called, typed or laid out, numbers are the same."""
    runner = runner_of(changed(tmp_path / "llama", *changes))
    expected = reference("llama-optimum")
    ids, prompt = expected["input_ids"], expected["greedy_prompt"]

    np.testing.assert_allclose(plain, scores(runner), atol=1e-5)
    assert greedy(runner, [ids[:3], prompt], 40)[1] == expected["greedy_completion"].tolist()


def test_a_cache_in_half_precision_is_close(plain: np.ndarray, tmp_path: Path) -> None:
    """float16 keys, values and logits differ by their rounding, and take half the room."""
    runner = runner_of(changed(tmp_path / "half", half_precision_cache))
    whole = runner_of(exported("llama-optimum", tmp_path / "whole"))
    found = scores(runner)

    assert found.dtype == np.float32
    assert 2 * runner.kv_bytes_per_token == whole.kv_bytes_per_token
    np.testing.assert_allclose(plain, found, atol=0.05)
    assert np.abs(plain - found).max() > 1e-5


@pytest.mark.parametrize("change", [blind_to_padding, without_positions])
def test_padding_is_not_used_where_it_changes_numbers(change: Change, tmp_path: Path) -> None:
    """A graph that attends to padding, or counts it, gets none; the plain one gets some."""
    assert runner_of(exported("llama-optimum", tmp_path / "plain")).schedule.pads
    assert not runner_of(changed(tmp_path / "llama", change)).schedule.pads


@pytest.mark.parametrize("change", [feeling_neighbours, one_row])
def test_rows_that_feel_the_others_are_computed_alone(change: Change, tmp_path: Path) -> None:
    """Rows alone are then rows in a batch, bit by bit, one run each."""
    runner = runner_of(changed(tmp_path / "llama", change))
    ids = reference("llama-optimum")["input_ids"]
    runner.reserve(3, 128, [])
    alone = runner.prefill([Chunk(0, 0, ids[:20], 1)]).copy()
    step = runner.decode(ids[:1], np.array([20])).copy()
    together = [
        Chunk(slot, 0, ids[start : start + 20], 1) for slot, start in enumerate((0, 20, 40))
    ]

    assert runner.schedule.max_rows == 1
    np.testing.assert_array_equal(alone[0], runner.prefill(together)[0])
    np.testing.assert_array_equal(step[0], runner.decode(ids[:3], np.full(3, 20))[0])


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("llama-optimum", Schedule(pads=True, max_rows=64)),
        ("llama-optimum-int8", Schedule(pads=False, max_rows=1)),
        ("llama-genai", Schedule(pads=True, max_rows=64)),
        ("gemma3-genai", Schedule(pads=False, max_rows=64)),
    ],
)
def test_schedules_are_those_that_the_kernels_call_for(
    name: str, schedule: Schedule, tmp_path: Path
) -> None:
    """One scale for a whole batch lets no rows together; a window's kernel takes no padding."""
    assert runner_of(exported(name, tmp_path / "export")).schedule == schedule


def test_a_cache_that_is_none_is_refused(tmp_path: Path) -> None:
    """Keys that come out as another layer's do not go on where a prompt ended."""
    with pytest.raises(ModelError, match="tokens behind its cache"):
        runner_of(changed(tmp_path / "llama", mixed_up_cache))
