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
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from aobatch.models.convert.fold import (
    FoldedLayer,
    Linear,
    fold_embedding,
    fold_head,
    head_bias,
    rotation,
)
from aobatch.models.convert.precisions import Multiply, Precision
from aobatch.models.convert.writer import MICROSOFT, Attribute, GraphWriter
from aobatch.models.source.rope import rotary_tables
from aobatch.models.spec import CAPACITY_STEP, Checkpoint, Rope, Weight

_FLOAT, _INT32, _INT64 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT64


class DecoderGraph:
    """Builds the graph of one checkpoint in one precision, layer by layer."""

    def __init__(self, checkpoint: Checkpoint, precision: Precision, file: BinaryIO) -> None:
        """Declare the inputs; large weights go into the file."""
        self._checkpoint = checkpoint
        self._spec = checkpoint.spec
        self._precision = precision
        self._turn = rotation(self._spec.hidden_size) if precision.rotates else None
        self._ropes: dict[Rope, tuple[ir.Value, ir.Value]] = {}
        graph = self._graph = GraphWriter(self._spec.family, file)
        self._input_ids = graph.input("input_ids", _INT64, ["N"])
        self._logits_index = graph.input("logits_index", _INT64, ["R"])
        self._pad_index = graph.input("pad_index", _INT64, ["B", "S"])
        self._unpad_index = graph.input("unpad_index", _INT64, ["N"])
        self._seqlens_k = graph.input("seqlens_k", _INT32, ["B"])
        self._query_seqlens = graph.input("query_seqlens", _INT32, ["B"])
        self._total_length = graph.input("total_length", _INT32, [])

    def build(self, advance: Callable[[int, int], None]) -> ir.Model:
        """Write the whole graph; `advance(done, total)` is called after each layer."""
        spec, graph = self._spec, self._graph
        table = fold_embedding(self._checkpoint, self._turn)
        residual = self._precision.embed(graph, table, self._input_ids)
        normed = residual
        if spec.has_pre_norms:
            normed = self._norm(residual, self._gain("layers.0.attention_norm"), "embedded")
        for index in range(spec.num_layers):
            layer = FoldedLayer(self._checkpoint, index, self._turn)
            residual, normed = self._layer(layer, residual, normed)
            advance(index + 1, spec.num_layers + 1)
        wanted = graph.node("Gather", normed, self._logits_index, name="wanted")
        multiply = self._precision.normed(graph, wanted, "head_input")
        logits = multiply(fold_head(self._checkpoint, self._turn), "logits")
        plain = logits
        logits = self._capped(self._linear_bias(logits, head_bias(self._checkpoint), "logits"))
        if logits is not plain:
            plain.name = "logits.plain"
        graph.output(logits, "logits", _FLOAT, ["R", spec.vocab_size])
        advance(spec.num_layers + 1, spec.num_layers + 1)
        return graph.model()

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
        attended = self._attend(layer.index, qkv, layer.head_norms())
        multiply = precision.free(self._graph, attended, f"{name}.o")
        out = self._linear(multiply, layer.out("o"), f"{name}.o")
        return self._post_norm(out, layer.post_norm("attention"), f"{name}.attention_output")

    def _mlp(self, layer: FoldedLayer, normed: ir.Value) -> ir.Value:
        graph, precision, name = self._graph, self._precision, f"layers.{layer.index}"
        multiply = precision.normed(graph, normed, f"{name}.mlp_input")
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

    def _norm(self, x: ir.Value, gain: ir.Value, name: str) -> ir.Value:
        """Divide rows by their root mean square and multiply them by a gain."""
        return self._graph.node(
            "SimplifiedLayerNormalization",
            *(x, gain),
            name=f"{name}.normed",
            axis=-1,
            epsilon=self._spec.norm_epsilon,
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

    def _attend(
        self, index: int, qkv: ir.Value, head_norms: tuple[Weight, Weight] | None
    ) -> ir.Value:
        """Attend with packed rows [N, q + k + v] to packed rows [N, heads * head_dim]."""
        spec, graph, name = self._spec, self._graph, f"layers.{index}"
        layer = spec.attentions[index]
        cache: list[int | str] = ["B", spec.num_kv_heads, "C", spec.head_dim]
        past = [graph.input(f"past.{index}.{part}", _FLOAT, cache) for part in ("key", "value")]
        unused = [None] * 7
        traits: dict[str, Attribute] = {"local_window_size": layer.window} if layer.window else {}
        if spec.attention_cap:
            traits["softcap"] = spec.attention_cap
        attended, *present = graph.node_with_outputs(
            "GroupQueryAttention",
            [
                *self._padded(qkv, head_norms, name),
                *(*past, self._seqlens_k, self._total_length, *self._rotary(layer.rope)),
                *(*unused, self._query_seqlens),
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
        parts = list(
            graph.node_with_outputs(
                "Split", [qkv, sizes], len(counts), name=f"{name}.split", domain="", axis=-1
            )
        )
        for place, (part, gain) in enumerate(zip("qk", head_norms, strict=True)):
            parts[place] = self._normed_heads(parts[place], counts[place], gain, f"{name}.{part}")
        q, k, v = (
            graph.node("Gather", value, self._pad_index, name=f"{name}.{part}.padded")
            for part, value in zip("qkv", parts, strict=True)
        )
        return q, k, v

    def _normed_heads(self, x: ir.Value, num_heads: int, gain: Weight, name: str) -> ir.Value:
        graph, spec = self._graph, self._spec
        width = spec.head_dim
        if spec.norms_whole_rows:
            return self._norm(x, graph.weight(f"{name}.gain", gain), name)
        heads = graph.shared("heads.shape", np.array([-1, width]))
        split = graph.node("Reshape", x, heads, name=f"{name}.heads")
        normed = self._norm(split, graph.weight(f"{name}.gain", gain), name)
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
