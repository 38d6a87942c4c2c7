"""A job of Ray whose workers answer at once: driver_job.py MODEL WARM_UP INPUT.

What the driver takes is printed as JSON: results a second of its processor time and of wall time,
while they come and while they are published, and by how many bytes it grew.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

sys.path.insert(0, str(Path(__file__).parents[1] / "job"))

from memory_job import peak_bytes

from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.sequence import Result
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend
from aobatch.executors.ray import backend as backend_module
from aobatch.executors.ray.backend import RayBackend
from aobatch.executors.ray.worker import Opener
from aobatch.job import runner
from aobatch.job.config import JobConfig, default_output
from aobatch.job.runner import run_job
from aobatch.runners import RunnerConfig

NUM_WORKERS = 2
TEXT = "a text of some sixty characters, as a short answer would be."


class InstantEngine:
    """Answers a request as soon as it sees it."""

    def __init__(self) -> None:
        self.statistics = EngineStatistics()
        self._woken = Event()

    def wake(self) -> None:
        """Look for requests again."""
        self._woken.set()

    def run(self, requests: Iterator[Request | None], _listener: object) -> Iterator[Result]:
        """Answer every request."""
        for request in requests:
            if request is None:
                self._woken.wait()
                self._woken.clear()
                continue
            choice = Choice(TEXT, 0, None, "stop")
            yield Result(request, (choice,), Usage(20, 16, 36), None, 0.5)


@dataclass(frozen=True, slots=True)
class InstantOpener(Opener):
    """Gives such engines."""

    def open(self, _model: ModelIdentity, _path: Path) -> InstantEngine:  # type: ignore[override]
        """Give one without a model."""
        return InstantEngine()

    def places(self, model: ModelIdentity) -> list[Path]:
        """Name the folder of the driver."""
        return [model.path]


class Clock:
    """Takes the time of the parts of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        for name in ("compute", "publish"):
            setattr(runner, name, self._timed(name, getattr(runner, name)))

    def _timed(self, name: str, function: object) -> object:
        def timed(job: object) -> object:
            before = time.process_time(), time.perf_counter()
            result = function(job)  # type: ignore[operator]
            after = time.process_time(), time.perf_counter()
            self.seconds[name] = (after[0] - before[0], after[1] - before[1])
            return result

        return timed


def main(model: str, warm_up: str, source: str) -> None:
    """Run both jobs and print what the second one took."""
    backend_module.Opener = InstantOpener  # type: ignore[misc]
    config, clock = EngineConfig(max_num_seqs=1024, lookahead=2048), Clock()
    local = LocalBackend(config, RunnerConfig(1))
    with RayBackend(local, NUM_WORKERS, lambda _: None, threads=1) as backend:
        ray = backend._connected()  # imported ahead of this, it would not be private
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        growth, total = [], 0
        for path in map(Path, (warm_up, source)):
            job = JobConfig((path,), default_output(path), model=model)
            total = run_job(job, backend).report.requests.completed
            growth.append(peak_bytes())
    rates = {
        name: {"cpu": round(total / cpu), "wall": round(total / wall)}
        for name, (cpu, wall) in clock.seconds.items()
    }
    sys.stdout.write(json.dumps({"total": total, "growth": growth[1] - growth[0], **rates}))


if __name__ == "__main__":
    main(*sys.argv[1:])
