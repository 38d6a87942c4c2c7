"""Export the tiny models with optimum and with the builder of onnxruntime-genai.

Run by hand where these tools are: `python make.py optimum` with transformers 4, which takes the old
names of a config's fields, and `python make.py genai llama qwen2` with transformers 5. The builder
takes gemma3 with transformers 4 only (see README.md).
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EXPORTS = {"optimum": ("llama", "qwen3", "mistral"), "genai": ("llama", "qwen2", "gemma3")}
KEPT = ("model.onnx", "model.onnx.data", "genai_config.json", "tokenizer_config.json")
COMMANDS = {
    "optimum": ("optimum.exporters.onnx", "--task", "text-generation-with-past", "--model"),
    "genai": ("onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu", "-i"),
}


def published(family: str, folder: Path) -> Path:
    """Lay out a tiny model with the names of both versions of transformers."""
    shutil.copytree(HERE.parent / f"tiny-{family}", folder)
    for name in ("tokenizer.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(HERE.parent / "tiny-llama" / name, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config["rope_parameters"]
    config["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
    if "sliding_attention" in rope:
        del config["rope_parameters"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = {"rope_type": "default"}
    path.write_text(json.dumps(config))
    return folder


def main(tool: str, *families: str) -> None:
    """Export some families, or every one that this tool is to export."""
    for family in families or EXPORTS[tool]:
        with tempfile.TemporaryDirectory() as work:
            source = published(family, Path(work) / "source")
            target = Path(work) / "target"
            output = ["-o", target, "-c", work] if tool == "genai" else [target]
            module, *options = COMMANDS[tool]
            subprocess.run([sys.executable, "-m", module, *options, source, *output], check=True)
            kept = KEPT if tool == "genai" else (*KEPT, "config.json", "generation_config.json")
            (HERE / f"{family}-{tool}").mkdir(exist_ok=True)
            for name in kept:
                if (target / name).exists():
                    shutil.copy(target / name, HERE / f"{family}-{tool}")


if __name__ == "__main__":
    main(*sys.argv[1:])
