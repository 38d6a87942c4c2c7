"""Laws of jobs that were stopped: nothing is lost, nothing is computed twice."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import PROMPTS, output, requests, run, run_and_stop, write_input
from waiting import HANG_SECONDS, wait_until

from aobatch.api.response import render_failure
from aobatch.errors import BusyError, InputError, ModelError, StorageError
from aobatch.files import hold_lock
from aobatch.job.ledger import reading

FAKE_JOB = Path(__file__).with_name("fake_job.py")


@pytest.fixture
def expected(tmp_path: Path) -> bytes:
    """Give the output of the job when nothing stops it."""
    folder = tmp_path / "uninterrupted"
    folder.mkdir()
    write_input(folder / "in.jsonl", [*requests(PROMPTS), b"nonsense"])
    run(folder)
    return (folder / "out.jsonl").read_bytes()


@pytest.mark.parametrize("explosion", [KeyboardInterrupt, StorageError])
@pytest.mark.parametrize("index", range(len(PROMPTS)))
def test_stopped_job_goes_on(
    tmp_path: Path, expected: bytes, index: int, explosion: type[BaseException]
) -> None:
    """Whichever result is the last, a second run computes the others and no more."""
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])
    first = FakeBackend(explosion=explosion(), explodes_at=index)
    with pytest.raises(explosion):
        run(tmp_path, first)
    assert not (tmp_path / "out.jsonl").exists()

    second = FakeBackend()
    report = run(tmp_path, second).report

    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert len(first.computed) == index
    assert not {*first.computed} & {*second.computed}
    assert report.statistics["decode_steps"] == len(PROMPTS)
    assert report.statistics["runs"] == 2


def test_job_stopped_in_publishing_goes_on(
    tmp_path: Path, expected: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that has all results only publishes them; the old output stays until then."""
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])
    (tmp_path / "out.jsonl").write_bytes(b"old\n")
    monkeypatch.setattr("aobatch.job.publish.render_failure", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr("aobatch.job.publish.render_failure", render_failure)
    assert (tmp_path / "out.jsonl").read_bytes() == b"old\n"
    assert not list(tmp_path.glob(".*"))

    backend = FakeBackend()
    run(tmp_path, backend)

    assert (tmp_path / "out.jsonl").read_bytes() == expected
    assert backend.opened == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({"settings": {"seed": 7}}, "seed", id="seed"),
        pytest.param({"fingerprints": {"fake": "fp_9", "other": "fp_2"}}, "model", id="model"),
    ],
)
def test_results_of_other_settings_are_refused(
    tmp_path: Path, change: dict[str, dict[str, object]], name: str
) -> None:
    """Results are not mixed; the message names the setting, and --restart discards them."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run_and_stop(tmp_path, 2)

    with pytest.raises(InputError, match=rf"other settings: {name} \(was .*--restart"):
        run(tmp_path, FakeBackend(**change))  # type: ignore[arg-type]

    backend = FakeBackend(**change)  # type: ignore[arg-type]
    run(tmp_path, backend, is_restart=True)
    assert len(backend.computed) == len(PROMPTS)


def test_other_defaults_are_refused(tmp_path: Path) -> None:
    """The body defaults of the job belong to its settings."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run_and_stop(tmp_path, 2)

    with pytest.raises(InputError, match="of other settings: defaults"):
        run(tmp_path, defaults={"max_tokens": 3})


def test_model_that_went_away_stops_the_job(tmp_path: Path) -> None:
    """Lines that an earlier run answered do not turn into errors because a model is gone."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS, model="other"))
    run_and_stop(tmp_path, 2)

    with pytest.raises(ModelError, match="'other' answered lines in an earlier run and is gone"):
        run(tmp_path, FakeBackend(fingerprints={"fake": "fp_1"}))


def test_lines_added_to_a_stopped_job_are_computed(tmp_path: Path) -> None:
    """Results depend on what a line says, so a longer input keeps those it has."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run_and_stop(tmp_path, 3)
    write_input(tmp_path / "in.jsonl", requests(["new", *PROMPTS]))

    second = FakeBackend()
    run(tmp_path, second)

    assert len(second.computed) == len(PROMPTS) + 1 - 3
    assert len(output(tmp_path)) == len(PROMPTS) + 1


def test_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    """The loser names the process that holds the job and touches nothing."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    state = tmp_path / "out.jsonl.aobatch"
    state.mkdir()

    with (
        hold_lock(state / "lock"),
        pytest.raises(BusyError, match=f"process {os.getpid()} on .*since 20"),
    ):
        run(tmp_path)

    assert not (tmp_path / "out.jsonl").exists()
    run(tmp_path)
    assert len(output(tmp_path)) == len(PROMPTS)


def test_killed_process_keeps_committed_results(tmp_path: Path) -> None:
    """SIGKILL costs no result that has become durable, as each does within a second."""
    write_input(tmp_path / "in.jsonl", requests([f"p{i}" for i in range(60)]))
    process = _start(tmp_path, "held 12")
    state = tmp_path / "out.jsonl.aobatch"
    wait_until(lambda: len(_log(tmp_path)) == 12 and _num_durable(state) == 12, process)
    early = {*_log(tmp_path)}

    process.kill()

    process.wait(HANG_SECONDS)
    before = len(_log(tmp_path))
    assert _start(tmp_path, "0").wait(HANG_SECONDS) == 0
    assert not early & {*_log(tmp_path)[before:]}
    assert len(output(tmp_path)) == 60


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """A job under nohup outlives its terminal."""
    write_input(tmp_path / "in.jsonl", requests([f"p{i}" for i in range(10)]))
    gate = tmp_path / "gate"
    process = _start(tmp_path, f"held 3 {gate}", before=("nohup",))
    wait_until(lambda: len(_log(tmp_path)) >= 2, process)

    process.send_signal(signal.SIGHUP)
    gate.touch()

    assert process.wait(HANG_SECONDS) == 0
    assert len(output(tmp_path)) == 10


def _interrupt(*_: object) -> bytes:
    raise KeyboardInterrupt


def _start(folder: Path, pace: str, before: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    names = (folder / "in.jsonl", folder / "out.jsonl", pace, folder / "log")
    command = [*before, sys.executable, FAKE_JOB, *map(str, names)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _log(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().split() if path.exists() else []


def _num_durable(state: Path) -> int:
    with reading(state / "ledger.sqlite3") as connection:
        return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])
