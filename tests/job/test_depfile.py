"""Laws of the dependency file, with make itself as the judge."""

import os
import subprocess
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import PROMPTS, requests, write_input

from aobatch.errors import OutputError, UsageError
from aobatch.executors import ModelIdentity
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.runner import run_job

NAMES = [
    "plain",
    "a b",
    " a  b ",
    "a#b",
    "a\\#b",
    "a\\\\ b",
    "a\\b",
    "a:b",
    "a*b",
    "a?b",
    "a[1]",
    "a$b",
    "a$$(b)",
    "date=2026-11-25/a",
    "a =b",
    "a:=b",
    "~root",
    "-a",
    "a'b\"c`d",
    "(a)&{b},!@",
    "été 日本",
    "define",
]


class FolderBackend(FakeBackend):
    """The fake model with a folder of its own."""

    def resolve(self, _name: str | None, _began: str = "") -> ModelIdentity:
        """Find the folder `model`."""
        return ModelIdentity("fake", "fp_1", Path("model"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has a model, whatever make runs the suite."""
    for name in [name for name in os.environ if "MAKE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    for name in ("model.onnx", "model.toml"):
        (Path("model") / name).write_text("")


def run(source: str, output: str, **fields: object) -> None:
    """Run the job of a file of requests, made newer than everything it depends on."""
    for path in (source, output):
        Path(path).parent.mkdir(exist_ok=True)
    if not Path(source).exists():
        write_input(Path(source), requests(PROMPTS))
    fields = {"depfile": Path("job.d"), **fields}
    run_job(JobConfig((Path(source),), Path(output), **fields), FolderBackend())  # type: ignore[arg-type]
    for path in (source, *Path("model").iterdir()):
        os.utime(path, (1000, 1000))


def is_made_again() -> bool:
    """Ask make, which is given no rule but the dependency file, whether the output is old."""
    target = Path("job.d").read_text().split(": \\\n")[0]
    Path("Makefile").write_text(f"include job.d\n{target}:\n\t@echo made\n")
    command = ["make", "--no-builtin-rules"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return "made" in result.stdout.splitlines()


@pytest.mark.parametrize("role", ["input", "output"])
@pytest.mark.parametrize("name", NAMES)
def test_make_sees_what_an_output_hangs_on(name: str, role: str) -> None:
    """Whatever its name: a newer or missing input, or a changed model, makes the output old."""
    source = f"{name}.jsonl" if role == "input" else "in.jsonl"
    run(source, f"{name}.out.jsonl" if role == "output" else "out.jsonl")

    assert not is_made_again()
    for path in (source, "model/model.onnx", "model/model.toml"):
        os.utime(path, (4e9, 4e9))
        assert is_made_again()
        os.utime(path, (1000, 1000))
        assert not is_made_again()
    Path(source).unlink()
    assert is_made_again()


@pytest.mark.parametrize("name", ["a%b", "a;b", "a|b", "a\tb", "a\nb"])
def test_names_that_make_cannot_take_are_refused_at_once(name: str) -> None:
    """A name that no escape helps against is an error before anything is computed."""
    for source, output in ((f"{name}.jsonl", "out.jsonl"), ("in.jsonl", f"{name}.jsonl")):
        with pytest.raises(UsageError, match="make cannot take the name"):
            run(source, output)

        assert not Path(f"{output}.aobatch").exists()


def test_a_settings_file_is_one_of_them() -> None:
    """An output is old when the settings changed."""
    Path("my settings.toml").write_text("")
    os.utime("my settings.toml", (1000, 1000))
    run("in.jsonl", "out.jsonl", settings_file=Path("my settings.toml"))

    assert not is_made_again()
    os.utime("my settings.toml", (4e9, 4e9))
    assert is_made_again()


def test_a_finished_job_writes_it_again() -> None:
    """A dependency file that was removed is back after a run that had nothing else to do."""
    run("in.jsonl", "out.jsonl")
    before = Path("job.d").read_bytes()
    Path("job.d").unlink()

    run("in.jsonl", "out.jsonl")

    assert Path("job.d").read_bytes() == before


def test_it_is_there_before_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies while it publishes leaves a whole dependency file and no output."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aobatch.job.runner.publish", die)

    with pytest.raises(KeyboardInterrupt):
        run("in.jsonl", "out.jsonl")

    assert Path("job.d").read_text().startswith("out.jsonl: \\\n  in.jsonl \\\n  model/model.onnx")
    assert not Path("out.jsonl").exists()


def test_places_where_it_cannot_be_are_refused_at_once() -> None:
    """Standard output, a file of the job and a folder that is not there are errors."""
    for depfile in ("in.jsonl", "out.jsonl"):
        with pytest.raises(UsageError, match=r"is also (an input|the output)"):
            run("in.jsonl", "out.jsonl", depfile=Path(depfile))
    with pytest.raises(UsageError, match="make follows files"):
        run("in.jsonl", str(STREAM))
    with pytest.raises(OutputError, match="does not exist; create it"):
        run("in.jsonl", "out.jsonl", depfile=Path("no-such-folder/job.d"))

    assert not Path("out.jsonl.aobatch").exists()
