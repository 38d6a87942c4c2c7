"""Laws of the lists of tokens; a Counter for each slot is the oracle."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sampling_strategies import unhurried

from aobatch.sampling.columns import TokenLists

NUM_SLOTS = 4


def contents(lists: TokenLists, num_slots: int = NUM_SLOTS) -> list[dict[int, float]]:
    """Read all lists back."""
    entries = lists.entries(slice(0, num_slots))
    found: list[dict[int, float]] = [{} for _ in range(num_slots)]
    for row, token, value in zip(entries.rows, entries.ids, entries.values, strict=True):
        assert token not in found[row], "an id is in the list twice"
        found[row][int(token)] = float(value)
    return found


@unhurried
@given(steps=st.lists(st.lists(st.integers(0, 6), min_size=NUM_SLOTS, max_size=NUM_SLOTS)))
def test_counts_follow_the_tokens(steps: list[list[int]]) -> None:
    """After any steps a slot's list holds each of its tokens with how often it came."""
    lists = TokenLists(NUM_SLOTS)
    counters = [Counter[int]() for _ in range(NUM_SLOTS)]
    for tokens in steps:
        lists.count(np.arange(NUM_SLOTS), np.array(tokens))
        for counter, token in zip(counters, tokens, strict=True):
            counter[token] += 1

    assert contents(lists) == [dict(counter) for counter in counters]


def test_assigned_list_replaces_a_longer_one() -> None:
    """Nothing of the sequence before stays, and its numbers do not leak into new ids."""
    lists = TokenLists(NUM_SLOTS)
    lists.assign(2, np.array([5, 6, 7]), np.array([1.0, 2.0, 3.0]))
    lists.assign(2, np.array([9]), 0.0)
    lists.count(np.array([2, 0]), np.array([6, 0]))

    assert contents(lists) == [{0: 1.0}, {}, {9: 0.0, 6: 1.0}, {}]


def test_only_wanted_slots_are_listed() -> None:
    """Rows count from the first slot asked for, and unwanted ones give nothing."""
    lists = TokenLists(NUM_SLOTS)
    for slot in range(NUM_SLOTS):
        lists.assign(slot, np.array([slot, 10 + slot]), 1.0)

    entries = lists.entries(slice(1, 4), np.array([True, False, True]))

    assert entries.rows.tolist() == [0, 0, 2, 2]
    assert entries.ids.tolist() == [1, 11, 3, 13]


def test_lists_move() -> None:
    """A moved list is whole, and grows by itself."""
    lists = TokenLists(4)
    lists.assign(1, np.array([3, 4, 5]), np.array([1.0, 2.0, 3.0]))
    lists.move(1, 0)
    lists.count(np.array([0, 3]), np.array([4, 8]))

    moved = {3: 1.0, 4: 2.0, 5: 3.0}
    assert contents(lists) == [moved | {4: 3.0}, moved, {}, {8: 1.0}]
