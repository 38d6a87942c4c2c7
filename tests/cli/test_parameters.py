"""Laws of option values."""

import pytest
from click import BadParameter

from aobatch.cli.values import DURATION, FIELD, SIZE


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("1000000", 1000000),
        ("4GiB", 4 * 2**30),
        ("4gb", 4 * 2**30),
        ("512M", 512 * 2**20),
        ("1.5 KiB", 1536),
        ("2TiB", 2**41),
        ("7B", 7),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    """A size is a number with or without a unit."""
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "4 G iB", "1e9", "GiB", "4XiB"])
def test_wrong_sizes_are_refused(text: str) -> None:
    """Nothing else is a size."""
    with pytest.raises(BadParameter, match="not a size"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("0.5s", 0.5), ("30m", 1800), ("2H", 7200), ("1d1h1m1s", 90061)],
)
def test_durations_are_numbers_with_units(text: str, seconds: float) -> None:
    """A duration is seconds, or days, hours, minutes and seconds in their order."""
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1x", "s", "1m1h", "1.5h", "nan", "3651d", "9" * 30]
)
def test_wrong_durations_are_refused(text: str) -> None:
    """Nothing else is a duration."""
    with pytest.raises(BadParameter, match="not a duration"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("temperature=0.5", ("temperature", 0.5)),
        ('stop=["a=b"]', ("stop", ["a=b"])),
        ("user=ada", ("user", "ada")),
        ("user=", ("user", "")),
        ("echo=true", ("echo", True)),
        ("user=" + "[" * 10**5, ("user", "[" * 10**5)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_are_json_or_text(text: str, pair: tuple[str, object]) -> None:
    """A value is what its JSON says, and text if it is no JSON."""
    assert FIELD.convert(text, None, None) == pair


@pytest.mark.parametrize("text", ["temperature", "=1", ""])
def test_pairs_need_a_name_and_a_value(text: str) -> None:
    """What has no name or no equals sign is refused."""
    with pytest.raises(BadParameter, match="not NAME=VALUE"):
        FIELD.convert(text, None, None)
