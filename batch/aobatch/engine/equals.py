"""Requests that must have equal results: computed once, answered each.

Greedy requests and those with a seed name everything that decides their result in their body.
"""

from collections import OrderedDict
from dataclasses import replace

import msgspec

from aobatch.api.request import CompletionBody, Request
from aobatch.engine.result import Result
from aobatch.sampling.params import GREEDY_BELOW

NUM_KEPT = 512
"""Results that are remembered for requests still to come."""


class Equals:
    """Remembers what is being computed and what was computed last."""

    def __init__(self) -> None:
        self._open: dict[CompletionBody, list[Request]] = {}
        self._known: OrderedDict[CompletionBody, Result] = OrderedDict()

    def find(self, request: Request) -> Result | None:
        """Give the result that a request shares with one before."""
        name = _name(request.body)
        known = None if name is None else self._known.get(name)
        return None if known is None else replace(known, request=request)

    def join(self, request: Request) -> bool:
        """Say whether an equal request is being computed, whose result will serve this one too."""
        name = _name(request.body)
        if name is None:
            return False
        followers = self._open.get(name)
        if followers is None:
            self._open[name] = []
            return False
        followers.append(request)
        return True

    def finish(self, result: Result) -> list[Result]:
        """Remember a result; give those of the requests that waited for it."""
        name = _name(result.request.body)
        if name is None:
            return []
        self._known[name] = result
        if len(self._known) > NUM_KEPT:
            self._known.popitem(last=False)
        return [replace(result, request=request) for request in self._open.pop(name)]


def _name(body: CompletionBody) -> CompletionBody | None:
    """Give what decides a request's result, None where that is the request's own draws.

    A stream is made of pieces that are sent while it is computed, so it is computed for itself.
    """
    is_greedy = body.temperature < GREEDY_BELOW
    if body.stream or not (is_greedy or body.seed is not None):
        return None
    return msgspec.structs.replace(body, user=None, seed=None if is_greedy else body.seed)
