"""The command, noting what its executors are asked for: logged_command.py LOG BACKEND run ...

BACKEND is `local`, or the pace of the fake backend. Where the variable
DEATH names a point, the command dies there; FILE_LIMIT is how large a file may become.
"""

import os
import resource
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "job"))

from death import Death

from aobatch.api.request import Request
from aobatch.cli import main, run
from aobatch.executors import Backend, Executor, ModelIdentity


@dataclass
class LoggedBackend:
    """A backend that notes when an executor is opened, and when it is done."""

    backend: Backend
    log: str

    @property
    def settings(self) -> object:
        """Give those of the backend."""
        return self.backend.settings

    @property
    def survives_requests(self) -> bool:
        """Say what the backend says."""
        return self.backend.survives_requests

    def resolve(self, name: str | None, began: str = "") -> ModelIdentity:
        """Find what the backend finds."""
        return self.backend.resolve(name, began)

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator["LoggedExecutor"]:
        """Open an executor that notes what it is asked for."""
        note(self.log, "open")
        with self.backend.open(model) as executor:
            yield LoggedExecutor(executor, self.log)
        note(self.log, "close")


@dataclass
class LoggedExecutor:
    """An executor that notes the key of every request it takes."""

    executor: Executor
    log: str

    @property
    def statistics(self) -> object:
        """Give those of the executor."""
        return self.executor.statistics

    def run(self, requests: Iterable[Request], *rest: object) -> Generator[object, None, None]:
        """Compute the requests as the executor does."""
        with closing(self.executor.run(self._noted(requests), *rest)) as results:
            yield from results

    def _noted(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            note(self.log, f"take {request.key}")
            yield request


def note(log: str, text: str) -> None:
    """Append a line, whoever else is at it."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def install(log: str, kind: str) -> None:
    """Put the noting backend where the command opens one."""
    opened = run.open_backend

    def open_backend(*arguments: object) -> LoggedBackend:
        return LoggedBackend(opened(*arguments) if kind == "local" else _fake(kind), log)

    run.open_backend = open_backend


def _fake(pace: str) -> Backend:
    from fakes import paced

    return paced(pace)


if __name__ == "__main__":
    if point := os.environ.get("DEATH"):
        kind, number, is_behind = point.split()
        Death(kind, int(number), is_behind == "behind").install()
    if limit := os.environ.get("FILE_LIMIT"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    install(sys.argv.pop(1), sys.argv.pop(1))
    main.main()
