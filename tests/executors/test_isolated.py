"""Laws of requests that are computed in a process of their own."""

import json
import os
import signal
from dataclasses import dataclass, replace
from multiprocessing import active_children
from pathlib import Path

import pytest

from aobatch.api.request import Limits, Parser, Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import Result
from aobatch.errors import ModelError
from aobatch.executors import Backend, ModelIdentity
from aobatch.executors.isolated import IsolatedExecutor
from aobatch.executors.local import LocalBackend
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig

BODIES = [
    {"prompt": "the", "max_tokens": 5, "logprobs": 2},
    {"prompt": ["a", "b c"], "max_tokens": 3, "n": 2, "temperature": 0},
    {"prompt": "score me", "max_tokens": 0, "echo": True, "logprobs": 1},
    {"prompt": "x", "max_tokens": 1_000_000},
]


@dataclass
class Sinking(LocalBackend):
    """A backend whose process does not survive opening a model."""

    def __init__(self) -> None:
        super().__init__(EngineConfig(), RunnerConfig(1))

    def open(self, model: ModelIdentity) -> None:  # type: ignore[override] # noqa: ARG002
        """End the process."""
        raise SystemExit

    def __reduce__(self) -> tuple[object, ...]:
        return Sinking, ()


@pytest.fixture
def requests() -> list[Request]:
    """Parse the bodies."""
    parser = Parser({}, Limits())
    parsed = [parser.parse(i, json.dumps(body).encode()) for i, body in enumerate(BODIES, 1)]
    assert all(isinstance(request, Request) for request in parsed)
    return parsed  # type: ignore[return-value]


@pytest.fixture
def backend() -> LocalBackend:
    """Give a backend of one thread."""
    return LocalBackend(EngineConfig(max_num_seqs=4), RunnerConfig(1))


def by_line(results: object) -> list[Result]:
    """Order results, without the time that they took."""
    found = [replace(result, seconds=0.0) for result in results]  # type: ignore[attr-defined]
    return sorted(found, key=lambda result: result.request.line)


def test_results_are_those_of_this_process(
    tiny_fp32: ModelFolder, backend: LocalBackend, requests: list[Request]
) -> None:
    """Where a request is computed changes nothing in its result, errors included."""
    model = backend.resolve(str(tiny_fp32.path))
    with backend.open(model) as executor:
        expected = by_line(executor.run(requests))
    isolated = IsolatedExecutor(backend, model)

    found = by_line(isolated.run(requests))

    assert [result.choices for result in found] == [result.choices for result in expected]
    assert [result.usage for result in found] == [result.usage for result in expected]
    assert [str(result.error) for result in found] == [str(result.error) for result in expected]
    assert isolated.statistics.engine.decode_steps > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_that_stop_a_run_convict_no_request(
    tiny_fp32: ModelFolder, backend: LocalBackend, number: signal.Signals
) -> None:
    """What a whole process group is sent leaves it to the parent to stop, and no process dies."""
    lines = [b'{"prompt":"a","max_tokens":1}', b'{"prompt":"b","max_tokens":400}']
    parser = Parser({}, Limits())
    requests = [parser.parse(line, raw) for line, raw in enumerate(lines, 1)]
    results = IsolatedExecutor(backend, backend.resolve(str(tiny_fp32.path))).run(requests)
    found = [next(results)]

    (child,) = active_children()
    os.kill(child.pid, number)
    child.join(0.2)
    assert child.exitcode in {None, 0}

    found += results
    assert [result.error for result in found] == [None, None]


@pytest.mark.parametrize("kind", ["missing", "sinking"])
def test_model_that_cannot_be_opened_is_no_fault_of_a_request(
    tmp_path: Path, backend: LocalBackend, requests: list[Request], kind: str
) -> None:
    """A process that fails before it has its model ends the job, and convicts no request."""
    opener: Backend = backend if kind == "missing" else Sinking()
    isolated = IsolatedExecutor(opener, ModelIdentity("gone", "fp", tmp_path))

    with pytest.raises(ModelError, match=r"is missing|cannot be opened"):
        list(isolated.run(requests))
