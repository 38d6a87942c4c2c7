"""Laws of safetensors headers: the format's own files are read exactly, all others refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aobatch.errors import ModelError
from aobatch.models.source.safetensors import read_header, read_index

Header = dict[str, object]
F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
NEXT = {"dtype": "U8", "shape": [4], "data_offsets": [16, 20]}


def file_of(header: Header | bytes, data: bytes = bytes(20), length: int | None = None) -> bytes:
    """Give the bytes of a file with such a header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def changed(**fields: object) -> bytes:
    """Give a file whose first tensor has other fields."""
    return file_of({"a": F32 | fields, "b": NEXT})


def test_values_lie_where_the_header_says(data: Path) -> None:
    """The bytes at each place are the values that the format's own library reads."""
    path = data / "tiny-llama/model.safetensors"
    content, expected = path.read_bytes(), load_file(path)
    tensors = read_header(path)

    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        values = np.frombuffer(content[tensor.begin :][: tensor.num_bytes], "<f4").reshape(
            tensor.shape
        )
        np.testing.assert_array_equal(expected[name], values)


def test_every_kind_of_array_is_read(tmp_path: Path) -> None:
    """Scalars, empty arrays, metadata and all the types of numpy that the library writes."""
    kinds = ["bool", "u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"]
    arrays = {kind: np.ones((3, 1), kind) for kind in kinds}
    arrays |= {"scalar": np.array(1.0), "empty": np.ones((0, 5), "f4")}
    path = tmp_path / "arrays.safetensors"
    save_file(arrays, path, {"format": "np"})
    tensors = read_header(path)

    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    assert {name: tensor.num_bytes for name, tensor in tensors.items()} == {
        name: array.nbytes for name, array in arrays.items()
    }


CORRUPT = {
    "empty": b"",
    "seven-bytes": bytes(7),
    "no-header": bytes(8),
    "header-beyond-the-file": file_of({}, b"", length=1000),
    "header-of-2^63": file_of({}, b"", length=2**63),
    "cut-header": file_of({"a": F32, "b": NEXT}, length=40),
    "no-json": file_of(b"{]", b""),
    "list": file_of(b"[]", b""),
    "not-utf-8": file_of(b'{"\xff": 1}', b""),
    "nested": file_of(b'{"a":' * 100_000, b""),
    "key-twice": file_of(b'{"a": 1, "a": 2}'),
    "field-twice": file_of(
        b'{"a": {"dtype": "U8", "dtype": "I8", "shape": [20], "data_offsets": [0, 20]}}'
    ),
    "entry-no-object": file_of({"a": 1}),
    "field-missing": file_of({"a": {"dtype": "F32", "shape": [5]}}),
    "field-unknown": changed(strides=[1]),
    "name-empty": file_of({"": F32, "b": NEXT}),
    "name-of-half-a-character": file_of(b'{"\\ud800": ' + json.dumps(F32).encode() + b"}"),
    "name-with-a-newline": file_of({"a\nb": F32, "b": NEXT}),
    "type-unknown": changed(dtype="F31"),
    "type-no-string": changed(dtype=["F32"]),
    "shape-no-list": changed(shape=4),
    "shape-negative": changed(shape=[-2, -2]),
    "shape-fraction": changed(shape=[2.0, 2]),
    "shape-boolean": changed(shape=[True, 4]),
    "shape-huge": changed(shape=[2**62, 4]),
    "shape-too-deep": changed(shape=[1] * 9),
    "shape-of-another-size": changed(shape=[2, 3]),
    "digits": file_of(b'{"a": ' + b"9" * 5000 + b"}"),
    "not-a-number": file_of(b'{"a": NaN}'),
    "offsets-missing-one": changed(data_offsets=[16]),
    "offsets-backwards": changed(data_offsets=[16, 0]),
    "offsets-negative": changed(data_offsets=[-16, 0]),
    "offsets-beyond-the-file": file_of({"a": F32 | {"data_offsets": [20, 36]}}),
    "overlap": file_of({"a": F32, "b": NEXT | {"data_offsets": [12, 16]}}, bytes(16)),
    "same-place": file_of({"a": F32, "c": F32}, bytes(16)),
    "hole": file_of({"a": F32, "b": NEXT | {"data_offsets": [20, 24]}}, bytes(24)),
    "hole-ahead": file_of({"b": NEXT}),
    "data-cut": file_of({"a": F32, "b": NEXT}, bytes(19)),
    "data-left-over": file_of({"a": F32, "b": NEXT}, bytes(21)),
    "metadata-no-object": file_of({"__metadata__": "x", "a": F32, "b": NEXT}),
    "metadata-no-string": file_of({"__metadata__": {"x": 1}, "a": F32, "b": NEXT}),
    "too-many": file_of(
        {f"{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(65_537)}, b""
    ),
}


@pytest.mark.parametrize("content", CORRUPT.values(), ids=CORRUPT)
def test_corrupt_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Each is one sentence that names the file."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.safetensors is refused: [^\n]+$"):
        read_header(path)


def test_large_headers_are_not_read(tmp_path: Path) -> None:
    """A header of more than 100 MB is refused by its length, though the file has it."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b"{}")
        file.truncate(200_000_000)

    with pytest.raises(ModelError, match="header too large"):
        read_header(path)


def test_the_untouched_file_is_read(tmp_path: Path) -> None:
    """The file that the corrupt ones were made of is good."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": F32, "b": NEXT, "__metadata__": {"format": "pt"}}))

    assert [tensor.dtype for tensor in read_header(path).values()] == ["F32", "U8"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A folder or a dangling link is told, not read."""
    path = tmp_path / "model.safetensors"
    make(path)

    with pytest.raises(ModelError, match="is refused"):
        read_header(path)


def test_an_index_names_files_beside_it(tmp_path: Path) -> None:
    """Each tensor is found in its file; an index behind a link, as in caches, is read."""
    blob, index = tmp_path / "blob", tmp_path / "model.safetensors.index.json"
    blob.write_text('{"metadata": {"total_size": 8}, "weight_map": {"a": "m-1.safetensors"}}')
    index.symlink_to(blob)

    assert read_index(index) == {"a": tmp_path / "m-1.safetensors"}


@pytest.mark.parametrize(
    "weight_map",
    [
        pytest.param({"a": "../m.safetensors"}, id="parent"),
        pytest.param({"a": "/m.safetensors"}, id="absolute"),
        pytest.param({"a": "sub/m.safetensors"}, id="subfolder"),
        pytest.param({"a": ".."}, id="dots"),
        pytest.param({"a": ""}, id="empty"),
        pytest.param({"a": 5}, id="number"),
        pytest.param({}, id="nothing"),
        pytest.param(["m.safetensors"], id="list"),
    ],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, weight_map: object) -> None:
    """No name of a file in an index is a path."""
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(ModelError, match=r"index\.json is refused"):
        read_index(index)
