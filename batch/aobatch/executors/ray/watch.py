"""Looks after workers that do not come, and after those that say nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aobatch.executors.ray.pool import WATCH_SECONDS, Member, Pool

SILENCE_SECONDS = 60.0
"""A worker that says nothing for so long is taken to be lost."""
EARLY_SECONDS = 30.0
"""How long workers that are there wait for the others before they take more than they compute."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a round goes about it."""

    num_workers: int
    num_slots: int
    """Sequences that a worker decodes together."""
    capacity: int
    """Requests that a worker has at most."""
    warn: Callable[[str], None]
    silence_seconds: float = SILENCE_SECONDS


class Watch:
    """Looks at the workers of a pool once a second."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self.is_early = rules.num_workers > 1
        """Whether workers are still awaited."""
        self._pool = pool
        self._rules = rules
        self._started = self._looked = time.monotonic()

    def silent_members(self) -> list[Member]:
        """Give the workers that were silent for too long, now and when they were last looked at."""
        now = time.monotonic()
        if now - self._looked < WATCH_SECONDS:
            return []
        self._looked = now
        if self.is_early:
            self._look_for_missing(now - self._started)
        lost = []
        for member in self._pool.members:
            is_late = member.is_busy and now - member.heard > self._rules.silence_seconds
            # Twice: after a pause of the driver itself, their answers are on the way.
            if is_late and member.is_late:
                lost.append(member)
            member.is_late = is_late
        return lost

    def _look_for_missing(self, seconds: float) -> None:
        num_ready = sum(member.is_ready for member in self._pool.members)
        num_missing = self._rules.num_workers - num_ready
        self.is_early = num_missing > 0 and seconds < EARLY_SECONDS
        if num_missing > 0 and not self.is_early:
            self._rules.warn(
                f"{num_missing:,} of {self._rules.num_workers:,} workers are not there after "
                f"{EARLY_SECONDS:.0f} seconds; they begin when nodes with enough free CPUs come"
            )
