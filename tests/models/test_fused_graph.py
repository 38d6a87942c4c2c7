"""Laws of the graph over fused operators: when a model has one, and what it reads."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from family_files import converted, published

from aobatch.arrays import Logits
from aobatch.cli.main import aobatch
from aobatch.errors import ModelError
from aobatch.kernels import KernelsError
from aobatch.models.checks.graph import check_fused
from aobatch.models.convert.fused import not_fusable
from aobatch.models.store.folder import ModelFolder, open_folder
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners.scoring import TextScorer


class Unable(TextScorer):
    """Measures where the operators cannot be had."""

    def fused(self, *_: object) -> Iterator[Logits]:  # type: ignore[override]
        """Fail as a machine without a compiler does."""
        message = "no C compiler was found"
        raise KernelsError(message)


def test_both_graphs_read_the_same_weights(tiny_int8: ModelFolder) -> None:
    """The second graph names the first one's weights, in its own folder, and is far smaller."""
    second = tiny_int8.fused_graph.read_bytes()
    weights = tiny_int8.path / "model.onnx.data"

    assert b"model.onnx.data" in second
    assert str(tiny_int8.path.parent).encode() not in second
    assert len(second) < tiny_int8.graph.stat().st_size + 20_000 < weights.stat().st_size


def test_a_fused_graph_far_from_fp32_is_refused(
    convert_distorted: Callable[[str], ModelFolder], tmp_path: Path
) -> None:
    """The model stays usable; asking it for fused operators is one sentence with the figure."""
    folder = convert_distorted("model.fused.onnx")
    command = ["complete", "a", "--model", str(folder.path), "--kernels", "fused"]
    outcome = CliRunner().invoke(aobatch, command)

    quality = folder.manifest.fused.quality
    assert quality is not None
    assert quality.kl > 0.02
    assert f"it is too far from fp32 (KL {quality.kl:.4f}, at most 0.02)" in outcome.stderr
    assert (outcome.exit_code, len(outcome.stderr.splitlines())) == (69, 1)
    assert folder.graph.is_file()
    assert not folder.fused_graph.exists()


def test_a_model_converted_without_operators_says_so(tmp_path: Path) -> None:
    """It has no fused graph, and says that it may have one once it is converted again."""
    checkpoint = read_checkpoint(published("llama", tmp_path / "tiny"))
    folder = converted(checkpoint, tmp_path / "model", "int8", Unable())

    assert folder.manifest.quality is not None
    assert folder.manifest.fused.quality is None
    assert "no C compiler was found); convert it again" in folder.manifest.fused.reason
    assert not folder.fused_graph.exists()


def test_what_the_operators_do_not_hold_is_named(tmp_path: Path) -> None:
    """Widths that are no multiples of 16, large heads, and weights of other recipes."""
    spec = read_checkpoint(published("llama", tmp_path / "tiny")).spec

    assert not_fusable(spec, "rotated") == ""
    assert "'blocks of 32'" in not_fusable(spec, "blocks of 32")
    assert "not head_dim 20" in not_fusable(replace(spec, head_dim=20), "rotated")
    assert "heads up to 256" in not_fusable(replace(spec, head_dim=512), "rotated")


def test_graph_of_other_sizes_is_refused(tiny_int8: ModelFolder) -> None:
    """A fused graph is held against what the model says of itself."""
    sizes = tiny_int8.manifest.graph_sizes
    check_fused(tiny_int8.fused_graph, sizes)

    for other in (replace(sizes, num_layers=2), replace(sizes, vocab_size=9)):
        with pytest.raises(ModelError, match="not those of a decoder"):
            check_fused(tiny_int8.fused_graph, other)
    with pytest.raises(ModelError, match="no decoder needs"):
        check_fused(tiny_int8.graph, sizes)


def test_a_folder_of_an_older_layout_is_to_be_converted_again(tmp_path: Path) -> None:
    """What an earlier version wrote is told from what cannot be read."""
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "model.toml").write_text('format = 1\nname = "old"\n')

    with pytest.raises(ModelError, match=r"layout 1, .* convert it again .*models pull old"):
        open_folder(tmp_path)


def test_a_folder_of_an_older_layout_gives_way(tmp_path: Path) -> None:
    """A conversion takes its place, with files that models had then and have no more."""
    checkpoint = read_checkpoint(published("llama", tmp_path / "tiny"))
    (tmp_path / "model").mkdir()
    for name in ("model.onnx", "model.kv-int8.onnx"):
        (tmp_path / "model" / name).touch()

    folder = converted(checkpoint, tmp_path / "model")

    assert not (folder.path / "model.kv-int8.onnx").exists()
