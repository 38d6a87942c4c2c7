"""Attention in the decoder graph: from queries, keys and values to rows, through the cache."""

import numpy as np
import onnx_ir as ir

from aobatch.models.rope import angles
from aobatch.models.spec import CAPACITY_STEP, DecoderSpec, LayerAttention, Rope, Weight
from aobatch.models.writer import GraphWriter

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


class AttentionWriter:
    """Writes the attention of every layer; declares the inputs that say where tokens belong."""

    def __init__(self, graph: GraphWriter, spec: DecoderSpec) -> None:
        self._graph = graph
        self._spec = spec
        self._ropes: dict[Rope, tuple[ir.Value, ir.Value]] = {}
        self._pad_index = graph.input("pad_index", _INT64, ["B", "S"])
        self._unpad_index = graph.input("unpad_index", _INT64, ["N"])
        self._seqlens_k = graph.input("seqlens_k", _INT32, ["B"])
        self._query_seqlens = graph.input("query_seqlens", _INT32, ["B"])
        self._total_length = graph.input("total_length", _INT32, [])

    def attend(
        self, index: int, qkv: ir.Value, head_norms: tuple[Weight, Weight] | None
    ) -> ir.Value:
        """Attend with packed rows [N, q + k + v] to packed rows [N, heads * head_dim]."""
        spec, graph, name = self._spec, self._graph, f"layers.{index}"
        layer = spec.attentions[index]
        cache: list[int | str] = [spec.num_kv_heads, "C", spec.head_dim]
        past = [
            graph.input(f"past.{index}.{part}", _FLOAT, ["B", *cache]) for part in ("key", "value")
        ]
        unused = [None] * 7
        attended, *present = graph.node_with_outputs(
            "GroupQueryAttention",
            [
                *self._padded(qkv, head_norms, name),
                *(*past, self._seqlens_k, self._total_length, *self._rotary(layer.rope)),
                *(*unused, self._query_seqlens),
            ],
            3,
            name=f"{name}.attention",
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            do_rotary=1,
            scale=1.0,
            **_window(layer),
        )
        for part, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{part}", _FLOAT, ["B", *cache])
        width = graph.shared("attention.width", np.array([-1, spec.num_heads * spec.head_dim]))
        rows = graph.node("Reshape", attended, width, name=f"{name}.rows")
        return graph.node("Gather", rows, self._unpad_index, name=f"{name}.attended")

    def _padded(
        self, qkv: ir.Value, head_norms: tuple[Weight, Weight] | None, name: str
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Give each slot its tokens: packed queries, keys and values, or each for itself."""
        spec, graph = self._spec, self._graph
        if head_norms is None:
            return graph.node("Gather", qkv, self._pad_index, name=f"{name}.padded"), None, None
        counts = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        sizes = graph.shared("qkv.sizes", np.array(counts) * spec.head_dim)
        parts = list(graph.split(qkv, sizes, len(counts), name=f"{name}.split"))
        for place, (part, gain) in enumerate(zip("qk", head_norms, strict=True)):
            parts[place] = self._normed(parts[place], counts[place], gain, f"{name}.{part}")
        q, k, v = (
            graph.node("Gather", value, self._pad_index, name=f"{name}.{part}.padded")
            for part, value in zip("qkv", parts, strict=True)
        )
        return q, k, v

    def _normed(self, x: ir.Value, num_heads: int, gain: Weight, name: str) -> ir.Value:
        spec, graph = self._spec, self._graph
        heads = graph.shared("heads.shape", np.array([-1, spec.head_dim]))
        split = graph.node("Reshape", x, heads, name=f"{name}.heads")
        normed = graph.norm(split, graph.weight(f"{name}.gain", gain), spec.norm_epsilon, name)
        rows = graph.shared(f"rows.{num_heads}.shape", np.array([-1, num_heads * spec.head_dim]))
        return graph.node("Reshape", normed, rows, name=f"{name}.rows")

    def _rotary(self, rope: Rope) -> tuple[ir.Value, ir.Value]:
        """Give cosines and sines [positions, head_dim / 2] (RoPE, Su et al. 2021)."""
        if rope not in self._ropes:
            # The runtime asks for a row for each place that a slot has, in use or not.
            positions = -(-self._spec.context_length // CAPACITY_STEP) * CAPACITY_STEP
            table = angles(rope, self._spec.head_dim, positions)
            suffix = f".{len(self._ropes)}" if self._ropes else ""
            self._ropes[rope] = (
                self._graph.weight(f"rotary.cos{suffix}", np.cos(table).astype(np.float32)),
                self._graph.weight(f"rotary.sin{suffix}", np.sin(table).astype(np.float32)),
            )
        return self._ropes[rope]


def _window(layer: LayerAttention) -> dict[str, int]:
    return {"local_window_size": layer.window} if layer.window else {}
