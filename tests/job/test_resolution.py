"""Laws of the names of models that lines give."""

from contextlib import closing
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import output, run, write_input

from aobatch.errors import RequestError
from aobatch.executors import ModelIdentity
from aobatch.job.ledger import Ledger
from aobatch.job.models import MAX_NAME_LENGTH, NUM_MISSING, ModelDirectory


def test_names_of_no_model_take_bounded_memory(tmp_path: Path) -> None:
    """Of many names that nobody has, the last are remembered, and none that is endless."""
    with closing(Ledger(tmp_path / "ledger.sqlite3")) as ledger:
        models = ModelDirectory(FakeBackend(), None, ledger)
        names = [f"no {number}" for number in range(2 * NUM_MISSING)]
        errors = [models.find(name) for name in [*names, "x" * (MAX_NAME_LENGTH + 1)]]

        assert {type(error) for error in errors} == {RequestError}
        assert {error.__traceback__ for error in errors} == {None}  # type: ignore[union-attr]
        assert len(models._missing) <= NUM_MISSING
        assert max(map(len, models._missing)) <= MAX_NAME_LENGTH  # type: ignore[arg-type]


def test_model_that_exists_is_looked_up_once(tmp_path: Path) -> None:
    """However many names fail in between, a model that was found stays the same one."""
    backend = FakeBackend()
    with closing(Ledger(tmp_path / "ledger.sqlite3")) as ledger:
        models = ModelDirectory(backend, None, ledger)
        first = models.find("other")
        for number in range(2 * NUM_MISSING):
            models.find(f"no {number}")
        backend.fingerprints["other"] = "changed meanwhile"

        assert isinstance(first, ModelIdentity)
        assert models.find("other") is first


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "a\0b", "x" * 5000, "", "\n", "\x1b[2J"]
)
def test_hostile_names_fail_their_line_alone(tmp_path: Path, name: str) -> None:
    """A path, a terminal's command or an endless name is not found; the next line is answered."""
    write_input(tmp_path / "in.jsonl", [{"prompt": "a", "model": name}, {"prompt": "b"}])

    run(tmp_path)

    bad, good = output(tmp_path)
    assert (bad["status_code"], bad["error"]["code"]) == (404, "model_not_found")
    assert len(bad["error"]["message"]) < 300
    assert "choices" in good
