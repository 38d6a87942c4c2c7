"""docs/models.md, which comes from the code and from tiny models of every family.

`python tests/models_table.py` measures those that the page lacks, with `all` behind it all of them,
and writes the page. What it says beside the measured numbers a test holds to the code.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.fused import not_fusable, write_fused_graph
from aobatch.models.convert.precisions import recipes
from aobatch.models.source.families import FAMILIES
from aobatch.models.source.gguf_families import GGUF_FAMILIES
from aobatch.models.source.infill import INFILL_LAYOUTS, InfillLayout
from aobatch.models.spec import Checkpoint
from aobatch.models.store.folder import MAX_KL, GraphSizes
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.fused import FusedRunner
from aobatch.runners.onnx import OnnxRunner

sys.path.append(str(Path(__file__).parent / "models"))

import family_files

PATH = Path(__file__).parents[1] / "docs" / "models.md"
PAGE = """# Models

Written by `python tests/models_table.py`, which measures the numbers; a test holds all else to the
code.

A decoder of one of these families becomes a model by `aobatch models import PATH NAME`, from its
folder of safetensors as published, or, where that is said, from a GGUF file. Each family was tried
on tiny models of random weights against transformers in float32: the logits of the fp32 model are
within 0.0002 at every position, and 40 greedy tokens are the same.

{families}

Of 8-bit integers the first recipe is taken whose distance from fp32 is at most {max_kl} nats a
token (KL divergence; here on the tiny model, over ONNX Runtime's operators, then over our own where
these hold the family). A model's own distance is measured when it is converted, and
`aobatch models inspect NAME` shows it. Published models are known to have the shape; most were not
tried themselves.

## Filling in

A request with a `suffix` is laid out as the model was trained, told by the tokens of its
vocabulary. The start of a document stands ahead of all where the model adds one, and the suffix
gets no space ahead that it does not have.

{layouts}

Any other vocabulary reads no suffix: candidates are drawn, and the suffix chooses among them.

## Adapters

[How adapters are merged](bring-your-own-model.md#an-adapter-of-a-model) into any of them.
"""

PUBLISHED = {
    "arcee": "AFM 4.5B",
    "cohere2": "Command R7B, Command A",
    "ernie4_5": "ERNIE 4.5 0.3B",
    "exaone4": "EXAONE 4.0 1.2B and 32B",
    "gemma": "Gemma 2B and 7B, CodeGemma",
    "gemma2": "Gemma 2 2B, 9B and 27B",
    "gemma3": "Gemma 3 270M to 27B (their text)",
    "glm4": "GLM-4 9B and 32B of 2025",
    "gpt_neox": "Pythia, GPT-NeoX 20B, Dolly 2",
    "gpt_oss": "gpt-oss 20B and 120B",
    "granite": "Granite 3.0 to 3.3 without experts",
    "granitemoe": "Granite 3 1B-A400M and 3B-A800M",
    "helium": "Helium 1 2B",
    "llama": (
        "Llama 2 to 3.3, SmolLM2, TinyLlama, Code Llama, DeepSeek LLM and Coder 1, Falcon 3, "
        "Granite Code 3B and 8B, Mellum, Seed-Coder, Yi"
    ),
    "ministral3": "Ministral 3",
    "mistral": "Mistral 7B, Mistral Nemo, Mistral Small, Codestral 22B",
    "mixtral": "Mixtral 8x7B and 8x22B",
    "nemotron": "Minitron 4B and 8B",
    "olmo": "OLMo 1B and 7B of 2024",
    "olmo2": "OLMo 2 1B to 32B",
    "olmo3": "Olmo 3 7B and 32B",
    "olmoe": "OLMoE 1B-7B",
    "phi": "Phi-1, Phi-1.5, Phi-2",
    "phi3": "Phi-3 and Phi-3.5 mini and medium, Phi-4, Phi-4-mini",
    "qwen2": "Qwen2 and Qwen2.5, Qwen2.5-Coder, DeepSeek-R1-Distill-Qwen",
    "qwen3": "Qwen3 0.6B to 32B",
    "qwen3_moe": "Qwen3-30B-A3B, Qwen3-Coder-30B-A3B",
    "seed_oss": "Seed-OSS 36B",
    "smollm3": "SmolLM3 3B",
    "stablelm": "StableLM 2 1.6B, StableLM 3B, Stable Code 3B",
    "starcoder2": "StarCoder2 3B, 7B and 15B",
}


class Measured(NamedTuple):
    """A tiny model's recipe, and its distance from the reference in nats a token."""

    recipe: str
    kl: float
    fused_kl: float | None


def main(*, measures_all: bool) -> None:
    """Measure tiny models, and write the page."""
    known = {} if measures_all else read_figures()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: known.get(name) or measure(name, Path(folder) / name) for name in tiny_models()
        }
    PATH.write_text(page(found), encoding="utf-8")


def tiny_models() -> list[str]:
    """List the tiny models by what follows `tiny-` in the names of their folders."""
    folders = family_files.DATA.glob("tiny-*/expected.npz")
    return sorted(path.parent.name.removeprefix("tiny-") for path in folders)


def opened(name: str, folder: Path) -> Checkpoint:
    """Open a tiny model as its author would publish it."""
    return read_checkpoint(family_files.published(name, folder))


def measure(name: str, work: Path) -> Measured:
    """Find the first recipe of 8-bit integers that is close enough, and how close it is."""
    work.mkdir()
    checkpoint = opened(name, work / "source")
    spec, expected = checkpoint.spec, np.load(family_files.DATA / f"tiny-{name}/expected.npz")
    for recipe, way in recipes("int8", spec).items():
        graph, fused = work / recipe / "model.onnx", work / recipe / "fused.onnx"
        write_graph(checkpoint, graph.parent, way, lambda *_: None)
        distance, fused_distance = kl(OnnxRunner(graph, 1), expected), None
        if distance > MAX_KL:
            continue
        if not not_fusable(spec, recipe):
            write_fused_graph(graph, fused, spec)
            sizes = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
            fused_distance = kl(FusedRunner(fused, 1, sizes, "int8"), expected)
        return Measured(recipe, distance, fused_distance)
    message = f"no recipe is close enough for tiny-{name}"
    raise SystemExit(message)


def kl(runner: ModelRunner, expected: Mapping[str, np.ndarray]) -> float:
    """Give the mean divergence of a runner's logits from the reference's."""
    runner.reserve(1, 256, [])
    ids, true = expected["input_ids"], log_softmax(expected["logits"].astype(np.float64), axis=1)
    logits = runner.prefill([Chunk(0, 0, ids, len(ids))])
    found = log_softmax(logits.astype(np.float64), axis=1)
    return float((np.exp(true) * (true - found)).sum(axis=1).mean())


_FIGURE = re.compile(r"`tiny-([\w.-]+)` ([^|;]+?) ([\d.]+)(?: / ([\d.]+))?(?=;| \|)")


def read_figures() -> dict[str, Measured]:
    """Read the numbers that the page has."""
    text = PATH.read_text(encoding="utf-8") if PATH.exists() else ""
    return {
        name: Measured(recipe, float(number), float(fused) if fused else None)
        for name, recipe, number, fused in _FIGURE.findall(text)
    }


def page(figures: Mapping[str, Measured]) -> str:
    """Write the page, with these numbers."""
    return PAGE.format(
        families="\n".join(_family_table(figures)),
        max_kl=MAX_KL,
        layouts="\n".join(_layout_table(INFILL_LAYOUTS)),
    )


def _family_table(figures: Mapping[str, Measured]) -> Iterator[str]:
    yield "| family | from | operators | int8 of a tiny model: recipe, KL | published models |"
    yield "|---|---|---|---|---|"
    # Files of the third olmo call themselves the second, those of mixtral llama.
    in_gguf = {known.name for known in GGUF_FAMILIES.values()} | {"olmo3", "mixtral"}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = {name: opened(name, Path(folder) / name) for name in tiny_models()}
    for family in sorted(FAMILIES):
        tried = [name for name, found in checkpoints.items() if found.spec.family == family]
        sources = "folder, GGUF" if family in in_gguf else "folder"
        reasons = {not_fusable(checkpoints[name].spec, figures[name].recipe) for name in tried}
        operators = "stock" if all(reasons) else "fused"
        numbers = "; ".join(f"`tiny-{name}` {_shown(figures[name])}" for name in tried)
        known = PUBLISHED.get(family, "")
        yield f"| `{family}` | {sources} | {operators} | {numbers} | {known} |"


def _shown(figure: Measured) -> str:
    fused = "" if figure.fused_kl is None else f" / {figure.fused_kl:.4f}"
    return f"{figure.recipe} {figure.kl:.4f}{fused}"


def _layout_table(layouts: Mapping[str, InfillLayout]) -> Iterator[str]:
    yield "| models | layout |"
    yield "|---|---|"
    for models, layout in layouts.items():
        parts = (f"{layout.prefix}PREFIX", f"{layout.suffix}SUFFIX")
        ordered = parts if layout.order == "PSM" else parts[::-1]
        text = f"{''.join(ordered)}{layout.middle}".replace("|", r"\|")
        yield f"| {models} | `{text}` |"


if __name__ == "__main__":
    main(measures_all="all" in sys.argv[1:])
