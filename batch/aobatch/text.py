"""Text for people: hidden characters escaped, tables, numbers and times in words."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from unicodedata import category

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, marks that cannot be seen or turn text around, half characters, further line ends."""


def escape(text: str, kept: str = "") -> str:
    r"""Write hidden characters, but those that are kept, as \u001b; JSON stays the same JSON."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in kept or category(character) not in HIDDEN else _code(character)
        for character in text
    )


def _code(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def printable(text: str, length: int = 40) -> str:
    """Escape text that a request or a file brings along, and cut it to some characters."""
    shown = escape(text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def counted(number: int, noun: str) -> str:
    """Write `1 line`, `2 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float, *, is_exact: bool = True) -> str:
    """Write a time in its two greatest units; less than a minute with fractions if it is exact."""
    if seconds < 60 and is_exact:
        return f"{seconds:.{1 if seconds >= 10 else 2}f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def aligned(rows: Iterable[Sequence[str]], sides: str = "<") -> list[str]:
    """Lay out the rows of a table in columns two spaces apart.

    `sides` has `<` or `>` for each column; its last one is that of all further columns.
    """
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    sides = sides.ljust(len(widths), sides[-1])
    cells = [f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True)]
    return ["  ".join(cells).format(*row).rstrip() for row in table]


@lru_cache(maxsize=256)
def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Find the known name that was probably meant."""
    # A job may hold one typing error a million times, and a search costs 100 microseconds.
    return next(iter(get_close_matches(name, known, n=1)), None)
