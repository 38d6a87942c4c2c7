"""Laws of GGUF metadata: whatever changes what a model computes is honoured or refused."""

from pathlib import Path

import gguf
import numpy as np
import pytest
from family_files import write_gguf, write_vocabulary
from gguf_changes import Change, field, more_tensors
from gguf_writing import Tensor, f32, small_llama, string

from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.source.rope import angles

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
