"""Laws of verification: every damage is found, under the name of what is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from aobatch.executors.verification import Verification, verify
from aobatch.models.store.folder import ModelFolder, read_manifest, write_manifest

Damage = Callable[[Path, ModelFolder], None]


def flip(name: str, place: float) -> Damage:
    """Flip one bit somewhere in a file."""

    def damage(folder: Path, _: ModelFolder) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(place * len(content))] ^= 1
        (folder / name).write_bytes(content)

    return damage


def edit(**values: object) -> Damage:
    """Change the text of model.toml by hand."""

    def damage(folder: Path, _: ModelFolder) -> None:
        text = (folder / "model.toml").read_text()
        for name, value in values.items():
            before = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
            text = text.replace(before, f"{name} = {value}", 1)
        (folder / "model.toml").write_text(text)

    return damage


def swap(name: str) -> Damage:
    """Take a file of another model."""
    return lambda folder, other: shutil.copy(other.path / name, folder / name)  # type: ignore[return-value]


def replace_tokenizer(folder: Path, _: ModelFolder) -> None:
    """Give two tokens each other's ids."""
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    first, second = list(vocab)[10:12]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def remove(name: str) -> Damage:
    """Take a file away."""
    return lambda folder, _: (folder / name).unlink()


DAMAGES: dict[str, tuple[Damage, set[str]]] = {
    "first weight": (flip("model.onnx.data", 0.0), {"model.onnx.data"}),
    "last weight": (flip("model.onnx.data", 0.999), {"model.onnx.data"}),
    "tokenizer": (replace_tokenizer, {"tokenizer.json"}),
    "context": (edit(context_length=7), {"model.toml"}),
    "start": (edit(document_start_token_id=5), {"model.toml"}),
    "width": (edit(head_dim=32), {"model.toml", "graph", "self-test", "self-test, fused"}),
    "digest": (edit(digest='"0000"'), {"model.toml", "digest"}),
    "graph": (swap("model.onnx"), {"model.onnx", "graph", "self-test"}),
    "fused graph": (remove("model.fused.onnx"), {"model.fused.onnx"}),
}


def found(folder: Path) -> Verification:
    """Verify a folder."""
    return verify(folder, lambda *_: None)


def failures(result: Verification) -> set[str]:
    """Name what failed."""
    return {check.name for check in result.checks if check.state == "failed"}


@pytest.fixture
def folder(tiny_int8: ModelFolder, tmp_path: Path) -> Path:
    """Give a copy of the tiny model that may be damaged."""
    return Path(shutil.copytree(tiny_int8.path, tmp_path / "tiny-int8"))


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_found_by_name(case: str, folder: Path, tiny_fp32: ModelFolder) -> None:
    """The file or the part that is wrong is named, and nothing that is right."""
    damage, expected = DAMAGES[case]
    damage(folder, tiny_fp32)

    result = found(folder)

    assert not result.is_right
    named = failures(result)
    assert expected <= named
    # A file that is wrong may be so wrong that nothing can be computed with it either.
    assert named - expected <= {"graph", "self-test", "self-test, fused"}
    assert {"quality": "not checked"}.items() <= {c.name: c.state for c in result.checks}.items()


@pytest.fixture
def with_reference(folder: Path, tiny_fp32: ModelFolder) -> Path:
    """Give the folder beside its model in full precision."""
    shutil.copytree(tiny_fp32.path, folder.parent / "tiny-int8-fp32")
    return folder


def test_quality_is_measured_again(with_reference: Path, tiny_int8: ModelFolder) -> None:
    """The figures are those that conversion found with the same graphs."""
    result = found(with_reference)
    texts = {check.name: check.found for check in result.checks}
    recorded = tiny_int8.manifest.quality

    assert result.is_right
    assert recorded is not None
    assert f"KL {recorded.kl:.4f} nats" in texts["quality"]
    fused = tiny_int8.manifest.fused.quality
    assert fused is not None
    assert f"KL {fused.kl:.4f} nats" in texts["quality, fused"]
    assert f"{recorded.top1_agreement:.1%} of {recorded.num_tokens:,}" in texts["quality"]


def test_figures_that_are_not_the_graphs_are_found(with_reference: Path) -> None:
    """A description that was sealed with a better quality than the graph has fails by it."""
    path = with_reference / "model.toml"
    manifest = read_manifest(path)
    assert manifest.quality is not None
    better = replace(manifest.quality, kl=manifest.quality.kl + 0.01)
    write_manifest(path, replace(manifest, quality=better))

    assert failures(found(with_reference)) == {"quality"}


@pytest.mark.parametrize("is_of_another_source", [False, True])
def test_sound_model_passes_without_a_reference(
    folder: Path, tiny_fp32: ModelFolder, *, is_of_another_source: bool
) -> None:
    """Nothing fails, and what could not be measured says how it can be.

    A model that only has the right name is not compared with.
    """
    if is_of_another_source:
        other = Path(shutil.copytree(tiny_fp32.path, folder.parent / "tiny-int8-fp32"))
        manifest = replace(tiny_fp32.manifest, source_sha256="0" * 64)
        write_manifest(other / "model.toml", manifest)

    result = found(folder)

    assert result.is_right
    open_points = [check for check in result.checks if check.state != "ok"]
    assert [(check.name, check.state) for check in open_points] == [("quality", "not checked")]
    assert "tiny-int8-fp32" in open_points[0].advice
    assert {"model.toml", "model.onnx", "model.onnx.data", "tokenizer.json", "self-test"} <= {
        check.name for check in result.checks
    }


def test_full_precision_is_its_own_reference(tiny_fp32: ModelFolder) -> None:
    """Of an fp32 model there is nothing to be measured."""
    result = found(tiny_fp32.path)
    texts = {check.name: check.found for check in result.checks}

    assert result.is_right
    assert "full precision" in texts["quality"]
