"""Requests computed by a pool of workers, suspects among them by one of their own."""

import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.sequence import Result
from aobatch.errors import RequestError
from aobatch.executors.ray.messages import Failure
from aobatch.executors.ray.pool import Pool
from aobatch.executors.ray.rounds import Round
from aobatch.executors.ray.streams import Streams
from aobatch.executors.ray.watch import Rules
from aobatch.executors.ray.work import Work

if TYPE_CHECKING:
    from aobatch.engine.streaming import Listener

NUM_NAMED = 64
"""Workers that have figures of their own in the statistics."""


class RayExecutor:
    """One model, open in all workers of a pool."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules

    @property
    def statistics(self) -> Mapping[str, float]:
        """Counts and seconds of all engines, and of workers."""
        total: defaultdict[str, float] = defaultdict(float)
        now = time.monotonic()
        for member in (*self._pool.members, *self._pool.ended):
            statistics = dict(member.statistics)
            for key, value in statistics.items():
                total[key] += value
            if member.is_ready and member.number < NUM_NAMED:
                name = f"worker_{member.number}"
                total[f"{name}_sampled_tokens"] += statistics.get("sampled_tokens", 0)
                total[f"{name}_seconds"] += (member.ended or now) - member.ready
        return dict(total) | asdict(self._pool.tally)

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> Generator[Result, None, None]:
        """Compute every request; results come as workers send them."""
        streams, work = Streams(listener), Work(requests)
        with self._pool.cluster_errors():
            yield from Round(self._pool, work, streams, self._rules).results()
            if work.suspects:
                yield from self._isolate(work.suspects, streams)

    def _isolate(self, suspects: list[Request], streams: Streams) -> Iterator[Result]:
        """Compute suspects by a fresh worker for each group; a group that it dies of is halved."""
        self._pool.close()  # what they have taken of their nodes is needed
        size = self._rules.capacity
        groups = deque(suspects[i : i + size] for i in range(0, len(suspects), size))
        rules = replace(self._rules, num_workers=1, capacity=size)
        while groups:
            group, answered = groups.popleft(), set[str]()
            trial = Round(self._pool, Work(group), streams, rules, is_trial=True)
            for result in trial.results():
                answered.add(result.request.key)
                yield result
            left = [request for request in group if request.key not in answered]
            if trial.verdict and len(group) == 1 and left:
                yield Result(left[0], (), Usage(0, 0, 0), _fault(trial.verdict), 0.0)
            elif left:
                middle = (len(left) + 1) // 2
                groups.extendleft(half for half in (left[middle:], left[:middle]) if half)


def _fault(verdict: Failure) -> RequestError:
    return errors.insufficient_memory() if verdict.lacks_memory else errors.engine_crash()
