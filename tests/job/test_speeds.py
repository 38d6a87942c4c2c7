"""Laws of remembered speeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aobatch.engine.config import EngineStatistics
from aobatch.job.plan import Speed, known_speed, note_speed, speed_of_run
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig

COUNTED = EngineStatistics(
    run_seconds=20.0,
    lane_seconds=40.0,
    prefill_seconds=10.0,
    prefill_tokens=5_000,
    decode_rows=15_000,
)


def test_phases_share_the_time_of_the_run() -> None:
    """A quarter of the lanes' time is a quarter of the run's: 5 s to read, 15 s to decode."""
    speed = speed_of_run(COUNTED)

    assert speed is not None
    assert (speed.prompt_tokens, speed.new_tokens, speed.source) == (1_000, 1_000, "run")


@pytest.mark.parametrize(
    "changed",
    [{"decode_rows": 900}, {"prefill_tokens": 900}, {"run_seconds": 4.0}, {"lane_seconds": 0}],
)
def test_short_jobs_say_nothing(changed: dict[str, Any]) -> None:
    """Neither few tokens nor a short time are a measurement, and a fake has no lanes."""
    assert speed_of_run(replace(COUNTED, **changed)) is None
    assert speed_of_run(EngineStatistics()) is None


def test_speed_is_kept_for_model_cache_and_threads(
    tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was noted comes back, for the same model, kernels, cache and threads alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    speed = Speed(10, 20, "bench", "2026-01-02")
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
    note_speed(tiny_int8, stock, Speed(1, 2, "run"))
    assert known_speed(tiny_int8, stock).source == "default"

    (tmp_path / "aobatch").unlink()
    (tmp_path / "aobatch").mkdir()
    (tmp_path / "aobatch/speeds.json").write_text("{")
    assert known_speed(tiny_int8, stock).source == "default"
