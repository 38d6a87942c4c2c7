"""Laws of the look-ahead: what waits is bounded in number and in size."""

from collections.abc import Callable

import pytest

from aobatch.api.request import Request
from aobatch.engine.equals import MAX_CHARACTERS, Equals
from aobatch.engine.result import Result
from aobatch.engine.window import CHARACTERS_A_PROMPT, Window
from aobatch.errors import RequestError

Parse = Callable[..., list[Request]]


@pytest.mark.parametrize(
    ("prompt", "num_read"),
    [
        pytest.param("x", 8, id="short"),
        pytest.param(["x", "y"], 4, id="two-prompts"),
        pytest.param("x" * CHARACTERS_A_PROMPT, 4, id="long"),
        pytest.param("x" * 3 * CHARACTERS_A_PROMPT, 2, id="longer"),
        pytest.param("x" * 100 * CHARACTERS_A_PROMPT, 1, id="longest"),
        pytest.param([7] * CHARACTERS_A_PROMPT, 4, id="token-ids"),
    ],
)
def test_long_prompts_count_as_several(parse: Parse, prompt: object, num_read: int) -> None:
    """A block holds so many short prompts, fewer long ones, and never none."""
    requests = parse(*[{"prompt": prompt}] * 10)
    read: list[Request] = []
    window = Window(iter(requests), read.append, 8)

    window.read()

    assert len(read) == num_read
    assert not window.has_read_all


def test_only_what_is_small_and_right_is_remembered(parse: Parse) -> None:
    """Errors and long prompts are not kept for equal requests that may never come."""
    error = RequestError("", code="context_length_exceeded")
    fields = {"temperature": 0}
    small, wrong, long = parse(
        {"prompt": "x", **fields},
        {"prompt": "y", **fields},
        {"prompt": "x" * (MAX_CHARACTERS + 1), **fields},
    )
    equals = Equals()

    for request, fault in ((small, None), (wrong, error), (long, None)):
        assert not equals.join(request)
        equals.finish(Result(request, (), None, fault, 0.0))  # type: ignore[arg-type]

    assert equals.find(small) is not None
    assert equals.find(wrong) is equals.find(long) is None
