"""Text to token ids and back: the one home of the tokenizers library."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from aobatch.api.errors import invalid_value
from aobatch.arrays import TokenIds
from aobatch.errors import ModelError, RequestError
from aobatch.models.chat import MARKERS, UNKNOWN, Part, format_of_vocabulary
from aobatch.models.checks.tokenizer import AddedToken, TokenizerFile, check_tokenizer
from aobatch.models.store.folder import ModelFolder

SPACE = "▁"
"""What pieces of text have in place of a space."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Tokenizer(Protocol):
    """What the engine needs of a vocabulary."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes that each token id stands for; a special token stands for its name."""
        ...

    @property
    def special_token_ids(self) -> Sequence[int]:
        """The tokens that say something to the model and stand for no text."""
        ...

    def encode(self, text: str) -> TokenIds:
        """Give the ids of a text, [N], without any added start token."""
        ...

    def encode_parts(self, parts: Sequence[Part]) -> TokenIds:
        """Give the ids of a conversation, [N]; what its contents say is never a special token."""
        ...


class VocabularyTokenizer:
    """A tokenizer.json as the models' authors mean it."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        """Open the tokenizer of a model of so many tokens; ModelError if it cannot be used."""
        from tokenizers import Tokenizer as Library

        file = check_tokenizer(path, vocab_size)
        try:
            self._library = Library.from_buffer(msgspec.json.encode(file))
        except BaseException as error:  # a panic of the library is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            message = f"{path} is not a readable tokenizer: {error}"
            raise ModelError(message) from error
        for token in file.added_tokens:
            if self._library.token_to_id(token.content) != token.id:
                message = (
                    f"{path} gives the added token {token.content!r} the id {token.id}, which does "
                    "not follow the vocabulary; get the model's original tokenizer.json"
                )
                raise ModelError(message)
        self.token_bytes = _token_bytes(file, path, vocab_size)
        self._place = path, vocab_size
        self._part_encoder: PartEncoder | None = None
        self.special_token_ids = [t.id for t in file.added_tokens if t.special is True]

    def encode(self, text: str) -> TokenIds:
        """Give the ids of a text, [N]; RequestError if the library cannot read it."""
        with _refusing_unreadable():
            ids = self._library.encode(text, add_special_tokens=False).ids
        return np.array(ids, np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Give the ids of several texts, on all cores; RequestError if one cannot be read."""
        with _refusing_unreadable():
            found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int64) for encoding in found]

    def encode_parts(self, parts: Sequence[Part]) -> TokenIds:
        """Give the ids of a conversation, [N]; RequestError if the library cannot read it."""
        # It takes as much memory as the vocabulary, which completions need once.
        if self._part_encoder is None:
            self._part_encoder = PartEncoder(*self._place)
        return self._part_encoder.encode(parts)


class PartEncoder:
    """Encodes conversations: special tokens are those of the frames, contents are text."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        """Open a tokenizer that was opened before, and so can be used."""
        from tokenizers import Tokenizer as Library

        file = check_tokenizer(path, vocab_size)
        added = [
            msgspec.structs.replace(token, special=True) if token.content in MARKERS else token
            for token in file.added_tokens
        ]
        self._markers = {token.content: token for token in added if token.special is True}
        names = sorted(self._markers, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        rule = file.pre_tokenizer
        # What begins a text is told from what follows a token; here all but the first text follow.
        self._begins_with_space = rule is not None and rule.prepend_scheme == "first"
        if rule is not None and self._begins_with_space:
            rule = msgspec.structs.replace(rule, prepend_scheme="never")
        plain = msgspec.structs.replace(file, added_tokens=added, pre_tokenizer=rule)
        self._library = Library.from_buffer(msgspec.json.encode(plain))
        self._library.encode_special_tokens = True

    def encode(self, parts: Sequence[Part]) -> TokenIds:
        """Give the ids of a conversation, [N]; RequestError if the library cannot read it."""
        ids: list[int] = []
        text, is_eaten = "", False
        for piece, token in self._split(parts):
            if token is None:
                text += piece
                continue
            self._add_text(ids, text.rstrip() if token.lstrip is True else text, is_eaten)
            ids.append(token.id)
            text, is_eaten = "", token.rstrip is True
        self._add_text(ids, text, is_eaten)
        return np.array(ids, np.int64)

    def _split(self, parts: Sequence[Part]) -> Iterator[tuple[str, AddedToken | None]]:
        """Yield texts and, from what is no content, the special tokens between them."""
        for text, is_content in parts:
            start = 0
            for found in () if is_content else self._pattern.finditer(text):
                yield text[start : found.start()], None
                yield found[0], self._markers[found[0]]
                start = found.end()
            yield text[start:], None

    def _add_text(self, ids: list[int], text: str, is_eaten: bool) -> None:
        """Add the ids of a text, whose first white space the token ahead of it may have eaten."""
        text = text.lstrip() if is_eaten else text
        if not text:
            return
        if self._begins_with_space and not ids and not text.startswith(" "):
            text = f" {text}"
        with _refusing_unreadable():
            ids += self._library.encode(text, add_special_tokens=False).ids


@contextmanager
def _refusing_unreadable() -> Iterator[None]:
    """Raise RequestError for whatever the library raises, which may be no Exception."""
    try:
        yield
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        # What the library says may quote the text, which belongs in no message.
        reason = f"the tokenizer cannot read it ({type(error).__name__})."
        raise invalid_value(reason, "prompt") from error


class ReadAhead:
    """A tokenizer that takes texts in batches, ahead of being asked for each."""

    MAX_CHARACTERS = 2**16
    """Longer texts are read when they are asked for, which may turn out to be never."""

    def __init__(self, tokenizer: VocabularyTokenizer) -> None:
        self.token_bytes = tokenizer.token_bytes
        self.special_token_ids = tokenizer.special_token_ids
        self._tokenizer = tokenizer
        self._known: Mapping[str, TokenIds] = {}

    def read(self, texts: Iterable[str]) -> Mapping[str, TokenIds]:
        """Encode texts, in any thread; errors wait until `encode` is asked for the text."""
        short = [text for text in dict.fromkeys(texts) if len(text) <= self.MAX_CHARACTERS]
        try:
            return dict(zip(short, self._tokenizer.encode_batch(short), strict=True))
        except RequestError:
            return {}

    def hold(self, known: Mapping[str, TokenIds]) -> None:
        """Know the ids of these texts, in place of those before."""
        self._known = known

    def encode(self, text: str) -> TokenIds:
        """Give the ids of a text, [N]."""
        known = self._known.get(text)
        return self._tokenizer.encode(text) if known is None else known

    def encode_parts(self, parts: Sequence[Part]) -> TokenIds:
        """Give the ids of a conversation, [N]."""
        return self._tokenizer.encode_parts(parts)


def _token_bytes(file: TokenizerFile, path: Path, vocab_size: int) -> list[bytes]:
    # Models pad their vocabulary with ids that stand for nothing.
    table = [b""] * vocab_size
    has_pieces = file.model.byte_fallback is True
    added = {token.content: token for token in file.added_tokens}
    for token, index in file.model.vocab.items():
        if token not in added:
            table[index] = _piece(token) if has_pieces else _bytes_of(token, path)
    for token, description in added.items():
        is_piece = has_pieces and description.special is not True
        table[description.id] = _piece(token) if is_piece else token.encode()
    return table


def _piece(token: str) -> bytes:
    """Give what a piece of text stands for: a byte by its number, or itself with spaces."""
    byte = _BYTE.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else token.replace(SPACE, " ").encode()


def _bytes_of(token: str, path: Path) -> bytes:
    byte_of = byte_level_alphabet()
    try:
        return bytes([byte_of[character] for character in token])
    except KeyError as error:
        message = (
            f"{path} has the token {token!r}; only vocabularies of bytes, or of pieces that fall "
            "back on bytes, are supported"
        )
        raise ModelError(message) from error


@cache
def byte_level_alphabet() -> dict[str, int]:
    """Map the printable stand-ins of byte-level BPE to their bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


def load_tokenizer(folder: ModelFolder) -> VocabularyTokenizer:
    """Open the tokenizer of a model folder."""
    return VocabularyTokenizer(folder.tokenizer, folder.manifest.vocab_size)


def chat_format_of(folder: ModelFolder) -> str:
    """Name the format of chats of a model, `none` if no format that is known here fits."""
    if folder.manifest.chat_format != UNKNOWN:
        return folder.manifest.chat_format
    file = check_tokenizer(folder.tokenizer)
    added = (token.content for token in file.added_tokens)
    return format_of_vocabulary({*file.model.vocab, *added})
