"""The decoder graph: one for prefill and decode, packed tokens for every matrix product.

Inputs (N packed tokens, B rows of the cache, S the longest chunk, R rows of logits):
    input_ids [N], logits_index [R] (positions in N whose logits are wanted),
    pad_index [B, S] (packed position of each padded slot), unpad_index [N] (the way back),
    seqlens_k [B] (total length - 1), query_seqlens [B] (new tokens a row; 0 leaves it idle),
    total_length [] (the cache's capacity), past.L.key / past.L.value [B, kv_heads, C, head_dim].
Outputs: logits [R, V], present.L.key / present.L.value, bound to the memory of past.
Padding exists only inside GroupQueryAttention; its scale is 1 because 1/sqrt(d) is in q.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from aobatch.models.fold import (
    LayerWeights,
    fold_embedding,
    fold_head,
    fold_layer,
    rotation,
)
from aobatch.models.precision import Precision
from aobatch.models.spec import Checkpoint, DecoderSpec
from aobatch.models.writer import MICROSOFT, GraphWriter

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


class DecoderGraph:
    """Builds the graph of one checkpoint in one precision, layer by layer."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision) -> None:
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._precision = precision
        self._turn = rotation(self._spec.hidden_size) if precision.rotates else None
        self._graph = GraphWriter(self._spec.family)
        self._input_ids = self._graph.input("input_ids", _INT64, ["N"])
        self._logits_index = self._graph.input("logits_index", _INT64, ["R"])
        self._pad_index = self._graph.input("pad_index", _INT64, ["B", "S"])
        self._unpad_index = self._graph.input("unpad_index", _INT64, ["N"])
        self._seqlens_k = self._graph.input("seqlens_k", _INT32, ["B"])
        self._query_seqlens = self._graph.input("query_seqlens", _INT32, ["B"])
        self._total_length = self._graph.input("total_length", _INT32, [])

    def build(self, advance: Callable[[int, int], None]) -> ir.Model:
        """Write the whole graph; `advance(done, total)` is called after each layer."""
        spec, graph, precision = self._spec, self._graph, self._precision
        table = fold_embedding(self._checkpoint, self._turn)
        residual = precision.embed(graph, table, self._input_ids)
        normed = graph.node(
            "SimplifiedLayerNormalization",
            residual,
            self._unit_gain(),
            name="normed",
            axis=-1,
            epsilon=spec.norm_epsilon,
            stash_type=1,
        )
        for index in range(spec.num_layers):
            weights = fold_layer(self._checkpoint, index, self._turn)
            residual, normed = self._layer(index, weights, residual, normed)
            advance(index + 1, spec.num_layers + 1)
        self._head(normed)
        advance(spec.num_layers + 1, spec.num_layers + 1)
        return graph.model()

    def _layer(
        self, index: int, weights: LayerWeights, residual: ir.Value, normed: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        graph, precision, name = self._graph, self._precision, f"layers.{index}"
        shared = precision.normed(graph, normed, f"{name}.attention_input")
        qkv = precision.after_norm(graph, shared, weights.qkv, f"{name}.qkv")
        attended = self._attention(index, qkv)
        out = precision.free(graph, attended, weights.o, f"{name}.o")
        residual, normed = self._add_and_norm(residual, out, f"{name}.mlp_input")
        shared = precision.normed(graph, normed, f"{name}.mlp_input")
        gate = precision.after_norm(graph, shared, weights.gate, f"{name}.gate")
        up = precision.after_norm(graph, shared, weights.up, f"{name}.up")
        gate = graph.node("QuickGelu", gate, name=f"{name}.silu", domain=MICROSOFT, alpha=1.0)
        gated = graph.node("Mul", gate, up, name=f"{name}.gated")
        out = precision.spread(graph, gated, weights.down, f"{name}.down")
        return self._add_and_norm(residual, out, f"{name}.output")

    def _attention(self, index: int, qkv: ir.Value) -> ir.Value:
        spec, graph = self._spec, self._graph
        cache: list[int | str] = [spec.num_kv_heads, "C", spec.head_dim]
        past = [
            graph.input(f"past.{index}.{part}", _FLOAT, ["B", *cache]) for part in ("key", "value")
        ]
        cos, sin = _rotary_tables(spec)
        padded = graph.node("Gather", qkv, self._pad_index, name=f"layers.{index}.padded")
        unused = [None] * 7
        attended, *present = graph.node_with_outputs(
            "GroupQueryAttention",
            [
                *(padded, None, None, *past, self._seqlens_k, self._total_length),
                *(graph.shared("rotary.cos", cos), graph.shared("rotary.sin", sin)),
                *(*unused, self._query_seqlens),
            ],
            3,
            name=f"layers.{index}.attention",
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            do_rotary=1,
            scale=1.0,
        )
        for part, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{part}", _FLOAT, ["B", *cache])
        width = graph.shared("attention.width", np.array([-1, spec.num_heads * spec.head_dim]))
        rows = graph.node("Reshape", attended, width, name=f"layers.{index}.rows")
        return graph.node("Gather", rows, self._unpad_index, name=f"layers.{index}.attended")

    def _add_and_norm(
        self, residual: ir.Value, x: ir.Value, name: str
    ) -> tuple[ir.Value, ir.Value]:
        outputs = self._graph.node_with_outputs(
            "SkipSimplifiedLayerNormalization",
            [residual, x, self._unit_gain()],
            4,
            name=name,
            epsilon=self._spec.norm_epsilon,
        )
        return outputs[3], outputs[0]

    def _head(self, normed: ir.Value) -> None:
        graph, precision = self._graph, self._precision
        wanted = graph.node("Gather", normed, self._logits_index, name="wanted")
        shared = precision.normed(graph, wanted, "head_input")
        head = fold_head(self._checkpoint, self._turn)
        logits = precision.after_norm(graph, shared, head, "logits")
        graph.output(logits, "logits", _FLOAT, ["R", self._spec.vocab_size])

    def _unit_gain(self) -> ir.Value:
        return self._graph.shared("unit.gain", np.ones(self._spec.hidden_size, np.float32))


def _rotary_tables(spec: DecoderSpec) -> tuple[np.ndarray, np.ndarray]:
    """Give cosines and sines [context, head_dim / 2] (RoPE, Su et al. 2021)."""
    frequencies = spec.rope_theta ** -(np.arange(0, spec.head_dim, 2) / spec.head_dim)
    angles = np.arange(spec.context_length)[:, None] * frequencies[None]
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
