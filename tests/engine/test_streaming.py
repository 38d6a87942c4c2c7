"""Laws of streams: the pieces joined are the response, and no stop is ever sent."""

from collections.abc import Callable

from aobatch.api.request import Request
from aobatch.engine.streaming import Delta
from aobatch.testing import random_script, scripted_engine, speaking_script

Parse = Callable[..., list[Request]]


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
