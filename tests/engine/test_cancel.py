"""Laws of runs that requests join and leave: places are free at once, whoever waits goes first."""

import threading
from collections.abc import Callable, Iterator
from itertools import repeat

import msgspec
import pytest
from waiting import HANG_SECONDS

from aobatch.api.request import Request
from aobatch.arrays import Logits, TokenIds
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.sequence import Result
from aobatch.testing import LIMITS, ByteTokenizer, ScriptedRunner, scripted_engine

Parse = Callable[..., list[Request]]
LONG = {"ignore_eos": True, "max_tokens": 1000}


def awaited(request: Request) -> Request:
    """Give a request that somebody waits for."""
    return msgspec.structs.replace(request, is_awaited=True)


class WatchedRunner(ScriptedRunner):
    """A runner that says, ahead of each step, how many rows it has."""

    def __init__(self, before_step: Callable[[int, int], None]) -> None:
        super().__init__()
        self._before_step = before_step
        self.num_steps = 0

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Tell, and compute."""
        self.num_steps += 1
        self._before_step(self.num_steps, len(token_ids))
        return super().decode(token_ids, lengths)


class Watched:
    """An engine of one lane that does something ahead of its fifth step, and is heard then."""

    def __init__(self, act: Callable[[Engine], None], probe: Request, **fields: int) -> None:
        self.rows: list[int] = []
        self._act, self._probe = act, probe
        self._is_heard = threading.Event()
        config = EngineConfig(num_lanes=1, **fields)
        runner = WatchedRunner(self._before_step)
        self.engine = Engine(runner, ByteTokenizer(), LIMITS, config)

    def _before_step(self, number: int, num_rows: int) -> None:
        self.rows.append(num_rows)
        if number == 5:
            self._act(self.engine)
            # Needs no step itself: with its answer, all before it was heard.
            self.engine.submit([self._probe])
            assert self._is_heard.wait(HANG_SECONDS)

    def run(self, requests: list[Request], count: int) -> list[Result]:
        """Compute until there are so many results beside that of the probe."""
        self.engine.submit(requests)
        results = []
        for result in self.engine.run(repeat(None)):
            if result.request is self._probe:
                self._is_heard.set()
            else:
                results.append(result)
            if len(results) == count and self._is_heard.is_set():
                break
        return results


@pytest.fixture
def probe(parse: Parse) -> Request:
    """Give a request that is answered when it is read."""
    return parse({"prompt": "probe", "max_tokens": 0})[0]


@pytest.mark.parametrize("fields", [{}, {"n": 4}, {"stream": True}, {"best_of": 6, "stop": "xyz"}])
def test_slots_of_a_cancelled_request_are_free_at_the_next_step(
    parse: Parse, probe: Request, fields: dict[str, object]
) -> None:
    """Whoever gives up a request pays no further step; the others' answers are what they were."""
    gone, other = parse(
        {"prompt": "a", **LONG, **fields}, {"prompt": "b", "max_tokens": 30, "ignore_eos": True}
    )
    watched = Watched(lambda engine: engine.cancel(gone), probe)

    results = watched.run([gone, other], 1)

    assert [result.request for result in results] == [other]
    assert results[0].choices == next(scripted_engine().run([other])).choices
    assert watched.rows[:5][-1] > 1
    assert set(watched.rows[5:]) == {1}
    assert watched.engine.occupancy == (0, 0)


def test_candidates_that_wait_are_given_up_too(parse: Parse, probe: Request) -> None:
    """Nothing of a cancelled request starts later, though slots are free."""
    gone, other = parse(
        {"prompt": "a", "n": 100, **LONG},
        {"prompt": "b", "max_tokens": 30, "ignore_eos": True},
    )
    watched = Watched(lambda engine: engine.cancel(gone), probe, max_num_seqs=8)

    results = watched.run([other, gone], 1)

    assert [result.request for result in results] == [other]
    assert set(watched.rows[5:]) == {1}


def test_a_request_that_waits_is_never_computed(parse: Parse, probe: Request) -> None:
    """One that is cancelled ahead of its start costs nothing."""
    first, gone = parse({"prompt": "a", **LONG}, {"prompt": "b" * 50})
    watched = Watched(lambda engine: engine.cancel(gone), probe, max_num_seqs=1)

    assert [result.request for result in watched.run([first, gone], 1)] == [first]
    assert watched.engine.statistics.prefill_tokens == len("a")


def test_an_equal_request_takes_the_place_of_a_cancelled_one(parse: Parse, probe: Request) -> None:
    """What is computed for several is given up when the last of them is gone."""
    equal = {"prompt": "a", "temperature": 0, "ignore_eos": True, "max_tokens": 20}
    first, second, third = parse(*[{**equal, "user": name} for name in "xyz"])

    def leave(engine: Engine) -> None:
        engine.cancel(first)
        engine.cancel(third)

    watched = Watched(leave, probe)
    results = watched.run([first, second, third], 1)

    assert [result.request for result in results] == [second]
    assert len(watched.rows) == 19
    expected = next(scripted_engine().run([second]))
    assert results[0].choices == expected.choices


def test_a_request_that_was_answered_or_never_came_cannot_be_cancelled(
    parse: Parse, probe: Request
) -> None:
    """It is no error, and takes nothing from an equal one that came later."""
    answered, unknown, later = parse(*[{"prompt": "a", "temperature": 0, "max_tokens": 20}] * 3)
    engine = scripted_engine()
    engine.submit([answered])
    results = engine.run(repeat(None))
    next(results)

    engine.cancel(unknown)
    engine.cancel(answered)
    engine.submit([later])

    assert next(results).request is later
    results.close()


def arrivals(requests: list[Request], config: EngineConfig) -> Iterator[Request]:
    """Submit requests at once and yield them as they are answered."""
    engine = scripted_engine(config=config)
    engine.submit(requests)
    results = engine.run(repeat(None))
    for _ in requests:
        yield next(results).request
    results.close()


def test_awaited_requests_go_first_and_others_are_not_starved(parse: Parse) -> None:
    """Eight that somebody waits for start ahead of one that nobody waits for, and so on."""
    bodies = [{"prompt": f"{number:02d}", "max_tokens": 1} for number in range(30)]
    parsed = parse(*bodies)
    others, urgent = parsed[:6], [awaited(request) for request in parsed[6:]]

    order = arrivals([*others, *urgent], EngineConfig(max_num_seqs=1))
    kinds = "".join("a" if request.is_awaited else "o" for request in order)

    assert kinds == "aaaaaaaaoaaaaaaaaoaaaaaaaaoooo"


def test_slots_are_kept_for_awaited_requests(parse: Parse, probe: Request) -> None:
    """However much waits that nobody waits for, whoever comes starts at the next step."""
    *others, late = parse(*[{"prompt": f"{n:02d}", **LONG} for n in range(13)])
    late = awaited(msgspec.structs.replace(late))
    fields = {"max_num_seqs": 8, "awaited_slots": 2}

    def come(engine: Engine) -> None:
        engine.submit([late])

    watched = Watched(come, probe, **fields)
    results = watched.run(others, 6)

    assert len(results) == 6
    assert watched.rows[:5] == [6] * 5
    assert watched.rows[6] == 7


def test_a_lane_with_nothing_to_do_takes_any_request(parse: Parse) -> None:
    """Kept slots keep no request from being computed at all."""
    (request,) = parse({"prompt": "a", "n": 3, "max_tokens": 4})

    assert [*arrivals([request], EngineConfig(max_num_seqs=1, awaited_slots=1))] == [request]


def test_awaited_requests_share_what_is_known(parse: Parse) -> None:
    """They take the result of an equal one that is there, and wait for none that is not."""
    body = {"prompt": "a", "temperature": 0, "max_tokens": 4}
    first, second, third = parse(body, body, body)
    engine = scripted_engine()
    engine.submit([first, awaited(second)])
    results = engine.run(repeat(None))
    found = [next(results), next(results)]
    engine.submit([awaited(third)])
    found.append(next(results))
    results.close()

    assert len({result.choices for result in found}) == 1
    assert engine.statistics.requests_shared == 1
