"""Laws of the int8 cache: what its scales hold, what it keeps, and when a model does without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.errors import ModelError
from aobatch.models.convert.precisions import channel_scales
from aobatch.models.store.folder import ModelFolder, open_folder
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner

POSITIONS = 8192
FREQUENCIES = 100_000.0 ** (-np.arange(4) / 4)


def test_key_scales_hold_at_every_position() -> None:
    """Keys that are turned to any position of a long context still fit, though no more than that.

    The oracle turns pairs as complex numbers; some pairs have a channel far larger than the other.
    """
    generator = np.random.default_rng(0)
    pairs = generator.normal(size=(2, 5, 4)) + 1j * generator.normal(size=(2, 5, 4)) / 50
    split = np.concatenate([pairs.real, pairs.imag], axis=2)
    limits = 127 * channel_scales([{"0.key": split[:, :3]}, {"0.key": split[:, 3:]}])["0.key"]
    turned = pairs[..., None] * np.exp(1j * FREQUENCIES[:, None] * np.arange(POSITIONS))
    largest = np.concatenate([abs(turned.real), abs(turned.imag)], axis=2).max(axis=(1, 3))

    assert (largest <= limits * 1.000001).all()
    assert (largest[:, :2] >= limits[:, :2] * 0.999).all()


def test_value_scales_are_the_largest_sizes() -> None:
    """A channel's 127 levels end at its largest value in any text; zeros get some scale."""
    first = np.array([[[1.0, 0.0], [-3.0, 0.0]]])
    scales = channel_scales([{"0.value": first}, {"0.value": first[:, :1] * 2}])

    np.testing.assert_allclose(scales["0.value"], [[3 / 127, 1]], rtol=1e-6)


def test_the_cache_holds_rounded_keys_and_values(tiny_int8: ModelFolder) -> None:
    """Of the first layer, which nothing precedes, it is the float32 cache over its scales."""
    tokens = np.random.default_rng(2).integers(4, 512, 90)
    caches = []
    for dtype in ("fp32", "int8"):
        runner = OnnxRunner(tiny_int8.graph(dtype), 1)
        runner.reserve(1, 128, [])
        runner.prefill([Chunk(0, 0, tokens, 1)])
        caches.append(runner.keys_and_values(0, 90))
    constants = ir.load(tiny_int8.graph("int8")).graph.initializers

    for name in ("0.key", "0.value"):
        scale = constants[f"{name}.scale"].const_value.numpy()[0]
        expected = np.clip(np.rint(caches[0][name] / scale), -128, 127)
        assert np.abs(expected - caches[1][name]).max() <= 1
        assert (expected == caches[1][name]).mean() > 0.999
        assert np.abs(caches[1][name]).max() > 60


def test_both_graphs_read_the_same_weights(tiny_int8: ModelFolder) -> None:
    """The second graph names the first one's weights, in its own folder, and is far smaller."""
    second = tiny_int8.graph("int8").read_bytes()
    weights = tiny_int8.path / "model.onnx.data"

    assert b"model.onnx.data" in second
    assert str(tiny_int8.path.parent).encode() not in second
    assert len(second) < tiny_int8.graph("fp32").stat().st_size + 20_000 < weights.stat().st_size


def test_a_cache_far_from_fp32_is_refused(
    convert_distorted: Callable[[str], ModelFolder], tmp_path: Path
) -> None:
    """The model stays usable; asking it for int8 is one sentence with the figure."""
    folder = convert_distorted("model.kv-int8.onnx")
    command = ["complete", "a", "--model", str(folder.path), "--kv-cache-dtype", "int8"]
    outcome = CliRunner().invoke(aobatch, command)

    kl = folder.manifest.int8_cache.quality.kl
    assert kl > 0.02
    assert f"far from fp32 with an int8 cache (KL {kl:.4f}, at most 0.02)" in outcome.stderr
    assert (outcome.exit_code, len(outcome.stderr.splitlines())) == (69, 1)
    assert folder.graph("fp32").is_file()
    assert not (folder.path / "model.kv-int8.onnx").exists()


def test_a_folder_of_an_older_layout_is_to_be_converted_again(tmp_path: Path) -> None:
    """What an earlier version wrote is told from what cannot be read."""
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).touch()
    (tmp_path / "model.toml").write_text('format = 1\nname = "old"\n')

    with pytest.raises(ModelError, match=r"layout 1, .* convert it again .*models pull old"):
        open_folder(tmp_path)
