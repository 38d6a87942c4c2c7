"""Laws of adapters: merged, they give the reference's numbers; what is no such sum is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from family_files import DATA, check_numbers, config_of, converted, published, write_gguf
from safetensors.numpy import load_file, save_file

from aobatch.errors import ModelError
from aobatch.files import file_digest, joined_digest
from aobatch.models.inspection import inspect_folder
from aobatch.models.source.adapter import merge_adapter
from aobatch.models.source.decoder import decoder_shapes
from aobatch.models.store.locate import read_checkpoint

ADAPTERS = DATA / "adapters"
BASES = {
    "plain": "llama",
    "patterns": "llama",
    "stabilised": "qwen2",
    "head": "qwen3",
    "fused": "phi3",
    "lengths": "qwen2",
    "tables": "gemma3",
    "tokens": "qwen3",
}
STEMS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
    "gate_up_proj": "ffn_up",
}


def copied(name: str, tmp_path: Path) -> Path:
    """Copy an adapter to where it can be changed."""
    return shutil.copytree(ADAPTERS / name, tmp_path / name)


def folder_base(name: str, tmp_path: Path) -> Path:
    """Lay out the base of an adapter as a folder."""
    return published(BASES[name], tmp_path / f"tiny-{BASES[name]}")


def write_lora(path: Path, name: str = "plain", family: str = "llama") -> Path:
    """Write an adapter as a GGUF file, with the rows of a llama's q and k in turns."""
    config = config_of(DATA / f"tiny-{BASES[name]}")
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, family)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for stored, weight in load_file(ADAPTERS / name / "adapter_model.safetensors").items():
        *_, layer, _, module, part, _ = stored.split(".")
        if part == "lora_B" and module in heads:
            halves = weight.reshape(heads[module], 2, len(weight) // heads[module] // 2, -1)
            weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
        writer.add_tensor(f"blk.{layer}.{STEMS[module]}.weight.{part.lower()}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", BASES)
def test_an_adapter_gives_the_references_numbers(name: str, tmp_path: Path) -> None:
    """Logits are within 2e-4 of those of the adapter beside its base, greedy tokens the same."""
    base = read_checkpoint(folder_base(name, tmp_path))

    merged = merge_adapter(base, ADAPTERS / name)

    assert merged.warnings == ()
    check_numbers(merged, ADAPTERS / name, tmp_path)


def write_folder(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write an adapter as PEFT does."""
    folder.mkdir()
    contiguous = {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}
    save_file(contiguous, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 1}')
    return folder


@pytest.mark.parametrize("family", sorted(path.name[5:] for path in DATA.glob("tiny-*")))
def test_merging_adds_to_what_is_stored(family: str, tmp_path: Path) -> None:
    """Whatever a family fuses, permutes or folds, the sum is read as if its folder had held it."""
    base, summed = (published(family, tmp_path / name) for name in ("base", "sum"))
    before, chance = read_checkpoint(base), np.random.default_rng(0)
    weights, adapter = load_file(base / "model.safetensors"), {}
    for name, weight in weights.items():
        if name.endswith(".weight") and weight.ndim == 2 and "embed" not in name:
            up, down = (
                chance.normal(size=(len(weight), 2)),
                chance.normal(size=(2, weight.shape[1])),
            )
            module = f"base_model.model.{name.removesuffix('.weight')}"
            adapter |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
            weights[name] = weight + (up @ down / 2).astype(np.float32)
    merged = merge_adapter(before, write_folder(tmp_path / "lora", adapter))
    save_file(weights, summed / "model.safetensors")
    after = read_checkpoint(summed)

    assert len(adapter) >= 2 * before.spec.num_layers
    for name in decoder_shapes(before.spec):
        np.testing.assert_allclose(after.load(name), merged.load(name), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
@pytest.mark.parametrize("base", ["folder", "gguf"])
def test_files_of_both_kinds_go_together(kind: str, base: str, tmp_path: Path) -> None:
    """An adapter of either kind fits a base of either kind, whichever way rows of heads stand."""
    path = write_lora(tmp_path / "lora.gguf") if kind == "gguf" else ADAPTERS / "plain"
    source = folder_base("plain", tmp_path)
    if base == "gguf":
        source = write_gguf("llama", tmp_path / "tiny-llama.gguf")

    check_numbers(read_checkpoint(source, [path]), ADAPTERS / "plain", tmp_path)


def test_fused_weights_go_by_the_names_that_are_there(tmp_path: Path) -> None:
    """Where a GGUF file has queries, keys and values in one, its adapters have so too."""
    lora = write_lora(tmp_path / "lora.gguf", "fused", "phi3")

    check_numbers(
        read_checkpoint(folder_base("fused", tmp_path), [lora]), ADAPTERS / "fused", tmp_path
    )


def test_tables_of_a_gguf_are_added_as_they_are_looked_up(tmp_path: Path) -> None:
    """The first part of the embedding's is [V, rank]; a head that is tied no longer stays as is."""
    parts = {
        "token_embd.weight.lora_a": np.random.default_rng(1).normal(size=(512, 3)),
        "token_embd.weight.lora_b": np.random.default_rng(2).normal(size=(64, 3)),
    }
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 6.0)
    for name, weight in parts.items():
        writer.add_tensor(name, weight.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    base = read_checkpoint(folder_base("plain", tmp_path))
    merged = merge_adapter(base, tmp_path / "lora.gguf")

    added = 2 * parts["token_embd.weight.lora_a"] @ parts["token_embd.weight.lora_b"].T
    expected = base.load("embedding", 100, 140) + added[100:140]
    np.testing.assert_allclose(expected, merged.load("embedding", 100, 140), atol=1e-5)
    np.testing.assert_array_equal(base.load("head"), merged.load("head"))
    assert (base.spec.is_tied, merged.spec.is_tied) == (True, False)


def test_several_adapters_are_merged_one_after_the_other(tmp_path: Path) -> None:
    """What is added twice is added twice, and both stand in the description."""
    base = read_checkpoint(folder_base("plain", tmp_path))
    once, twice = (
        read_checkpoint(tmp_path / "tiny-llama", [ADAPTERS / "plain"] * n) for n in (1, 2)
    )
    name = "layers.1.down"

    expected = 2 * once.load(name) - base.load(name)
    np.testing.assert_allclose(expected, twice.load(name), atol=1e-6)
    assert [adapter.name for adapter in twice.adapters] == ["plain", "plain"]


def test_the_description_names_the_adapter(tmp_path: Path) -> None:
    """Its name and the checksum of its files are kept; the model's identity follows from both."""
    base = folder_base("head", tmp_path)
    files = ("adapter_model.safetensors", "adapter_config.json")
    digest = joined_digest([file_digest(ADAPTERS / "head" / name) for name in files])

    plain = converted(read_checkpoint(base), tmp_path / "plain").manifest
    tuned = converted(read_checkpoint(base, [ADAPTERS / "head"]), tmp_path / "tuned")

    assert [(x.name, x.sha256) for x in tuned.manifest.adapters] == [("head", digest)]
    assert inspect_folder(tuned).adapters == tuned.manifest.adapters
    assert plain.adapters == ()
    assert plain.digest != tuned.manifest.digest
    assert plain.source_sha256 != tuned.manifest.source_sha256


def test_another_base_is_only_warned_of(tmp_path: Path) -> None:
    """The name of what it was trained on may be a copy's; shapes decide."""
    base = published("llama", tmp_path / "other")

    (warning,) = read_checkpoint(base, [ADAPTERS / "plain"]).warnings

    assert "was trained on org/tiny-llama, and is merged into other" in warning


def test_older_names_of_parts_are_the_same(tmp_path: Path) -> None:
    """The name of the adapter may stand in those of its tensors, and a wrapper's ahead of them."""
    folder = copied("head", tmp_path)
    path = folder / "adapter_model.safetensors"
    renamed = {
        name.replace("lora_A.weight", "lora_A.default.weight")
        .replace("lm_head.weight", "lm_head.modules_to_save.default.weight")
        .replace("model.model.layers", "model.model.language_model.layers"): weight
        for name, weight in load_file(path).items()
    }
    save_file(renamed, path)

    check_numbers(
        read_checkpoint(folder_base("head", tmp_path), [folder]), ADAPTERS / "head", tmp_path
    )


def change_config(folder: Path, **values: object) -> None:
    """Set fields of an adapter's description."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change an adapter's tensors."""
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


Q = "base_model.model.model.layers.0.self_attn.q_proj"
DESCRIPTIONS = {
    "another kind": ({"peft_type": "IA3"}, "adapter of the kind 'IA3'"),
    "a changed base": ({"init_lora_weights": "pissa_niter_16"}, "its base was changed"),
    "no sum": ({"alora_invocation_tokens": [1, 2]}, "'alora_invocation_tokens' makes it more"),
    "repeated layers": ({"layer_replication": [[0, 2], [1, 3]]}, "cannot be merged"),
    "unknown": ({"use_warp": True}, "'use_warp' is True, which is not known"),
    "wrong rank": ({"r": 8}, "states rank 8 for .*, whose tensors have 4"),
    "intricate": ({"alpha_pattern": {"(((a+)+)+)+b*": 2}}, "too intricate"),
    "no pattern": ({"alpha_pattern": {"(": 2}}, "which is no pattern"),
    "no number": ({"alpha_pattern": {"q_proj": "2"}}, "has to be a number"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_what_cannot_be_merged_exactly_is_refused(case: str, tmp_path: Path) -> None:
    """A description that asks for more than a sum of weights says which field does."""
    values, reason = DESCRIPTIONS[case]
    folder = copied("plain", tmp_path)
    change_config(folder, **values)

    with pytest.raises(ModelError, match=reason):
        read_checkpoint(folder_base("plain", tmp_path), [folder])


TENSORS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "of no weight": (
        lambda t: t.update({"base_model.model.score.weight": np.zeros((2, 64), np.float32)}),
        r"changes 'score\.weight', and no weight of tiny-llama is called so",
    ),
    "half": (lambda t: t.pop(f"{Q}.lora_A.weight"), "one is missing or no matrix"),
    "flat": (
        lambda t: t.update({f"{Q}.lora_A.weight": np.zeros(256, np.float32)}),
        "one is missing or no matrix",
    ),
    "wide": (
        lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((4, 65), np.float32)}),
        r"as one of shape \(64, 65\), and in tiny-llama it has \(64, 64\)",
    ),
    "of other ranks": (
        lambda t: t.update({f"{Q}.lora_A.weight": np.zeros((3, 64), np.float32)}),
        "different ranks",
    ),
    "of another tool": (
        lambda t: t.update({f"{Q}.hada_w1_a": np.zeros((1, 1), np.float32)}),
        "is no part of a LoRA",
    ),
    "none": (dict.clear, "changes no weight"),
    "not finite": (
        lambda t: t.update({f"{Q}.lora_B.weight": np.full((64, 4), np.inf, np.float32)}),
        "not finite",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_fit_no_weight_are_refused(case: str, tmp_path: Path) -> None:
    """The message names the tensor that belongs to another model, or is not whole."""
    change, reason = TENSORS[case]
    folder = copied("plain", tmp_path)
    change_tensors(folder, change)

    with pytest.raises(ModelError, match=reason):
        read_checkpoint(folder_base("plain", tmp_path), [folder]).load("layers.0.q")


@pytest.mark.parametrize(
    ("indices", "reason"),
    [
        ([300, 363, 512], r"of shape \(513, 64\)"),
        ([300, 363], r"of shape \(3, 64\)"),
        ([300, 363, -1], "has to be an integer from 0"),
        ({"lm_head": [300, 363, 5]}, "'model.embed_tokens' is missing"),
    ],
)
def test_trained_tokens_have_to_be_those_that_are_there(
    indices: object, reason: str, tmp_path: Path
) -> None:
    """The description lists a token of the vocabulary for each row."""
    folder = copied("tokens", tmp_path)
    change_config(folder, trainable_token_indices=indices)

    with pytest.raises(ModelError, match=reason):
        read_checkpoint(folder_base("tokens", tmp_path), [folder])


def test_a_table_with_lengths_is_refused(tmp_path: Path) -> None:
    """DoRA takes the lengths of a table's columns, which are never all read at once."""
    folder = copied("tables", tmp_path)
    name = "base_model.model.model.embed_tokens.lora_magnitude_vector"
    change_tensors(folder, lambda t: t.update({name: np.ones(64, np.float32)}))

    with pytest.raises(ModelError, match=r"embed_tokens\.weight' is a table with DoRA"):
        read_checkpoint(folder_base("tables", tmp_path), [folder])


def test_what_is_no_adapter_is_told_so(tmp_path: Path) -> None:
    """A model, a pickle and an unfinished folder are told apart."""
    base = folder_base("plain", tmp_path)
    folder = copied("plain", tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    cases = {
        base: "it has no adapter_config.json",
        folder: r"adapter_model\.bin is a pickle",
        write_gguf("llama", tmp_path / "model.gguf"): "it is a model, not an adapter",
        write_lora(tmp_path / "other.gguf", family="qwen2"): "for qwen2, and the base is llama",
    }
    for path, reason in cases.items():
        with pytest.raises(ModelError, match=reason):
            read_checkpoint(base, [path])
