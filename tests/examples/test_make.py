"""Laws of jobs/make: real make translates a folder with the tiny model."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANG_SECONDS, wait_until

from aobatch.errors import InputMissingError
from aobatch.job.status import job_status

EXAMPLE = Path(__file__).parents[2] / "jobs/make"
NAMES = sorted(path.stem for path in EXAMPLE.glob("texts/*.txt"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a copy of the example as it is checked out."""
    folder = tmp_path / "make"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns(*["requests", "answers"]))
    shutil.rmtree(folder / "translations", ignore_errors=True)
    return folder


@pytest.fixture
def start(folder: Path, command: Path, tiny_home: Path) -> "Make":
    """Give what starts make in the folder."""
    return Make(folder, command, tiny_home)


class Make:
    """Real make, with the command and the tiny model in its variables."""

    def __init__(self, folder: Path, command: Path, home: Path) -> None:
        self.folder = folder
        self._variables = (f"AOBATCH={command}", f"PYTHON={sys.executable} -IS", "THREADS=1")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
            "AOBATCH_MODELS": str(home),
            "SOURCE_DATE_EPOCH": "1700000000",
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start make as the leader of a group, as a shell does."""
        return subprocess.Popen(
            ["make", *self._variables, *arguments],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run make to its end; give what it says."""
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == code, said
        return said

    def translation(self, name: str) -> list[str]:
        """Read a translation."""
        return (self.folder / f"translations/{name}.txt").read_text().split("\n")


def test_each_line_has_its_translation(start: Make, tiny_home: Path) -> None:
    """Texts and translations have the same lines, whichever of two jobs made them, and the answers.

    A further make does nothing, unless the model is newer: dependency files name it.
    """
    start("-j2")

    for name in NAMES:
        lines = (start.folder / f"texts/{name}.txt").read_text().split("\n")
        answers = (start.folder / f"answers/{name}.jsonl").read_bytes().splitlines()
        texts = iter([json.loads(answer)["choices"][0]["text"].strip() for answer in answers])
        assert start.translation(name) == [next(texts) if line.strip() else "" for line in lines]
        assert next(texts, None) is None
    assert "Nothing to be done" in start("-j2")
    assert start("--question") == ""
    tokenizer = tiny_home / "smollm2-135m-instruct/tokenizer.json"
    before = tokenizer.stat()
    os.utime(tokenizer, (4e9, 4e9))
    plan = start("--dry-run")
    os.utime(tokenizer, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [plan.count(f"--output answers/{name}.jsonl") for name in NAMES] == [1] * len(NAMES)


def test_a_touched_or_longer_text_is_the_only_one_made_again(start: Make) -> None:
    """Other targets keep their times; lines that were answered keep their answers."""
    first, *others = NAMES[:2]
    for name in NAMES[2:]:
        (start.folder / f"texts/{name}.txt").unlink()
    start()
    made = [start.folder / f"translations/{other}.txt" for other in others]
    times = [path.stat().st_mtime_ns for path in made]
    before = start.translation(first)
    text = start.folder / f"texts/{first}.txt"
    os.utime(text)
    start()
    assert start.translation(first) == before
    text.write_text(f"Une ligne nouvelle.\n{text.read_text()}")

    start()

    assert start.translation(first)[1:] == before
    assert [path.stat().st_mtime_ns for path in made] == times
    report = json.loads((start.folder / f"answers/{first}.jsonl.usage.json").read_text())
    assert report["statistics"]["runs"] == 2, "the touched one computed nothing"
    assert start("--question") == ""


def test_ctrl_c_in_the_middle_loses_nothing(start: Make, folder: Path) -> None:
    """Make and both jobs end, no target is there, and the next make gives the bytes of a whole run.

    Results of before the interruption are not computed again.
    """
    for path in (folder / "texts").iterdir():
        path.unlink()
    for name in "ab":
        lines = [f"La phrase {number} du texte {name}.\n" for number in range(300)]
        (folder / f"texts/{name}.txt").write_text("".join(lines))
    outputs = [folder / f"answers/{name}.jsonl" for name in "ab"]
    with start.start("-j2") as process:
        try:
            wait_until(lambda: _is_at_work(outputs), process)
        finally:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=HANG_SECONDS)

    assert process.returncode != 0
    assert not any(output.exists() for output in outputs)
    states = [job_status(output) for output in outputs]
    assert {status.state for status in states} == {"interrupted"}
    assert any(0 < status.answered < 300 for status in states)
    start("-j2")
    interrupted = [output.read_bytes() for output in outputs]
    report = json.loads((folder / "answers/a.jsonl.usage.json").read_text())
    assert report["statistics"]["runs"] == 2
    start("clean")
    start()
    assert interrupted == [output.read_bytes() for output in outputs]
    assert all(len(content.splitlines()) == 300 for content in interrupted)


def test_a_failing_recipe_leaves_no_half_target(start: Make, folder: Path) -> None:
    """Too long a line fails its text alone, each time; with it repaired, all is made."""
    (folder / "texts/letter.txt").unlink()
    text = folder / "texts/market.txt"
    whole = text.read_text()
    text.write_text(f"{whole}{'très ' * 300}longue\n")

    said = start("-k", "-j2", code=2)

    assert "1 of 5 lines failed" in said
    assert not (folder / "answers/market.jsonl").exists()
    (failed,) = (folder / "answers/market.errors.jsonl").read_bytes().splitlines()
    assert json.loads(failed)["error"]["code"] == "context_length_exceeded"
    assert not (folder / "translations/market.txt").exists()
    assert all(start.translation(name) for name in NAMES if name not in {"letter", "market"})
    assert "1 of 5 lines failed" in start("-k", code=2)
    start("MAX_FAILURES=1")
    assert start.translation("market")[-2:] == ["", ""]
    text.write_text(whole)
    start()
    assert all(start.translation("market")[:3])


def _is_at_work(outputs: list[Path]) -> bool:
    """Say whether both jobs are at work and one has results on the disk."""
    try:
        states = [job_status(output) for output in outputs]
    except InputMissingError:
        return False
    return any(status.answered for status in states) and all(s.lines for s in states)
