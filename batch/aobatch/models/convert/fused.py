"""The same decoder over operators of our own (`aobatch.kernels`), beside the stock int8 graph.

Both graphs read the same weights. Tokens stay packed all the way, each with its slot and position:
    input_ids [N], slots [N], positions [N],
    logits_index [R] (positions in N whose logits are wanted),
    cache.L [B, kv_heads, C / 16, block bytes] of layer L, written in place.
Output: logits [R, V].
"""

from pathlib import Path

import onnx_ir as ir

from aobatch.models.convert.writer import DOMAIN, MICROSOFT, GraphWriter
from aobatch.models.spec import DecoderSpec

_LANES, _MAX_HEAD, _MAX_WIDTH = 16, 256, 2**17
_SIZES = ("hidden_size", "intermediate_size", "head_dim")
_RECIPES = ("rotated", "Hadamard blocks")
_CLIP, _SPREAD_BLOCK, _NORMED_BLOCK = 4.0, 64, 128


def not_fusable(spec: DecoderSpec, recipe: str) -> str:
    """Say why the operators do not hold a decoder of that recipe; empty if they do."""
    if recipe not in _RECIPES:
        return f"they multiply no weights of the recipe {recipe!r}"
    sizes = {name: getattr(spec, name) for name in _SIZES}
    if odd := [f"{name} {size}" for name, size in sizes.items() if size % _LANES]:
        return f"they need multiples of {_LANES}, not {' and '.join(odd)}"
    if spec.head_dim > _MAX_HEAD or max(sizes.values()) > _MAX_WIDTH:
        return f"they hold heads up to {_MAX_HEAD} and widths up to {_MAX_WIDTH}"
    return ""


def write_fused_graph(graph: Path, target: Path, spec: DecoderSpec) -> None:
    """Write beside the stock int8 graph of a decoder the same one over fused operators."""
    ir.save(_FusedGraph(ir.load(graph), spec).build(), target)


class _FusedGraph:
    """Writes the graph, layer by layer, over the weights of the stock one."""

    def __init__(self, stock: ir.Model, spec: DecoderSpec) -> None:
        self._spec = spec
        self._stored = {n: v.const_value for n, v in stock.graph.initializers.items()}
        self._graph = GraphWriter(f"{spec.family}-fused", opsets={DOMAIN: 1})
        self._used: dict[str, ir.Value] = {}
        inputs = ("input_ids", ir.DataType.INT64), ("slots", ir.DataType.INT32)
        self._ids, self._slots = (self._graph.input(name, kind, ["N"]) for name, kind in inputs)
        self._positions = self._graph.input("positions", ir.DataType.INT32, ["N"])
        self._wanted = self._graph.input("logits_index", ir.DataType.INT64, ["R"])
        # A rotated stream needs one scale for all rows, any other a row's own behind a Hadamard.
        self._clip = _CLIP if "layers.0.qkv.weight" in self._stored else 0.0

    def build(self) -> ir.Model:
        """Write the whole graph."""
        spec, graph = self._spec, self._graph
        half = graph.node("Gather", self._weight("embedding"), self._ids, name="embedded.half")
        residual = graph.node("Cast", half, name="embedded", to=ir.DataType.FLOAT)
        rows, peaks, _ = self._norm(
            (residual, None, None), "layers.0.attention_norm", "embedded.norm"
        )
        for index in range(spec.num_layers):
            residual, rows, peaks = self._layer(index, residual, rows, peaks)
        logits = self._product(rows, "logits")
        if peaks is not None:
            logits = graph.node("Mul", logits, peaks, name="logits.scaled")
        graph.output(logits, "logits", ir.DataType.FLOAT, ["R", spec.vocab_size])
        return graph.model()

    def _layer(
        self, index: int, residual: ir.Value, rows: ir.Value, peaks: ir.Value | None
    ) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        spec, name = self._spec, f"layers.{index}"
        is_last = index + 1 == spec.num_layers
        attended = self._attend(index, self._product(rows, f"{name}.qkv"), peaks)
        if is_last:  # only some rows are wanted from here on
            attended, residual = (
                self._graph.node("Gather", x, self._wanted, name=f"wanted.{place}")
                for place, x in enumerate((attended, residual))
            )
        rows, scale = self._quantised([attended], f"{name}.o", activation=0, block=1)
        product = self._product(rows, f"{name}.o")
        terms = residual, product, scale
        rows, peaks, residual = self._norm(
            terms, f"{name}.mlp_norm", f"{name}.mlp_input", f"{name}.o", f"{name}.attention_output"
        )
        gate, up = (self._product(rows, f"{name}.{part}") for part in ("gate", "up"))
        biases = [self._optional(f"{name}.{part}.bias") for part in ("gate", "up")]
        block = _block(spec.intermediate_size, _SPREAD_BLOCK)
        activation = 1 if spec.activation == "silu" else 2
        rows, scale = self._quantised(
            [gate, up, peaks, *biases], f"{name}.down", activation=activation, block=block
        )
        terms = residual, self._product(rows, f"{name}.down"), scale
        norm = "final_norm" if is_last else f"layers.{index + 1}.attention_norm"
        rows, peaks, residual = self._norm(
            terms, norm, f"{name}.output", f"{name}.down", f"{name}.mlp_output"
        )
        return residual, rows, peaks

    def _attend(self, index: int, qkv: ir.Value, scale: ir.Value | None) -> ir.Value:
        spec, name = self._spec, f"layers.{index}"
        layer = spec.attentions[index]
        cache = self._graph.input(
            f"cache.{index}", ir.DataType.UINT8, ["B", spec.num_kv_heads, "C", "block"]
        )
        ropes = list(dict.fromkeys(attention.rope for attention in spec.attentions))
        place = ropes.index(layer.rope)
        tables = [self._weight(f"rotary.{t}{f'.{place}' if place else ''}") for t in ("cos", "sin")]
        optional = ("qkv.bias", "q.gain", "k.gain")
        attended, _ = self._graph.node_with_outputs(
            "AttendSlots",
            [
                *(qkv, cache, self._slots, self._positions, *tables, scale),
                *(self._optional(f"{name}.{part}") for part in optional),
            ],
            2,
            name=f"{name}.attention",
            domain=DOMAIN,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            window=layer.window,
            epsilon=spec.norm_epsilon,
        )
        return attended

    def _norm(
        self,
        terms: tuple[ir.Value, ir.Value | None, ir.Value | None],
        gain: str,
        name: str,
        linear: str = "",
        post_norm: str = "",
    ) -> tuple[ir.Value, ir.Value | None, ir.Value]:
        """Add a product times its rows' scales to a residual; give bytes, their scales, the sum."""
        parts = f"{linear}.bias", f"{post_norm}.gain", gain
        outputs = self._graph.node_with_outputs(
            "NormQuantise",
            [*terms, *map(self._optional, parts)],
            3,
            name=name,
            domain=DOMAIN,
            clip=self._clip,
            block=1 if self._clip else _block(self._spec.hidden_size, _NORMED_BLOCK),
            epsilon=self._spec.norm_epsilon,
        )
        return outputs[0], None if self._clip else outputs[2], outputs[1]

    def _quantised(
        self, inputs: list[ir.Value | None], name: str, *, activation: int, block: int
    ) -> tuple[ir.Value, ir.Value]:
        rows, scale = self._graph.node_with_outputs(
            "ActivateQuantise",
            inputs,
            2,
            name=f"{name}.q",
            domain=DOMAIN,
            activation=activation,
            block=block,
        )
        return rows, scale

    def _product(self, rows: ir.Value, name: str) -> ir.Value:
        is_clipped = f"{name}.weight" in self._stored
        stem = name if is_clipped else f"{name}.product"
        return self._graph.node(
            "MatMulIntegerToFloat",
            rows,
            self._weight(f"{stem}.weight"),
            self._weight("clip.scale" if is_clipped else "unit.scale"),
            self._weight(f"{stem}.scales"),
            self._weight("zero.point"),
            name=f"{name}.product",
            domain=MICROSOFT,
        )

    def _optional(self, name: str) -> ir.Value | None:
        # Gains that were folded are ones in the stock graph.
        return self._weight(name) if name in self._stored else None

    def _weight(self, name: str) -> ir.Value:
        if name not in self._used:
            tensor = self._stored[name]
            assert tensor is not None
            self._used[name] = self._graph.stored(tensor)
        return self._used[name]


def _block(size: int, most: int) -> int:
    """Give the largest power of two that divides a width, up to a limit."""
    return min(most, size & -size)
