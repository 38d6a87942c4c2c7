"""The files of a small job, for tests."""

import json
from pathlib import Path

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


def output(folder: Path) -> list[dict[str, object]]:
    """Read the output lines."""
    return [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
