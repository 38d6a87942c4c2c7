"""Laws of what cannot be converted: one sentence says what it is, and what to do."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from family_files import change_config
from safetensors.numpy import load_file, save_file

from aobatch.errors import ModelError, ModelNotFoundError
from aobatch.models.store import catalogue
from aobatch.models.store.locate import read_checkpoint

Tensors = Mapping[str, np.ndarray]
UP = "model.layers.0.mlp.up_proj"
WORDS = np.ones((8, 8), np.uint32)


def with_weights(folder: Path, **tensors: np.ndarray) -> None:
    """Put packed weights, named by their ends, in the place of a matrix."""
    path = folder / "model.safetensors"
    kept = {name: array for name, array in load_file(path).items() if UP not in name}
    save_file(kept | {f"{UP}.{end}": array for end, array in tensors.items()}, path)


def without_shard(folder: Path) -> None:
    """Name a second file that was not fetched."""
    names = [*load_file(folder / "model.safetensors")]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    places[names[-1]] = "model-00002-of-00002.safetensors"
    index = {"weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def renamed(folder: Path, change: Callable[[str], str]) -> None:
    """Give every weight another name."""
    path = folder / "model.safetensors"
    save_file({change(name): array for name, array in load_file(path).items()}, path)


def typed(folder: Path, dtype: str) -> None:
    """Store one gain as numbers of eight bits."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name, entry = max(header.items(), key=lambda item: item[1].get("data_offsets", [0, 0])[1])
    header[name] = entry | {"dtype": dtype, "shape": [4 * entry["shape"][0], *entry["shape"][1:]]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def only(folder: Path, *names: str) -> None:
    """Leave nothing in a folder but files of these names."""
    for path in folder.iterdir():
        path.unlink()
    for name in names:
        (folder / name).write_text("{}")


ORIGINAL = "take the model that it was made of, in BF16, F16 or F32, or a GGUF file of it"
EXPORT = "`optimum-cli export onnx --model ORG/NAME FOLDER`. and run the export as it is"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "GPTQ": (
        lambda x: with_weights(x, qweight=WORDS, qzeros=WORDS, scales=WORDS, g_idx=WORDS),
        rf"quantised already \(GPTQ\), which is not read; {ORIGINAL}",
    ),
    "AWQ": (
        lambda x: with_weights(x, qweight=WORDS, qzeros=WORDS, scales=WORDS),
        rf"quantised already \(AWQ\), which is not read; {ORIGINAL}",
    ),
    "bitsandbytes": (
        lambda x: with_weights(x, weight=WORDS, **{"weight.absmax": WORDS}),
        rf"quantised already \(bitsandbytes\), which is not read; {ORIGINAL}",
    ),
    "MLX": (
        lambda x: with_weights(x, weight=WORDS, scales=WORDS, biases=WORDS),
        rf"quantised already \(MLX\), which is not read; {ORIGINAL}",
    ),
    "compressed-tensors": (
        lambda x: with_weights(x, weight_packed=WORDS, weight_scale=WORDS),
        rf"quantised already \(compressed-tensors\), which is not read; {ORIGINAL}",
    ),
    "its own name": (
        lambda x: [
            with_weights(x, weight=WORDS, weight_scale=WORDS),
            change_config(x, quantization_config={"quant_method": "modelopt"}),
        ],
        rf"quantised already \(modelopt\), which is not read; {ORIGINAL}",
    ),
    "FP8": (lambda x: typed(x, "F8_E4M3"), rf"quantised already \(FP8\), .*; {ORIGINAL}"),
    "FP8 scales": (lambda x: typed(x, "F8_E8M0"), rf"quantised already \(FP8\), .*; {ORIGINAL}"),
    "a type to come": (lambda x: typed(x, "F3"), "it has a type of numbers that is not read"),
    "family": (lambda x: change_config(x, model_type="mpt"), f"'mpt' is not supported; .*{EXPORT}"),
    "activation": (lambda x: change_config(x, hidden_act="gelu"), f"and is 'gelu'; .*{EXPORT}"),
    "trait": (lambda x: change_config(x, num_local_experts=8), f"computed here for .*{EXPORT}"),
    "scaling": (
        lambda x: change_config(x, rope_scaling={"type": "x"}, rope_parameters=None),
        f"rotary scaling 'x' is not supported; .*{EXPORT}",
    ),
    "adapter": (
        lambda x: only(x, "adapter_config.json", "adapter_model.safetensors", "README.md"),
        r"it is an adapter \(adapter_config\.json\), which is nothing without the model",
    ),
    "OpenVINO": (
        lambda x: only(x, "config.json", "openvino_model.xml", "openvino_model.bin"),
        "in the format of OpenVINO; get its safetensors or a GGUF file",
    ),
    "CTranslate2": (
        lambda x: only(x, "config.json", "model.bin", "vocabulary.json"),
        "in the format of CTranslate2; get its safetensors or a GGUF file",
    ),
    "TensorFlow": (
        lambda x: only(x, "config.json", "tf_model.h5"),
        "in the format of TensorFlow; get its safetensors or a GGUF file",
    ),
    "embeddings": (
        lambda x: (x / "modules.json").write_text("[]"),
        "the model embeds texts and completes none; take one that writes texts",
    ),
    "embeddings by names": (
        lambda x: renamed(x, lambda name: name.removeprefix("model.")),
        "the model embeds texts and completes none; take one that writes texts",
    ),
    "tokenizer": (
        lambda x: (x / "tokenizer.json").unlink(),
        r"neither tokenizer\.json nor tokenizer\.model nor vocab\.json with merges\.txt, .*; get",
    ),
    "shard": (
        without_shard,
        r"lacks model-00002-of-00002\.safetensors, which .*index\.json names; get the whole folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_says_what_it_is_and_what_to_do(case: str, folder: Path) -> None:
    """What other tools write, or a fetch left out, is called by its name."""
    change, reason = REFUSED[case]
    change(folder)

    with pytest.raises(ModelError, match=reason) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ORG/NAME", "no folder ORG/NAME; if it is a repository .* `aobatch models pull ORG/NAME`"),
        ("./gone", "gone does not exist; give the path of a GGUF file or of a safetensors folder"),
        ("gone.gguf", "gone.gguf does not exist; give the path of a GGUF file or of a"),
    ],
)
def test_a_path_that_leads_nowhere_says_so(
    name: str, reason: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a path no list of models is told; what could be a repository is said to be fetched."""
    monkeypatch.chdir(home.parent)
    with pytest.raises(ModelError, match=reason):
        read_checkpoint(Path(name))
    with pytest.raises(ModelNotFoundError, match="no such file or folder") as caught:
        catalogue.resolve(name)
    assert "smollm2" not in str(caught.value)
