"""Laws of request keys over made-up bodies."""

from hypothesis import given
from hypothesis import strategies as st
from line_strategies import BODIES, STEADY, THOROUGH, written

from aobatch.api.request import Limits, Parser, Request


def keys_of(raws: list[bytes]) -> list[str]:
    """Give the keys of the lines of a job, which must be right."""
    parser = Parser({}, Limits())
    parsed = [parser.parse(number, raw) for number, raw in enumerate(raws, start=1)]
    assert all(isinstance(request, Request) for request in parsed), parsed
    return [request.key for request in parsed if isinstance(request, Request)]


@THOROUGH
@given(BODIES, st.integers(0, 10**6))
def test_key_does_not_depend_on_writing(fields: dict[str, object], seed: int) -> None:
    """Order of keys, spacing, carriage returns, escapes and forms of numbers change no key."""
    one, other = written(fields, seed), written(fields, seed + 1)

    assert keys_of([one]) == keys_of([other]) == keys_of([other + b"\r"])


@STEADY
@given(st.lists(st.sampled_from("aabc"), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_keys_do_not_depend_on_the_order_of_lines(prompts: list[str], source: object) -> None:
    """Shuffled lines have the same keys; equal lines have different ones, in their order."""
    shuffled = [*prompts]
    source.shuffle(shuffled)  # type: ignore[attr-defined]
    lines = [[written({"prompt": p}, i) for i, p in enumerate(ps)] for ps in (prompts, shuffled)]

    first, second = map(keys_of, lines)

    assert len({*first}) == len(prompts)
    for prompt in {*prompts}:
        own = [key for key, p in zip(first, prompts, strict=True) if p == prompt]
        assert own == [key for key, p in zip(second, shuffled, strict=True) if p == prompt]
