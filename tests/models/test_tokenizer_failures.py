"""Laws of texts that the tokenizers library cannot read: they end neither a job nor the library."""

import json
from pathlib import Path

import pytest
from tokenizer_files import KINDS, document
from tokenizers import Tokenizer

from aobatch.api.request import Limits, Parser
from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError, RequestError
from aobatch.executors.local import open_engine
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import VocabularyTokenizer
from aobatch.runners import RunnerConfig

HOSTILE = "(a+)+$"
PROMPT = "a" * 24 + "b"


class Panic(BaseException):
    """What the library raises is no Exception."""


class Library:
    """Fails with what it is given, quoting the text."""

    def __init__(self, kind: type[BaseException]) -> None:
        self._kind = kind

    def encode(self, text: str, **_: object) -> None:
        """Fail."""
        raise self._kind(text)

    from_buffer = encode


@pytest.fixture
def tokenizer_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a tokenizer whose splitting takes the library to its limit, as if it had been tried."""
    monkeypatch.setattr("aobatch.models.checks.tokenizer.why_unsafe", lambda _: "")
    file = document(KINDS["llama-3"])
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = HOSTILE
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    return path


def test_the_library_panics_indeed(tokenizer_file: Path) -> None:
    """The prompt raises what no `except Exception` catches, or the next test would show nothing."""
    library = Tokenizer.from_file(str(tokenizer_file))

    with pytest.raises(BaseException, match="retry-limit") as caught:
        library.encode(PROMPT)
    assert not isinstance(caught.value, Exception)


@pytest.mark.parametrize("text", [PROMPT, "a\ud800"])
def test_a_panic_is_the_error_of_its_request(tokenizer_file: Path, text: str) -> None:
    """The prompt gets a RequestError, also a half character, and the next one its ids."""
    tokenizer = VocabularyTokenizer(tokenizer_file, 512)
    before = tokenizer.encode("bba").tolist()

    for _ in range(2):
        with pytest.raises(RequestError, match="the tokenizer cannot read it") as caught:
            tokenizer.encode(text)
        assert (caught.value.code, caught.value.param) == ("invalid_value", "prompt")
        assert before == tokenizer.encode("bba").tolist()


@pytest.mark.parametrize("kind", [Panic, TypeError, MemoryError])
def test_failure_is_the_requests_and_quotes_nothing(
    tokenizer_file: Path, kind: type[BaseException]
) -> None:
    """Whatever the library raises is one request's error, whose message does not hold the text."""
    tokenizer = VocabularyTokenizer(tokenizer_file, 512)
    tokenizer._library = Library(kind)

    with pytest.raises(RequestError, match=kind.__name__) as caught:
        tokenizer.encode("xyzzy")
    assert "xyzzy" not in caught.value.message


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interruption_goes_through(tokenizer_file: Path, kind: type[BaseException]) -> None:
    """Who wants the job to end is not taken for a bad prompt."""
    tokenizer = VocabularyTokenizer(tokenizer_file, 512)
    tokenizer._library = Library(kind)

    with pytest.raises(kind):
        tokenizer.encode("")


def test_a_panic_leaves_the_other_requests_alone(
    tiny_fp32: ModelFolder, tokenizer_file: Path, tmp_path: Path
) -> None:
    """An engine answers what stands around the prompt that its tokenizer cannot read."""
    for file in tiny_fp32.path.iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    folder = ModelFolder(tmp_path, tiny_fp32.manifest)
    engine = open_engine(folder, EngineConfig(), RunnerConfig(1))
    bodies = [{"prompt": text, "max_tokens": 1} for text in ("bb", PROMPT, "ba")]
    parser = Parser({}, Limits())
    requests = [parser.parse(n, json.dumps(body).encode()) for n, body in enumerate(bodies)]
    failed = {result.request.line: result.error is not None for result in engine.run(requests)}

    assert failed == {0: False, 1: True, 2: False}


def test_a_panic_at_loading_is_a_model_error(
    tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file over which the library panics is refused in one sentence."""
    monkeypatch.setattr("tokenizers.Tokenizer", Library(Panic))
    with pytest.raises(ModelError, match="not a readable tokenizer"):
        VocabularyTokenizer(tokenizer_file, 512)
