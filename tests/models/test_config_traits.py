"""Laws of config.json: whatever changes what a model computes is honoured or refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from family_files import change_config, config_of, published

from aobatch.errors import ModelError
from aobatch.models.source.rope import angles
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.spec import DecoderSpec

FULL, SLIDING = "full_attention", "sliding_attention"

REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "family": ("llama", {"model_type": "mixtral"}, "'mixtral' is not supported; supported are"),
    "experts": ("llama", {"num_local_experts": 8}, "'num_local_experts' is 8, .* not known here"),
    "activation": ("llama", {"hidden_act": "gelu"}, "only as 'silu', and is 'gelu'"),
    "activation of gemma": ("gemma3", {"hidden_activation": "gelu"}, "only as 'gelu_pytorch_tanh'"),
    "softcap": ("gemma3", {"final_logit_softcapping": 30.0}, "'final_logit_softcapping' is 30.0"),
    "attention softcap": ("gemma3", {"attn_logit_softcapping": 50.0}, "is 50.0, .* not known"),
    "both directions": ("gemma3", {"use_bidirectional_attention": True}, "as False, and is True"),
    "part turned": ("llama", {"partial_rotary_factor": 1.5}, "a number from 0 to 1, and is 1.5"),
    "neighbours turned": ("llama", {"rope_interleaved": True}, "only as False, and is True"),
    "code": ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "code of its own, which is not run"),
    "quantised": ("llama", {"quantization_config": {"bits": 4}}, "quantised already"),
    "window of llama": ("llama", {"sliding_window": 16}, "'sliding_window' is 16"),
    "bias of mistral": ("mistral", {"attention_bias": True}, "only as False"),
    "bias missing": ("llama", {"attention_bias": True}, "k_proj.bias' is missing"),
    "bias of the block": ("llama", {"mlp_bias": True}, "bias' is missing"),
    "no bias of qwen2": ("qwen2", {"attention_bias": False}, "only as True, and is False"),
    "kind of layer": ("qwen2", {"layer_types": ["linear_attention"] * 3}, "'linear_attention'"),
    "number of layers": ("qwen2", {"layer_types": [FULL] * 2}, "2 entries for 3 layers"),
    "window unstated": ("qwen3", {"layer_types": [FULL, SLIDING, FULL]}, "'sliding_attention'"),
    "width unstated": ("qwen3", {"head_dim": None}, "'head_dim' is missing"),
    "vocabulary": ("llama", {"vocab_size": 500}, "'vocab_size' has to be 512, and is 500"),
    "head missing": ("llama", {"tie_word_embeddings": False}, "'lm_head.weight' is missing"),
    "scaling": ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "scaling 'dynamic' is not"),
    "old scaling": (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2}},
        "scaling 'dynamic' is not supported",
    ),
    "scaling unknown": (
        "llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mscale": 0.7}},
        "'mscale' is 0.7",
    ),
    "bands": (
        "llama3-rope",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 4.0,
                "high_freq_factor": 1.0,
            }
        },
        "'high_freq_factor' has to be greater",
    ),
    "scaling a text": ("llama", {"rope_parameters": "linear"}, "has to be an object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused(case: str, tmp_path: Path) -> None:
    """Each field gives one sentence that names config.json, the field and what it holds."""
    family, values, reason = REFUSED[case]
    folder = change_config(published(family, tmp_path / "tiny"), **values)

    with pytest.raises(ModelError, match=reason) as caught:
        read_safetensors(folder)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def spec_of(family: str, tmp_path: Path, **values: object) -> DecoderSpec:
    """Read a tiny model whose config.json was changed."""
    return read_safetensors(change_config(published(family, tmp_path / "tiny"), **values)).spec


def windows(spec: DecoderSpec) -> list[int]:
    """Give each layer's window."""
    return [layer.window for layer in spec.attentions]


def test_fields_that_say_nothing_are_passed_by(tmp_path: Path) -> None:
    """What training or other tools note, and unknown fields that are empty, change nothing."""
    plain = read_safetensors(published("llama", tmp_path / "plain")).spec
    noted = spec_of("llama", tmp_path, torch_dtype="bfloat16", unsloth_fixed=True, new_thing=None)

    assert plain == noted


def test_windows_of_mistral(tmp_path: Path) -> None:
    """Null is no window, and what is not stated is 4,096, as the family has it."""
    assert windows(spec_of("mistral", tmp_path / "null", sliding_window=None)) == [0, 0, 0]
    folder = published("mistral", tmp_path / "unstated")
    text = (folder / "config.json").read_text().replace('"sliding_window": 32,', "")
    (folder / "config.json").write_text(text)
    assert windows(read_safetensors(folder).spec) == [4096] * 3


def test_windows_of_qwen(tmp_path: Path) -> None:
    """They are in the last layers, or where the kinds of layers say, and only if they are used."""
    used = {"use_sliding_window": True, "sliding_window": 8}
    kinds = spec_of("qwen3", tmp_path / "a", **used, layer_types=[SLIDING, FULL, SLIDING])
    last = spec_of("qwen2", tmp_path / "b", **used, layer_types=None, max_window_layers=2)
    unused = spec_of("qwen2", tmp_path / "c", layer_types=None, sliding_window=8)

    assert windows(kinds) == [8, 0, 8]
    assert windows(last) == [0, 0, 8]
    assert windows(unused) == [0, 0, 0]


def test_layers_of_gemma(tmp_path: Path) -> None:
    """Without kinds of layers every n-th sees all; old and new spellings of positions agree."""
    old = {"rope_parameters": None, "rope_theta": 1e6, "rope_local_base_freq": 10000.0}
    new = spec_of("gemma3", tmp_path / "new")
    spelled = spec_of("gemma3", tmp_path / "old", **old, layer_types=None)
    every_second = spec_of("gemma3", tmp_path / "2", layer_types=None, sliding_window_pattern=2)

    assert new == spelled
    assert windows(every_second) == [32, 0] * 3


def test_scaling_of_gemma_is_for_layers_that_see_all(tmp_path: Path) -> None:
    """An old linear scaling leaves layers with a window as they are."""
    scaling = {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    layers = spec_of("gemma3", tmp_path, **scaling).attentions

    assert layers[0].rope.divisors == ()
    assert set(layers[5].rope.divisors) == {8.0}


def test_attention_of_gemma_is_scaled_as_it_says(tmp_path: Path) -> None:
    """query_pre_attn_scalar, not the width of a head, is under the root."""
    spec = spec_of("gemma3", tmp_path, query_pre_attn_scalar=100)

    assert math.isclose(spec.attention_scale, 0.1)


def test_linear_scaling_stretches_positions(tmp_path: Path) -> None:
    """With a factor of 4, position 40 turns as position 10 does without."""
    plain = spec_of("llama", tmp_path / "plain").attentions[0].rope
    old = {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 4.0}}
    scaled = spec_of("llama", tmp_path / "scaled", **old).attentions[0].rope

    np.testing.assert_allclose(angles(plain, 16, 41)[10], angles(scaled, 16, 41)[40])


def test_original_context_defaults_to_the_models_own(tmp_path: Path) -> None:
    """A llama3 scaling that does not state it takes max_position_embeddings."""
    rope = config_of(published("llama3-rope", tmp_path / "x"))["rope_parameters"]
    without = {k: v for k, v in rope.items() if k != "original_max_position_embeddings"}
    stated = rope | {"original_max_position_embeddings": 512}

    assert spec_of("llama3-rope", tmp_path / "a", rope_parameters=without) == spec_of(
        "llama3-rope", tmp_path / "b", rope_parameters=stated
    )
