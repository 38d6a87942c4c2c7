"""Laws of the how-to pages: every command in them ends as the page says, with a tiny model."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<mark>[^>]*) -->\n)?^```console\n(?P<lines>.*?)^```$", re.M | re.S
)
NOT_RUN = {"schedule.md": 11, "bring-your-own-model.md": 2, "serve.md": 1}
"""How many commands of each page no test runs, so that none escapes unseen."""


@dataclass(frozen=True)
class Command:
    """A command of a page."""

    text: str
    codes: frozenset[int] | None
    """With which exit codes it may end; None if it cannot be run here."""


def commands(page: str) -> list[Command]:
    """Give the commands of a page: what stands behind `$ ` in its console blocks."""
    found = []
    for block in BLOCK.finditer(PAGES[page].read_text(encoding="utf-8")):
        codes = expected_codes(block["mark"] or "exit 0")
        texts = re.findall(r"^\$ (.*(?:\n> .*)*)$", block["lines"], re.M)
        assert texts, f"a console block of {page} has no command"
        found += [Command(text.replace("\n> ", "\n"), codes) for text in texts]
    return found


def expected_codes(mark: str) -> frozenset[int] | None:
    """Read `exit 0 or 75`, or `not run, ` and the reason."""
    if re.fullmatch(r"not run, .+", mark):
        return None
    assert re.fullmatch(r"exit \d+( or \d+)*", mark), f"no test knows what {mark!r} means"
    return frozenset(map(int, re.findall(r"\d+", mark)))


@pytest.mark.parametrize("num_lines", [4, pytest.param(None, id="all", marks=pytest.mark.long)])
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_end_as_the_page_says(
    page: str,
    num_lines: int | None,
    tmp_path: Path,
    command: Path,
    tiny_home: Path,
    tiny_gguf: Path,
) -> None:
    """One after another, in a copy of the jobs' first lines, each command has its exit code."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("*.out.*"))
    for path in (tmp_path / "jobs").glob("*.jsonl"):
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:num_lines]))
    shutil.copytree(tiny_home, tmp_path / "models")
    shutil.copy(tiny_gguf, tmp_path / "story.gguf")
    shutil.copytree(ROOT / "tests/data/exported/llama-optimum", tmp_path / "export")
    shutil.copy(ROOT / "tests/data/tiny-llama/tokenizer.json", tmp_path / "export")
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    environment |= {
        "AOBATCH_MODELS": str(tmp_path / "models"),
        "AOBATCH_RUN_OVERRIDE": "max_tokens=4",  # the pages say how commands end, not when
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "batch"),
    }

    for step in commands(page):
        if step.codes is None:
            continue
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step.text],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode in step.codes, f"{step.text}\n{result.stdout}{result.stderr}"


def test_commands_that_are_not_run_are_counted() -> None:
    """A page has as many of them as stand here."""
    skipped = {page: [c for c in commands(page) if c.codes is None] for page in PAGES}

    assert {page: len(found) for page, found in skipped.items() if found} == NOT_RUN


def test_marks_are_understood_or_refused() -> None:
    """A misspelt mark is an error, not a command that is not run."""
    assert expected_codes("exit 0 or 75") == {0, 75}
    assert expected_codes("not run, needs a cluster") is None
    for mark in ("not run", "exit", "skip", "exit 0 75"):
        with pytest.raises(AssertionError):
            expected_codes(mark)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    """Whatever a page shows in `jobs/` is in the repository, unless a command makes it."""
    named = set(re.findall(r"`(jobs/[\w./-]+)`", PAGES[page].read_text(encoding="utf-8")))
    made = {name for name in named if re.search(r"\.out\.|/translations/|/answers/", name)}

    assert [name for name in named - made if not (ROOT / name).exists()] == []
