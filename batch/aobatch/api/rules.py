"""The rules that hold between parameters, checked once each of them is right by itself."""

from collections.abc import Callable, Collection

from aobatch.api import errors
from aobatch.api.body import CompletionBody

MAX_BEST_OF = 20
"""More candidates than this need an n as large."""

Rule = Callable[[CompletionBody, Collection[str]], None]
"""Raises RequestError; gets the body and the names of the parameters that the line itself gave."""


def check_best_of(body: CompletionBody, _given: Collection[str]) -> None:
    """Require n <= best_of <= 20, or best_of = n if n is larger."""
    maximum = max(MAX_BEST_OF, body.n)
    if body.best_of < body.n:
        raise errors.below_minimum(body.best_of, body.n, "integer", "best_of")
    if body.best_of > maximum:
        raise errors.above_maximum(body.best_of, maximum, "integer", "best_of")


def check_stream(body: CompletionBody, _given: Collection[str]) -> None:
    """Refuse a stream of candidates that are ranked only when all are complete."""
    if body.stream and body.best_of > body.n:
        reason = "results cannot be streamed when 'best_of' is greater than 'n'."
        raise errors.invalid_value(reason, "stream")


def check_stream_options(body: CompletionBody, given: Collection[str]) -> None:
    """Refuse stream_options in a line that does not stream."""
    if "stream_options" in given and not body.stream:
        reason = "it is only allowed when 'stream' is true."
        raise errors.invalid_value(reason, "stream_options")


def check_min_tokens(body: CompletionBody, _given: Collection[str]) -> None:
    """Require min_tokens <= max_tokens."""
    if body.min_tokens > body.max_tokens:
        raise errors.above_maximum(body.min_tokens, body.max_tokens, "integer", "min_tokens")


RULES: tuple[Rule, ...] = (check_best_of, check_stream, check_stream_options, check_min_tokens)
"""In the order in which a line is checked."""
