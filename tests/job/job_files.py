"""The files of a small job, for tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend

from aobatch.job.config import JobConfig
from aobatch.job.runner import JobOutcome, run_job

PROMPTS = ["one", "two", "fail now", "four", "five", "six", "seven"]


def write_input(path: Path, lines: list[object]) -> Path:
    """Write lines as JSON; bytes as they are."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(text + b"\n" for text in texts))
    return path


def requests(prompts: list[str], **fields: object) -> list[object]:
    """Give a bare request for each prompt."""
    return [{"prompt": prompt, **fields} for prompt in prompts]


def run(folder: Path, backend: FakeBackend | None = None, **fields: object) -> JobOutcome:
    """Run the job of in.jsonl and out.jsonl in a folder."""
    config = JobConfig((folder / "in.jsonl",), folder / "out.jsonl", **fields)  # type: ignore[arg-type]
    return run_job(config, backend or FakeBackend())


def output(folder: Path) -> list[dict[str, Any]]:
    """Read the output lines."""
    return [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]


def texts(folder: Path) -> list[str]:
    """Read the text of every output line, none of which is an error."""
    return [line["choices"][0]["text"] for line in output(folder)]


def run_and_stop(folder: Path, num_results: int, **fields: object) -> FakeBackend:
    """Run the job of a folder until it has so many results; give what computed them."""
    backend = FakeBackend(explosion=KeyboardInterrupt(), explodes_at=num_results)
    with pytest.raises(KeyboardInterrupt):
        run(folder, backend, **fields)
    return backend


def measure(path: Path, warm_up: Path | None = None) -> dict[str, Any]:
    """Run the job of an input in a process of its own, after a small one; say what it took."""
    return measure_all([path], warm_up)[0]


def measure_all(paths: list[Path], warm_up: Path | None = None) -> list[dict[str, Any]]:
    """Do so with several inputs; the growth is that of the process since the small job."""
    few = warm_up or paths[0].with_name("warm_up.jsonl")
    if warm_up is None:
        write_input(few, [*requests(PROMPTS), b"nonsense"])
    command = [sys.executable, Path(__file__).with_name("memory_job.py"), few, *paths]
    result = subprocess.run(command, capture_output=True, check=False, timeout=3600)
    assert (result.returncode, result.stderr) == (0, b"")
    return json.loads(result.stdout)  # type: ignore[no-any-return]
