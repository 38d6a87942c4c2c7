"""Laws of lanes: threads that work side by side end with the run, and hide nothing."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from waiting import HANG_SECONDS

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.preparation import Preparation
from aobatch.engine.scheduler import ordered
from aobatch.testing import (
    LIMITS,
    ByteTokenizer,
    ScriptedRunner,
    random_script,
    scripted_engine,
)

Parse = Callable[..., list[Request]]

LINES: list[dict[str, object]] = [
    {"prompt": f"line {number}", "max_tokens": 30, "ignore_eos": True} for number in range(40)
]


def lane_threads() -> list[threading.Thread]:
    """Give the threads beside the main one and the library's own."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("lane")]


def test_closing_a_run_ends_its_lanes(parse: Parse) -> None:
    """A run that is given up leaves no thread behind, and the engine can run again."""
    engine = scripted_engine(config=EngineConfig(max_num_seqs=8, num_lanes=3))
    results = engine.run(parse(*LINES))
    next(results)
    assert len(lane_threads()) == 3
    results.close()

    assert lane_threads() == []
    assert len(list(engine.run(parse(*LINES)))) == len(LINES)


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_lane_that_fails_fails_the_run(parse: Parse, num_lanes: int) -> None:
    """An error inside a lane is raised where results are awaited, and the other lanes end."""

    def script(token_ids: tuple[int, ...]) -> np.ndarray:
        if len(token_ids) > 20:
            message = "broken kernel"
            raise MemoryError(message)
        return random_script(token_ids)

    engine = scripted_engine(script, EngineConfig(max_num_seqs=8, num_lanes=num_lanes))
    with pytest.raises(MemoryError, match="broken kernel"):
        list(engine.run(parse(*LINES)))
    assert lane_threads() == []


def test_an_input_that_fails_ends_the_lanes(parse: Parse) -> None:
    """An error of whoever gives the requests goes through, and no thread is left."""

    def source() -> object:
        yield from parse(*LINES)
        message = "input vanished"
        raise OSError(message)

    engine = scripted_engine(config=EngineConfig(max_num_seqs=8, lookahead=20))
    with pytest.raises(OSError, match="vanished"):
        list(engine.run(source()))  # type: ignore[arg-type]
    assert lane_threads() == []


def test_order_keeps_every_prompt_and_puts_families_together(parse: Parse) -> None:
    """Ordering loses nothing; common beginnings are neighbours; the longest work comes first."""
    prompts = [f"{'common beginning of prompts ' * 3}{n}" for n in range(5)]
    prompts += [
        letter * length for letter, length in zip("abcde", (3, 400, 50, 90, 7), strict=True)
    ]
    prompts = [prompts[place] for place in np.random.default_rng(0).permutation(len(prompts))]
    preparation = Preparation(ByteTokenizer(), LIMITS, clamp_max_tokens=False)
    requests = parse(*[{"prompt": prompt, "max_tokens": 5} for prompt in prompts])
    groups = [group for r in requests for group in preparation.prepare(r).groups]
    texts = [group.prompt_text for group in ordered(groups)]

    assert sorted(texts) == sorted(prompts)
    assert texts[0] == "b" * 400
    places = [place for place, text in enumerate(texts) if text.startswith("common")]
    assert places == [*range(places[0], places[0] + 5)]


def test_engines_of_several_lanes_fill_them_evenly(parse: Parse) -> None:
    """Few requests are shared out, so that no lane is left without work."""
    busy: set[str] = set()
    both = threading.Barrier(2, timeout=HANG_SECONDS)

    def script(token_ids: tuple[int, ...]) -> np.ndarray:
        if threading.current_thread().name not in busy:
            busy.add(threading.current_thread().name)
            both.wait()
        return random_script(token_ids)

    engine = scripted_engine(script, EngineConfig(max_num_seqs=64, num_lanes=2))
    list(engine.run(parse(*LINES[:6])))

    assert len(busy) == 2


def test_slots_multiply_again_after_a_long_request(parse: Parse) -> None:
    """A request that fills the cache alone leaves no mark on those behind it."""
    reserved: list[tuple[int, int]] = []

    class Watched(ScriptedRunner):
        def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
            reserved.append((num_slots, capacity))
            super().reserve(num_slots, capacity, lengths)

    config = EngineConfig(num_lanes=1, kv_cache_bytes=512)
    lines = [{"prompt": "x" * 500, "max_tokens": 4}, *LINES]
    list(Engine(Watched(), ByteTokenizer(), LIMITS, config).run(parse(*lines)))

    assert reserved == [(1, 512), (8, 64)]
