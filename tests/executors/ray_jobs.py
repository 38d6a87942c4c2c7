"""Jobs of many parameters, run in one place and compared with another."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from request_mix import mixed_lines

from aobatch.executors import Backend
from aobatch.job.config import JobConfig
from aobatch.job.progress import Silent
from aobatch.job.runner import run_job

REPORT_PARTS = ("requests", "usage", "finish_reasons", "by_model", "by_user", "completion_tokens")
"""What a report counts; the rest is time."""


@dataclass(frozen=True)
class Product:
    """What a job leaves."""

    output: bytes
    streams: dict[str, bytes]
    report: dict[str, object]
    statistics: dict[str, float]

    def __eq__(self, other: object) -> bool:
        """Compare all but the statistics."""
        assert isinstance(other, Product)
        return (self.output, self.streams, self.report) == (
            other.output,
            other.streams,
            other.report,
        )

    __hash__ = None  # type: ignore[assignment]


class Watching(Silent):
    """Calls a function with the number of answers so far, after each."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.num_lines = 0
        self._function = function

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Count an answer."""
        self.num_lines += num_lines
        self._function(self.num_lines)


def write_input(path: Path, num_good: int, max_tokens: int = 12, num_bad: int = 12) -> Path:
    """Write an input of every parameter."""
    path.write_bytes(mixed_lines(num_good, max_tokens, num_bad))
    return path


def run_product(
    source: Path,
    output: Path,
    backend: Backend,
    model: Path,
    watch: Callable[[int], None] = lambda _: None,
) -> Product:
    """Run a job to its end."""
    output.parent.mkdir(exist_ok=True)
    config = JobConfig((source,), output, model=str(model))
    run_job(config, backend, Watching(watch))
    return read_product(output)


def read_product(output: Path) -> Product:
    """Read what a finished job has left."""
    report = json.loads(output.with_name(f"{output.name}.usage.json").read_bytes())
    folder = output.with_name(f"{output.name}.stream")
    return Product(
        output.read_bytes(),
        {path.name: path.read_bytes() for path in folder.glob("*.sse")},
        {part: report[part] for part in REPORT_PARTS},
        report["statistics"],
    )
