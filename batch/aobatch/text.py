"""Text for people: hidden characters escaped, tables, numbers and times in words."""

from collections.abc import Iterable, Sequence
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
    """Find the known name that was probably meant, None if it is not sure.

    It begins alike and differs by a slip for each four letters, or by case and underscores alone.
    """
    # A job may hold one typing error a million times, and a search takes a while.
    plain = _letters(name)
    most = (len(plain) + 3) // 4
    slips = [
        (_num_slips(plain, letters), other)
        for other in dict.fromkeys(known)
        if (letters := _letters(other))[:1] == plain[:1] and abs(len(letters) - len(plain)) <= most
    ]
    fewest = min((number for number, _ in slips), default=most + 1)
    best = [other for number, other in slips if number == fewest <= most]
    return best[0] if len(best) == 1 else None


def _letters(name: str) -> str:
    """Leave what is the same in maxTokens, max-tokens and max_tokens."""
    return name.replace("_", "").replace("-", "").lower()


def _num_slips(one: str, other: str) -> int:
    """Count letters that are missing, too many, wrong, or in the place of their neighbour."""
    # Rows of the table of optimal string alignment, two before the first one.
    rows: list[list[int]] = [[0] * (len(other) + 1), [*range(len(other) + 1)]]
    for i, letter in enumerate(one):
        row = [i + 1]
        for j, wanted in enumerate(other):
            is_swapped = i and j and letter == other[j - 1] and one[i - 1] == wanted
            change = rows[-1][j] + (letter != wanted)
            swap = rows[-2][j - 1] + 1 if is_swapped else change
            row.append(min(change, swap, rows[-1][j + 1] + 1, row[j] + 1))
        rows.append(row)
    return rows[-1][-1]
