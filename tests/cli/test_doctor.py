"""Laws of `aobatch doctor`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli import doctor as versions
from aobatch.cli.main import aobatch
from aobatch.errors import ModelError
from aobatch.executors import local as memory
from aobatch.runners import session


def diagnosed(runner: CliRunner) -> tuple[int, dict[str, dict], list[dict]]:
    """Give the exit code, the checks by name, and the models."""
    result = runner.invoke(aobatch, ["doctor", "--json"])
    found = json.loads(result.stdout)
    assert found["is_right"] == (result.exit_code == 0)
    return result.exit_code, {check["name"]: check for check in found["checks"]}, found["models"]


def test_a_machine_that_can_run_jobs_is_right(runner: CliRunner) -> None:
    """This machine runs the suite, so that nothing is wrong with it."""
    code, checks, models = diagnosed(runner)

    assert code == 0, checks
    assert {"Python", "onnxruntime", "8-bit products", "memory", "models folder"} <= set(checks)
    assert models[0]["name"] == "smollm2-135m-instruct"
    shown = runner.invoke(aobatch, ["doctor"])
    assert shown.exit_code == 0
    assert "WRONG" not in shown.stdout


def test_what_is_wrong_is_marked(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong products, no memory, a missing package and a folder that cannot be made."""

    def fail() -> None:
        message = "8-bit products are wrong on this processor"
        raise ModelError(message)

    monkeypatch.setattr(session, "integer_entries", fail)
    monkeypatch.setattr("aobatch.cli.doctor.available_memory", lambda: 1000)
    monkeypatch.setattr(versions, "PACKAGES", ("click", "no-such-package"))
    Path("file").touch()
    monkeypatch.setenv("AOBATCH_MODELS", "file/models")
    code, checks, _ = diagnosed(runner)
    shown = runner.invoke(aobatch, ["doctor"]).stdout

    wrong = {name for name, check in checks.items() if not check["is_right"]}
    assert code == 1
    assert wrong == {"8-bit products", "memory", "no-such-package", "models folder"}
    assert all(checks[name]["advice"] for name in wrong)
    assert shown.count("WRONG") == 4
    assert "not here: aobatch models pull smollm2-135m-instruct" in shown


def test_settings_file_is_named(runner: CliRunner, tmp_path: Path) -> None:
    """Which file the settings come from is part of the picture."""
    (tmp_path / "aobatch.toml").write_text("quiet = true\n")

    assert diagnosed(runner)[1]["settings file"]["found"] == "aobatch.toml"


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
