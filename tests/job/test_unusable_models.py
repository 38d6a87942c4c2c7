"""Laws of models that lines name and that cannot be used: they fail these lines alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import output, requests, run, write_input

from aobatch.errors import ModelError, RequestError, UnavailableModelError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.models import Vocabularies
from aobatch.models.store.folder import ModelFolder

MODELS = {"fake": "fp_1", "other": "fp_2", "third": "fp_3"}


@dataclass
class Backend(FakeBackend):
    """Models of which some are not here, and some cannot be opened."""

    fingerprints: dict[str, str] = field(default_factory=lambda: dict(MODELS))
    absent: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    """Models that compute no numbers."""
    _model: str = ""

    def resolve(self, name: str | None, _began: str = "") -> ModelIdentity:
        """Find a model, but for those that are not here."""
        if name in self.absent:
            message = f"model {name} is not here yet"
            raise UnavailableModelError(message)
        return super().resolve(name)

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Open a model, but for the broken ones."""
        if model.name in self.broken:
            message = f"{model.name} is refused: a broken graph"
            raise ModelError(message)
        self._model = model.name
        with super().open(model) as executor:
            yield executor

    def fails(self, request: object) -> bool:
        """Let every request of a silent model fail."""
        return self._model in self.silent or super().fails(request)  # type: ignore[arg-type]


def write_lines(folder: Path, count: int = 12) -> list[str]:
    """Write lines that name three models in turn; the names by line."""
    names = [list(MODELS)[index % 3] for index in range(count)]
    lines: list[object] = [{"prompt": f"p{i}", "model": name} for i, name in enumerate(names)]
    write_input(folder / "in.jsonl", lines)
    return names


@pytest.mark.parametrize("fault", ["absent", "broken", "silent"])
@pytest.mark.parametrize("name", MODELS)
def test_lines_of_an_unusable_model_fail_alone(tmp_path: Path, fault: str, name: str) -> None:
    """Whatever is wrong with one of three models, the lines of the others have their answers."""
    named = write_lines(tmp_path, 36)
    sound = tmp_path / "sound"
    sound.mkdir()
    write_lines(sound, 36)
    run(sound, Backend())

    report = run(tmp_path, Backend(**{fault: (name,)})).report  # type: ignore[arg-type]

    code, status = ("numerical_error", 500) if fault == "silent" else ("model_not_found", 404)
    found = (tmp_path / "out.jsonl").read_bytes().splitlines()
    expected = (sound / "out.jsonl").read_bytes().splitlines()
    for line, (got, wanted) in enumerate(zip(found, expected, strict=True)):
        if named[line] == name:
            assert json.loads(got)["error"]["code"] == code
            assert json.loads(got)["status_code"] == status
        else:
            assert got == wanted
    assert report.requests.failed == 12
    assert {group.name: group.failed for group in report.by_model}[name] == 12


@pytest.mark.parametrize("fault", ["absent", "broken", "silent"])
def test_the_jobs_own_model_stops_it(tmp_path: Path, fault: str) -> None:
    """Lines that name none need the job's model, so that it is the job's fault."""
    write_input(tmp_path / "in.jsonl", requests([f"p{i}" for i in range(12)]))
    lines = (tmp_path / "in.jsonl").read_bytes()
    (tmp_path / "in.jsonl").write_bytes(lines + b'{"prompt":"x","model":"fake"}\n')

    with pytest.raises(ModelError):
        run(tmp_path, Backend(**{fault: ("other",)}), model="other")  # type: ignore[arg-type]
    assert not (tmp_path / "out.jsonl").exists()

    assert run(tmp_path, Backend(), model="other").report.requests.completed == 13


@pytest.mark.parametrize("fault", ["absent", "broken"])
def test_the_only_model_stops_the_job(tmp_path: Path, fault: str) -> None:
    """Where no line could be answered, nothing is published."""
    lines: list[object] = [{"prompt": f"p{i}", "model": "other"} for i in range(12)]
    write_input(tmp_path / "in.jsonl", [*lines, b"no JSON"])

    with pytest.raises(ModelError):
        run(tmp_path, Backend(**{fault: ("other",)}))  # type: ignore[arg-type]
    assert not (tmp_path / "out.jsonl").exists()


def test_repaired_model_answers_when_failures_are_retried(tmp_path: Path) -> None:
    """A model that could not be opened binds nothing: another one of its name takes over."""
    write_lines(tmp_path)
    run(tmp_path, Backend(broken=("other",)))
    repaired = Backend(fingerprints=MODELS | {"other": "fp_new"})

    report = run(tmp_path, repaired, retries_failed=True).report

    assert report.requests.failed == 0
    assert repaired.opened == ["other"]
    assert {line["system_fingerprint"] for line in output(tmp_path)} == {"fp_1", "fp_new", "fp_3"}


def test_model_that_answered_before_stops_the_job(tmp_path: Path) -> None:
    """Where an earlier run has results of a model, its other lines wait until it is there again."""
    write_lines(tmp_path)
    interrupted = Backend(explosion=KeyboardInterrupt(), explodes_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupted)

    with pytest.raises(ModelError, match="fake is refused: a broken graph"):
        run(tmp_path, Backend(broken=("fake",)))

    assert run(tmp_path, Backend()).report.requests.failed == 0


def test_model_that_had_no_turn_before_fails_its_lines_alone(tmp_path: Path) -> None:
    """An interrupted job goes on, though a model that it had not come to is broken now."""
    write_lines(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Backend(explosion=KeyboardInterrupt(), explodes_at=2))

    report = run(tmp_path, Backend(broken=("third",))).report

    assert report.requests.failed_by_code == {"model_not_found": 4}


def test_validation_says_the_same_of_lines(tmp_path: Path) -> None:
    """A model that is not here is the error of lines that name it, a note if it is the job's."""

    def find(name: str | None) -> ModelFolder:
        message = f"model {name} is not here yet"
        raise UnavailableModelError(message)

    vocabularies = Vocabularies(find, "other", clamps=False)

    found = vocabularies.find("third")
    assert isinstance(found, RequestError)
    assert (found.code, found.status_code) == ("model_not_found", 404)
    assert vocabularies.find(None) is vocabularies.find("other") is None
    assert [note.partition(";")[0] for note in vocabularies.notes] == [
        "model other is not here yet"
    ]
