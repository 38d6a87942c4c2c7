"""Laws of sharing: what requests have in common is computed once, and no result changes."""

import random
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import Result
from aobatch.testing import random_script, scripted_engine

Parse = Callable[..., list[Request]]

PREFIX = "Translate the following sentence into French, word by word, politely: "
TREE = ["", "The cat", "The cat sat on the mat beside its friend the dog", "A", "A dog"]


def bodies(seed: int, count: int) -> list[dict[str, object]]:
    """Give requests with prompts from a tree of common beginnings, of many kinds."""
    generator = random.Random(seed)
    return [
        {
            "prompt": generator.choice(["", PREFIX, PREFIX * 5])
            + generator.choice(TREE)
            + generator.choice("abcdef") * generator.randrange(4),
            "max_tokens": generator.choice([0, 1, 3, 9]),
            "n": generator.choice([1, 1, 3]),
            **generator.choice([{}, {}, {"echo": True, "logprobs": generator.choice([0, 2])}]),
            **generator.choice([{}, {"seed": 1}, {"temperature": 0}]),
        }
        for _ in range(count)
    ]


def outcomes(results: list[Result]) -> list[object]:
    """Give everything of the results that a user sees."""
    return [(r.request.line, r.choices, r.usage, r.error) for r in results]


LONG = [pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 6)]


@pytest.mark.parametrize("seed", [0, 1, *LONG])
def test_sharing_changes_nothing(complete: Callable[..., list[Result]], seed: int) -> None:
    """Requests that share beginnings give what they give alone, whatever runs together."""
    lines = bodies(seed, 30)
    config = EngineConfig(max_num_seqs=1, num_lanes=1, shares_prefixes=False)
    reference = outcomes(complete(*lines, config=config))

    for max_num_seqs, num_lanes in ((1, 1), (5, 1), (8, 2), (64, 1)):
        config = EngineConfig(max_num_seqs=max_num_seqs, num_lanes=num_lanes, lookahead=16)
        assert outcomes(complete(*lines, config=config)) == reference, config


@pytest.mark.parametrize("max_num_seqs", [1, 4, 64])
def test_a_common_beginning_is_computed_once(parse: Parse, max_num_seqs: int) -> None:
    """Of prompts that begin alike only what differs is computed, however few run together."""
    prompts = [PREFIX * 3 + f"number {number:04}" for number in range(60)]
    engine = scripted_engine(config=EngineConfig(max_num_seqs=max_num_seqs, num_lanes=1))
    list(engine.run(parse(*[{"prompt": prompt, "max_tokens": 2} for prompt in prompts])))

    distinct = len(PREFIX) * 3 + 60 * len("number 0000")
    assert engine.statistics.prefill_tokens <= 1.1 * distinct
    total = sum(len(prompt) for prompt in prompts)
    assert engine.statistics.prefix_tokens_shared == total - engine.statistics.prefill_tokens


def test_scored_prompts_share_their_beginning(parse: Parse) -> None:
    """Choices of one question are scored without reading the question again."""
    prompts = [PREFIX * 3 + word for word in ("first", "second", "third", "fourth")]
    line = {"max_tokens": 0, "echo": True, "logprobs": 1}
    engine = scripted_engine(config=EngineConfig(num_lanes=1))
    list(engine.run(parse(*[{"prompt": prompt, **line} for prompt in prompts])))

    assert engine.statistics.prefill_tokens < len(PREFIX) * 3 + 40


def test_sharing_can_be_turned_off(parse: Parse) -> None:
    """Without prefix sharing every token of every prompt is computed."""
    engine = scripted_engine(config=EngineConfig(shares_prefixes=False))
    list(engine.run(parse(*[{"prompt": PREFIX + word, "max_tokens": 1} for word in "abc"])))

    assert engine.statistics.prefill_tokens == 3 * (len(PREFIX) + 1)


@pytest.mark.parametrize("same", [{"temperature": 0}, {"seed": 4}])
def test_equal_requests_are_computed_once(parse: Parse, same: dict[str, object]) -> None:
    """Requests that must have one result get it from one computation, whoever asks."""
    lines = [{"prompt": "again", "max_tokens": 5, "user": f"u{n % 3}", **same} for n in range(60)]
    engine = scripted_engine(config=EngineConfig(max_num_seqs=4, lookahead=8))
    results = list(engine.run(parse(*lines)))

    assert engine.statistics.requests_shared == 59
    assert engine.statistics.prefill_tokens == len("again")
    assert sorted(result.request.line for result in results) == [*range(1, 61)]
    assert len({(result.choices, result.usage) for result in results}) == 1


def test_equal_requests_are_read_only_within_the_window(parse: Parse) -> None:
    """However many equal requests follow, no more are pulled than the look-ahead allows."""
    pulled: list[Request] = []
    is_read = threading.Event()

    def source() -> Iterator[Request]:
        for request in parse(*[{"prompt": "again", "max_tokens": 5, "temperature": 0}] * 400):
            pulled.append(request)
            yield request
        is_read.set()

    def script(token_ids: tuple[int, ...]) -> np.ndarray:
        is_read.wait(0.05)  # time enough to pull all of them, if nothing held that back
        return random_script(token_ids)

    results = scripted_engine(script, EngineConfig(lookahead=20)).run(source())
    next(results)

    assert len(pulled) <= 40
    assert len([*results]) == 399


def test_equal_draws_and_streams_are_computed_each(parse: Parse) -> None:
    """A request without a seed is a draw of its own, and every stream is sent."""
    lines = [{"prompt": "x", "max_tokens": 3}] * 4
    lines += [{"prompt": "x", "max_tokens": 3, "temperature": 0, "stream": True}] * 4
    engine = scripted_engine(random_script)
    list(engine.run(parse(*lines)))

    assert engine.statistics.requests_shared == 0
