"""Laws of continuous batching: a result depends on its own request alone."""

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import Result
from aobatch.testing import END_TOKEN, random_script, scripted_engine

Complete = Callable[..., list[Result]]

Parse = Callable[..., list[Request]]

MIXED: list[dict[str, object]] = [
    {"prompt": "greedy", "temperature": 0, "max_tokens": 30},
    {"prompt": "warm", "temperature": 1, "max_tokens": 25, "seed": 7},
    {"prompt": ["two", "prompts"], "n": 3, "max_tokens": 9, "top_p": 0.8},
    {"prompt": "best", "n": 2, "best_of": 6, "max_tokens": 12},
    {"prompt": "listed", "logprobs": 3, "echo": True, "max_tokens": 8},
    {"prompt": "stopped", "stop": ["a", "ee"], "max_tokens": 60},
    {"prompt": "p" * 700, "max_tokens": 40, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    {"prompt": "q" * 257, "max_tokens": 3, "logit_bias": {"65": 5}},
    {"prompt": "", "max_tokens": 5},
    {"prompt": [72, 105], "max_tokens": 1, "min_p": 0.1, "top_k": 5},
    {"prompt": "scored", "max_tokens": 0, "echo": True, "logprobs": 2},
    {"prompt": "none", "max_tokens": 0},
    {"prompt": "same", "max_tokens": 20},
    {"prompt": "same", "max_tokens": 20},
    {"prompt": "twice", "temperature": 0, "n": 2, "max_tokens": 6},
    {"prompt": "middle", "suffix": " end", "n": 2, "max_tokens": 9},
    {"prompt": "streamed", "stream": True, "stop": "x", "max_tokens": 20},
    {"prompt": "long enough", "min_tokens": 15, "max_tokens": 30, "ignore_eos": False},
]


def outcomes(results: list[Result]) -> list[object]:
    """Give everything of the results that a user sees."""
    return [(r.request.line, r.choices, r.usage, r.error) for r in results]


BATCHES = [(1, 1), (2, 2), (5, 3), (5, 1), (16, 2), (64, 1), (64, 3)]
OTHERS = sorted({*itertools.product((1, 2, 5, 16, 64), (1, 2, 3))} - {*BATCHES})


@pytest.mark.parametrize(
    "batches",
    [pytest.param(BATCHES, id="some"), pytest.param(OTHERS, id="others", marks=pytest.mark.long)],
)
def test_batch_size_and_lanes_change_nothing(
    complete: Complete, batches: list[tuple[int, int]]
) -> None:
    """Every batch size, on any number of threads, gives the same results."""
    reference = outcomes(complete(*MIXED, config=EngineConfig(max_num_seqs=3, num_lanes=1)))

    for max_num_seqs, num_lanes in batches:
        config = EngineConfig(max_num_seqs=max_num_seqs, num_lanes=num_lanes)
        assert outcomes(complete(*MIXED, config=config)) == reference, config


def test_little_memory_changes_nothing(complete: Complete) -> None:
    """A cache that holds one long or a few short sequences gives the same results."""
    reference = complete(*MIXED)
    found = complete(*MIXED, config=EngineConfig(kv_cache_bytes=1024))

    assert outcomes(reference) == outcomes(found)


def test_order_and_neighbours_change_nothing(parse: Parse) -> None:
    """Shuffled requests, and requests computed alone, have the same results."""
    requests = parse(*MIXED)
    shuffled = random.Random(5).sample(requests, len(requests))
    reference = sorted(scripted_engine().run(requests), key=lambda r: r.request.line)
    found = sorted(scripted_engine().run(shuffled), key=lambda r: r.request.line)
    alone = [result for request in requests for result in scripted_engine().run([request])]

    assert outcomes(reference) == outcomes(found)
    assert outcomes(reference) == outcomes(alone)


def test_greedy_is_argmax(complete: Complete) -> None:
    """Temperature 0 follows the model's best token, one at a time."""
    tokens = list(b"follow me")
    expected = []
    while len(expected) < 40:
        expected.append(int(np.argmax(random_script((*tokens, *expected)))))
    (result,) = complete(
        {"prompt": "follow me", "temperature": 0, "max_tokens": 40, "ignore_eos": True}
    )

    token_bytes = [b"<end>" if t == END_TOKEN else bytes([t]) for t in expected]
    assert b"".join(token_bytes).decode("utf-8", "replace") == result.choices[0].text


def test_input_is_pulled_only_within_the_window(parse: Parse) -> None:
    """The engine reads no further ahead than it was told."""
    pulled = []

    def source() -> Iterator[Request]:
        for request in parse(*[{"prompt": "x", "max_tokens": 5, "ignore_eos": True}] * 50):
            pulled.append(request)
            yield request

    config = EngineConfig(max_num_seqs=4, lookahead=6)
    next(scripted_engine(config=config).run(source()))

    assert len(pulled) <= 4 + 6 + 4


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"prompt": "x", "max_tokens": 1}, id="one-token"),
        pytest.param({"prompt": "x", "max_tokens": 0}, id="no-token"),
        pytest.param({"prompt": [300]}, id="refused"),
    ],
)
def test_requests_that_end_at_once_do_not_end_the_run(
    parse: Parse, body: dict[str, object]
) -> None:
    """However many requests finish without a decode step, all behind the window are computed."""
    config = EngineConfig(max_num_seqs=4, lookahead=8)
    results = list(scripted_engine(config=config).run(parse(*[body] * 50)))

    assert [*range(1, 51)] == sorted(result.request.line for result in results)


def test_one_prefill_serves_all_candidates(parse: Parse) -> None:
    """N candidates cost one reading of the prompt."""
    engine = scripted_engine()
    list(engine.run(parse({"prompt": "a" * 100, "n": 8, "max_tokens": 4})))

    assert engine.statistics.prefill_tokens == 100


def test_duplicates_of_a_request_draw_differently(complete: Complete) -> None:
    """Equal requests without a seed are different draws; with a seed they are equal."""
    free = complete(*[{"prompt": "draw", "max_tokens": 20}] * 2)
    seeded = complete(*[{"prompt": "draw", "max_tokens": 20, "seed": 3}] * 2)

    assert free[0].choices != free[1].choices
    assert seeded[0].choices == seeded[1].choices
