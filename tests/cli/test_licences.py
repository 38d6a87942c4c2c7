"""Laws of `aobatch models pull` for a model with terms, and of the precisions that are offered."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.errors import ModelError
from aobatch.models.store import catalogue
from aobatch.models.store.card import needs_acceptance


@pytest.fixture(autouse=True)
def _nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep models in an empty folder, and fail where one would be fetched."""

    def fail(*_: object) -> None:
        message = "fetched"
        raise ModelError(message)

    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path))
    monkeypatch.setattr(catalogue, "download", fail)


def test_terms_are_shown_and_wait_for_an_answer(runner: CliRunner, tmp_path: Path) -> None:
    """Without a terminal nobody can be asked: the notice and one sentence, and nothing fetched."""
    result = runner.invoke(aobatch, ["models", "pull", "gemma-3-270m"])

    assert result.exit_code == 69
    assert "ai.google.dev/gemma/terms" in result.stderr
    assert "--accept-licence where nobody can be asked" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_accepted_terms_are_remembered(runner: CliRunner, tmp_path: Path) -> None:
    """With the option the model is fetched; the second time nothing is shown or asked."""
    first = runner.invoke(aobatch, ["models", "pull", "gemma-3-270m", "--accept-licence"])
    second = runner.invoke(aobatch, ["models", "pull", "gemma-3-270m"])

    assert ["fetched" in result.stderr for result in (first, second)] == [True, True]
    assert ["Prohibited Use" in result.stderr for result in (first, second)] == [True, False]
    card = catalogue.find_card("gemma-3-270m")
    assert card is not None
    assert not needs_acceptance(card, tmp_path)


def test_a_job_on_a_model_with_terms_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    """`run` says which terms are to be accepted, and how."""
    job = tmp_path / "job.jsonl"
    job.write_text('{"prompt": "x"}\n')
    result = runner.invoke(aobatch, ["run", str(job), "--model", "gemma-3-270m"])

    assert result.exit_code == 69
    assert "comes under the Gemma Terms of Use" in result.stderr
    assert not (tmp_path / "job.out.jsonl").exists()
