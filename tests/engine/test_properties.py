"""Properties of responses, over random requests on a scripted model."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aobatch.api.request import Limits, Parser, Request
from aobatch.api.response import Choice, Logprobs
from aobatch.engine.choices import LogprobsBuilder
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta
from aobatch.testing import VOCAB_SIZE, random_script, scripted_engine

BODIES = st.fixed_dictionaries(
    {
        "prompt": st.text("aé春🙂 \n", max_size=12),
        "max_tokens": st.integers(0, 12),
        "logprobs": st.integers(0, 4),
        "echo": st.booleans(),
        "temperature": st.sampled_from([0, 0.7, 1.5]),
        "seed": st.integers(0, 50),
    },
    optional={
        "stop": st.lists(st.text("abcde ", min_size=1, max_size=2), min_size=1, max_size=3),
        "n": st.integers(1, 3),
        "top_p": st.sampled_from([0, 0.5, 0.99]),
        "top_k": st.integers(0, 5),
        "presence_penalty": st.sampled_from([-1, 1]),
        "min_tokens": st.just(0),
        "ignore_eos": st.booleans(),
    },
)


def computed(body: dict[str, object]) -> Result:
    """Compute one body on the scripted model."""
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    assert isinstance(request, Request)
    (result,) = scripted_engine().run([request])
    return result


def bytes_of(name: str) -> bytes:
    """Give the bytes that a listed token stands for."""
    if name.startswith("bytes:"):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode()


@settings(max_examples=150, deadline=None)
@given(BODIES)
def test_arrays_agree_with_the_text_and_with_each_other(body: dict[str, object]) -> None:
    """Joined tokens start with the text, offsets find each token, each is in its own top map.

    Without stop strings every sampled token is listed, the one that ends the text too.
    """
    result = computed(body)
    if "stop" not in body:
        listed = sum(len(choice.logprobs.tokens) for choice in result.choices)
        num_echoed = len(body["prompt"].encode()) * body["echo"] * body.get("n", 1)
        assert listed - num_echoed == result.usage.completion_tokens
    head = 0 if body["echo"] else len(body["prompt"])
    for choice in result.choices:
        listed = choice.logprobs
        joined = b"".join(map(bytes_of, listed.tokens)).decode("utf-8", "replace")
        assert joined.startswith(choice.text.removesuffix("\ufffd"))
        sizes = {len(array) for array in msgspec.structs.astuple(listed)}
        assert len(sizes) == 1
        for name, logprob, top, place in zip(*msgspec.structs.astuple(listed), strict=True):
            assert place >= head
            assert top is None or top[name] == logprob
            if not name.startswith("bytes:"):
                assert joined[place - head :].startswith(name)
        assert json.loads(msgspec.json.encode(choice))["text"] == choice.text


@settings(max_examples=60, deadline=None)
@given(st.text("aé春 ", min_size=1, max_size=12), st.integers(0, 4))
def test_scoring_is_teacher_forcing(prompt: str, num_logprobs: int) -> None:
    """Echo with max_tokens 0 lists each byte's logprob behind the bytes before it."""
    body = {"prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": num_logprobs}
    listed = computed(body).choices[0].logprobs
    data = prompt.encode()
    for place in range(1, len(data)):
        scores = random_script(tuple(data[:place])).astype(np.float64)
        expected = scores[data[place]] - np.log(np.exp(scores).sum())
        assert abs(expected - listed.token_logprobs[place]) < 2e-6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_best_of_is_the_best_of_n(seed: int, num_returned: int) -> None:
    """The n of best_of 5 are the n best of five candidates with the same seed, all five too."""
    body = {"prompt": "rank", "max_tokens": 5, "seed": seed}
    five = computed(body | {"n": 5, "logprobs": 0})
    best = computed(body | {"n": num_returned, "best_of": 5})

    def mean(choice: Choice) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.tokens)

    ranked = sorted(five.choices, key=mean, reverse=True)[:num_returned]
    assert [choice.text for choice in ranked] == [choice.text for choice in best.choices]
    assert five.usage == best.usage


@given(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=20))
def test_any_tokens_are_valid_json(token_ids: list[int]) -> None:
    """Whatever bytes come, the arrays can be written and read again."""
    table = [*(bytes([value]) for value in range(256)), b"<end>"]
    listing = LogprobsBuilder(SimpleNamespace(token_bytes=table))
    for place, token_id in enumerate(token_ids):
        top = (np.arange(3), np.array([-0.1, -np.inf, -2.0]))
        listing.add(token_id, -np.inf, top, place)
    logprobs = listing.take()

    assert logprobs == msgspec.json.decode(msgspec.json.encode(logprobs), type=Logprobs)
    assert all(-9999.0 in top.values() for top in logprobs.top_logprobs)


def test_two_tokens_of_the_same_bytes_keep_the_sampled_one() -> None:
    """Where two ids share their bytes, the sampled one's entry is kept, else the likelier one."""
    listing = LogprobsBuilder(SimpleNamespace(token_bytes=[b"x", b"x", b"y"]))
    listing.add(1, -3.0, (np.array([0, 2, 1]), np.array([-1.0, -2.0, -3.0])), 0)
    listing.add(2, -2.0, (np.array([0, 2, 1]), np.array([-1.0, -2.0, -3.0])), 1)

    assert listing.take().top_logprobs == [{"x": -3.0, "y": -2.0}, {"y": -2.0, "x": -1.0}]


STREAMED: list[dict[str, object]] = [
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


def check_stream(body: dict[str, object]) -> None:
    """See that the pieces of every choice, joined, are its text, arrays and reason."""
    request = Parser({}, Limits()).parse(1, json.dumps(body | {"stream": True}).encode())
    deltas: list[Delta] = []
    (result,) = scripted_engine().run([request], deltas.append)

    assert {delta.choice.index for delta in deltas} == {c.index for c in result.choices}
    for choice in result.choices:
        pieces = [delta.choice for delta in deltas if delta.choice.index == choice.index]
        assert choice.text == "".join(piece.text for piece in pieces)
        reasons = [piece.finish_reason for piece in pieces]
        assert reasons == [None] * (len(pieces) - 1) + [choice.finish_reason]
        arrays = [msgspec.structs.astuple(p.logprobs) for p in pieces if p.logprobs]
        joined = [
            [item for part in column for item in part] for column in zip(*arrays, strict=True)
        ]
        assert joined == (list(msgspec.structs.astuple(choice.logprobs)) if arrays else [])
        assert bool(arrays) == (choice.logprobs is not None)


@settings(max_examples=80, deadline=None)
@given(BODIES)
def test_a_joined_stream_is_the_response(body: dict[str, object]) -> None:
    """Whatever is asked for, a stream is the response in pieces."""
    check_stream(body)


@pytest.mark.parametrize("body", STREAMED, ids=lambda body: str(body["prompt"]))
def test_joined_pieces_are_the_response(body: dict[str, object]) -> None:
    """So are those of several prompts, equal choices, suffixes, and of no token at all."""
    check_stream(body)
