"""Laws of what an engine counts."""

import time
from collections.abc import Callable
from dataclasses import asdict

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.testing import scripted_engine

Parse = Callable[..., list[Request]]


def bodies(count: int) -> list[dict[str, object]]:
    """Give requests of different lengths that end by length alone."""
    return [
        {"prompt": f"prompt {i}", "max_tokens": 1 + i % 7, "n": 1 + i % 2, "ignore_eos": True}
        for i in range(count)
    ]


def test_drawn_tokens_are_those_of_the_results(parse: Parse) -> None:
    """Where every candidate is returned, the tokens drawn are the completion tokens."""
    engine = scripted_engine(config=EngineConfig(max_num_seqs=6))
    results = list(engine.run(parse(*bodies(40))))

    drawn = engine.statistics.sampled_tokens
    assert drawn == sum(result.usage.completion_tokens for result in results)
    assert engine.statistics.decode_rows <= engine.statistics.decode_slots
    assert engine.statistics.decode_slots == 3 * engine.statistics.decode_steps


def test_counts_can_be_read_while_requests_are_computed(parse: Parse) -> None:
    """Counts grow from result to result, and none of them ever falls, over two runs."""
    engine = scripted_engine(config=EngineConfig(max_num_seqs=2))
    seen = [asdict(engine.statistics)]
    for _ in range(2):
        for _ in engine.run(parse(*bodies(20))):
            seen.append(asdict(engine.statistics))  # noqa: PERF401 - read while it runs
    seen.append(asdict(engine.statistics))

    for name in seen[0]:
        values = [counts[name] for counts in seen]
        assert values == sorted(values), name
    assert len({counts["sampled_tokens"] for counts in seen}) > 5


def test_seconds_are_those_in_a_slot(parse: Parse) -> None:
    """Slots cannot be busy for longer than they were there; what was before is waiting."""
    different = [{"prompt": f"p{n}", "max_tokens": 4, "seed": n} for n in range(40)]
    equal = [{"prompt": "same", "max_tokens": 4, "temperature": 0}] * 3
    engine = scripted_engine(config=EngineConfig(max_num_seqs=2))
    began = time.monotonic()
    results = list(engine.run(parse(*different, *equal)))
    passed = time.monotonic() - began

    assert 0 < sum(result.seconds for result in results) <= 2 * passed
    assert all(0 <= result.waited <= result.waited + result.seconds <= passed for result in results)
    assert sum(result.waited for result in results) > passed
    assert sum(result.seconds == result.waited == 0 for result in results) == 2
