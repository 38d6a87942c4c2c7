"""The look-ahead: requests read in blocks, tokenised, and put into a good order.

What a block is ordered by never shows in a result, only in how soon it comes.
"""

from collections.abc import Callable, Iterator

from aobatch.api.request import Request
from aobatch.engine.prefixes import family
from aobatch.engine.sequence import RequestState, SequenceGroup

CHARACTERS_A_PROMPT = 2**16
"""A longer prompt counts as several, so that what waits is bounded in memory as well."""


class Window:
    """Reads requests as they are needed."""

    def __init__(
        self,
        requests: Iterator[Request | None],
        prepare: Callable[[Request], RequestState | None],
        num_prompts: int,
    ) -> None:
        """`prepare` gives None for a request that needs no state of its own.

        A None among the requests says that there are no more for now.
        """
        self._requests = requests
        self._prepare = prepare
        self._num_prompts = max(1, num_prompts)
        self.has_read_all = False
        self.is_dry = False
        """Whether the last block ended because there were no more for now."""

    def read(self) -> list[RequestState]:
        """Read the next block, about num_prompts prompts."""
        states: list[RequestState] = []
        num_prompts = 0
        self.is_dry = False
        while num_prompts < self._num_prompts:
            try:
                request = next(self._requests)
            except StopIteration:
                self.has_read_all = True
                break
            if request is None:
                self.is_dry = True
                break
            num_prompts += weight(request)
            state = self._prepare(request)
            if state is not None:
                states.append(state)
        return states


def weight(request: Request) -> int:
    """Count the prompts of a request, long ones by their length."""
    lengths = map(len, request.body.prompts)
    return sum(1 + length // CHARACTERS_A_PROMPT for length in lengths)


def ordered(groups: list[SequenceGroup]) -> list[SequenceGroup]:
    """Put prompts with a common beginning side by side, and the longest work first.

    Long sequences that start last would decode alone in the end.
    """
    families: dict[bytes | int, list[SequenceGroup]] = {}
    for position, group in enumerate(groups):
        shared = family(group.prompt_token_ids)
        families.setdefault(position if shared is None else shared, []).append(group)
    for members in families.values():
        if len(members) > 1:
            members.sort(key=lambda group: group.prompt_token_ids.astype(">u4").tobytes())
    by_length = sorted(families.values(), key=lambda m: -max(g.num_tokens_at_most for g in m))
    return [group for members in by_length for group in members]
