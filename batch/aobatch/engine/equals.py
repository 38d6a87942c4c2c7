"""Requests that must have equal results: computed once, answered each.

Greedy requests and those with a seed name everything that decides their result in their body.
"""

from collections import OrderedDict
from dataclasses import replace

from aobatch.api.request import CompletionBody, Request
from aobatch.engine.result import Result

NUM_KEPT = 512
"""Results that are remembered for requests still to come."""

MAX_CHARACTERS = 2**16
"""Requests with longer prompts are not remembered, so that memory is bounded."""


class Equals:
    """Remembers what is being computed and what was computed last."""

    def __init__(self) -> None:
        self.num_joined = 0
        """Requests that wait for an equal one's result."""
        self._open: dict[CompletionBody, list[Request]] = {}
        self._known: OrderedDict[CompletionBody, Result] = OrderedDict()

    def find(self, request: Request) -> Result | None:
        """Give the result that a request shares with one before."""
        name = request.body.decision()
        known = None if name is None else self._known.get(name)
        return None if known is None else replace(known, request=request)

    def join(self, request: Request) -> bool:
        """Say whether an equal request is being computed, whose result will serve this one too."""
        name = request.body.decision()
        if name is None:
            return False
        followers = self._open.get(name)
        if followers is None:
            self._open[name] = []
            return False
        followers.append(request)
        self.num_joined += 1
        return True

    def finish(self, result: Result) -> list[Result]:
        """Remember a result; give those of the requests that waited for it."""
        name = result.request.body.decision()
        if name is None:
            return []
        if result.error is None and sum(map(len, name.prompts)) <= MAX_CHARACTERS:
            self._known[name] = result
        if len(self._known) > NUM_KEPT:
            self._known.popitem(last=False)
        followers = self._open.pop(name)
        self.num_joined -= len(followers)
        return [replace(result, request=request) for request in followers]
