"""Laws of GGUF metadata: whatever changes what a model computes is honoured or refused."""

import math
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from family_files import change_config, config_of, published, write_gguf, write_vocabulary
from gguf_changes import Change, field, more_tensors
from gguf_layouts import LAYOUTS, Layout
from gguf_writing import Tensor, f32, small_llama, string, u32

from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.source.rope import angles, rope_from_section
from aobatch.models.source.safetensors import read_safetensors

SCALING = "llama.rope.scaling"


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(file: object) -> None:
        for one in changes:
            one(file)

    return change


@pytest.mark.parametrize(
    "change",
    [
        both(field(f"{SCALING}.type", string("linear")), field(f"{SCALING}.factor", f32(4))),
        field("llama.rope.scale_linear", f32(4)),
        more_tensors(("rope_freqs.weight", Tensor((8,), np.full(8, 4, "<f4").tobytes()))),
    ],
    ids=["linear", "old linear", "divisors"],
)
def test_positions_are_stretched(change: Change, tmp_path: Path) -> None:
    """However a factor of 4 is written, position 40 turns as position 10 does without."""
    plain = read_gguf(small_llama().write(tmp_path / "plain.gguf")).spec.attentions[0].rope
    file = small_llama()
    change(file)
    scaled = read_gguf(file.write(tmp_path / "scaled.gguf")).spec.attentions[0].rope

    np.testing.assert_allclose(angles(plain, 16, 41)[10], angles(scaled, 16, 41)[40], rtol=1e-6)


def test_part_of_a_head_may_be_turned(tmp_path: Path) -> None:
    """The first numbers of a head that a file turns are turned, and no others."""
    file = small_llama()
    field("llama.rope.dimension_count", u32(8))(file)
    rope = read_gguf(file.write(tmp_path / "part.gguf")).spec.attentions[0].rope

    assert np.flatnonzero(angles(rope, 16, 2)[1]).tolist() == [0, 1, 2, 3]


def test_turned_numbers_may_be_multiplied(tmp_path: Path) -> None:
    """What a file multiplies positions with is the gain of every layer's."""
    file = small_llama()
    field(f"{SCALING}.attn_factor", f32(1.5))(file)

    assert read_gguf(file.write(tmp_path / "gain.gguf")).spec.attentions[0].rope.gain == 1.5


def test_yarn_is_that_of_folders(tmp_path: Path) -> None:
    """Frequencies and gain are those that the same numbers give in a config.json."""
    file = small_llama()
    values = {"factor": 4.0, "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0}
    for name, value in values.items():
        field(f"{SCALING}.{name}", f32(value))(file)
    field(f"{SCALING}.type", string("yarn"))(file)
    field(f"{SCALING}.original_context_length", u32(16))(file)
    found = read_gguf(file.write(tmp_path / "yarn.gguf")).spec.attentions[0].rope
    section = {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0}
    expected = rope_from_section(Fields(section, ""), 10000.0, 16, (64, 16))

    assert (found.theta, found.gain) == (expected.theta, expected.gain)
    np.testing.assert_allclose(expected.divisors, found.divisors)


def test_longrope_is_taken_up_to_the_original_context(tmp_path: Path) -> None:
    """Of the two lists of divisors the short one counts, with the file's gain."""
    folder = published("phi3", tmp_path / "folder")
    rope = config_of(folder)["rope_parameters"] | {
        "rope_type": "longrope",
        "short_factor": [1 + index / 8 for index in range(8)],
        "long_factor": [2 + index / 8 for index in range(8)],
    }
    change_config(folder, rope_parameters=rope, original_max_position_embeddings=256)
    expected = read_safetensors(folder).spec
    found = read_gguf(write_gguf("phi3", tmp_path / "long.gguf", folder)).spec

    assert (expected.context_length, found.context_length) == (256, 256)
    one, other = expected.attentions[0].rope, found.attentions[0].rope
    np.testing.assert_allclose(one.divisors, other.divisors)
    assert one.gain == pytest.approx(other.gain)


def test_granite_may_have_no_positions(tmp_path: Path) -> None:
    """What other families say of training says of granite that nothing is turned."""
    key = "rope.scaling.finetuned"
    layout = changed("granite", {key: False})
    found = read_gguf(write_gguf("granite", tmp_path / "tiny.gguf", layout=layout)).spec

    assert {layer.rope.width for layer in found.attentions} == {0}


def test_starcoder_has_the_window_of_all_that_were_published(tmp_path: Path) -> None:
    """Files do not state it; it is there where the context is longer."""
    for length, window in ((512, 0), (16_384, 4096)):
        layout = changed("starcoder2", {"context_length": length})
        found = read_gguf(write_gguf("starcoder2", tmp_path / "tiny.gguf", layout=layout)).spec
        assert {layer.window for layer in found.attentions} == {window}


OLLAMA = {
    "rope.freq_base": None,
    "rope.global.freq_base": 1e6,
    "rope.local.freq_base": 1e4,
    "final_logit_softcapping": 30.0,
    "attention.sliding_window_pattern": [True, True, True, True, True, False],
    "vision.block_count": 27,
    "mm.tokens_per_image": 256,
}


def test_conversions_of_gemma_by_ollama_are_read(tmp_path: Path) -> None:
    """Other names of keys, and pictures' weights and tokens beside the decoder, change nothing."""
    layout = changed("gemma3", OLLAMA)
    further = {"v.patch_embedding.weight": np.ones((2, 2), np.float32)}
    path = write_gguf("gemma3", tmp_path / "ollama.gguf", layout=layout, further=further)
    found, expected = read_gguf(path), read_gguf(write_gguf("gemma3", tmp_path / "tiny.gguf"))

    assert found.spec == expected.spec
    np.testing.assert_array_equal(found.load("layers.0.q"), expected.load("layers.0.q"))


def test_what_ollama_leaves_out_of_models_with_pictures_is_known(tmp_path: Path) -> None:
    """Without epsilon and bases they are the family's, and positions are stretched eightfold."""
    missing = ("rope.freq_base", "attention.layer_norm_rms_epsilon")
    layout = changed("gemma3", {**dict.fromkeys(missing), "context_length": 2**17})
    found = read_gguf(write_gguf("gemma3", tmp_path / "tiny.gguf", layout=layout)).spec

    assert (found.norm_epsilon, found.attentions[0].rope.theta) == (1e-6, 1e4)
    (whole,) = {layer.rope for layer in found.attentions if not layer.window}
    assert (whole.theta, {*whole.divisors}) == (1e6, {8.0})


def test_conversions_of_ministral_by_ollama_are_read(tmp_path: Path) -> None:
    """Other names of what stretches positions say the same."""
    names = {
        "rope.scaling.yarn_beta_fast": "rope.scaling.beta_fast",
        "rope.scaling.yarn_beta_slow": "rope.scaling.beta_slow",
        "rope.scaling.yarn_log_multiplier": "rope.scaling.mscale_all_dim",
        "attention.temperature_scale": "rope.scaling_beta",
    }
    layout = LAYOUTS["ministral3"]
    renamed = replace(
        layout,
        extra=lambda config: {
            **{names.get(key, key): value for key, value in layout.extra(config).items()},
            "rope.scaling.mscale": 1.0,
        },
    )
    found = read_gguf(write_gguf("ministral3", tmp_path / "ollama.gguf", layout=renamed))

    assert found.spec == read_gguf(write_gguf("ministral3", tmp_path / "tiny.gguf")).spec


def test_conversions_of_olmo_by_ollama_are_read(tmp_path: Path) -> None:
    """It calls the third what it is, and states the gain that follows from the factor."""
    scaling = {"type": "yarn", "factor": 8.0, "original_context_length": 64}
    named = {f"rope.scaling.{key}": value for key, value in scaling.items()}
    plain = write_gguf("olmo3", tmp_path / "plain.gguf", layout=changed("olmo3", named))
    stated = changed("olmo3", {**named, "rope.scaling.attn_factor": 0.1 * math.log(8) + 1})
    path = write_gguf("olmo3", tmp_path / "ollama.gguf", layout=stated)
    path.write_bytes(path.read_bytes().replace(b"olmo2", b"olmo3"))
    found = read_gguf(path).spec

    assert found == read_gguf(plain).spec
    (gain,) = {layer.rope.gain for layer in found.attentions if not layer.window}
    assert gain == pytest.approx(0.1 * math.log(8) + 1)


def test_experts_may_have_a_tensor_each(tmp_path: Path) -> None:
    """As files of the first mixtral have it, before experts were stored as one."""
    together = read_gguf(write_gguf("mixtral", tmp_path / "together.gguf"))
    layout = replace(LAYOUTS["mixtral"], has_experts_apart=True)
    apart = read_gguf(write_gguf("mixtral", tmp_path / "apart.gguf", layout=layout))

    assert together.spec == apart.spec
    for name in ("layers.0.gate", "layers.1.up", "layers.1.down"):
        np.testing.assert_array_equal(together.load(name), apart.load(name))
        np.testing.assert_array_equal(together.load(name, 2, 3), apart.load(name, 2, 3))


def test_caps_that_a_file_states_are_kept(tmp_path: Path) -> None:
    """A gemma3 that was trained with a cap of its logits has it."""
    layout = changed("gemma3", {"final_logit_softcapping": 20.0})
    found = read_gguf(write_gguf("gemma3", tmp_path / "tiny.gguf", layout=layout)).spec

    assert found.logits_cap == 20.0


def changed(family: str, values: dict[str, object]) -> Layout:
    """Give a family's layout with other metadata."""
    layout = LAYOUTS[family]
    return replace(layout, extra=lambda config: layout.extra(config) | values)


def test_biases_are_found_by_their_names(tmp_path: Path) -> None:
    """A bias that a file holds is a part of the model, turned as its matrix is."""
    file = small_llama()
    bias = np.arange(32, dtype="<f4")
    more_tensors(("blk.0.attn_q.bias", Tensor((32,), bias.tobytes())))(file)
    checkpoint = read_gguf(file.write(tmp_path / "biased.gguf"))

    assert checkpoint.spec.biases == {"q"}
    halves = np.concatenate([np.r_[0:16:2, 1:16:2], np.r_[16:32:2, 17:32:2]])
    np.testing.assert_array_equal(halves, checkpoint.load("layers.0.q_bias"))


def test_the_largest_gemma_scales_by_another_width(tmp_path: Path) -> None:
    """With 62 layers attention is scaled by hidden size over heads, else by the head's width."""
    writer = gguf.GGUFWriter(tmp_path / "large.gguf", "gemma3")
    writer.add_block_count(62)
    writer.add_embedding_length(64)
    writer.add_head_count(1)
    writer.add_key_length(16)
    writer.add_context_length(64)
    writer.add_feed_forward_length(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(32)
    write_vocabulary(writer)
    for name, shape in _gemma_shapes(62):
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    assert read_gguf(tmp_path / "large.gguf").spec.attention_scale == 1 / 8
    tiny = read_gguf(write_gguf("gemma3", tmp_path / "tiny.gguf")).spec
    assert tiny.attention_scale == 1 / np.sqrt(32)


def _gemma_shapes(num_layers: int) -> list[tuple[str, tuple[int, ...]]]:
    layer = {
        **dict.fromkeys(("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"), (64,)),
        **dict.fromkeys(("attn_q_norm", "attn_k_norm"), (16,)),
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"), (16, 64)),
        **dict.fromkeys(("attn_output", "ffn_down"), (64, 16)),
    }
    shapes = [
        (f"blk.{index}.{name}.weight", shape)
        for index in range(num_layers)
        for name, shape in layer.items()
    ]
    return [("token_embd.weight", (512, 64)), ("output_norm.weight", (64,)), *shapes]
