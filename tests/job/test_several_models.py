"""Laws of jobs whose lines name several models."""

import gc
import json
import shutil
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import output, run, write_input

from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.errors import ModelError
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig


@dataclass
class Unopenable(FakeBackend):
    """A backend one of whose models, under any path, is found and cannot be opened."""

    unopenable: str = "other"

    def resolve(self, name: str | None, _began: str = "") -> ModelIdentity:
        """Take a path for the model that it ends with."""
        return super().resolve(None if name is None else Path(name).name)

    def open(self, model: ModelIdentity):  # noqa: ANN201 - as it is there
        """Refuse one model."""
        if model.name == self.unopenable:
            message = "its graph is broken"
            raise ModelError(message)
        return super().open(model)


def backend() -> LocalBackend:
    """Give a backend of one thread."""
    return LocalBackend(EngineConfig(max_num_seqs=4), RunnerConfig(1))


def test_one_model_is_open_at_a_time(tmp_path: Path) -> None:
    """A job of several models opens each once and answers every line with its own."""
    lines = [{"prompt": str(i), "model": ["fake", "other"][i % 2]} for i in range(8)]
    write_input(tmp_path / "in.jsonl", [*lines, {"prompt": "default"}])
    backend = FakeBackend()

    report = run(tmp_path, backend, model="other").report

    assert backend.opened == ["fake", "other"]
    answers = output(tmp_path)
    assert [a["system_fingerprint"] for a in answers] == [*["fp_1", "fp_2"] * 4, "fp_2"]
    assert {group.name: group.requests for group in report.by_model} == {"fake": 4, "other": 5}


def test_two_models_give_what_each_gives_alone(
    tmp_path: Path,
    tiny_int8: ModelFolder,
    tiny_fp32: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines of two models by turns have the bytes of a job for each."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    paths = [str(tiny_int8.path), str(tiny_fp32.path)]
    lines = [
        {"prompt": f"line {i}", "max_tokens": 4, "model": paths[i % 2], "custom_id": str(i)}
        for i in range(12)
    ]
    both = answers(tmp_path / "both", lines)
    alone = [answers(tmp_path / str(turn), lines[turn::2]) for turn in range(2)]

    assert both[0::2] == alone[0]
    assert both[1::2] == alone[1]
    assert len({json.loads(line)["system_fingerprint"] for line in both}) == 2


def test_a_model_is_gone_before_the_next_is_opened(
    tmp_path: Path,
    tiny_int8: ModelFolder,
    tiny_fp32: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of the first engine is left when the second is loaded, without a collection."""
    engines: list[weakref.ref[Engine]] = []
    alive: list[int] = []
    load = LocalBackend.load

    def watched(self: LocalBackend, model: ModelIdentity) -> Engine:
        alive.append(sum(engine() is not None for engine in engines))
        engine = load(self, model)
        engines.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(LocalBackend, "load", watched)
    lines = [{"prompt": "a", "max_tokens": 2, "model": str(f.path)} for f in (tiny_int8, tiny_fp32)]
    gc.disable()
    try:
        answers(tmp_path / "job", lines)
    finally:
        gc.enable()

    assert alive == [0, 0]


def test_a_model_that_cannot_be_opened_fails_its_lines_alone(tmp_path: Path) -> None:
    """A path in a line is data: its lines get 404 with the reason, all others their answers."""
    models = ["/x/other", None, "/x/fake", "/y/other", "/x/other"]
    write_input(tmp_path / "in.jsonl", [{"prompt": "p"} | named(model) for model in models])

    report = run(tmp_path, Unopenable()).report

    lines = output(tmp_path)
    assert ["error" in line for line in lines] == [True, False, False, True, True]
    error = lines[0]["error"]
    assert (error["code"], error["message"]) == ("model_not_found", "its graph is broken")
    assert report.requests.failed == 3


def test_a_folder_without_numbers_stops_nothing(tmp_path: Path) -> None:
    """Where a path in a line leads to a model that computes NaN alone, its lines say so."""
    lines = [{"prompt": f"fail {i}", "model": "/x/fake"} for i in range(9)]
    write_input(tmp_path / "in.jsonl", [*lines, {"prompt": "a", "model": "other"}])

    run(tmp_path, Unopenable(unopenable=""))

    codes = [line.get("error", {}).get("code") for line in output(tmp_path)]  # type: ignore[attr-defined]
    assert codes == ["numerical_error"] * 9 + [None]


def test_a_broken_graph_in_a_folder_that_a_line_names_stops_nothing(
    tmp_path: Path, tiny_int8: ModelFolder
) -> None:
    """With real models: the line of the damaged copy fails, the other one is answered."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_int8.path, broken)
    graph = broken / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    folders = (broken, tiny_int8.path)
    lines = [{"prompt": "a", "max_tokens": 2, "model": str(folder)} for folder in folders]

    bad, good = map(json.loads, answers(tmp_path / "job", lines))

    assert bad["error"]["code"] == "model_not_found"
    assert "choices" in good


def named(model: str | None) -> dict[str, str]:
    """Give the field that names a model."""
    return {} if model is None else {"model": model}


def answers(folder: Path, lines: list[dict[str, object]]) -> list[str]:
    """Run a job of these lines; give its output."""
    folder.mkdir()
    write_input(folder / "in.jsonl", lines)
    run(folder, backend())
    return (folder / "out.jsonl").read_text().splitlines()
