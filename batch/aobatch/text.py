"""Text from outside in a form that a terminal or a log shows and does not obey."""

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


def printable(text: str, length: int = 40) -> str:
    """Escape text that a request or a file brings along, and cut it to some characters."""
    shown = escape(text[: length + 1])
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def counted(number: int, noun: str) -> str:
    """Write `1 line`, `2 lines`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _code(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))
