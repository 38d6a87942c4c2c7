"""The command, noting what its executors are asked for: logged_command.py LOG BACKEND run ...

BACKEND is `local`, or the delay in seconds of a result of the fake backend.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "job"))

from aobatch.api.request import Request
from aobatch.cli import main, run

Note = Callable[[str], None]


class LoggedBackend:
    """A backend that notes when an executor is opened, and when it is done."""

    def __init__(self, backend: object, note: Note) -> None:
        self._backend = backend
        self._note = note

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    @contextmanager
    def open(self, *arguments: object) -> Iterator[object]:
        """Open an executor that notes what it is asked for."""
        self._note("open")
        with self._backend.open(*arguments) as executor:
            yield LoggedExecutor(executor, self._note)
        self._note("close")


class LoggedExecutor:
    """An executor that notes the key of every request it takes."""

    def __init__(self, executor: object, note: Note) -> None:
        self._executor = executor
        self._note = note

    def __getattr__(self, name: str) -> object:
        return getattr(self._executor, name)

    def run(self, requests: Iterable[Request], *rest: object) -> Generator[object, None, None]:
        """Compute the requests as the executor does."""
        with closing(self._executor.run(self._noted(requests), *rest)) as results:
            yield from results

    def _noted(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self._note(f"take {request.key}")
            yield request


def install(log: str, kind: str) -> None:
    """Put the noting backend where the command opens one."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    opened = run.open_backend

    def open_backend(*arguments: object) -> LoggedBackend:
        backend = opened(*arguments) if kind == "local" else _fake(float(kind))
        return LoggedBackend(backend, lambda text: os.write(descriptor, f"{text}\n".encode()))

    run.open_backend = open_backend


def _fake(delay: float) -> object:
    from fakes import FakeBackend

    return FakeBackend(delay=delay)


if __name__ == "__main__":
    install(sys.argv.pop(1), sys.argv.pop(1))
    main.main()
