"""Laws of model.toml: sizes that a model can have, tokens that its vocabulary has."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from aobatch.errors import ModelError
from aobatch.models.store.folder import ModelFolder, read_manifest, write_manifest

Fields = dict[str, Any]


def fields_of(model: ModelFolder, folder: Path) -> Fields:
    """Give a good description as the fields of its file."""
    write_manifest(folder / "model.toml", model.manifest)
    return tomllib.loads((folder / "model.toml").read_text())


def test_a_description_is_read_as_it_was_written(tiny_int8: ModelFolder, tmp_path: Path) -> None:
    """No bound hits the description of a converted model."""
    write_manifest(tmp_path / "model.toml", tiny_int8.manifest)

    assert read_manifest(tmp_path / "model.toml") == tiny_int8.manifest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({name: size}, id=f"{name}={size}")
        for name in (
            "vocab_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "context_length",
        )
        for size in (0, -1, 2**40, 2**70, 1.5, "1", True)
    ]
    + [
        pytest.param({"eos_token_ids": [512]}, id="end-beyond-the-vocabulary"),
        pytest.param({"eos_token_ids": [-1]}, id="end-negative"),
        pytest.param({"eos_token_ids": 0}, id="end-no-list"),
        pytest.param({"document_start_token_id": 512}, id="start-beyond-the-vocabulary"),
        pytest.param({"infill_token_ids": [1, 2, 512]}, id="infill-beyond-the-vocabulary"),
        pytest.param({"infill_token_ids": [1, 2]}, id="two-infill-tokens"),
        pytest.param({"num_heads": 3}, id="heads-that-share-no-keys"),
        pytest.param({"name": ""}, id="no-name"),
        pytest.param({"name": "x" * 256}, id="long-name"),
        pytest.param({"name": "a\x1b[2Jb"}, id="name-that-clears-a-screen"),
        pytest.param({"custom_ops_library": "evil.so"}, id="unknown-field"),
        pytest.param({"a\n\x1b[2Jb": 1}, id="field-that-clears-a-screen"),
        pytest.param({"format": 1, "name": "a\n\x1b[2Jb"}, id="old-layout-of-such-a-name"),
        pytest.param({"fused": 1}, id="field-of-another-kind"),
    ],
)
def test_impossible_values_are_refused(
    tiny_int8: ModelFolder, tmp_path: Path, change: Fields
) -> None:
    """The message is one line that names the file."""
    path = tmp_path / "model.toml"
    path.write_text(tomli_w.dumps(fields_of(tiny_int8, tmp_path) | change))

    with pytest.raises(ModelError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(str(tmp_path))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"format = 2\nname = ", id="cut"),
        pytest.param(b'name = "\xff"', id="not-utf-8"),
        pytest.param(b"a = " + b"[" * 60_000, id="deep"),
        pytest.param(b"#" * 70_000, id="large"),
        pytest.param(b"format = " + b"9" * 5000, id="digits"),
        pytest.param(b"", id="empty"),
        pytest.param(b'format = "2"\nname = "x"', id="layout-no-number"),
    ],
)
def test_what_is_no_description_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever bytes stand in it, the error is a sentence."""
    path = tmp_path / "model.toml"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.toml is [^\n]+$"):
        read_manifest(path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/etc/hostname")])
def test_a_description_is_a_regular_file(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A folder or a link is not read."""
    make(tmp_path / "model.toml")

    with pytest.raises(ModelError, match=r"is a link|not a regular file"):
        read_manifest(tmp_path / "model.toml")
