"""Laws of models on their way to nodes of Ray; none needs Ray."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from aobatch.errors import ModelError
from aobatch.executors.ray.distribution import (
    find_model,
    model_digest,
    receive_model,
    send_model,
    sent_place,
)
from aobatch.files import file_digest

DATA = Path(__file__).parents[1] / "data"


class Store:
    """An object store in memory."""

    def put(self, value: bytes) -> SimpleNamespace:
        """Keep a value."""
        return SimpleNamespace(value=value)

    def get(self, reference: SimpleNamespace) -> bytes:
        """Give it."""
        return reference.value


def test_a_model_that_did_not_arrive_as_it_was_sent_is_not_kept(tmp_path: Path) -> None:
    """A folder is there with all its bytes or not at all."""
    folder, target = tmp_path / "model", tmp_path / "node/model"
    folder.mkdir()
    (folder / "model.toml").write_text("x = 1")
    (folder / "model.onnx").write_bytes(b"weights")
    manifest = file_digest(folder / "model.toml")
    files = send_model(Store(), folder)  # type: ignore[arg-type]
    files[0].chunks[0].value = b"weighty"

    with pytest.raises(ModelError, match=r"model\.onnx of the model did not arrive"):
        receive_model(Store(), files, target, manifest)  # type: ignore[arg-type]
    assert find_model([target], manifest) is None

    receive_model(Store(), send_model(Store(), folder), target, manifest)  # type: ignore[arg-type]
    assert find_model([tmp_path / "nowhere", target], manifest) == target
    assert find_model([target], "0" * 64) is None


@pytest.mark.parametrize("name", ["", "onnx/model_q4.onnx"])
def test_an_export_arrives_as_the_graph_that_was_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever graph of a folder is meant, a node finds it by the digest of the driver's."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "export"
    shutil.copytree(DATA / "exported/llama-optimum", folder)
    shutil.copy(DATA / "tiny-llama/tokenizer.json", folder)
    (folder / "onnx").mkdir()
    shutil.copy(folder / "model.onnx", folder / "onnx/model_q4.onnx")
    path = folder / name
    digest = model_digest(path)
    place = sent_place(digest, path)

    receive_model(Store(), send_model(Store(), path), place, digest)  # type: ignore[arg-type]

    assert find_model([tmp_path / "nowhere", place], digest) == place
    graphs = [found.name for found in (tmp_path / "models/sent" / digest).glob("*.onnx")]
    assert graphs == [Path(name or "model.onnx").name]
