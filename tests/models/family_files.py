"""The tiny models of each family as folders of safetensors and as GGUF files."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

from aobatch.models.convert.convert import convert
from aobatch.models.convert.quality import Scorer
from aobatch.models.spec import Checkpoint
from aobatch.models.store.folder import ModelFolder
from aobatch.runners.scoring import score_texts

FAMILIES = ("llama", "llama3-rope", "mistral", "qwen2", "qwen3", "gemma3")
FOLDERS = (
    *("arcee", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2", "glm4", "gptneox", "granite"),
    *("helium", "ministral3", "nemotron", "olmo", "olmo2", "olmo3", "phi", "phi3", "seed_oss"),
    *("smollm3", "stablelm", "starcoder2"),
)
"""Families that are read from folders alone."""
DATA = Path(__file__).parents[1] / "data"

_ARCHITECTURES = {"llama3-rope": "llama", "mistral": "llama"}
_STEMS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_STEMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


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


def write_gguf(family: str, path: Path) -> Path:
    """Write a tiny model as GGUF files of its family are laid out."""
    folder = DATA / f"tiny-{family}"
    config = config_of(folder)
    writer = gguf.GGUFWriter(path, _ARCHITECTURES.get(family, family))
    _write_sizes(writer, config)
    write_vocabulary(writer)
    if family == "llama3-rope":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(config))
    stems = _STEMS | (_GEMMA_STEMS if family == "gemma3" else {})
    for name, weight in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name, stems), _stored(name, weight, family, config))
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


def _write_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])


def _gguf_name(name: str, stems: dict[str, str]) -> str:
    stem, _, end = name.rpartition(".")
    if stem in stems:
        return f"{stems[stem]}.{end}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{stems[part]}.{end}"


def _stored(name: str, weight: np.ndarray, family: str, config: dict[str, Any]) -> np.ndarray:
    """Order rows of q and k for a rotation of neighbouring pairs, and add what gains lack."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    count = heads.get(name.split(".")[-2])
    if family == "gemma3" and "norm" in name:
        return weight + 1
    if count is None or family not in ("llama", "llama3-rope", "mistral"):
        return weight
    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _llama3_factors(config: dict[str, Any]) -> np.ndarray:
    """Say what each frequency is divided by, as the rule was published: one wave at a time."""
    rope, factors = config["rope_parameters"], []
    old = rope["original_max_position_embeddings"]
    for index in range(config["head_dim"] // 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (2 * index / config["head_dim"])
        if wave < old / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wave > old / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (old / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
