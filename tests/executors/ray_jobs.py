"""Jobs of many parameters, run in one place and compared with another."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crash_laws import REPORT_PARTS
from request_mix import mixed_lines

from aobatch.engine.config import EngineConfig
from aobatch.executors import Backend
from aobatch.executors.local import LocalBackend
from aobatch.executors.ray.backend import RayBackend
from aobatch.job.config import JobConfig
from aobatch.job.context import Progress
from aobatch.job.runner import run_job
from aobatch.runners import RunnerConfig


@dataclass(frozen=True)
class Product:
    """What a job leaves; statistics are not compared."""

    output: bytes
    streams: dict[str, bytes]
    report: dict[str, object]
    statistics: dict[str, float] = field(compare=False)


class Watching(Progress):
    """Calls a function with the number of answers so far, after each."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.num_lines = 0
        self._function = function

    def advance(self, num_lines: int, _num_tokens: int) -> None:
        """Count an answer."""
        self.num_lines += num_lines
        self._function(self.num_lines)


def write_input(path: Path, num_good: int, max_tokens: int = 12, num_bad: int = 12) -> Path:
    """Write an input of every parameter."""
    path.write_bytes(mixed_lines(num_good, max_tokens, num_bad))
    return path


@dataclass
class Place:
    """Where jobs of a test are, and the model that they use."""

    folder: Path
    model: Path
    source: Path
    warnings: list[str] = field(default_factory=list)
    """What backends of Ray warned of."""

    def run_local(self) -> Product:
        """Run the job in this process."""
        return self.run("local", LocalBackend(EngineConfig(max_num_seqs=8), RunnerConfig(1)))

    def run_ray(
        self, num_workers: int, watch: Callable[[int], None] = lambda _: None, slots: int = 16
    ) -> Product:
        """Run the job by workers of Ray."""
        with self.open_ray(num_workers, slots) as backend:
            return self.run(f"ray-{num_workers}", backend, watch)

    def open_ray(self, num_workers: int, slots: int = 16) -> RayBackend:
        """Give a backend of so many workers."""
        config = EngineConfig(max_num_seqs=slots, num_lanes=1)
        local = LocalBackend(config, RunnerConfig(1))
        return RayBackend(local, num_workers, self.warnings.append, threads=1)

    def run(
        self, name: str, backend: Backend, watch: Callable[[int], None] = lambda _: None
    ) -> Product:
        """Run the job to its end."""
        output = self.folder / name / "out.jsonl"
        output.parent.mkdir(exist_ok=True)
        config = JobConfig((self.source,), output, model=str(self.model))
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
