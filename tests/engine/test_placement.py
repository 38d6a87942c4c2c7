"""Laws of how prompts are cut into chunks."""

from itertools import pairwise

import pytest

from aobatch.engine.prefill import CHUNK, chunk_ends


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 258, 512, 513, 514, 1025, 5000])
def test_chunks_cover_the_prompt_and_none_after_the_first_is_single(length: int) -> None:
    """Chunks fit the grid and cover every token; none of one token follows another."""
    ends = chunk_ends(length)
    sizes = [end - start for start, end in pairwise([0, *ends])]

    assert sum(sizes) == length
    assert max(sizes) <= CHUNK
    assert all(size >= 2 for size in sizes[1:])


@pytest.mark.parametrize("length", [1, 255, 256, 257, 512, 513])
@pytest.mark.parametrize("start", [0, 40, 254])
def test_single_tokens_are_chunks_where_they_may_be(length: int, start: int) -> None:
    """Where one token is enough, every chunk but the first and the last is whole."""
    ends = chunk_ends(length, min(start, length - 1), 1)

    assert ends == [*(end for end in range(CHUNK, length, CHUNK) if end > start), length]


@pytest.mark.parametrize("length", [36, 255, 257, 258, 300, 513, 700])
def test_chunks_behind_a_copied_beginning_are_none_of_them_single(length: int) -> None:
    """Wherever a copy ends, what follows is covered by chunks of two or more tokens."""
    for start in range(32, length - 1):
        sizes = [end - begin for begin, end in pairwise([start, *chunk_ends(length, start)])]

        assert sum(sizes) == length - start
        assert min(sizes) >= 2
        assert max(sizes) <= CHUNK + 1
