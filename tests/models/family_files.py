"""The tiny models of each family as folders of safetensors and as GGUF files."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf_layouts import LAYOUTS, Layout, metadata_of, tensors_of
from safetensors.numpy import load_file

from aobatch.models.convert.convert import convert, write_graph
from aobatch.models.convert.precisions import FP32
from aobatch.models.convert.quality import Scorer
from aobatch.models.spec import Checkpoint
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.scoring import score_texts

FAMILIES = ("llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3")
EXPERTS = ("gptoss", "gptoss-mxfp4", "granitemoe", "mixtral", "olmoe", "qwen3moe")
LATER = (
    *("arcee", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "glm4", "gptneox", "granite"),
    *("ministral3", "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "seed_oss", "smollm3"),
    *("stablelm", "starcoder2"),
    *EXPERTS,
)
"""Families whose recipes of int8 are measured here."""
FOLDERS = ("helium", "width20", "normed20")
"""Families that are read from folders alone; a llama and a qwen3 with heads of 20 numbers."""
DATA = Path(__file__).parents[1] / "data"


def published(family: str, folder: Path) -> Path:
    """Lay out a tiny model as its author would publish it; the tokenizer is the same for all."""
    shutil.copytree(DATA / f"tiny-{family}", folder)
    (folder / "expected.npz").unlink()
    for name in ("tokenizer.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(DATA / "tiny-llama" / name, folder)
    return folder


def converted(
    checkpoint: Checkpoint, folder: Path, precision: str = "fp32", scorer: Scorer = score_texts
) -> ModelFolder:
    """Convert a checkpoint, and show nothing."""
    return convert(checkpoint, folder, precision=precision, scorer=scorer, progress=lambda *_: None)


def config_of(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json."""
    return json.loads((folder / "config.json").read_text())


def change_config(folder: Path, **values: object) -> Path:
    """Set fields of a folder's config.json, and give the folder."""
    (folder / "config.json").write_text(json.dumps(config_of(folder) | values))
    return folder


def write_gguf(
    family: str,
    path: Path,
    folder: Path | None = None,
    *,
    layout: Layout | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a tiny model, or one in a folder, as GGUF files of its family are laid out."""
    folder = folder or DATA / f"tiny-{family}"
    config, layout = config_of(folder), layout or LAYOUTS[family]
    writer = gguf.GGUFWriter(path, layout.architecture)
    for key, value in metadata_of(layout, config).items():
        adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
        add = adders.get(type(value), writer.add_array)
        (writer.add_string if isinstance(value, str) else add)(key, value)
    write_vocabulary(writer)
    for name, weight in tensors_of(layout, config, load_file(folder / "model.safetensors")):
        kind = gguf.GGMLQuantizationType.MXFP4 if weight.dtype == np.uint8 else None
        writer.add_tensor(name, np.ascontiguousarray(weight), raw_dtype=kind)
    for name, weight in (further or {}).items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Write the tokenizer that all tiny models have."""
    tokenizer = json.loads((DATA / "tiny-llama/tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def check_numbers(checkpoint: Checkpoint, reference: Path, folder: Path) -> int:
    """Hold logits and a greedy completion in fp32 to a reference's; count its tokens."""
    expected = np.load(reference / "expected.npz")
    write_graph(checkpoint, folder / "graph", FP32, lambda *_: None)
    runner = OnnxRunner(folder / "graph/model.onnx", 1)
    runner.reserve(1, 256, [])
    ids, prompt = expected["input_ids"], expected["greedy_prompt"]

    logits = runner.prefill([Chunk(0, 0, ids, len(ids))])
    np.testing.assert_allclose(expected["logits"], logits, atol=2e-4)
    completion = expected["greedy_completion"].tolist()
    found, logits = [], runner.prefill([Chunk(0, 0, prompt, 1)])
    for length in range(len(prompt), len(prompt) + len(completion)):
        found.append(int(logits[0].argmax()))
        logits = runner.decode(np.array(found[-1:]), np.array([length]))
    assert completion == found
    return len(completion)
