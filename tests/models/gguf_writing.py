"""GGUF files written byte by byte, so that they can be wrong in any way."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

U8, BOOL, U32, I32, F32, TEXT, ARRAY, U64 = 0, 7, 4, 5, 6, 8, 9, 10
FLOAT32, FLOAT16, Q4_0, Q8_0 = 0, 1, 2, 8

LETTERS = "abcdefgh"
TOKENS = ["<|endoftext|>", *LETTERS, "ab", "abc", "de"]
MERGES = ["a b", "ab c", "d e"]


def text(content: str | bytes, length: int | None = None) -> bytes:
    """Write a text behind its length, or behind the one that is claimed."""
    data = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(data) if length is None else length) + data


def u32(value: int) -> bytes:
    """Write a value of type uint32."""
    return struct.pack("<II", U32, value)


def f32(value: float) -> bytes:
    """Write a value of type float32."""
    return struct.pack("<If", F32, value)


def string(content: str | bytes, length: int | None = None) -> bytes:
    """Write a value of type string."""
    return struct.pack("<I", TEXT) + text(content, length)


def array(kind: int, items: Sequence[bytes], count: int | None = None) -> bytes:
    """Write a value of type array with the number of its items, or the one that is claimed."""
    head = struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count)
    return head + b"".join(items)


def texts(items: Sequence[str | bytes], count: int | None = None) -> bytes:
    """Write an array of strings."""
    return array(TEXT, [text(item) for item in items], count)


def i32s(items: Sequence[int]) -> bytes:
    """Write an array of int32."""
    return array(I32, [struct.pack("<i", item) for item in items])


@dataclass
class Tensor:
    """A tensor of the table; shape is [out, in], and the offset follows from those before it."""

    shape: tuple[int, ...]
    data: bytes
    kind: int = FLOAT32
    offset: int | None = None
    rank: int | None = None
    written_name: bytes | None = None


@dataclass
class Gguf:
    """A file of which every part may be changed before it is written."""

    fields: dict[str, bytes]
    tensors: dict[str, Tensor]
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    num_tensors: int | None = None
    num_fields: int | None = None
    alignment: int = 32
    more_fields: list[tuple[str | bytes, bytes]] = field(default_factory=list)
    more_tensors: list[tuple[str, Tensor]] = field(default_factory=list)

    def header(self) -> bytes:
        """Write what is ahead of the numbers."""
        fields = [*self.fields.items(), *self.more_fields]
        tensors = [*self.tensors.items(), *self.more_tensors]
        counts = (
            len(tensors) if self.num_tensors is None else self.num_tensors,
            len(fields) if self.num_fields is None else self.num_fields,
        )
        head = self.magic + self.version + struct.pack("<QQ", *counts)
        table, position = b"", 0
        for name, tensor in tensors:
            table += self._entry(name, tensor, position)
            position += len(self._padded(tensor.data))
        return head + b"".join(text(key) + value for key, value in fields) + table

    def content(self) -> bytes:
        """Write the whole file."""
        tensors = [*self.tensors.values(), *(tensor for _, tensor in self.more_tensors)]
        return self._padded(self.header()) + b"".join(self._padded(x.data) for x in tensors)

    def write(self, path: Path) -> Path:
        """Write the whole file to a path, and give that."""
        path.write_bytes(self.content())
        return path

    def _entry(self, name: str, tensor: Tensor, position: int) -> bytes:
        offset = position if tensor.offset is None else tensor.offset
        rank = len(tensor.shape) if tensor.rank is None else tensor.rank
        sizes = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape[::-1])
        named = text(name) if tensor.written_name is None else tensor.written_name
        return named + struct.pack("<I", rank) + sizes + struct.pack("<IQ", tensor.kind, offset)

    def _padded(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % self.alignment)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Give random numbers as float32."""
    values = np.random.default_rng(seed).normal(size=shape).astype("<f4")
    return Tensor(shape, values.tobytes())


def quantised(*shape: int, kind: int) -> Tensor:
    """Give blocks of 32 random integers behind the scale 1, in 4 or 8 bits."""
    width = {Q4_0: 16, Q8_0: 32}[kind]
    block = np.float16(1).tobytes()
    generator = np.random.default_rng(kind)
    blocks = (block + generator.bytes(width) for _ in range(prod(shape) // 32))
    return Tensor(shape, b"".join(blocks), kind)


def small_llama(width: int = 32) -> Gguf:
    """Give a valid model of one layer, whose two heads share one of keys and values."""
    fields = {
        "general.architecture": string("llama"),
        "general.name": string("small"),
        "llama.block_count": u32(1),
        "llama.context_length": u32(64),
        "llama.embedding_length": u32(width),
        "llama.feed_forward_length": u32(64),
        "llama.attention.head_count": u32(2),
        "llama.attention.head_count_kv": u32(1),
        "llama.attention.key_length": u32(16),
        "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
        "llama.rope.freq_base": f32(10000.0),
        "tokenizer.ggml.model": string("gpt2"),
        "tokenizer.ggml.pre": string("gpt-2"),
        "tokenizer.ggml.tokens": texts(TOKENS),
        "tokenizer.ggml.token_type": i32s([3] + [1] * (len(TOKENS) - 1)),
        "tokenizer.ggml.merges": texts(MERGES),
        "tokenizer.ggml.eos_token_id": u32(0),
        "tokenizer.ggml.bos_token_id": u32(0),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", BOOL, False),
        "tokenizer.chat_template": string("{{ messages }}"),
    }
    half = np.random.default_rng(5).normal(size=(16, width)).astype("<f2")
    tensors = {
        "token_embd.weight": quantised(12, width, kind=Q8_0),
        "output_norm.weight": numbers(width),
        "blk.0.attn_norm.weight": numbers(width, seed=1),
        "blk.0.attn_q.weight": quantised(32, width, kind=Q4_0),
        "blk.0.attn_k.weight": Tensor((16, width), half.tobytes(), FLOAT16),
        "blk.0.attn_v.weight": quantised(16, width, kind=Q4_0),
        "blk.0.attn_output.weight": quantised(width, 32, kind=Q8_0),
        "blk.0.ffn_norm.weight": numbers(width, seed=2),
        "blk.0.ffn_gate.weight": quantised(64, width, kind=Q4_0),
        "blk.0.ffn_up.weight": quantised(64, width, kind=Q8_0),
        "blk.0.ffn_down.weight": numbers(width, 64, seed=3),
    }
    return Gguf(fields, tensors)
