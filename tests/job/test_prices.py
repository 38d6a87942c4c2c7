"""Laws of what tokens cost."""

from decimal import Decimal
from pathlib import Path

import pytest

from aobatch.errors import InputMissingError, UsageError
from aobatch.job.report.usage import GroupUsage, cost_of, read_prices

TEXT = """
currency = "EUR"
[models.small]
prompt = 0.1
completion = 1
[models."gpt-3.5-turbo-instruct"]
prompt = 1.5
completion = 2.0
"""


def group(name: str | None, prompt: int, completion: int) -> GroupUsage:
    """Give what the lines of a model used."""
    return GroupUsage(name, 1, 0, prompt, completion, prompt + completion)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a file of prices."""
    path = tmp_path / "prices.toml"
    path.write_text(TEXT)
    return path


def test_cost_is_price_times_tokens(path: Path) -> None:
    """Every model is charged by its own price a million; the total is their sum."""
    groups = [group("small", 12_345_678, 999), group("gpt-3.5-turbo-instruct", 10, 3_000_001)]

    cost = cost_of(groups, read_prices(path))

    small = (Decimal("0.1") * 12_345_678 + Decimal(999)) / 1_000_000
    large = (Decimal("1.5") * 10 + Decimal(2) * 3_000_001) / 1_000_000
    assert cost.by_model == {
        "small": pytest.approx(float(small)),
        "gpt-3.5-turbo-instruct": pytest.approx(float(large)),
    }
    assert (cost.currency, cost.unpriced) == ("EUR", [])
    assert cost.total == pytest.approx(float(small + large))


def test_models_without_a_price_are_named(path: Path) -> None:
    """What has no price is not in the total and is said; models that only failed cost nothing."""
    cost = cost_of([group("other", 5, 5), group(None, 0, 0)], read_prices(path))

    assert (cost.total, cost.by_model, cost.unpriced) == (0, {}, ["other"])


def test_star_is_the_price_of_all_others(path: Path) -> None:
    """A file can give one price for whatever it does not name."""
    path.write_text(f'{TEXT}\n[models."*"]\nprompt = 10\ncompletion = 10\n')

    cost = cost_of([group("other", 50_000, 50_000)], read_prices(path))

    assert (cost.total, cost.unpriced) == (1.0, [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("currency = 1", "Expected `str`"),
        ('currency = "EUR"', "missing required field `models`"),
        (TEXT.replace("0.1", "-1"), ">= 0.0"),
        (TEXT.replace("0.1", "inf"), "<= 1000000000.0"),
        (TEXT.replace("0.1", "nan"), "are not as they should be"),
        (TEXT.replace("completion = 1\n", ""), "missing required field `completion`"),
        (TEXT.replace("prompt = 1.5", "promt = 1.5"), "unknown field `promt`"),
        ("currency", "are not as they should be"),
    ],
)
def test_wrong_prices_are_refused(path: Path, text: str, words: str) -> None:
    """A file that says something else than prices is refused, with its place."""
    path.write_text(text)

    with pytest.raises(UsageError, match=r"prices\.toml") as caught:
        read_prices(path)

    assert words in str(caught.value)


def test_missing_prices_are_a_missing_input(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(InputMissingError, match=r"no\.toml cannot be read"):
        read_prices(tmp_path / "no.toml")
