"""The decoder graph: one for prefill and decode, packed tokens for every matrix product.

Inputs (N packed tokens, B rows of the cache, S the longest chunk, R rows of logits):
    input_ids [N], logits_index [R] (positions in N whose logits are wanted),
    pad_index [B, S] (packed position of each padded slot), unpad_index [N] (the way back),
    seqlens_k [B] (total length - 1), query_seqlens [B] (new tokens a row; 0 leaves it idle),
    total_length [] (the cache's capacity), past.L.key / past.L.value [B, kv_heads, C, head_dim].
Outputs: logits [R, V], present.L.key / present.L.value, bound to the memory of past.
Padding exists only inside GroupQueryAttention; its scale is 1 because 1/sqrt(d) is in q.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.arrays import TokenIds
from aobatch.models.convert.experts import mix_experts
from aobatch.models.convert.fold import (
    FoldedLayer,
    Linear,
    fold_embedding,
    fold_head,
    head_bias,
    rotation,
)
from aobatch.models.convert.precisions import FP32, Multiply, Precision
from aobatch.models.convert.writer import Attribute, GraphWriter
from aobatch.models.source.rope import rotary_tables
from aobatch.models.spec import CAPACITY_STEP, MICROSOFT, Checkpoint, Rope, Weight

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


_INPUTS: Mapping[str, tuple[ir.DataType, Sequence[int | str]]] = {
    "input_ids": (_INT64, ["N"]),
    "logits_index": (_INT64, ["R"]),
    "pad_index": (_INT64, ["B", "S"]),
    "unpad_index": (_INT64, ["N"]),
    "seqlens_k": (_INT32, ["B"]),
    "query_seqlens": (_INT32, ["B"]),
    "total_length": (_INT32, []),
}
_OF_ATTENTION = ("pad_index", "unpad_index", "seqlens_k", "query_seqlens", "total_length")


class DecoderGraph:
    """Builds the graph of one checkpoint in one precision, layer by layer."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        graph: GraphWriter,
        inputs: Iterable[str] = tuple(_INPUTS),
    ) -> None:
        """Declare the inputs."""
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._precision = precision
        self._turn = rotation(self._spec.hidden_size) if precision.rotates else None
        self._ropes: dict[Rope, tuple[ir.Value, ir.Value]] = {}
        self._graph = graph
        self._inputs = {name: graph.input(name, *_INPUTS[name]) for name in inputs}

    def build(self) -> ir.Model:
        """Write the whole graph."""
        spec, graph = self._spec, self._graph
        table = fold_embedding(self._checkpoint, self._turn)
        residual = self._precision.embed(graph, table, self._inputs["input_ids"])
        normed = self._first_norm(residual)
        for index in range(spec.num_layers):
            residual, normed = self._layer(self._folded(index), residual, normed)
        self._head(graph.node("Gather", normed, self._inputs["logits_index"], name="wanted"))
        return graph.model()

    def build_layer(self, index: int) -> ir.Model:
        """Write one layer alone, from `residual` and `normed` to `next_…`, [N, hidden] each.

        The first layer has no `normed`, nor has any whose blocks read the stream as it is.
        """
        graph, spec = self._graph, self._spec
        rows: Sequence[int | str] = ["N", spec.hidden_size]
        normed = residual = graph.input("residual", _FLOAT, rows)
        if index == 0:
            normed = self._first_norm(residual)
        elif spec.has_pre_norms:
            normed = graph.input("normed", _FLOAT, rows)
        residual, normed = self._layer(self._folded(index), residual, normed)
        graph.output(residual, "next_residual", _FLOAT, rows)
        if normed is not residual:
            graph.output(normed, "next_normed", _FLOAT, rows)
        return graph.model()

    def build_head(self) -> ir.Model:
        """Write what is behind the layers alone, from `normed` [R, hidden] to `logits`."""
        self._head(self._graph.input("normed", _FLOAT, ["R", self._spec.hidden_size]))
        return self._graph.model()

    def _folded(self, index: int) -> FoldedLayer:
        return FoldedLayer(self._checkpoint, index, self._turn)

    def _first_norm(self, residual: ir.Value) -> ir.Value:
        if not self._spec.has_pre_norms:
            return residual
        return self._norm(residual, self._gain("layers.0.attention_norm"), "embedded")

    def _head(self, wanted: ir.Value) -> None:
        """Give logits of the wanted rows."""
        spec, graph = self._spec, self._graph
        multiply = self._precision.normed(graph, wanted, "head_input")
        logits = multiply(fold_head(self._checkpoint, self._turn), "logits")
        plain = logits
        logits = self._capped(self._linear_bias(logits, head_bias(self._checkpoint), "logits"))
        if logits is not plain:
            plain.name = "logits.plain"
        graph.output(logits, "logits", _FLOAT, ["R", spec.vocab_size])

    def _layer(
        self, layer: FoldedLayer, residual: ir.Value, normed: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        graph, name, spec = self._graph, f"layers.{layer.index}", self._spec
        out = self._attention(layer, normed)
        is_last = layer.index + 1 == spec.num_layers
        following = "final_norm" if is_last else f"layers.{layer.index + 1}.attention_norm"
        gain = self._gain(following) if is_last or spec.has_pre_norms else None
        if spec.is_parallel:
            if self._turn is None and not spec.shares_norms:
                normed = self._norm(residual, self._gain(f"{name}.mlp_norm"), f"{name}.mlp_input")
            both = graph.node("Add", out, self._mlp(layer, normed), name=f"{name}.both")
            return self._add_and_norm((residual, both), gain, f"{name}.output")
        own = self._gain(f"{name}.mlp_norm") if spec.has_pre_norms else None
        residual, normed = self._add_and_norm((residual, out), own, f"{name}.mlp_input")
        return self._add_and_norm((residual, self._mlp(layer, normed)), gain, f"{name}.output")

    def _attention(self, layer: FoldedLayer, normed: ir.Value) -> ir.Value:
        precision, name = self._precision, f"layers.{layer.index}"
        multiply = precision.normed(self._graph, normed, f"{name}.attention_input")
        qkv = self._linear(multiply, layer.qkv(), f"{name}.qkv")
        attended = self._attend(layer, qkv)
        multiply = precision.free(self._graph, attended, f"{name}.o")
        out = self._linear(multiply, layer.out("o"), f"{name}.o")
        return self._post_norm(out, layer.post_norm("attention"), f"{name}.attention_output")

    def _mlp(self, layer: FoldedLayer, normed: ir.Value) -> ir.Value:
        graph, precision, name = self._graph, self._precision, f"layers.{layer.index}"
        multiply = precision.normed(graph, normed, f"{name}.mlp_input")
        if self._spec.experts is not None:
            return mix_experts(graph, precision, layer, normed)
        if self._spec.is_gated:
            gate = self._linear(multiply, layer.mlp("gate"), f"{name}.gate")
            up = self._linear(multiply, layer.mlp("up"), f"{name}.up")
            inner = graph.node("Mul", self._activated(gate, name), up, name=f"{name}.gated")
        else:
            up = self._linear(multiply, layer.mlp("up"), f"{name}.up")
            inner = self._activated(up, name)
        out = self._linear(
            precision.spread(graph, inner, f"{name}.down"), layer.out("down"), f"{name}.down"
        )
        return self._post_norm(out, layer.post_norm("mlp"), f"{name}.mlp_output")

    def _activated(self, gate: ir.Value, name: str) -> ir.Value:
        if self._spec.activation == "silu":
            return self._graph.node(
                "QuickGelu", gate, name=f"{name}.silu", domain=MICROSOFT, alpha=1.0
            )
        if self._spec.activation == "relu_squared":
            cut = self._graph.node("Relu", gate, name=f"{name}.relu")
            return self._graph.node("Mul", cut, cut, name=f"{name}.squared")
        how = "tanh" if self._spec.activation == "gelu_tanh" else "none"
        return self._graph.node("Gelu", gate, name=f"{name}.gelu", approximate=how)

    def _capped(self, logits: ir.Value) -> ir.Value:
        cap, graph = self._spec.logits_cap, self._graph
        if not cap:
            return logits
        bent = graph.node("Tanh", logits, name="logits.bent")
        scale = graph.shared("logits.cap", np.array(cap, np.float32))
        return graph.node("Mul", bent, scale, name="logits.capped")

    def _linear(self, multiply: Multiply, linear: Linear, name: str) -> ir.Value:
        return self._linear_bias(multiply(linear.weight, name), linear.bias, name)

    def _linear_bias(self, product: ir.Value, bias: Weight | None, name: str) -> ir.Value:
        if bias is None:
            return product
        added = self._graph.weight(f"{name}.bias", bias)
        return self._graph.node("Add", product, added, name=f"{name}.biased")

    def _gain(self, name: str) -> ir.Value:
        """Give a norm's gain, or ones if it was folded with a rotation."""
        if self._turn is None:
            return self._graph.weight(name, self._checkpoint.gain(name))
        return self._graph.shared("unit.gain", np.ones(self._spec.hidden_size, np.float32))

    def _norm(
        self, x: ir.Value, gain: ir.Value, name: str, epsilon: float | None = None
    ) -> ir.Value:
        """Divide rows by their root mean square and multiply them by a gain."""
        return self._graph.node(
            "SimplifiedLayerNormalization",
            *(x, gain),
            name=f"{name}.normed",
            axis=-1,
            epsilon=self._spec.norm_epsilon if epsilon is None else epsilon,
            stash_type=1,
        )

    def _post_norm(self, x: ir.Value, gain: Weight | None, name: str) -> ir.Value:
        return x if gain is None else self._norm(x, self._graph.weight(f"{name}.gain", gain), name)

    def _add_and_norm(
        self, terms: tuple[ir.Value, ir.Value], gain: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """Give the new residual stream, and the same normed if there is a gain."""
        if gain is None:
            total = self._graph.node("Add", *terms, name=name)
            return total, total
        outputs = self._graph.node_with_outputs(
            "SkipSimplifiedLayerNormalization",
            [*terms, gain],
            4,
            name=name,
            epsilon=self._spec.norm_epsilon,
        )
        return outputs[3], outputs[0]

    def _attend(self, folded: FoldedLayer, qkv: ir.Value) -> ir.Value:
        """Attend with packed rows [N, q + k + v] to packed rows [N, heads * head_dim]."""
        spec, graph, index = self._spec, self._graph, folded.index
        layer, name, given = spec.attentions[index], f"layers.{index}", self._inputs
        cache: list[int | str] = ["B", spec.num_kv_heads, "C", spec.head_dim]
        past = [graph.input(f"past.{index}.{part}", _FLOAT, cache) for part in ("key", "value")]
        sinks = folded.sinks()
        sink = None if sinks is None else graph.weight(f"{name}.sinks", sinks)
        unused = [None] * 2, [None] * 4
        traits: dict[str, Attribute] = {"local_window_size": layer.window} if layer.window else {}
        if spec.attention_cap:
            traits["softcap"] = spec.attention_cap
        attended, *present = graph.node_with_outputs(
            "GroupQueryAttention",
            [
                *self._padded(qkv, folded.head_norms(), name),
                *(*past, given["seqlens_k"], given["total_length"], *self._rotary(layer.rope)),
                *(*unused[0], sink, *unused[1], given["query_seqlens"]),
            ],
            3,
            name=f"{name}.attention",
            domain=MICROSOFT,
            num_heads=spec.num_heads,
            kv_num_heads=spec.num_kv_heads,
            do_rotary=1,
            scale=1.0,
            **traits,
        )
        for part, value in zip(("key", "value"), present, strict=True):
            graph.output(value, f"present.{index}.{part}", _FLOAT, cache)
        width = graph.shared("attention.width", np.array([-1, spec.num_heads * spec.head_dim]))
        rows = graph.node("Reshape", attended, width, name=f"{name}.rows")
        return graph.node("Gather", rows, given["unpad_index"], name=f"{name}.attended")

    def _padded(
        self, qkv: ir.Value, head_norms: tuple[Weight, Weight] | None, name: str
    ) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
        """Give each slot its tokens: packed queries, keys and values, or each for itself."""
        spec, graph = self._spec, self._graph
        if head_norms is None:
            return (
                graph.node("Gather", qkv, self._inputs["pad_index"], name=f"{name}.padded"),
                None,
                None,
            )
        counts = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
        sizes = graph.shared("qkv.sizes", np.array(counts) * spec.head_dim)
        parts = list(
            graph.node_with_outputs(
                "Split", [qkv, sizes], len(counts), name=f"{name}.split", domain="", axis=-1
            )
        )
        for place, (part, gain) in enumerate(zip("qk", head_norms, strict=True)):
            parts[place] = self._normed_heads(parts[place], counts[place], gain, f"{name}.{part}")
        q, k, v = (
            graph.node("Gather", value, self._inputs["pad_index"], name=f"{name}.{part}.padded")
            for part, value in zip("qkv", parts, strict=True)
        )
        return q, k, v

    def _normed_heads(self, x: ir.Value, num_heads: int, gain: Weight, name: str) -> ir.Value:
        graph, spec = self._graph, self._spec
        width = spec.head_dim
        epsilon = spec.head_norm_epsilon
        if spec.norms_whole_rows:
            return self._norm(x, graph.weight(f"{name}.gain", gain), name, epsilon)
        heads = graph.shared("heads.shape", np.array([-1, width]))
        split = graph.node("Reshape", x, heads, name=f"{name}.heads")
        normed = self._norm(split, graph.weight(f"{name}.gain", gain), name, epsilon)
        rows = graph.shared(f"rows.{num_heads}.shape", np.array([-1, num_heads * width]))
        return graph.node("Reshape", normed, rows, name=f"{name}.rows")

    def _rotary(self, rope: Rope) -> tuple[ir.Value, ir.Value]:
        """Give cosines and sines [positions, head_dim / 2] (RoPE, Su et al. 2021)."""
        if rope not in self._ropes:
            # The runtime asks for a row for each place that a slot has, in use or not.
            positions = -(-self._spec.context_length // CAPACITY_STEP) * CAPACITY_STEP
            cos, sin = rotary_tables(rope, self._spec.head_dim, positions)
            suffix = f".{len(self._ropes)}" if self._ropes else ""
            self._ropes[rope] = (
                self._graph.weight(f"rotary.cos{suffix}", cos),
                self._graph.weight(f"rotary.sin{suffix}", sin),
            )
        return self._ropes[rope]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a decoder as a graph of its own, whose large weights are inputs."""

    graph: bytes
    weights: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class StagedDecoder:
    """A decoder in full precision, one layer at a time: the whole of it is never anywhere."""

    checkpoint: Checkpoint

    def embed(self, token_ids: TokenIds) -> Weight:
        """Look tokens up, [N, hidden]."""
        table = fold_embedding(self.checkpoint, None)
        return np.concatenate([table.rows(i, i + 1) for i in token_ids.tolist()])

    def layers(self) -> Iterator[Stage]:
        """Yield each layer, see `DecoderGraph.build_layer`."""
        for index in range(self.checkpoint.spec.num_layers):
            yield self._stage(partial(DecoderGraph.build_layer, index=index), _OF_ATTENTION)

    def head(self) -> Stage:
        """Give what is behind the layers, see `DecoderGraph.build_head`."""
        return self._stage(DecoderGraph.build_head, ())

    def _stage(self, build: Callable[[DecoderGraph], ir.Model], inputs: Sequence[str]) -> Stage:
        weights: dict[str, NDArray[Any]] = {}
        graph = GraphWriter(self.checkpoint.spec.family, feeds=weights)
        model = build(DecoderGraph(self.checkpoint, FP32, graph, inputs))
        return Stage(ir.to_proto(model).SerializeToString(), weights)
