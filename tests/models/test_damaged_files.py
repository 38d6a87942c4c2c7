"""Laws of damage: whatever happened to a model's bytes, the answer is a result or a ModelError."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from aobatch.errors import ModelError
from aobatch.models.checks.graph import check_decoder
from aobatch.models.source.safetensors import read_header
from aobatch.models.store.folder import ModelFolder, read_manifest
from aobatch.models.tokenizer import VocabularyTokenizer

SHARE = pytest.mark.parametrize("share", [4, pytest.param(1, marks=pytest.mark.long)])
"""Try a quarter of the damage, or in `make crash-test` all of it."""


def damaged(content: bytes, count: int) -> Iterator[bytes]:
    """Yield copies with bytes changed, taken out or put in, the same ones in every run."""
    chance = random.Random(20)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 6))):
            place, size = chance.randrange(len(copy)), chance.randrange(1, 12)
            new = chance.randbytes(chance.choice((0, 1, size)))
            copy[place : place + chance.choice((0, 1, len(new), size))] = new
        yield bytes(copy)


def refusals(path: Path, count: int, read: Callable[[Path], object]) -> int:
    """Count the damaged copies of a file that are refused by name; any other error is raised."""
    content, messages = path.read_bytes(), []
    for copy in damaged(content, count):
        path.write_bytes(copy)
        try:
            read(path)
        except ModelError as error:
            messages.append(str(error))
    assert [message for message in messages if path.name not in message] == []
    return len(messages)


@SHARE
def test_damaged_graphs(tiny_int8: ModelFolder, tmp_path: Path, share: int) -> None:
    """400 graphs; most are refused, since most of a graph is names and numbers that matter."""
    shutil.copytree(tiny_int8.path, tmp_path, dirs_exist_ok=True)

    assert 200 < share * refusals(tmp_path / "model.onnx", 400 // share, check_decoder) < 400


@SHARE
def test_damaged_tokenizers(tiny_int8: ModelFolder, tmp_path: Path, share: int) -> None:
    """400 tokenizers, each of which splits a text if it is not refused."""
    path = tmp_path / "tokenizer.json"
    shutil.copy(tiny_int8.path / "tokenizer.json", path)

    def read(path: Path) -> None:
        VocabularyTokenizer(path, 512).encode("What is left of it?")

    assert 200 < share * refusals(path, 400 // share, read) <= 400


@SHARE
def test_damaged_descriptions(tiny_int8: ModelFolder, tmp_path: Path, share: int) -> None:
    """400 descriptions."""
    path = tmp_path / "model.toml"
    shutil.copy(tiny_int8.path / "model.toml", path)

    assert 200 < share * refusals(path, 400 // share, read_manifest) <= 400


@SHARE
def test_damaged_safetensors(data: Path, tmp_path: Path, share: int) -> None:
    """1,000 headers; one that is not refused is one that the format's own library reads, too."""
    path = tmp_path / "model.safetensors"
    content = (data / "tiny-llama/model.safetensors").read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:length])

    def read(path: Path) -> None:
        path.write_bytes(path.read_bytes() + content[length:])
        tensors = read_header(path)
        assert tensors.keys() == load_file(path).keys()

    assert 800 < share * refusals(path, 1000 // share, read) < 1000
