"""Laws of remembered speeds, and of what they foretell."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from report_files import FACTS

from aobatch.engine.config import EngineStatistics
from aobatch.executors import Statistics
from aobatch.job.plan import (
    DecodeStep,
    Kind,
    Speed,
    Workload,
    expected_length,
    expected_longest,
    expected_time,
    known_speed,
    note_speed,
    speed_of_run,
    speed_of_steps,
)
from aobatch.job.report.usage import UsageReport, UsageTally
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig

SPEED = Speed(step=0.01, row=0.002, cached_token=1e-5, prompt_token=0.001, start=2.0)
COUNTED = EngineStatistics(
    run_seconds=30.0,
    lane_seconds=60.0,
    prefill_seconds=10.0,
    prefill_tokens=5_000,
    decode_steps=500,
    decode_rows=10_000,
)


def report(counted: EngineStatistics, stops: int = 0) -> UsageReport:
    """Report a job of 100 completions of 100 tokens behind prompts of 50."""
    tally = UsageTally()
    for index in range(100):
        tally.add_completion(
            "m", None, ["stop" if index < stops else "length"], (50, 100, 1.0, 0.0)
        )
    statistics = Statistics(runs=1, wall_seconds=counted.run_seconds + 3, engine=counted)
    return tally.report(statistics, FACTS, [])


def test_a_run_corrects_what_was_known() -> None:
    """Its decoding took twice what was expected, its prompts what they took; the start is the rest.

    10,000 rows of 100 cached tokens in 500 steps are 5 + 20 + 10 s of the lanes, and took 50 s.
    """
    speed = speed_of_run(report(COUNTED), SPEED, 0.5)

    assert speed is not None
    factor = 50 / 35
    assert speed.step == pytest.approx(SPEED.step * factor)
    assert speed.row == pytest.approx(SPEED.row * factor)
    assert speed.cached_token == pytest.approx(SPEED.cached_token * factor)
    assert (speed.prompt_token, speed.start) == (pytest.approx(0.002), pytest.approx(3.5))
    assert (speed.ending, speed.source) == (SPEED.ending, "run")


def test_a_run_of_first_tokens_says_what_prompts_cost() -> None:
    """Where nearly nothing is decoded, all that lanes did was reading."""
    counted = replace(COUNTED, decode_rows=0, decode_steps=0)
    speed = speed_of_run(report(counted), SPEED, 0.5)

    assert speed is not None
    assert (speed.row, speed.prompt_token) == (SPEED.row, pytest.approx(60 / 5_000))


def test_ends_are_counted() -> None:
    """How often completions end by themselves is the share of the tokens behind which they did."""
    speed = speed_of_run(report(COUNTED, stops=40), SPEED, 0.5)

    assert speed is not None
    assert speed.ending == pytest.approx(40 / 10_000)


@pytest.mark.parametrize(
    "changed", [{"decode_rows": 90, "prefill_tokens": 90}, {"run_seconds": 0.5}]
)
def test_short_jobs_tell_of_the_start_alone(changed: dict[str, Any]) -> None:
    """Neither few tokens nor a short time are a measurement, and a fake has no lanes."""
    short = report(replace(COUNTED, **changed))

    assert speed_of_run(short, SPEED, 0.5) == structs.replace(SPEED, start=3.5)
    assert speed_of_run(short, structs.replace(SPEED, start=3.4), 0.5) is None
    assert speed_of_run(report(EngineStatistics()), SPEED, 0.5) is None


def test_measured_steps_give_their_parts() -> None:
    """Costs of which steps are made come out of them, and none below nothing."""
    shapes = [(1, 64), (8, 64), (32, 64), (64, 64), (32, 512)]
    steps = [
        DecodeStep(rows, cached, 0.004 + 0.001 * rows + 2e-6 * rows * cached)
        for rows, cached in shapes
    ]
    speed = speed_of_steps(steps, 0.003, 0.0005, 1.5)

    assert (speed.step, speed.row) == (pytest.approx(0.004), pytest.approx(0.0015))
    assert (speed.cached_token, speed.prompt_token) == (pytest.approx(2e-6), 0.003)
    falling = [DecodeStep(rows, cached, 0.01 / cached) for rows, cached in shapes]
    assert min(structs.astuple(speed_of_steps(falling, 1, 0, 1))[:3]) >= 0


@pytest.mark.parametrize(
    ("counts", "ending"), [({30: 1}, 0.05), ({10: 3, 40: 2}, 0.1), ({5: 9}, 0)]
)
def test_lengths_are_those_of_drawn_ends(counts: dict[int, int], ending: float) -> None:
    """The means of one completion and of the longest are those of many that were drawn."""
    chance = random.Random(0)

    def draw(most: int) -> int:
        return next((n for n in range(1, most) if chance.random() < ending), most)

    drawn = [[draw(n) for n, count in counts.items() for _ in range(count)] for _ in range(4_000)]
    kinds = {(n, True): Kind(count) for n, count in counts.items()}

    longest = np.mean([max(lengths) for lengths in drawn])
    assert expected_longest(kinds, ending) == pytest.approx(longest, rel=0.03)
    mean = sum(count * expected_length(n, ending) for n, count in counts.items())
    assert mean == pytest.approx(np.mean([sum(lengths) for lengths in drawn]), rel=0.03)


def load_of(num_sequences: int, num_tokens: int, num_prompt_tokens: int) -> Workload:
    """Make a load of equal sequences that do not end by themselves."""
    prompts = num_sequences * num_prompt_tokens
    kind = Kind(num_sequences, prompts)
    return Workload(num_sequences, num_sequences, prompts, num_tokens, {(num_tokens, False): kind})


def test_time_knows_start_batches_and_contexts() -> None:
    """One line is mostly the start, few rows cost whole steps, long contexts cost more."""
    alone = expected_time(load_of(1, 16, 10), 1, 2, SPEED)
    assert (alone.start, alone.writing) == (2.0, pytest.approx(15 * 0.012, abs=0.06))
    few = expected_time(load_of(4, 1001, 10), 4, 2, SPEED)
    assert few.writing == pytest.approx(1000 * (0.01 + 2 * 0.002 + 2 * 1e-5 * 510), rel=0.02)
    waves = expected_time(load_of(256, 65, 10), 128, 2, SPEED)
    assert waves.writing == pytest.approx(128 * 0.01 + 256 * 64 * (0.002 + 4e-4) / 2, rel=0.03)
    long = expected_time(load_of(96, 65, 1000), 96, 2, SPEED)
    assert long.reading == pytest.approx(96 * 1000 * 0.001 / 2)
    assert long.writing == pytest.approx(64 * 0.01 + 96 * 64 * (0.002 + 1e-2) / 2, rel=0.05)
    first = expected_time(load_of(10_000, 1, 15), 128, 2, SPEED)
    assert (first.reading, first.writing) == (75.0, 0.0)


def test_speed_is_kept_for_model_cache_and_threads(
    tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted comes back, for the same model, kernels, cache and threads alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speed = structs.replace(SPEED, source="bench", date="2026-01-02")
    note_speed(tiny_int8, RunnerConfig(2, "fused", "bf16"), speed)

    assert known_speed(tiny_int8, RunnerConfig(2, "auto", "bf16")) == speed
    for other in (("fused", "int8"), ("fused", "fp32"), ("stock", "fp32")):
        assert known_speed(tiny_int8, RunnerConfig(2, *other)).source == "default"
    assert known_speed(tiny_int8, RunnerConfig(1, "fused", "bf16")).source == "default"


def test_unusable_cache_folder_is_ignored(
    tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in place of the folder, or no JSON in it, costs the memory and no more."""
    (tmp_path / "aobatch").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stock = RunnerConfig(2, "stock")
    note_speed(tiny_int8, stock, structs.replace(SPEED, source="run"))
    assert known_speed(tiny_int8, stock).source == "default"

    (tmp_path / "aobatch").unlink()
    (tmp_path / "aobatch").mkdir()
    (tmp_path / "aobatch/speeds.json").write_text("{")
    assert known_speed(tiny_int8, stock).source == "default"
