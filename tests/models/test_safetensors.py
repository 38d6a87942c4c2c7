"""Laws of safetensors folders: the same model however its files are cut, typed or named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from family_files import change_config, published
from safetensors.numpy import load_file, save_file

from aobatch.errors import ModelError
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.store.locate import read_checkpoint

EMBEDDING = "model.embed_tokens.weight"
Tensors = dict[str, np.ndarray]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """Change the weights of a folder, and give it."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def write_json(path: Path, value: object) -> None:
    """Write a file as JSON."""
    path.write_text(json.dumps(value))


def cut(folder: Path) -> Path:
    """Cut a folder's weights into two files with an index, and give it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{1 + index % 2}-of-2.safetensors" for index, name in enumerate(tensors)}
    for file in sorted({*places.values()}):
        save_file({n: tensors[n] for n, place in places.items() if place == file}, folder / file)
    write_json(folder / "model.safetensors.index.json", {"weight_map": places})
    return folder


def test_weights_in_several_files_are_those_of_one(folder: Path, tmp_path: Path) -> None:
    """An index names the file of each weight."""
    whole = read_safetensors(published("llama", tmp_path / "whole"))
    parts = read_safetensors(cut(folder))

    for name in ("embedding", "head", "layers.2.down", "final_norm"):
        np.testing.assert_array_equal(whole.load(name), parts.load(name))
    np.testing.assert_array_equal(whole.load("head", 7, 20), whole.load("head")[7:20])


@pytest.mark.parametrize("kind", ["equal", "half", "trained"])
def test_a_stored_head_is_used_though_the_description_ties_it(folder: Path, kind: str) -> None:
    """One that is the embedding, however it is typed, is; any other one was trained."""
    change_config(folder, tie_word_embeddings=True)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    embedding = tensors["model.embed_tokens.weight"].astype(np.float16)
    if kind == "trained":
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + np.float32(0.5)
    else:
        tensors["lm_head.weight"] = embedding.astype(np.float32 if kind == "equal" else np.float16)
        tensors["model.embed_tokens.weight"] = embedding.astype(np.float32)
    save_file(tensors, path)

    checkpoint = read_safetensors(folder)

    assert checkpoint.spec.is_tied == (kind != "trained")
    np.testing.assert_array_equal(checkpoint.load("head"), tensors["lm_head.weight"])
    assert (kind == "trained") == bool(
        (checkpoint.load("head") != checkpoint.load("embedding")).any()
    )


def test_a_head_of_another_size_is_refused(folder: Path) -> None:
    """It belongs to another vocabulary than the embedding."""
    change_config(folder, tie_word_embeddings=True)
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors[EMBEDDING][1:]})

    with pytest.raises(ModelError, match=r"'lm_head\.weight' has shape"):
        read_safetensors(folder)


def test_an_adapter_beside_a_model_is_refused(folder: Path) -> None:
    """The model alone would answer otherwise than the one that was meant."""
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})

    with pytest.raises(ModelError, match=r"adapter, adapter_config\.json, which is not applied"):
        read_safetensors(folder)


def save_typed(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    """Write a file whose types the library cannot write."""
    header, position = {}, 0
    for name, (dtype, array) in tensors.items():
        offsets = [position, position + array.nbytes]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for _, array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_half_precisions_are_read_as_they_are(folder: Path) -> None:
    """float16, bfloat16 and float64 numbers become the same numbers in float32."""
    path = folder / "model.safetensors"
    tensors = {name: ("F32", weight) for name, weight in load_file(path).items()}
    exact = np.random.default_rng(0).integers(-127, 128, (160, 64)).astype(np.float32) / 64
    stem = "model.layers.{}.mlp.up_proj.weight"
    tensors[stem.format(0)] = ("F16", exact.astype(np.float16))
    tensors[stem.format(1)] = ("BF16", (exact.view(np.uint32) >> 16).astype(np.uint16))
    tensors[stem.format(2)] = ("F64", exact.astype(np.float64))
    save_typed(path, tensors)
    load = read_safetensors(folder).load

    for index in range(3):
        np.testing.assert_array_equal(exact, load(f"layers.{index}.up"))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda x: (x / "tokenizer.json").unlink(), "neither tokenizer.json nor"),
    "no weights": (
        lambda x: (x / "model.safetensors").unlink(),
        "config.json has no weights beside it",
    ),
    "config no JSON": (lambda x: (x / "config.json").write_text("{"), "is no JSON object"),
    "config a list": (lambda x: (x / "config.json").write_text("[]"), "is no JSON object"),
    "config deep": (lambda x: (x / "config.json").write_text("[" * 100_000), "is no JSON object"),
    "weight missing": (
        lambda x: rewrite(x, lambda t: {n: w for n, w in t.items() if "1.mlp.up" not in n}),
        "'model.layers.1.mlp.up_proj.weight' is missing",
    ),
    "weight unknown": (
        lambda x: rewrite(x, lambda t: t | {"vision.weight": np.ones(3, np.float32)}),
        "'vision.weight' belongs to no model",
    ),
    "weight of integers": (
        lambda x: rewrite(x, lambda t: t | {"model.norm.weight": np.ones(64, np.int32)}),
        "has type I32, not supported",
    ),
    "weight infinite": (
        lambda x: rewrite(x, lambda t: t | {"model.norm.weight": np.full(64, np.inf, np.float32)}),
        "not finite",
    ),
    "no end": (
        lambda x: [
            (x / "generation_config.json").unlink(),
            (x / "tokenizer_config.json").unlink(),
            change_config(x, eos_token_id=None),
            (x / "tokenizer.json").write_text(
                (x / "tokenizer.json").read_text().replace("<|endoftext|>", "<|start|>")
            ),
        ],
        "names the token that ends a text",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_incomplete_folders_are_refused(case: str, folder: Path) -> None:
    """Whatever is missing or wrong gives one sentence."""
    change, reason = REFUSED[case]
    change(folder)

    with pytest.raises(ModelError, match=reason) as caught:
        read_checkpoint(folder).load("final_norm")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["lost", "moved", "outside"])
def test_an_index_that_is_not_true_is_refused(what: str, folder: Path) -> None:
    """A weight that is not where the index says, or a file beyond the folder."""
    path = cut(folder) / "model.safetensors.index.json"
    names = json.loads(path.read_text())["weight_map"]
    if what == "lost":
        names["model.more.weight"] = "model-1-of-2.safetensors"
    else:
        moved = "model-2-of-2.safetensors" if what == "moved" else "../x.safetensors"
        names |= dict.fromkeys([*names][:1], moved)
    write_json(path, {"weight_map": names})

    with pytest.raises(ModelError, match=r"index\.json"):
        read_safetensors(folder)


def test_files_of_a_cache_may_be_links(folder: Path, tmp_path: Path) -> None:
    """A folder whose files are links to others, as download caches have them, is read."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)

    assert read_safetensors(linked).spec == read_safetensors(folder).spec
