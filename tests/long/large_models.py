"""Models of the shapes that people bring, with random weights: what they are made of, on disk."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

VOCAB_SIZE = 128_256
_SCALE, _TABLE_SCALE = 0.02, 0.005
"""Random layers spread rounding errors as trained ones do not; rows of tables are small, so that
logits differ little by them."""
_TILE = 2**24 - 3
"""Random numbers that all weights are cut from; odd, so that no two rows begin alike."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a llama."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    num_parts: int = 1
    is_tied: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the stored weights, in their order."""
        hidden, wide = self.hidden_size, self.intermediate_size
        keys = hidden // self.num_heads * self.num_kv_heads
        yield "model.embed_tokens.weight", (VOCAB_SIZE, hidden)
        for index in range(self.num_layers):
            stem = f"model.layers.{index}"
            yield f"{stem}.input_layernorm.weight", (hidden,)
            for name, size in (("q", hidden), ("k", keys), ("v", keys), ("o", hidden)):
                yield f"{stem}.self_attn.{name}_proj.weight", (size, hidden)
            yield f"{stem}.post_attention_layernorm.weight", (hidden,)
            for name in ("gate", "up"):
                yield f"{stem}.mlp.{name}_proj.weight", (wide, hidden)
            yield f"{stem}.mlp.down_proj.weight", (hidden, wide)
        yield "model.norm.weight", (hidden,)
        if not self.is_tied:
            yield "lm_head.weight", (VOCAB_SIZE, hidden)

    @property
    def config(self) -> dict[str, object]:
        """What its config.json says."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": VOCAB_SIZE,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": self.is_tied,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }


SHAPES = {
    "1b": Shape(16, 2048, 8192, 32, 8, is_tied=True),
    "3b": Shape(28, 3072, 8192, 24, 8, num_parts=2, is_tied=True),
    "8b": Shape(32, 4096, 14_336, 32, 8, num_parts=5),
}


def write_model(shape: Shape, folder: Path, tokenizer: Path) -> Path:
    """Lay out a model as its author would publish it, in bfloat16."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(shape.config))
    shutil.copy(tokenizer, folder / "tokenizer.json")
    tile = np.random.default_rng(0).standard_normal(_TILE, np.float32)
    numbers = {scale: _bfloat16(tile * np.float32(scale)) for scale in (_SCALE, _TABLE_SCALE)}
    parts = _parts(shape)
    names = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    names = ["model.safetensors"] if len(parts) == 1 else names
    for name, part in zip(names, parts, strict=True):
        _write_part(folder / name, part, numbers)
    if len(parts) > 1:
        index = {t: name for name, part in zip(names, parts, strict=True) for t in part}
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / "model.safetensors.index.json").write_text(text)
    return folder


def _bfloat16(numbers: np.ndarray) -> np.ndarray:
    """Cut numbers, and lay them out twice, so that any of them can be the first of as many."""
    return np.tile((numbers.view(np.uint32) >> 16).astype(np.uint16), 2)


def _parts(shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    """Share the weights out, by their sizes and in their order."""
    tensors = dict(shape.tensors())
    each = sum(map(prod, tensors.values())) / shape.num_parts
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shape.num_parts)]
    before = 0
    for name, size in tensors.items():
        parts[min(shape.num_parts - 1, int(before / each))][name] = size
        before += prod(size)
    return parts


def _write_part(
    path: Path, tensors: dict[str, tuple[int, ...]], numbers: dict[float, np.ndarray]
) -> None:
    header, position = {}, 0
    for name, shape in tensors.items():
        size = 2 * prod(shape)
        offsets = [position, position + size]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        position += size
    text = json.dumps(header).encode()
    chance = np.random.default_rng(len(tensors))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            if name.endswith("norm.weight"):
                file.write(np.full(shape, 0x3F80, np.uint16).tobytes())  # ones
                continue
            left, of = prod(shape), numbers[_TABLE_SCALE if shape[0] == VOCAB_SIZE else _SCALE]
            while left:
                start = int(chance.integers(_TILE))
                left -= file.write(of[start : start + min(left, _TILE)].data) // 2
