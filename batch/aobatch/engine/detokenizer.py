"""Token bytes to text, piece by piece, without ever breaking a character."""

import codecs
from collections.abc import Iterable

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Turns the bytes of tokens into text; bytes of an unfinished character wait for the rest."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("replace")

    def push(self, token: bytes) -> str:
        """Take in a token; return the text that it completes."""
        return self._decoder.decode(token)

    def gap(self, token: bytes) -> int:
        """Count the code points between the text so far and the one that the token begins in.

        Those are the U+FFFD of an unfinished character that the token cannot continue: one, or two
        where its second byte could never follow the first.
        """
        unfinished, _ = self._decoder.getstate()
        return len(decode([unfinished, token[:1]])) - 1 if unfinished else 0


def decode(tokens: Iterable[bytes]) -> str:
    """Decode whole bytes; what is not UTF-8 becomes U+FFFD."""
    return b"".join(tokens).decode("utf-8", "replace")


def offsets(tokens: Iterable[bytes], start: int) -> list[int]:
    """Find the code point at which each token begins, counting from start.

    Tokens that share a character all begin where the character does.
    """
    detokenizer, position, places = Detokenizer(), start, []
    for token in tokens:
        places.append(position + detokenizer.gap(token))
        position += len(detokenizer.push(token))
    return places


def as_asked(tokens: list[bytes], text: str) -> list[bytes]:
    """Take away the spaces that vocabularies of pieces put ahead of a text and behind marks.

    What differs from the text in another way stays as it is.
    """
    asked, place, found = text.encode("utf-8", "replace"), 0, []
    if b"".join(tokens) == asked:
        return tokens
    for token in tokens:
        is_added = token.startswith(b" ") and not asked.startswith(token, place)
        found.append(token[1:] if is_added else token)
        if not asked.startswith(found[-1], place):
            return tokens
        place += len(found[-1])
    return found


def token_name(token: bytes) -> str:
    r"""Write a token as text, or as `bytes:\xe2\x80` if its bytes are not text by themselves."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
