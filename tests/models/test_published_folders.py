"""Laws of folders as they are published: parts for pictures, caches of a hub, sizes left unsaid."""

import json
from pathlib import Path

import numpy as np
import pytest
from family_files import config_of, published
from safetensors.numpy import load_file, save_file

from aobatch.models.source.config import text_config
from aobatch.models.source.families import FAMILIES, spec_from_config
from aobatch.models.source.fields import Fields
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.store.catalogue import find_source
from aobatch.models.store.locate import read_checkpoint

TYPES = {"gemma3": "gemma3", "ministral3": "mistral3", "mistral": "mistral3"}
PREFIXES = {
    "language_model.model.": ("vision_tower.", "multi_modal_projector."),
    "model.language_model.": ("model.vision_tower.", "model.multi_modal_projector."),
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("family", TYPES)
def test_the_part_for_text_is_the_model_that_reads_text_alone(
    family: str, prefix: str, tmp_path: Path
) -> None:
    """Whichever names a model of pictures gives its text's part, that part is what is read."""
    alone = published(family, tmp_path / "alone")
    both = published(family, tmp_path / "both")
    head = "language_model." if prefix.startswith("language") else ""
    named = {
        (prefix if name.startswith("model.") else head) + name.removeprefix("model."): array
        for name, array in load_file(alone / "model.safetensors").items()
    }
    pictures = {f"{part}weight": np.ones((2, 2), np.float32) for part in PREFIXES[prefix]}
    save_file(named | pictures, both / "model.safetensors")
    text = config_of(alone)
    whole = {"model_type": TYPES[family], "text_config": text, "vision_config": {"depth": 2}}
    (both / "config.json").write_text(json.dumps(whole | {"image_token_index": 7}))

    expected, found = read_safetensors(alone), read_safetensors(both)

    assert (found.spec, found.warnings) == (expected.spec, ())
    assert found.left_out == "2 weights that read pictures are left out; it reads text alone"
    for name in ("embedding", "head", "layers.1.q", "layers.2.down", "final_norm"):
        np.testing.assert_array_equal(expected.load(name), found.load(name))


# What config.json of the 4b, 12b and 27b models says of text; the rest is left to the family.
LARGER = {
    "4b": ({"hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34}, (8, 4)),
    "12b": (
        {
            "hidden_size": 3840,
            "intermediate_size": 15_360,
            "num_hidden_layers": 48,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
        (16, 8),
    ),
    "27b": (
        {
            "hidden_size": 5376,
            "intermediate_size": 21_504,
            "num_hidden_layers": 62,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "query_pre_attn_scalar": 168,
        },
        (32, 16),
    ),
}


@pytest.mark.parametrize("size", LARGER)
def test_larger_gemmas_leave_sizes_to_their_family(size: str) -> None:
    """Heads, context, vocabulary and norms are those of transformers' defaults (5.24.0)."""
    stated, heads = LARGER[size]
    rope = {"factor": 8.0, "rope_type": "linear"}
    text = {"model_type": "gemma3_text", "rope_scaling": rope, "sliding_window": 1024, **stated}
    config = text_config(Fields({"model_type": "gemma3", "text_config": text}, "config.json"))
    family = FAMILIES["gemma3"]
    spec = spec_from_config(family, "gemma3", config.with_defaults(family.defaults), 262_208)

    assert (spec.num_heads, spec.num_kv_heads) == heads
    assert (spec.context_length, spec.norm_epsilon, spec.is_tied) == (131_072, 1e-6, True)
    assert [layer.window for layer in spec.attentions[:6]] == [1024] * 5 + [0]
    assert spec.attentions[5].rope.divisors == (8.0,) * (spec.head_dim // 2)
    assert spec.attentions[0].rope.divisors == ()


@pytest.mark.parametrize("main", ["abc", None])
def test_a_hubs_cache_is_the_revision_that_it_has(main: str | None, tmp_path: Path) -> None:
    """The main revision is taken, or the only one; files are links to blobs beside."""
    whole = published("llama", tmp_path / "whole")
    cache = tmp_path / "models--org--tiny"
    snapshot, blobs = cache / "snapshots/abc", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in whole.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    if main:
        (cache / "snapshots/old").mkdir()
        (cache / "refs").mkdir()
        (cache / "refs/main").write_text(main)

    assert find_source(str(cache)) == snapshot
    assert read_checkpoint(cache).spec == read_safetensors(snapshot).spec
    assert read_checkpoint(cache).source == "org/tiny abc"


def test_adapters_of_heads_of_odd_widths_are_merged(tmp_path: Path) -> None:
    """What an adapter adds gets the heads' zeros like the weights that it is added to."""
    base, changed = (published("width20", tmp_path / name) for name in ("base", "changed"))
    adapter, chance = tmp_path / "adapter", np.random.default_rng(0)
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "o_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    tensors, factors = load_file(changed / "model.safetensors"), {}
    for part in ("q_proj", "o_proj"):
        name = f"model.layers.1.self_attn.{part}"
        rows, columns = tensors[f"{name}.weight"].shape
        up, down = (chance.standard_normal(x).astype(np.float32) for x in ((rows, 2), (2, columns)))
        tensors[f"{name}.weight"] += up @ down
        factors |= {f"base_model.model.{name}.lora_A.weight": down}
        factors |= {f"base_model.model.{name}.lora_B.weight": up}
    save_file(tensors, changed / "model.safetensors")
    save_file(factors, adapter / "adapter_model.safetensors")

    expected, found = read_checkpoint(changed), read_checkpoint(base, [adapter])

    for name in ("layers.1.q", "layers.1.o", "layers.0.q", "layers.1.v"):
        np.testing.assert_allclose(expected.load(name), found.load(name), atol=1e-6)
