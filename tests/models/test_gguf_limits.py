"""Laws of the limits of GGUF import: what a file may hold, and what memory it may ask for."""

import io
import tracemalloc
from itertools import islice, product
from pathlib import Path

import pytest
from gguf_changes import Change, field, more_fields
from gguf_writing import (
    LETTERS,
    Q4_0,
    U8,
    U64,
    Gguf,
    Tensor,
    array,
    quantised,
    small_llama,
    string,
    texts,
)

from aobatch.errors import ModelError
from aobatch.models.source import decoder as sizes
from aobatch.models.source import gguf as gguf_bytes
from aobatch.models.source import gguf_checkpoint as gguf_tokens
from aobatch.models.source.gguf import ByteReader, check_gguf
from aobatch.models.source.gguf_checkpoint import load_weight, read_gguf

MIB = 2**20


@pytest.mark.parametrize(
    ("where", "name", "limit", "reason"),
    [
        (gguf_bytes, "MAX_FILE_BYTES", 10_000, "at most 10000 are read"),
        (gguf_bytes, "_MAX_TEXTS", 20, "more than 20 texts"),
        (gguf_tokens, "_MAX_SPECIAL", 0, "1 tokens are special, at most 0"),
        (sizes, "_MAX_VOCABULARY", 11, "12 embeddings are more than 11"),
    ],
)
def test_limits_hold(
    where: object,
    name: str,
    limit: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is beyond a limit of bytes, texts, special tokens or embeddings is refused."""
    path = small_llama().write(tmp_path / "small.gguf")
    read_gguf(path)
    monkeypatch.setattr(where, name, limit)

    with pytest.raises(ModelError, match=reason):
        read_gguf(path)


def test_a_width_without_its_weights_is_refused(tmp_path: Path) -> None:
    """Conversion would make a matrix of 2048 by 2048 for a file of half a megabyte."""
    path = small_llama(2048).write(tmp_path / "wide.gguf")
    read_gguf(small_llama(1024).write(tmp_path / "narrow.gguf"))

    with pytest.raises(ModelError, match="a width of 2048 is out of proportion"):
        read_gguf(path)


def test_a_file_that_gives_less_than_it_has_is_refused() -> None:
    """A file that shrinks while it is open ends in an error, not in fewer bytes."""
    reader = ByteReader(io.BytesIO(b"GG"), 100, Path("shrinking.gguf"))

    with pytest.raises(ModelError, match="became shorter while it was read"):
        reader.take(4, "the mark")


def tokens(count: int, kind: int) -> Change:
    """List that many different tokens of one kind, over the smallest embedding there is."""

    def change(file: Gguf) -> None:
        names = ("".join(letters) for letters in product(LETTERS, repeat=5))
        file.fields |= {
            "tokenizer.ggml.tokens": texts(list(islice(names, count))),
            "tokenizer.ggml.token_type": array(U8, [bytes([kind]) * count], count),
            "tokenizer.ggml.merges": texts([]),
        }
        embedding = quantised(32, kind=Q4_0).data * count
        file.tensors["token_embd.weight"] = Tensor((count, 32), embedding, Q4_0)

    return change


WASTEFUL: dict[str, Change] = {
    "numbers": more_fields(("a", array(U8, [bytes(2 * MIB)], 2 * MIB))),
    "large numbers": more_fields(("a", array(U64, [bytes(2 * MIB)], MIB // 4))),
    "empty texts": more_fields(("a", texts([""] * (MIB // 32)))),
    "long texts": more_fields(*((f"a{index}", string("x" * MIB)) for index in range(2))),
    "template": more_fields(("tokenizer.chat_template.x", string("x" * (2 * MIB)))),
    "keys": more_fields(*((f"k{index}", string("é")) for index in range(25_000))),
    "kinds": field("tokenizer.ggml.token_type", array(U8, [bytes([1]) * (2 * MIB)], 2 * MIB)),
    "tokens": tokens(2**14, 1),
    "special tokens": tokens(2**14, 3),
    "merges": field("tokenizer.ggml.merges", texts(["a b"] * 25_000)),
    "claims": field("tokenizer.ggml.tokens", texts([], 2**63)),
}


@pytest.mark.parametrize("case", WASTEFUL)
def test_memory_is_bounded_by_the_size_of_the_file(case: str, tmp_path: Path) -> None:
    """Whatever a file is made of, valid or not, eight bytes for each of it are enough."""
    file = small_llama()
    WASTEFUL[case](file)
    path = file.write(tmp_path / "large.gguf")
    check_gguf(small_llama().write(tmp_path / "warm.gguf"))
    tracemalloc.start()
    try:
        read_gguf(path)
    except ModelError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak <= 8 * path.stat().st_size + 2 * MIB


def test_a_weight_takes_little_more_than_its_numbers(tmp_path: Path) -> None:
    """Dequantising 4-bit blocks of 8 million numbers needs their float32 and half as much again."""
    file = small_llama()
    count = 2**17
    block = quantised(32, kind=Q4_0).data
    file.tensors["token_embd.weight"] = Tensor((count, 64), block * (2 * count), Q4_0)
    path = file.write(tmp_path / "large.gguf")
    tensor = check_gguf(path).tensors["token_embd.weight"]
    tracemalloc.start()
    load_weight(tensor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak <= 1.5 * 4 * count * 64 + 32 * MIB
