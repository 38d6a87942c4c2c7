"""Laws of texts of pieces: a space that the vocabulary puts ahead of a prompt is in no answer."""

import json
from itertools import pairwise

import pytest
from family_files import converted
from piece_files import small_pieces

from aobatch.api.request import Limits, Parser
from aobatch.api.response import Choice
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.executors.local import open_engine
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.runners import RunnerConfig

PROMPTS = ["abc b", " abc b", "  a", "a", " ", "春 a", "b\nca", "<tool>ab", "a<tool> b", ""]


@pytest.fixture(scope="module", params=[True, False], ids=["adds a space", "adds none"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Open a model with a vocabulary of pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    path = small_pieces(adds_space=request.param).write(folder / "pieces.gguf")
    model = converted(read_gguf(path), folder / "model")
    return open_engine(model, EngineConfig(), RunnerConfig(1))


def answered(engine: Engine, prompt: object, max_tokens: int) -> Choice:
    """Echo a prompt and complete it, with logprobs."""
    body = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "echo": True,
        "logprobs": 1,
        "seed": 7,
        "ignore_eos": True,
    }
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    (result,) = engine.run([request])  # type: ignore[list-item]
    assert result.error is None
    return result.choices[0]


@pytest.mark.parametrize("max_tokens", [0, 6])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_tokens_stand_at_their_offsets(engine: Engine, prompt: str, max_tokens: int) -> None:
    """The text begins with the prompt as it was given; every token that is text is found in it."""
    choice = answered(engine, prompt, max_tokens)

    assert choice.text.startswith(prompt)
    assert choice.logprobs is not None
    tokens, places = choice.logprobs.tokens, choice.logprobs.text_offset
    for token, place in zip(tokens, places, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[place : place + len(token)] == token
    assert all(first <= second for first, second in pairwise(places))
    if not any(token.startswith("bytes:") for token in tokens):
        assert "".join(tokens) == choice.text


def test_tokens_that_were_given_keep_their_space(engine: Engine) -> None:
    """Of a prompt of token ids the text is that of the tokens, a space ahead too."""
    first = answered(engine, [4 + 256 + 9, 4 + 256 + 2], 0)

    assert first.text == " abb"
    assert first.logprobs is not None
    assert (first.logprobs.tokens, first.logprobs.text_offset) == ([" ab", "b"], [0, 3])
