"""Laws of experts: those in use alone are computed, and four bits are what they stand for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from family_files import DATA, change_config, published
from safetensors.numpy import load_file, save_file
from scipy.special import log_softmax

from aobatch.errors import ModelError
from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.precisions import recipes
from aobatch.models.source.experts import four_bits
from aobatch.models.spec import Weight
from aobatch.models.store.folder import MAX_KL
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_expert_that_no_token_takes_is_not_computed(precision: str, tmp_path: Path) -> None:
    """NaN in one that the router never chooses is in no logit, and changes none."""
    checkpoint = read_checkpoint(published("gptoss", tmp_path / "tiny"))

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = checkpoint.load(name, start, stop).copy()
        if name.endswith("router_bias"):
            weight[3] = -1e9
        if name.endswith(("gate_bias", "up_bias", "down_bias")) and is_marked:
            weight[np.arange(5)[start:stop] == 3] = np.nan
        return weight

    found = []
    for is_marked in (False, True):
        graph = tmp_path / str(is_marked) / "model.onnx"
        way = next(iter(recipes(precision, checkpoint.spec).values()))
        write_graph(replace(checkpoint, load=load), graph.parent, way, lambda *_: None)
        runner = OnnxRunner(graph, 1)
        runner.reserve(1, 64, [])
        found.append(runner.prefill([Chunk(0, 0, np.arange(4, 44), 40)]).copy())
    assert np.isfinite(found[1]).all()
    np.testing.assert_array_equal(*found)


def test_experts_stay_close_where_pairs_of_products_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on AVX2 without VNNI, whatever this processor is: bytes of experts are made unsigned."""
    slow = ("session.x64quantprecision", "1")
    monkeypatch.setattr("aobatch.runners.session.integer_entries", lambda: (slow,))
    checkpoint = read_checkpoint(published("gptoss-mxfp4", tmp_path / "tiny"))
    expected = np.load(DATA / "tiny-gptoss-mxfp4/expected.npz")
    ids, true = expected["input_ids"], log_softmax(expected["logits"].astype(float), axis=1)
    for recipe, way in list(recipes("int8", checkpoint.spec).items())[:2]:
        graph = tmp_path / recipe / "model.onnx"
        write_graph(checkpoint, graph.parent, way, lambda *_: None)
        runner = OnnxRunner(graph, 1)
        runner.reserve(1, 256, [])
        found = log_softmax(runner.prefill([Chunk(0, 0, ids, len(ids))]).astype(float), axis=1)
        assert (np.exp(true) * (true - found)).sum(axis=1).mean() <= MAX_KL, recipe


def test_four_bits_are_the_published_numbers() -> None:
    """Each code, low bits first, times a power of two; 255 stands for no number."""
    blocks = np.array([[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE] * 2]], np.uint8)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6] * 2

    assert four_bits(blocks, np.array([[127]], np.uint8)).tolist() == [values]
    assert four_bits(blocks, np.array([[120]], np.uint8))[0, 7] == 6 / 128
    assert np.isnan(four_bits(blocks, np.array([[255]], np.uint8))).all()


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """The message names the file and the weight."""
    folder = published("gptoss-mxfp4", tmp_path / "tiny")
    path, name = folder / "model.safetensors", "model.layers.1.mlp.experts.down_proj_scales"
    weights = load_file(path)
    weights[name][2, 5, 1] = 255
    save_file(weights, path)
    checkpoint = read_checkpoint(folder)

    checkpoint.load("layers.1.down", 0, 2)
    with pytest.raises(ModelError, match=r"model\.safetensors: weight .*down_proj.* not finite"):
        checkpoint.load("layers.1.down")


@pytest.mark.parametrize(
    ("family", "values", "reason"),
    [
        ("qwen3moe", {"mlp_only_layers": [1]}, "'mlp_only_layers' is supported only as"),
        ("qwen3moe", {"num_local_experts": 9}, r"mlp\.gate\.weight' has shape \(8, 64\)"),
        ("qwen3moe", {"num_local_experts": 7}, r"mlp\.gate\.weight' has shape"),
        ("olmoe", {"clip_qkv": 8.0}, "'clip_qkv' is supported only as None"),
        ("mixtral", {"num_experts_per_tok": 6}, "has to be an integer from 1 to 5"),
        ("granitemoe", {"intermediate_size": 96}, r"input_linear\.weight' has shape"),
        ("gptoss", {"swiglu_limit": -1.0}, "'swiglu_limit' has to be a number"),
    ],
)
def test_descriptions_that_contradict_weights_are_refused(
    family: str, values: dict[str, object], reason: str, tmp_path: Path
) -> None:
    """The message names the field, or the weight."""
    folder = change_config(published(family, tmp_path / "tiny"), **values)

    with pytest.raises(ModelError, match=reason):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "spelling"),
    [
        (
            "gptoss-mxfp4",
            {
                "rope_parameters": None,
                "rope_theta": 150000,
                "rope_scaling": {
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "factor": 32.0,
                    "rope_type": "yarn",
                    "original_max_position_embeddings": 4096,
                    "truncate": False,
                },
                "swiglu_alpha": None,
                "transformers_version": "4.55.0.dev0",
            },
        ),
        (
            "qwen3moe",
            {
                "rope_parameters": None,
                "rope_theta": 10000,
                "rope_scaling": None,
                "num_local_experts": None,
                "num_experts": 8,
                "max_window_layers": 2,
                "shared_expert_intermediate_size": 0,
                "qkv_bias": False,
                "mlp_only_layers": [],
            },
        ),
        ("mixtral", {"rope_parameters": None, "rope_theta": 1e6, "head_dim": None}),
        ("granitemoe", {"rope_parameters": None, "rope_theta": 10000, "rope_scaling": None}),
    ],
)
def test_descriptions_of_the_first_releases_say_the_same(
    family: str, spelling: dict[str, object], tmp_path: Path
) -> None:
    """As they were published, before fields were renamed; nothing is warned of."""
    now = read_checkpoint(published(family, tmp_path / "now"))
    then = read_checkpoint(change_config(published(family, tmp_path / "then"), **spelling))

    assert then.spec == now.spec
    assert then.warnings == now.warnings == ()
