"""A backend without a model: its texts follow from the prompts, its results come out of order."""

import os
import signal
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from aobatch.api.errors import shorten
from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.config import EngineStatistics
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta, Listener
from aobatch.errors import ModelNotFoundError, RequestError
from aobatch.executors import Executor, ModelIdentity, Statistics

WINDOW = 3
NEVER = Path("/no/such/file")


def misbehave(prompt: str) -> None:
    """Do what the first word of a prompt says: `die`, `raise` or `memory`."""
    match prompt.partition(" ")[0]:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            message = "a defect"
            raise ValueError(message)
        case "memory":
            raise MemoryError


@dataclass
class FakeBackend:
    """Models that answer with their prompt in brackets and fail if it begins with `fail`."""

    fingerprints: dict[str, str] = field(default_factory=lambda: {"fake": "fp_1", "other": "fp_2"})
    settings: dict[str, object] = field(default_factory=lambda: {"seed": 0})
    survives_requests: bool = False
    explosion: BaseException | None = None
    """Raised instead of the result with number `explodes_at`."""
    explodes_at: int = -1
    delay: float = 0.0
    held_at: int = -1
    """The number of results behind which it waits for the file `gate`."""
    gate: Path = NEVER
    forgets: str | None = None
    """The prompt whose result is not given back."""
    log: Path | None = None
    opened: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)

    def fails(self, request: Request) -> bool:
        """Say whether a request ends with an error."""
        return str(request.body.prompts[0]).startswith("fail")

    def resolve(self, name: str | None, _began: str = "") -> ModelIdentity:
        """Find a model; the default one is called fake."""
        name = "fake" if name is None else name
        if name not in self.fingerprints:
            message = f"The model '{shorten(name)}' does not exist."
            raise ModelNotFoundError(message)
        return ModelIdentity(name, self.fingerprints[name], Path(name))

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Note that a model was opened."""
        self.opened.append(model.name)
        yield FakeExecutor(self)


def paced(pace: str, **options: object) -> FakeBackend:
    """Give a backend that needs so many seconds a result, or is held behind so many of them.

    What holds it is `held NUMBER` and, if it ever is to go on, the file that lets it.
    """
    if not pace.startswith("held "):
        return FakeBackend(delay=float(pace), **options)  # type: ignore[arg-type]
    _, number, *gate = pace.split(" ", 2)
    return FakeBackend(held_at=int(number), gate=Path(*gate or [NEVER]), **options)  # type: ignore[arg-type]


@dataclass
class FakeExecutor:
    """Takes requests in small groups and answers each group backwards."""

    backend: FakeBackend
    num_results: int = 0

    @property
    def statistics(self) -> Statistics:
        """Count the results."""
        return Statistics(engine=EngineStatistics(decode_steps=self.num_results))

    def run(
        self, requests: Iterable[Request], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Answer every request."""
        source = iter(requests)
        while group := list(islice(source, WINDOW)):
            for request in reversed(group):
                if self.num_results == self.backend.explodes_at and self.backend.explosion:
                    raise self.backend.explosion
                if self.backend.forgets in request.body.prompts:
                    continue
                self._take_time()
                misbehave(str(request.body.prompts[0]))
                self.num_results += 1
                result = self._answer(request)
                if listener and request.body.stream:
                    for choice in result.choices:
                        listener(Delta(request, choice))
                yield result
                self._note(request)

    def _take_time(self) -> None:
        time.sleep(self.backend.delay)
        while self.num_results == self.backend.held_at and not self.backend.gate.exists():
            time.sleep(0.01)

    def _answer(self, request: Request) -> Result:
        self.backend.computed.append(request.key)
        prompts = [str(prompt) for prompt in request.body.prompts]
        if self.backend.fails(request):
            error = RequestError("The logits are NaN.", code="numerical_error", status_code=500)
            return Result(request, (), Usage(0, 0, 0), error, 0.5)
        choices = tuple(Choice(f"[{p}]", i, None, "stop") for i, p in enumerate(prompts))
        num_prompt, num_completion = sum(map(len, prompts)), 2 + len(prompts[0])
        usage = Usage(num_prompt, num_completion, num_prompt + num_completion)
        return Result(request, choices, usage, None, 0.25)

    def _note(self, request: Request) -> None:
        # After the yield: the job has taken the result by now.
        if self.backend.log is not None:
            with self.backend.log.open("a") as log:
                log.write(f"{request.key}\n")
