"""Laws of the look-ahead: what waits is bounded in number and in size."""

from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Timer

import pytest

from aobatch.api.request import Request
from aobatch.engine.engine import MAX_CHARACTERS, Coalescer
from aobatch.engine.scheduler import CHARACTERS_A_PROMPT, Window
from aobatch.engine.sequence import Result
from aobatch.errors import RequestError
from aobatch.testing import scripted_engine

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
    equals = Coalescer()

    for request, fault in ((small, None), (wrong, error), (long, None)):
        assert not equals.join(request)
        equals.finish(Result(request, (), None, fault, 0.0))  # type: ignore[arg-type]

    assert equals.find(small) is not None
    assert equals.find(wrong) is equals.find(long) is None


def test_a_pause_ends_a_block(parse: Parse) -> None:
    """What stands ahead of a pause is read at once, what follows it in the next block."""
    first, second = parse({"prompt": "a"}, {"prompt": "b"})
    read: list[Request] = []
    window = Window(iter([first, None, second]), read.append, 8)

    window.read()
    assert (read, window.is_dry, window.has_read_all) == ([first], True, False)
    window.read()
    assert (read, window.is_dry, window.has_read_all) == ([first, second], False, True)


def test_a_run_waits_for_requests_that_come_late(parse: Parse) -> None:
    """An engine that has run dry gives what it has, and goes on when it is woken."""
    requests = parse(*[{"prompt": f"p{number}", "max_tokens": 3} for number in range(6)])
    engine = scripted_engine()
    late: SimpleQueue[Request | None] = SimpleQueue()
    found: list[Result] = []

    def arriving() -> Iterator[Request | None]:
        while True:
            try:
                request = late.get_nowait()
            except Empty:
                yield None
                continue
            if request is None:
                return
            yield request

    for request in requests[:2]:
        late.put(request)
    results = engine.run(arriving())
    found += [next(results), next(results)]
    timer = Timer(0.05, lambda: (*map(late.put, [*requests[2:], None]), engine.wake()))
    timer.start()
    found += results

    assert sorted(result.request.line for result in found) == [1, 2, 3, 4, 5, 6]
    expected = {r.request.key: r.choices for r in scripted_engine().run(requests)}
    assert {r.request.key: r.choices for r in found} == expected
