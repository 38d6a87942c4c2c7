"""Laws of streams: the pieces joined are the response, and no stop is ever sent."""

from collections import defaultdict
from collections.abc import Callable

import pytest

from aobatch.api.request import Request
from aobatch.api.response import Choice, Logprobs
from aobatch.engine.streaming import Delta
from aobatch.testing import random_script, scripted_engine, speaking_script

Parse = Callable[..., list[Request]]

BODIES: list[dict[str, object]] = [
    {"prompt": "plain", "max_tokens": 20},
    {"prompt": "listed", "max_tokens": 12, "logprobs": 2, "echo": True},
    {"prompt": ["two", "prompts"], "n": 2, "max_tokens": 9, "logprobs": 0},
    {"prompt": "equal", "n": 3, "temperature": 0, "max_tokens": 5},
    {"prompt": "stopped", "stop": ["ab", "b", "\ufffd"], "max_tokens": 60, "logprobs": 1},
    {"prompt": "fitted", "suffix": " end", "n": 2, "max_tokens": 6, "logprobs": 1},
    {"prompt": "idle", "suffix": " end", "max_tokens": 0},
    {"prompt": "nothing", "max_tokens": 0, "echo": True},
    {"prompt": "scored", "max_tokens": 0, "echo": True, "logprobs": 1},
]


def joined(deltas: list[Delta]) -> dict[int, Choice]:
    """Put the pieces of each choice together."""
    pieces = defaultdict(list)
    for delta in deltas:
        pieces[delta.choice.index].append(delta.choice)
    return {index: _join(index, choices) for index, choices in pieces.items()}


def _join(index: int, choices: list[Choice]) -> Choice:
    assert all(choice.finish_reason is None for choice in choices[:-1])
    parts = [choice.logprobs for choice in choices if choice.logprobs is not None]
    logprobs = None
    if parts:
        columns = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        logprobs = Logprobs(*([x for part in parts for x in getattr(part, c)] for c in columns))
    return Choice("".join(c.text for c in choices), index, logprobs, choices[-1].finish_reason)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body["prompt"]))
def test_joined_pieces_are_the_response(parse: Parse, body: dict[str, object]) -> None:
    """Text, arrays and reason of the pieces are those of the final choices."""
    deltas: list[Delta] = []
    (result,) = scripted_engine().run(parse(body | {"stream": True}), deltas.append)

    assert {choice.index: choice for choice in result.choices} == joined(deltas)


def test_pieces_come_while_tokens_come(parse: Parse) -> None:
    """A completion of many tokens is sent in about as many pieces."""
    deltas: list[Delta] = []
    body = {"prompt": "say:", "max_tokens": 64, "temperature": 0, "stream": True}
    list(scripted_engine(speaking_script("say:", "春 is spring")).run(parse(body), deltas.append))

    assert [delta.choice.text for delta in deltas[:4]] == ["春", " ", "i", "s"]


def test_what_may_become_a_stop_is_held_back(parse: Parse) -> None:
    """The beginning of a stop is sent only when it turned out to be none."""
    deltas: list[Delta] = []
    body = {"prompt": "say:", "temperature": 0, "max_tokens": 64, "stop": "END", "stream": True}
    engine = scripted_engine(speaking_script("say:", "EN ENDED"))
    list(engine.run(parse(body), deltas.append))

    assert [delta.choice.text for delta in deltas] == ["EN ", ""]


def test_only_requests_that_ask_are_streamed(parse: Parse) -> None:
    """A request without stream sends nothing."""
    deltas: list[Delta] = []
    requests = parse({"prompt": "a"}, {"prompt": "b", "stream": True})
    list(scripted_engine(random_script).run(requests, deltas.append))

    assert {2} == {delta.request.line for delta in deltas}
