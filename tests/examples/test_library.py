"""Laws of jobs/library: the scripts run, are typed, and say what is the case."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

import aobatch
from aobatch.executors.local import open_runner
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(ROOT.glob("jobs/library/*.py"))
QUESTION, CHOICES = "Two plus three is", (" five", " four", " six")


@pytest.fixture
def python(tmp_path: Path, tiny_home: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Give a function that runs a script of jobs/ in an empty folder."""
    environment = os.environ | {
        "AOBATCH_MODELS": str(tiny_home),
        "PYTHONPATH": str(ROOT / "batch"),
        "SOURCE_DATE_EPOCH": "1700000000",
    }

    def run(*command: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        arguments = [
            str(ROOT / "jobs" / name) if name.endswith(".py") else name for name in command
        ]
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def expected_scores(folder: ModelFolder) -> dict[str, float]:
    """Compute the scores of the choices from the logits, without an engine."""
    tokenizer, runner = load_tokenizer(folder), open_runner(folder, aobatch.RunnerConfig(1))
    runner.reserve(1, 256, [])
    scores = {}
    for choice in CHOICES:
        ids = tokenizer.encode(QUESTION + choice)
        start = len(tokenizer.encode(QUESTION))
        logprobs = log_softmax(runner.prefill([Chunk(0, 0, ids, len(ids))]), axis=1)
        scores[choice] = float(logprobs[np.arange(start - 1, len(ids) - 1), ids[start:]].sum())
    return scores


def test_choices_are_scored_by_their_own_tokens(
    tiny_int8: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are the sums of log probabilities behind the question."""
    monkeypatch.syspath_prepend(ROOT / "jobs/library")
    from score_choices import score_choices

    engine = aobatch.load_engine(str(tiny_int8.path), runner=aobatch.RunnerConfig(1))

    assert score_choices(engine, QUESTION, CHOICES) == pytest.approx(
        expected_scores(tiny_int8), abs=1e-4
    )


def test_the_best_choice_is_shown(
    python: Callable[..., "subprocess.CompletedProcess[str]"],
    tiny_int8: ModelFolder,
    tmp_path: Path,
) -> None:
    """In memory and from files, the choice with the largest score is the one that is shown."""
    scores = expected_scores(tiny_int8)
    best = max(scores, key=scores.__getitem__)
    fields = {"echo": True, "max_tokens": 1, "logprobs": 1, "user": QUESTION}
    lines = "".join(json.dumps({"prompt": QUESTION + c, **fields}) + "\n" for c in CHOICES)
    (tmp_path / "in.jsonl").write_text(lines)
    assert python("-m", "aobatch", "run", "in.jsonl").returncode == 0

    shown = python("library/best_choices.py", "in.jsonl", "in.out.jsonl")

    assert (shown.returncode, shown.stdout) == (0, f"{QUESTION}{best}\n")
    in_memory = python("library/score_choices.py")
    assert in_memory.returncode == 0
    assert len(in_memory.stdout.splitlines()) == 3


def test_a_file_is_run_as_the_command_runs_it(
    python: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """The same bytes come out; progress ends at 100 %, and the sums are those of the lines."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"prompt": "p{number}"}}\n' for number in range(30)))

    shown = python("library/run_file.py", "in.jsonl", "a.jsonl")

    options = ("--default", "max_tokens=32", "--output", "b.jsonl")
    assert python("-m", "aobatch", "run", "in.jsonl", *options).returncode == 0
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    usages = [
        json.loads(line)["usage"] for line in (tmp_path / "a.jsonl").read_bytes().splitlines()
    ]
    prompt, completion = (
        sum(u[f"{name}_tokens"] for u in usages) for name in ("prompt", "completion")
    )
    first, *_, last, counts, tokens = shown.stderr.splitlines()
    assert (first, last) == ("30 lines, 0 of them answered before", "100 %")
    assert (counts, tokens) == ("30 answered, 0 failed", f"{prompt} + {completion} tokens")
    missing = python("library/run_file.py", "none.jsonl", "a.jsonl")
    assert missing.returncode == 66
    assert missing.stderr.startswith("error: ")


def test_the_scripts_are_typed() -> None:
    """Mypy finds nothing in them, however strict."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml"]

    result = subprocess.run(
        [*command, *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout
