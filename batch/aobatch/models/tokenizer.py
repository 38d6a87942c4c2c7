"""Text to token ids and back: the one home of the tokenizers library."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from aobatch.api.errors import invalid_value
from aobatch.arrays import TokenIds
from aobatch.errors import ModelError
from aobatch.models.folder import ModelFolder


class Tokenizer(Protocol):
    """What the engine needs of a vocabulary."""

    @property
    def token_bytes(self) -> Sequence[bytes]:
        """The bytes that each token id stands for; a special token stands for its name."""
        ...

    def encode(self, text: str) -> TokenIds:
        """Give the ids of a text, [N], without any added start token."""
        ...


class VocabularyTokenizer:
    """A tokenizer.json as the models' authors mean it."""

    def __init__(self, path: Path, vocab_size: int = 0) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            message = f"{path} is not a readable tokenizer: {error}"
            raise ModelError(message) from error
        self._library.no_truncation()
        self._library.no_padding()
        self.token_bytes = _token_bytes(self._library, vocab_size)

    def encode(self, text: str) -> TokenIds:
        """Give the ids of a text, [N]; RequestError if the library cannot read it."""
        try:
            ids = self._library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            # What the library says may quote the text, which belongs in no message.
            reason = f"the tokenizer cannot read it ({type(error).__name__})."
            raise invalid_value(reason, "prompt") from error
        return np.array(ids, np.int64)


def _token_bytes(library: object, vocab_size: int) -> list[bytes]:
    vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)  # type: ignore[attr-defined]
    special = library.get_added_tokens_decoder()  # type: ignore[attr-defined]
    # Models pad their vocabulary with ids that stand for nothing.
    table = [b""] * max(vocab_size, 1 + max(vocabulary.values(), default=-1))
    byte_of = byte_level_alphabet()
    for token, index in vocabulary.items():
        if index in special:
            table[index] = token.encode()
        else:
            table[index] = bytes(byte_of[character] for character in token)
    return table


def byte_level_alphabet() -> dict[str, int]:
    """Map the printable stand-ins of byte-level BPE to their bytes (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


def load_tokenizer(folder: ModelFolder) -> VocabularyTokenizer:
    """Open the tokenizer of a model folder."""
    return VocabularyTokenizer(folder.path / "tokenizer.json", folder.manifest.vocab_size)
