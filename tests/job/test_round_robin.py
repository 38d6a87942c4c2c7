"""Laws of streams of several choices: their order depends on the pieces alone."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aobatch.api.response import Choice
from aobatch.job.events import RoundRobin

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def pieces_of(lengths: Sequence[int]) -> list[list[Choice]]:
    """Give so many pieces of each choice, the last with its reason."""
    return [
        [Choice(f"{place}", index, None, "stop" if place == n - 1 else None) for place in range(n)]
        for index, n in enumerate(lengths)
    ]


def in_turn(lengths: Sequence[int]) -> list[Choice]:
    """Order pieces slowly: the first one of each choice, then the second ones, and so on."""
    pieces = [piece for choice in pieces_of(lengths) for piece in choice]
    return sorted(pieces, key=lambda piece: (int(piece.text), piece.index))


@given(lengths=LENGTHS, data=st.data())
def test_any_schedule_gives_one_order(lengths: list[int], data: st.DataObject) -> None:
    """However the choices' pieces come between one another, they leave in turn, and all of them."""
    left = pieces_of(lengths)
    turns, found = RoundRobin(len(lengths)), list[Choice]()
    while waiting := [choice for choice in left if choice]:
        piece = data.draw(st.sampled_from(waiting)).pop(0)
        found += turns.add(piece)

    assert found == in_turn(lengths)


def test_a_lone_choice_never_waits() -> None:
    """Each piece leaves as it comes."""
    turns = RoundRobin(1)

    assert [list(turns.add(piece)) for piece in pieces_of([3])[0]] == [
        [piece] for piece in pieces_of([3])[0]
    ]
