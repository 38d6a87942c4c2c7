"""Laws of texts that the tokenizers library cannot read."""

import pytest

from aobatch.errors import RequestError
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import VocabularyTokenizer, load_tokenizer


class Panic(BaseException):
    """What the library raises is no Exception."""


class Library:
    """Fails with what it is given, quoting the text."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def encode(self, text: str, **_: object) -> None:
        """Fail."""
        raise self._kind(text)


@pytest.fixture
def tokenizer(tiny_fp32: ModelFolder) -> VocabularyTokenizer:
    """Give the tokenizer of the tiny model."""
    return load_tokenizer(tiny_fp32)


@pytest.mark.parametrize("kind", [Panic, TypeError, MemoryError])
def test_failure_is_the_requests_and_quotes_nothing(
    tokenizer: VocabularyTokenizer, kind: type[BaseException]
) -> None:
    """A panic of the library is one request's error, and its message does not hold the text."""
    tokenizer._library = Library(kind)

    with pytest.raises(RequestError) as caught:
        tokenizer.encode("xyzzy")

    assert (caught.value.code, caught.value.param) == ("invalid_value", "prompt")
    assert kind.__name__ in caught.value.message
    assert "xyzzy" not in caught.value.message


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interruption_goes_through(
    tokenizer: VocabularyTokenizer, kind: type[BaseException]
) -> None:
    """Who wants the job to end is not taken for a bad prompt."""
    tokenizer._library = Library(kind)

    with pytest.raises(kind):
        tokenizer.encode("")


def test_half_character_is_the_requests_error(tokenizer: VocabularyTokenizer) -> None:
    """What the parser refuses would not break the tokenizer either."""
    with pytest.raises(RequestError):
        tokenizer.encode("a\ud800")
