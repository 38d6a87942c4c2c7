"""Laws of the check of GGUF files: what is valid is read as it is."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_changes import field
from gguf_writing import (
    Tensor,
    small_llama,
    string,
)

from aobatch.errors import ModelError
from aobatch.models.source.gguf import check_gguf
from aobatch.models.source.gguf_checkpoint import read_gguf


def blocks(tensor: Tensor, width: int) -> np.ndarray:
    """Give the bytes of blocks of 32 numbers whose scale is 1, without the scale."""
    return np.frombuffer(tensor.data, np.uint8).reshape(-1, width + 2)[:, 2:]


def test_weights_are_the_numbers_that_were_written(tmp_path: Path) -> None:
    """Floats, halves, bytes and nibbles come out as they are by the definition of their types."""
    file = small_llama()
    load = read_gguf(file.write(tmp_path / "small.gguf")).load
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
    first = read_gguf(plain.write(tmp_path / "plain.gguf"))
    second = read_gguf(file.write(tmp_path / "other.gguf"))

    assert first.spec == second.spec
    for name in ("embedding", "layers.0.q", "layers.0.down"):
        np.testing.assert_array_equal(first.load(name), second.load(name))


def test_sizes_may_have_any_integer_type(tmp_path: Path) -> None:
    """A size written in 8, 16 or 64 bits is the same size."""
    file = small_llama()
    file.fields["llama.block_count"] = struct.pack("<IB", 0, 1)
    file.fields["llama.embedding_length"] = struct.pack("<Ih", 3, 32)
    file.fields["llama.context_length"] = struct.pack("<Iq", 11, 64)

    assert read_gguf(file.write(tmp_path / "small.gguf")).spec.context_length == 64


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tools"])
def test_templates_are_never_read(key: str, tmp_path: Path) -> None:
    """A template may hold anything, even what is no text; nothing of it is kept."""
    file = small_llama()
    field(key, string(b"\xff{{ cycler.__init__.__globals__.os.system('x') }}"))(file)
    path = file.write(tmp_path / "small.gguf")

    assert b"cycler" not in read_gguf(path).tokenizer_json
    with pytest.raises(ModelError, match="is a text of 49 bytes"):
        check_gguf(path).fields.text(key)


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
