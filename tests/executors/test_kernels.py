"""Laws of the choice of operators: fused where they can be had, told where not, kept by a job."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import LocalBackend
from aobatch.job.config import JobConfig
from aobatch.job.report.usage import UsageReport
from aobatch.job.runner import run_job
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig, choice

LACK = "no C compiler was found; install one"
LINES = [{"prompt": f"line {i}", "max_tokens": 4, "temperature": 0} for i in range(12)]


@pytest.fixture
def without_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a machine without a compiler."""
    monkeypatch.setattr(choice, "missing_operators", lambda: LACK)


def backend(kernels: str = "auto") -> LocalBackend:
    """Give a backend of one thread and one slot."""
    config = EngineConfig(max_num_seqs=1, num_lanes=1)
    return LocalBackend(config, RunnerConfig(1, kernels))  # type: ignore[arg-type]


@pytest.fixture
def config(tmp_path: Path, tiny_int8: ModelFolder) -> JobConfig:
    """Give a job of twelve lines."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return JobConfig((source,), tmp_path / "out.jsonl", model=str(tiny_int8.path))


class Told:
    """Hears of a job, and breaks it off behind some lines."""

    def __init__(self, num_lines: int = 100) -> None:
        self.warnings: list[str] = []
        self._left = num_lines

    def start(self, *_: int) -> None:
        """Hear how many lines there are."""

    def advance(self, *_: int) -> None:
        """End the run once enough lines are answered."""
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt

    def fail(self) -> None:
        """Hear of no failure."""

    def warn(self, message: str) -> None:
        """Keep what was said."""
        self.warnings.append(message)

    def close(self) -> None:
        """Hear that nothing more will be computed."""


def interrupted(config: JobConfig, place: LocalBackend) -> None:
    """Run a job until three lines are answered."""
    with pytest.raises(KeyboardInterrupt):
        run_job(config, place, Told(3))


def kernels_of(report: UsageReport) -> list[str]:
    """Give the operators that a report names."""
    return [model.kernels for model in report.job.models]


@pytest.mark.usefixtures("without_operators")
def test_a_machine_without_operators_computes_with_stock_ones_and_says_so(
    config: JobConfig,
) -> None:
    """One line while the job runs, and the reason in the report."""
    told = Told()
    report = run_job(config, backend(), told).report

    assert [LACK in warning and "stock" not in warning for warning in told.warnings] == [True]
    assert (kernels_of(report), report.job.models[0].lack) == (["stock"], LACK)
    assert report.requests.completed == len(LINES)


@pytest.mark.parametrize(("option", "value"), [("kernels", "fused"), ("kv-cache-dtype", "bf16")])
@pytest.mark.usefixtures("without_operators")
def test_operators_that_are_demanded_must_be_there(
    tiny_int8: ModelFolder, option: str, value: str
) -> None:
    """One sentence with the reason, and what to ask for instead."""
    arguments = ["complete", "a", "-m", str(tiny_int8.path), f"--{option}", value]
    result = CliRunner().invoke(aobatch, arguments)

    assert (result.exit_code, LACK in result.stderr) == (69, True)
    assert "; use --k" in result.stderr


def test_a_job_begun_with_stock_operators_goes_on_with_them(config: JobConfig) -> None:
    """Although this machine would choose the others by now; the bytes are those of one kind."""
    interrupted(config, backend("stock"))
    told = Told()
    report = run_job(config, backend(), told).report

    assert (kernels_of(report), told.warnings) == (["stock"], [])
    assert (
        len(
            {
                json.loads(line)["system_fingerprint"]
                for line in config.output.read_text().splitlines()
            }
        )
        == 1
    )


def test_a_job_begun_with_fused_operators_says_why_it_cannot_go_on(
    config: JobConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are gone; nothing is lost, and it goes on where they are."""
    interrupted(config, backend())
    with monkeypatch.context() as patch:
        patch.setattr(choice, "missing_operators", lambda: LACK)
        with pytest.raises(ModelError, match=r"begun with fused operators.*no C compiler.*restart"):
            run_job(config, backend(), Told())
    report = run_job(config, backend(), Told()).report

    assert kernels_of(report) == ["fused"]
    assert (
        len(
            {
                json.loads(line)["system_fingerprint"]
                for line in config.output.read_text().splitlines()
            }
        )
        == 1
    )


def test_other_operators_than_those_of_an_earlier_run_are_refused(config: JobConfig) -> None:
    """An explicit choice is not overruled in silence."""
    interrupted(config, backend())

    with pytest.raises(Exception, match="model"):
        run_job(config, backend("stock"), Told())


def test_doctor_names_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their compiler, or by what is lacking, which makes no machine unfit."""
    found = json.loads(CliRunner().invoke(aobatch, ["doctor", "--json"]).stdout)["checks"]
    monkeypatch.setattr(choice, "missing_operators", lambda: LACK)
    lacking = json.loads(CliRunner().invoke(aobatch, ["doctor", "--json"]).stdout)["checks"]
    ours = [[c for c in checks if c["name"] == "fused operators"] for checks in (found, lacking)]

    assert "built by" in ours[0][0]["found"]
    assert LACK in ours[1][0]["found"]
    assert ours[1][0]["is_right"]
