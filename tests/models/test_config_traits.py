"""Laws of config.json: whatever changes what a model computes is honoured or refused."""

import math
from pathlib import Path

import numpy as np
import pytest
from family_files import change_config, config_of, published

from aobatch.errors import ModelError
from aobatch.models.source.config import INERT, MATTERING
from aobatch.models.source.families import FAMILIES, spec_from_config
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import angles
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.spec import DecoderSpec

FULL, SLIDING = "full_attention", "sliding_attention"

REFUSED: dict[str, tuple[str, dict[str, object], str]] = {
    "family": ("llama", {"model_type": "mpt"}, "'mpt' is not supported; supported are"),
    "experts": ("llama", {"num_local_experts": 8}, "'num_local_experts' is 8, .* computed here"),
    "activation": ("llama", {"hidden_act": "gelu"}, "only as 'silu', and is 'gelu'"),
    "activation of gemma": ("gemma3", {"hidden_activation": "gelu"}, "only as 'gelu_pytorch_tanh'"),
    "softcap": ("gemma3", {"final_logit_softcapping": 30.0}, "'final_logit_softcapping' is 30.0"),
    "attention softcap": ("gemma3", {"attn_logit_softcapping": 50.0}, "is 50.0, .* not computed"),
    "both directions": ("gemma3", {"use_bidirectional_attention": True}, "is True, .* computed"),
    "part turned": ("llama", {"partial_rotary_factor": 1.5}, "a number from 0 to 1, and is 1.5"),
    "neighbours turned": ("llama", {"rope_interleaved": True}, "is True, which is not computed"),
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
    "scaling": ("llama", {"rope_parameters": {"rope_type": "x"}}, "scaling 'x' is not .* ONNX"),
    "old scaling": (
        "llama",
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}},
        "'factor' is missing",
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


@pytest.mark.parametrize(
    "key", [*sorted(INERT), "attention_dropout", "embd_pdrop", "_name_or_path", "_commit_hash"]
)
def test_fields_that_say_nothing_are_passed_by(key: str, folder: Path) -> None:
    """What training, generation or other tools note changes nothing, and no word is lost on it."""
    changed = {"model_type": "llama", "eos_token_id": 0}.get(key, 7)
    plain = read_safetensors(folder).spec
    noted = read_safetensors(change_config(folder, **{key: changed}))

    assert (plain, ()) == (noted.spec, noted.warnings)


@pytest.mark.parametrize("key", sorted(MATTERING))
def test_fields_that_matter_are_never_passed_by(key: str, folder: Path) -> None:
    """A llama that asks for what another family has is refused, however much else is passed by."""
    with pytest.raises(ModelError, match=key):
        read_safetensors(change_config(folder, **{key: 7}))


NEUTRAL: dict[str, object] = {
    "layer_types": [FULL] * 3,
    "no_rope_layers": [1, 1, 1],
    "rotary_pct": 1,
    "logits_scaling": 1.0,
    "embedding_multiplier": 1,
    "residual_multiplier": 1.0,
    "partial_rotary_factor": 1.0,
    "num_local_experts": 0,
    "new_thing": None,
    "quantization_config": {},
    "quantization": {"bits": 4},
}


@pytest.mark.parametrize("key", NEUTRAL)
def test_values_that_change_nothing_are_passed_by(key: str, folder: Path) -> None:
    """Fields of other families say nothing if their value is the one that leaves all as it is."""
    plain = read_safetensors(folder).spec
    noted = read_safetensors(change_config(folder, **{key: NEUTRAL[key]}))

    assert (plain, ()) == (noted.spec, noted.warnings)


PUBLISHED: dict[str, dict[str, object]] = {
    "starcoder2": {
        "attention_softmax_in_fp32": True,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "layer_norm_epsilon": 1e-5,
        "embedding_dropout": 0.1,
    },
    "cohere2": {
        "layer_switch": 4,
        "order_of_interleaved_layers": "local_attn_first",
        "position_embedding_type": "rope_gptj",
        "rotary_pct": 1.0,
        "use_embedding_sharing": True,
        "use_gated_activation": True,
        "use_parallel_block": True,
        "use_parallel_embedding": True,
        "use_qk_norm": False,
    },
    "phi3": {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False},
    "gemma2": {"sliding_window_size": 4096, "cache_implementation": "hybrid"},
    "llama": {"internal_version": 2, "max_sequence_length": 2048, "num_labels": 1},
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_what_families_publish_gives_no_warning(family: str, tmp_path: Path) -> None:
    """Keys of their own that real descriptions have are known to be harmless."""
    folder = change_config(published(family, tmp_path / "tiny"), **PUBLISHED[family])

    assert read_safetensors(folder).warnings == ()


def test_what_is_not_known_gives_a_warning(folder: Path) -> None:
    """It names the fields, a few of many, and code that comes along is told to be left alone."""
    many = {f"new_thing_{index}": index + 1 for index in range(7)}
    change_config(folder, auto_map={"AutoModel": "x.Y"}, **many)
    code, unknown = sorted(read_safetensors(folder).warnings, key=len)

    assert "code of its own (auto_map), which is not run; it is computed as any llama" in code
    assert "config.json says that 'new_thing_0' is 1, 'new_thing_1' is 2" in unknown
    assert "'new_thing_4' is 5 and 2 more, which is not known here and may change" in unknown


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


STRETCHED: dict[str, tuple[int, dict[str, object], list[float], float]] = {
    "longer than trained": (
        131_072,
        {
            "type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32_768,
            "rope_theta": 1e6,
        },
        [1.0, 0.177828, 0.0316228, 0.00421756, 0.0005, 4.4457e-05, 7.90569e-06, 1.40585e-06],
        1.138629,
    ),
    "two scales": (
        163_840,
        {
            "type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
        [1.0, 0.316228, 0.1, 0.0239147, 0.005125, 0.000849862, 2.5e-05, 7.90569e-06],
        1.0,
    ),
    "one scale": (
        8192,
        {
            "type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 4096,
            "mscale": 1.0,
            "mscale_all_dim": 0,
        },
        [1.0, 0.316228, 0.1, 0.0276699, 0.0075, 0.00197642, 0.0005, 0.000158114],
        1.069315,
    ),
    "a gain of its own": (
        8192,
        {
            "type": "yarn",
            "factor": 2.0,
            "original_max_position_embeddings": 4096,
            "attention_factor": 1.25,
        },
        [1.0, 0.316228, 0.1, 0.0276699, 0.0075, 0.00197642, 0.0005, 0.000158114],
        1.25,
    ),
    "by length": (
        4096,
        {"type": "dynamic", "factor": 4.0},
        [1.0, 0.316228, 0.1, 0.0316228, 0.01, 0.00316228, 0.001, 0.000316228],
        1.0,
    ),
}


@pytest.mark.parametrize("case", STRETCHED)
def test_stretched_positions_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    """Frequencies and gains are what its functions gave for the same fields (5.24.0)."""
    context, scaling, frequencies, gain = STRETCHED[case]
    values = {"rope_parameters": None, "rope_theta": 10_000.0, "rope_scaling": scaling}
    spec = spec_of("llama", tmp_path, max_position_embeddings=context, **values)
    rope = spec.attentions[0].rope

    np.testing.assert_allclose(frequencies, angles(rope, 16, 2)[1], rtol=1e-5)
    assert math.isclose(rope.gain, gain, rel_tol=1e-6)
    assert spec.context_length == context


@pytest.mark.parametrize(("original", "context"), [(512, 2048), (256, 512), (None, 512)])
def test_yarn_lengthens_a_context_that_is_the_original_one(
    original: int | None, context: int, tmp_path: Path
) -> None:
    """Who adds it by hand leaves the context as it was; one that was stretched stays."""
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": original}
    spec = spec_of("llama", tmp_path, rope_parameters=None, rope_scaling=scaling)

    assert spec.context_length == context


UNSTATED = {
    "qwen3": (128, 32),
    "gemma": (256, 16),
    "gemma2": (256, 4),
    "gemma3": (256, 4),
    "glm4": (128, 2),
    "ernie4_5": (128, 2),
    "helium": (128, 20),
    "seed_oss": (128, 8),
    "ministral3": (128, 8),
    "llama": (16, 4),
    "mistral": (16, 8),
    "qwen2": (16, 32),
}


@pytest.mark.parametrize("family", UNSTATED)
def test_sizes_that_are_not_stated_are_the_familys(family: str, tmp_path: Path) -> None:
    """The width of heads and the number of those of keys are what transformers has (5.24.0)."""
    folder = published(family, tmp_path / "tiny")
    config = config_of(folder)
    stated = {k: v for k, v in config.items() if k not in ("head_dim", "num_key_value_heads")}
    fields = Fields(stated | {"num_attention_heads": 4}, "x").with_defaults(
        FAMILIES[family].defaults
    )
    spec = spec_from_config(FAMILIES[family], family, fields, config["vocab_size"])

    assert (spec.head_dim, spec.num_kv_heads) == UNSTATED[family]


def test_original_context_defaults_to_the_models_own(tmp_path: Path) -> None:
    """A llama3 scaling that does not state it takes max_position_embeddings."""
    rope = config_of(published("llama3-rope", tmp_path / "x"))["rope_parameters"]
    without = {k: v for k, v in rope.items() if k != "original_max_position_embeddings"}
    stated = rope | {"original_max_position_embeddings": 512}

    assert spec_of("llama3-rope", tmp_path / "a", rope_parameters=without) == spec_of(
        "llama3-rope", tmp_path / "b", rope_parameters=stated
    )
