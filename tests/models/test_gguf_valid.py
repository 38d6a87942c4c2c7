"""Laws of the check of GGUF files: what is valid is read as it is, within bounds of memory."""

import os
import struct
import tracemalloc
from itertools import islice, product
from pathlib import Path

import gguf
import numpy as np
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
from aobatch.models.importers import gguf_bytes
from aobatch.models.importers.gguf import read_gguf
from aobatch.models.importers.gguf_check import check_gguf
from aobatch.models.importers.gguf_tensors import KINDS
from aobatch.models.importers.gguf_weights import load_weight

MIB = 2**20


def written(file: Gguf, path: Path) -> Path:
    """Write a file."""
    path.write_bytes(file.content())
    return path


def blocks(tensor: Tensor, width: int) -> np.ndarray:
    """Give the bytes of blocks of 32 numbers whose scale is 1, without the scale."""
    return np.frombuffer(tensor.data, np.uint8).reshape(-1, width + 2)[:, 2:]


def test_weights_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    """Floats, halves, bytes and nibbles come out as they are by the definition of their types."""
    file = small_llama()
    load = read_gguf(written(file, tmp_path / "small.gguf")).load
    tensors = file.tensors
    nibbles = blocks(tensors["blk.0.ffn_gate.weight"], 16)
    halves = np.frombuffer(tensors["blk.0.attn_k.weight"].data, "<f2").reshape(8, 2, 32)

    expected = {
        "layers.0.down": np.frombuffer(tensors["blk.0.ffn_down.weight"].data, "<f4"),
        "embedding": blocks(tensors["token_embd.weight"], 32).view(np.int8),
        "head": blocks(tensors["token_embd.weight"], 32).view(np.int8),
        "layers.0.gate": np.hstack([nibbles & 15, nibbles >> 4]) - 8.0,
        "layers.0.k": np.vstack([halves[:, 0], halves[:, 1]]),
    }
    for name, numbers in expected.items():
        np.testing.assert_array_equal(numbers.ravel(), load(name).ravel(), name)
        assert load(name).dtype == np.float32


@pytest.mark.parametrize(
    "change",
    [{"version": struct.pack("<I", 2)}, *({"alignment": 2**power} for power in (0, 3, 6, 16))],
    ids=str,
)
def test_versions_and_alignments_are_equal(change: dict[str, object], tmp_path: Path) -> None:
    """Version 2 and every alignment hold the same model."""
    plain, file = small_llama(), small_llama()
    for name, value in change.items():
        setattr(file, name, value)
    file.fields["general.alignment"] = struct.pack("<II", 4, file.alignment)
    first = read_gguf(written(plain, tmp_path / "plain.gguf"))
    second = read_gguf(written(file, tmp_path / "other.gguf"))

    assert first.spec == second.spec
    for name in ("embedding", "layers.0.q", "layers.0.down"):
        np.testing.assert_array_equal(first.load(name), second.load(name))


def test_sizes_may_have_any_integer_type(tmp_path: Path) -> None:
    """A size written in 8, 16 or 64 bits is the same size."""
    file = small_llama()
    file.fields["llama.block_count"] = struct.pack("<IB", 0, 1)
    file.fields["llama.embedding_length"] = struct.pack("<Ih", 3, 32)
    file.fields["llama.context_length"] = struct.pack("<Iq", 11, 64)

    assert read_gguf(written(file, tmp_path / "small.gguf")).spec.context_length == 64


def test_the_table_of_types_is_that_of_the_library() -> None:
    """Numbers, names and sizes of blocks are those by which weights are dequantised."""
    expected = {
        kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType
    }

    assert expected == {number: tuple(kind) for number, kind in KINDS.items()}


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tools"])
def test_templates_are_never_read(key: str, tmp_path: Path) -> None:
    """A template may hold anything, even what is no text; nothing of it is kept."""
    file = small_llama()
    field(key, string(b"\xff{{ cycler.__init__.__globals__.os.system('x') }}"))(file)
    path = written(file, tmp_path / "small.gguf")

    assert b"cycler" not in read_gguf(path).tokenizer_json
    with pytest.raises(ModelError, match="is a text of 49 bytes"):
        check_gguf(path).fields.text(key)


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
    "empty texts": more_fields(("a", texts([""] * (MIB // 16)))),
    "long texts": more_fields(*((f"a{index}", string("x" * MIB)) for index in range(2))),
    "template": more_fields(("tokenizer.chat_template.x", string("x" * (2 * MIB)))),
    "keys": more_fields(*((f"k{index}", string("é")) for index in range(50_000))),
    "kinds": field("tokenizer.ggml.token_type", array(U8, [bytes([1]) * (2 * MIB)], 2 * MIB)),
    "tokens": tokens(2**15, 1),
    "special tokens": tokens(2**15, 3),
    "merges": field("tokenizer.ggml.merges", texts(["a b"] * 50_000)),
    "claims": field("tokenizer.ggml.tokens", texts([], 2**63)),
}


@pytest.mark.parametrize("case", WASTEFUL)
def test_memory_is_bounded_by_the_size_of_the_file(case: str, tmp_path: Path) -> None:
    """Whatever a file is made of, valid or not, eight bytes for each of it are enough."""
    file = small_llama()
    WASTEFUL[case](file)
    path = written(file, tmp_path / "large.gguf")
    check_gguf(written(small_llama(), tmp_path / "warm.gguf"))
    tracemalloc.start()
    try:
        read_gguf(path)
    except ModelError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak <= 8 * path.stat().st_size + 4 * MIB


def test_a_weight_takes_little_more_than_its_numbers(tmp_path: Path) -> None:
    """Dequantising 4-bit blocks of 8 million numbers needs their float32 and half as much again."""
    file = small_llama()
    count = 2**17
    block = quantised(32, kind=Q4_0).data
    file.tensors["token_embd.weight"] = Tensor((count, 64), block * (2 * count), Q4_0)
    path = written(file, tmp_path / "large.gguf")
    tensor = check_gguf(path).tensors["token_embd.weight"]
    tracemalloc.start()
    load_weight(path, tensor)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak <= 1.5 * 4 * count * 64 + 32 * MIB


def test_limits_hold_for_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of too many bytes, or of too many texts, is refused."""
    path = written(small_llama(), tmp_path / "small.gguf")
    monkeypatch.setattr(gguf_bytes, "_MAX_TEXTS", 20)
    with pytest.raises(ModelError, match="more than 20 texts"):
        read_gguf(path)
    monkeypatch.setattr(gguf_bytes, "MAX_FILE_BYTES", 10_000)
    with pytest.raises(ModelError, match="at most 10000 are read"):
        read_gguf(path)


@pytest.mark.usefixtures("_no_hang")
@pytest.mark.parametrize("what", ["folder", "nothing", "pipe"])
def test_only_regular_files_are_read(what: str, tmp_path: Path) -> None:
    """A folder, no file and a pipe that nobody writes are refused at once."""
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)

    with pytest.raises(ModelError, match="is not a file"):
        read_gguf(path)
