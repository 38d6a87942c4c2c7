"""Laws of jobs that workers of Ray compute; each really starts processes of Ray."""

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from ray_jobs import Product, run_product, write_input

from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.errors import ModelError
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend
from aobatch.executors.ray import backend as backend_module
from aobatch.executors.ray.backend import RayBackend
from aobatch.executors.ray.pool import Member
from aobatch.executors.ray.worker import Opener
from aobatch.models.folder import ModelFolder

pytestmark = pytest.mark.xdist_group("ray")

Opened = Callable[..., AbstractContextManager[RayBackend]]


@pytest.fixture(autouse=True)
def _fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all jobs begin at one time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write an input of every parameter."""
    return write_input(tmp_path_factory.mktemp("ray") / "in.jsonl", 80)


@pytest.fixture
def expected(tmp_path: Path, source: Path, tiny_fp32: ModelFolder) -> Product:
    """Run the job in this process."""
    backend = LocalBackend(EngineConfig(max_num_seqs=8), 1)
    return run_product(source, tmp_path / "local.jsonl", backend, tiny_fp32.path)


@dataclass(frozen=True, slots=True)
class BadOpener(Opener):
    """Gives engines that fail, or die, at prompts which say so."""

    def open(self, model: ModelIdentity) -> Engine:
        """Give an engine that looks at its requests."""
        engine = Opener.open(self, model)
        engine.run = self._watched(engine.run)  # type: ignore[method-assign]
        return engine

    def _watched(self, run: Callable[..., Generator[object, None, None]]) -> object:
        def looked_at(requests: object) -> Generator[object, None, None]:
            for request in requests:  # type: ignore[attr-defined]
                if request is not None and "poison" in str(request.body.prompts[0]):
                    os.kill(os.getpid(), signal.SIGKILL)
                if request is not None and "failure" in str(request.body.prompts[0]):
                    raise ValueError("a defect")
                yield request

        return lambda requests, listener: run(looked_at(requests), listener)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_bytes_are_those_of_a_local_run(
    tmp_path: Path,
    source: Path,
    expected: Product,
    tiny_fp32: ModelFolder,
    opened: Opened,
    warnings: list[str],
    num_workers: int,
) -> None:
    """Output, event files and what the report counts do not hang on where requests are computed."""
    with opened(num_workers) as backend:
        found = run_product(source, tmp_path / "ray.jsonl", backend, tiny_fp32.path)

    assert found == expected
    assert len(expected.streams) == 8
    assert found.statistics["workers_started"] == num_workers
    tokens = [found.statistics[f"worker_{n}_sampled_tokens"] for n in range(num_workers)]
    assert all(tokens)
    assert sum(tokens) == found.statistics["sampled_tokens"]
    assert warnings == []


def test_requests_of_a_killed_worker_are_computed_by_others(
    tmp_path: Path,
    source: Path,
    expected: Product,
    tiny_fp32: ModelFolder,
    opened: Opened,
    members: list[Member],
    warnings: list[str],
) -> None:
    """A worker that is killed costs no answer and changes no byte, of streams neither."""
    killed: list[int] = []

    def kill_one(num_lines: int) -> None:
        busy = [m.process for m in members if m.assigned and m.process]
        if num_lines > 30 and busy and not killed:
            killed.append(busy[0])
            os.kill(busy[0], signal.SIGKILL)

    with opened(2) as backend:
        found = run_product(source, tmp_path / "ray.jsonl", backend, tiny_fp32.path, kill_one)

    assert found == expected
    assert len(killed) == len(warnings) == found.statistics["workers_lost"] == 1
    assert found.statistics["requests_returned"] > 0


def test_only_the_request_that_kills_is_convicted(
    tmp_path: Path,
    tiny_fp32: ModelFolder,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    ray: ModuleType,
) -> None:
    """Of requests whose workers die or fail, those alone get an error that are at fault."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(backend_module, "Opener", BadOpener)
    prompts = ["a", "b", "poison", "c", "failure", "d"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"prompt":"{text}","max_tokens":2}}\n' for text in prompts))

    with opened(2) as backend:
        found = run_product(source, tmp_path / "ray.jsonl", backend, tiny_fp32.path)

    lines = found.output.splitlines()
    assert [b'"code":"engine_crash"' in line for line in lines] == [
        text in {"poison", "failure"} for text in prompts
    ]


def test_model_that_workers_cannot_open_ends_the_job(
    tmp_path: Path, source: Path, tiny_fp32: ModelFolder, opened: Opened
) -> None:
    """A worker that would compute with another model says so, and convicts no request."""
    with opened(1) as backend:
        model = backend.resolve(str(tiny_fp32.path))
        other = ModelIdentity(model.name, "fp_other", model.path)
        backend.resolve = lambda _: other  # type: ignore[method-assign]
        with pytest.raises(ModelError, match="fp_other on the driver"):
            run_product(source, tmp_path / "ray.jsonl", backend, tiny_fp32.path)
