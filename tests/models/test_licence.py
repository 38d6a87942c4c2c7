"""Laws of terms: no model that has any is fetched or used before somebody accepted them."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from aobatch.errors import ModelError, OutputError
from aobatch.models.store import catalogue
from aobatch.models.store.card import Card, Source, accept, check_accepted, needs_acceptance
from aobatch.runners.scoring import score_texts

FREE = Card("free", "A test", "MIT", "fp32", Source("0" * 64, ()))
BOUND = msgspec.structs.replace(FREE, name="bound", licence="Terms of Test", notice="Be good.")


@dataclass
class Fetches:
    """Counts what is fetched, and fetches nothing."""

    count: int = 0

    def __call__(self, *_: object) -> None:
        """Refuse to go on."""
        self.count += 1
        message = "fetched"
        raise ModelError(message)


@pytest.fixture
def fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetches:
    """Give two cards, a home for their models, and a download that counts."""
    fetches = Fetches()
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path))
    monkeypatch.setattr(catalogue, "cards", lambda: (FREE, BOUND))
    monkeypatch.setattr(catalogue, "download", fetches)
    return fetches


def ensure(name: str) -> None:
    """Ask for a model of the catalogue."""
    catalogue.ensure(name, lambda *_: None, score_texts)


def test_nothing_is_fetched_before_terms_are_accepted(fetches: Fetches, tmp_path: Path) -> None:
    """The error names the terms and the command; afterwards the same call goes on."""
    with pytest.raises(ModelError, match=r"Terms of Test.*pull bound.*--accept-licence"):
        ensure("bound")
    assert fetches.count == 0

    accept(BOUND, tmp_path)
    with pytest.raises(ModelError, match="fetched"):
        ensure("bound")


def test_nothing_is_used_before_terms_are_accepted(fetches: Fetches) -> None:
    """A job's model is refused for its terms before it is missed."""
    with pytest.raises(ModelError, match="Terms of Test"):
        catalogue.resolve("bound")


def test_models_without_terms_ask_for_nothing(fetches: Fetches, tmp_path: Path) -> None:
    """A card without a notice is fetched at once."""
    assert not needs_acceptance(FREE, tmp_path)
    with pytest.raises(ModelError, match="fetched"):
        ensure("free")


def test_other_terms_are_accepted_anew(tmp_path: Path) -> None:
    """What was accepted is the text that was shown, not whatever comes later."""
    accept(BOUND, tmp_path)
    check_accepted(BOUND, tmp_path)
    changed = msgspec.structs.replace(BOUND, notice="Be very good.")

    with pytest.raises(ModelError, match="read and accept them"):
        check_accepted(changed, tmp_path)


def test_a_damaged_record_accepts_nothing(tmp_path: Path) -> None:
    """A record that is no text is as good as none."""
    accept(BOUND, tmp_path)
    (tmp_path / ".accepted/bound").write_bytes(b"\xff")

    assert needs_acceptance(BOUND, tmp_path)


def test_acceptance_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    """A home that is a file gives one sentence."""
    (tmp_path / "home").touch()

    with pytest.raises(OutputError, match="set AOBATCH_MODELS"):
        accept(BOUND, tmp_path / "home")


def test_the_card_of_gemma_has_terms() -> None:
    """Its notice is the one that its terms ask for."""
    card = catalogue.find_card("gemma-3-270m")

    assert card is not None
    assert "subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms" in card.notice
    assert len(card.source.wheels) == 4
