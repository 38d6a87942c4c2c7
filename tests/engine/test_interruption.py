"""Laws of runs that are broken off, fail or hang."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from waiting import HANG_SECONDS

from aobatch.api.request import Limits, Parser, Request
from aobatch.arrays import Logits, TokenIds
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.errors import JobError
from aobatch.testing import LIMITS, ByteTokenizer, ScriptedRunner


class SlowRunner(ScriptedRunner):
    """A runner whose decode steps do not end by themselves."""

    def __init__(self, *, obeys: bool) -> None:
        super().__init__()
        self._obeys = obeys
        self._told = threading.Event()
        self.began = threading.Event()
        self._since = math.inf

    @property
    def seconds_in_run(self) -> float:  # type: ignore[override]
        """Count from the first step."""
        return time.monotonic() - self._since

    def sibling(self) -> "SlowRunner":
        """Share the switch."""
        return self

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:  # noqa: ARG002
        """Wait until somebody interrupts, for ever if it does not obey."""
        self.began.set()
        self._since = time.monotonic()
        while not self._told.wait(0.01):
            pass
        message = "told to end"
        raise RuntimeError(message)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Let decode fail."""
        if self._obeys:
            self._told.set()
        yield

    def release(self) -> None:
        """Let a step that did not obey end after all."""
        self._told.set()


@pytest.fixture
def slow() -> Iterator[Callable[..., tuple[SlowRunner, Engine]]]:
    """Give a maker of engines over slow runners; their threads end with the test."""
    runners: list[SlowRunner] = []

    def make(*, obeys: bool, **fields: float) -> tuple[SlowRunner, Engine]:
        runners.append(SlowRunner(obeys=obeys))
        config = EngineConfig(num_lanes=1, **fields)  # type: ignore[arg-type]
        return runners[-1], Engine(runners[-1], ByteTokenizer(), LIMITS, config)

    yield make
    for runner in runners:
        runner.release()


def request() -> Request:
    """Give a request that needs decode steps."""
    parsed = Parser({}, Limits()).parse(1, b'{"prompt": "a", "ignore_eos": true}')
    assert isinstance(parsed, Request)
    return parsed


def test_closing_a_run_breaks_off_its_step(slow: Callable[..., tuple[SlowRunner, Engine]]) -> None:
    """Whoever gives up does not wait for a long step to end."""
    runner, engine = slow(obeys=True)

    def interrupt() -> Iterator[Request | None]:
        yield request()
        yield None  # so that the engine begins, and asks again when it could take more
        assert runner.began.wait(HANG_SECONDS)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        list(engine.run(interrupt()))

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane-")]


def test_step_that_takes_too_long_is_an_error(
    slow: Callable[..., tuple[SlowRunner, Engine]],
) -> None:
    """A run of the model beyond its limit fails, and the lane ends."""
    _, engine = slow(obeys=True, step_seconds=0.05)

    with pytest.raises(TimeoutError, match=r"longer than 0\.05 seconds"):
        list(engine.run([request()]))


def test_operator_that_hangs_ends_the_job(
    slow: Callable[..., tuple[SlowRunner, Engine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that cannot be ended is left behind, and the user is told."""
    monkeypatch.setattr("aobatch.engine.engine.END_SECONDS", 0.1)
    _, engine = slow(obeys=False, step_seconds=0.05)

    with pytest.raises(JobError, match="hangs"):
        list(engine.run([request()]))
