"""Laws of `aobatch doctor`."""

import json
from pathlib import Path

import pytest
from fake_command import Invoke

from aobatch.cli import doctor as versions
from aobatch.errors import ModelError
from aobatch.executors import local as memory
from aobatch.runners import session


@pytest.fixture(autouse=True)
def _no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no model be here, which would be opened."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))


def diagnosed(invoke: Invoke, code: int = 0) -> tuple[dict[str, dict], list[dict]]:
    """Give the checks by name, and the models."""
    found = json.loads(invoke("doctor", "--json", code=code).stdout)
    assert found["is_right"] == (code == 0)
    return {check["name"]: check for check in found["checks"]}, found["models"]


def test_a_machine_that_can_run_jobs_is_right(invoke: Invoke) -> None:
    """This machine runs the suite, so that nothing is wrong with it."""
    checks, models = diagnosed(invoke)

    assert {"Python", "onnxruntime", "8-bit products", "memory", "models folder"} <= set(checks)
    assert models[0]["name"] == "smollm2-135m-instruct"
    assert "WRONG" not in invoke("doctor").stdout


def test_what_is_wrong_is_marked(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong products, no memory, a missing package and a folder that cannot be made."""

    def fail() -> None:
        message = "8-bit products are wrong on this processor"
        raise ModelError(message)

    monkeypatch.setattr(session, "integer_entries", fail)
    monkeypatch.setattr("aobatch.cli.doctor.available_memory", lambda: 1000)
    monkeypatch.setattr(versions, "PACKAGES", ("click", "no-such-package"))
    Path("file").touch()
    monkeypatch.setenv("AOBATCH_MODELS", "file/models")
    checks, _ = diagnosed(invoke, code=1)
    shown = invoke("doctor", code=1).stdout

    wrong = {name for name, check in checks.items() if not check["is_right"]}
    assert wrong == {"8-bit products", "memory", "no-such-package", "models folder"}
    assert all(checks[name]["advice"] for name in wrong)
    assert shown.count("WRONG") == 4
    assert "not here: aobatch models pull smollm2-135m-instruct" in shown


def test_a_model_that_is_here_answers(
    invoke: Invoke, tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packages that do not fit are found, whatever numbers they have."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    answer = "answer of a model"
    assert diagnosed(invoke)[0][answer]["found"] == "smollm2-135m-instruct answers"

    def fail(*_: object) -> None:
        message = "'FieldDescriptor' object has no attribute 'is_repeated'"
        raise AttributeError(message)

    monkeypatch.setattr("aobatch.models.tokenizer.load_tokenizer", fail)
    check = diagnosed(invoke, code=1)[0][answer]
    assert not check["is_right"]
    assert "is_repeated" in check["found"]
    assert "requirements.txt" in check["advice"]


def test_settings_file_is_named(invoke: Invoke, tmp_path: Path) -> None:
    """Which file the settings come from is part of the picture."""
    (tmp_path / "aobatch.toml").write_text("quiet = true\n")

    assert diagnosed(invoke)[0]["settings file"]["found"] == "aobatch.toml"


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000000", 1_000_000), ("max", None), (str(2**63), None)]
)
def test_limit_of_a_container_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int | None
) -> None:
    """A limit is a number below all memory there could be."""
    (tmp_path / "max").write_text(limit)
    (tmp_path / "current").write_text("400000")
    monkeypatch.setattr(memory, "GROUP_LIMITS", ((tmp_path / "max", tmp_path / "current"),))

    assert memory.container_limit() == expected
    if expected is not None:
        assert memory.available_memory() == 600_000
