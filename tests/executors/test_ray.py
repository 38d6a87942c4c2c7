"""Laws of jobs that workers of Ray compute; each really starts processes of Ray."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from ray_jobs import Place, Product, write_input

from aobatch.engine.engine import Engine
from aobatch.errors import ModelError
from aobatch.executors import ModelIdentity
from aobatch.executors.ray import backend as backend_module
from aobatch.executors.ray import driver
from aobatch.executors.ray.pool import Member
from aobatch.executors.ray.worker import Opener
from aobatch.models.store.folder import ModelFolder

pytestmark = pytest.mark.xdist_group("ray")


@dataclass(frozen=True, slots=True)
class BadOpener(Opener):
    """Gives engines that fail, or die, at prompts which say so."""

    def open(self, model: ModelIdentity, path: Path) -> Engine:
        """Give an engine that looks at its requests."""
        engine = Opener.open(self, model, path)
        engine.run = self._watched(engine.run)  # type: ignore[method-assign]
        return engine

    def _watched(self, run: Callable[..., Generator[object, None, None]]) -> object:
        def looked_at(requests: object) -> Generator[object, None, None]:
            for request in requests:  # type: ignore[attr-defined]
                if request is not None and "poison" in str(request.body.prompts[0]):
                    os.kill(os.getpid(), signal.SIGKILL)
                if request is not None and "failure" in str(request.body.prompts[0]):
                    raise ArithmeticError
                yield request

        return lambda requests, listener: run(looked_at(requests), listener)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_fp32: ModelFolder) -> Product:
    """Run the job of `place` in this process."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        place = Place(folder, tiny_fp32.path, write_input(folder / "in.jsonl", 80))
        return place.run_local()


@dataclass(frozen=True, slots=True)
class FarOpener(Opener):
    """Opens models on a node that has none but those it was sent."""

    def places(self, model: ModelIdentity) -> list[Path]:
        """Name a folder beside that of the driver."""
        return [model.path.parent / "node" / self.digest]


@pytest.fixture
def by_value(ray: ModuleType) -> None:
    """Send the classes of this file to workers, which cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_requests_of_a_killed_worker_are_computed_by_others(
    place: Place,
    expected: Product,
    members: list[Member],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A worker that is killed costs no answer and changes no byte, of streams neither."""
    killed: list[int] = []

    def kill_one(num_lines: int) -> None:
        busy = [member.process for member in members if member.assigned and member.process]
        if num_lines > 30 and busy and not killed:
            killed.append(busy[0])
            os.kill(busy[0], signal.SIGKILL)

    found = place.run_ray(2, kill_one)

    assert found == expected
    assert len(killed) == len(place.warnings) == found.statistics["workers_lost"] == 1
    assert found.statistics["requests_returned"] > 0
    time.sleep(1)  # Ray would say what it has to say by now
    assert capfd.readouterr() == ("", "")


def test_only_the_requests_at_fault_are_convicted(
    place: Place, by_value: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of requests whose workers die or fail, those alone get an error that are at fault."""
    monkeypatch.setattr(backend_module, "Opener", BadOpener)
    monkeypatch.setattr(driver, "DEATHS_BEFORE_ISOLATION", 1)  # each costs a process of Ray
    prompts = ["poison", "a", "failure"]
    place.source.write_text("".join(f'{{"prompt":"{p}","max_tokens":2}}\n' for p in prompts))

    found = place.run_ray(1)

    assert [b'"code":"engine_crash"' in line for line in found.output.splitlines()] == [
        prompt in {"poison", "failure"} for prompt in prompts
    ]


def test_model_that_workers_cannot_open_ends_the_job(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that would compute with another model says so, and convicts no request."""
    with place.open_ray(1) as backend:
        model = backend.resolve(str(place.model))
        other = ModelIdentity(model.name, "fp_other", model.path)
        monkeypatch.setattr(backend, "resolve", lambda *_: other)
        with pytest.raises(ModelError, match="fp_other on the driver"):
            place.run("ray", backend)


def test_a_node_without_the_model_is_sent_it_once(
    place: Place, expected: Product, by_value: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of a node find one folder, made once, with the files of the driver's.

    Output, event files and what the report counts do not hang on where requests are computed.
    """
    monkeypatch.setattr(backend_module, "Opener", FarOpener)
    node = place.model.parent / "node"

    found = place.run_ray(2)
    (folder,) = [path for path in node.iterdir() if path.name != ".locks"]
    made = folder.stat().st_mtime_ns
    assert place.run_ray(1) == expected

    assert found == expected
    assert len(expected.streams) == 8
    assert found.statistics["workers_started"] == 2
    names = [f"worker_{number}_sampled_tokens" for number in range(2)]
    tokens = sum(found.statistics.get(name, 0) for name in names)  # one may come too late
    assert tokens == found.statistics["sampled_tokens"] > 0
    assert place.warnings == []
    assert folder.stat().st_mtime_ns == made
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in place.model.iterdir()
    }


def test_exports_are_computed_and_sent_as_converted_models_are(
    place: Place, by_value: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers find an export where the driver has it, or are sent its files; bytes are the same."""
    data = Path(__file__).parents[1] / "data"
    place.model = place.folder / "export"
    shutil.copytree(data / "exported/llama-genai", place.model)
    shutil.copy(data / "tiny-llama/tokenizer.json", place.model)
    write_input(place.source, 20)
    local = place.run_local()

    assert place.run_ray(1) == local
    monkeypatch.setattr(backend_module, "Opener", FarOpener)
    (place.folder / "ray-1").rename(place.folder / "near")
    assert place.run_ray(1) == local
    (sent,) = [path for path in (place.folder / "node").iterdir() if path.name != ".locks"]
    assert {path.name for path in sent.iterdir()} == {path.name for path in place.model.iterdir()}
