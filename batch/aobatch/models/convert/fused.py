"""The same decoder over operators of our own (`aobatch.kernels`), beside the stock int8 graph.

Both graphs read the same weights. Tokens stay packed all the way, each with its slot and position:
    input_ids [N], slots [N], positions [N],
    logits_index [R] (positions in N whose logits are wanted),
    cache.L [B, kv_heads, C / 16, block bytes] of layer L, written in place.
Output: logits [R, V].
"""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from aobatch.models.convert.writer import Attribute, GraphWriter
from aobatch.models.spec import DOMAIN, EXPERT_PARTS, DecoderSpec

_LANES, _MAX_HEAD, _MAX_WIDTH = 16, 256, 2**17
_SIZES = ("hidden_size", "intermediate_size", "head_dim")
_RECIPES = ("rotated", "Hadamard blocks")
_ATTENTION = ("qkv.bias", "q.gain", "k.gain", "sinks")
ACTIVATIONS = {"silu": 1, "gelu_tanh": 2, "gelu": 3, "relu_squared": 4}
"""What the operators call them."""
_CLIP, _SPREAD_BLOCK, _NORMED_BLOCK = 4.0, 64, 128


def not_fusable(spec: DecoderSpec, recipe: str) -> str:
    """Say why the operators do not hold a decoder of that recipe; empty if they do."""
    if recipe not in _RECIPES:
        return f"they multiply no weights of the recipe {recipe!r}"
    if spec.experts and (spec.has_post_norms or spec.is_parallel or not spec.has_pre_norms):
        return f"they compute no experts of the family {spec.family}"
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
        tail = "layers.0.qkv", "layers.0.attention_norm"
        product, _ = self._transform("layers.0.input", [residual], tail)
        compute = self._transform if spec.experts is None else self._mix
        for index in range(spec.num_layers):
            name, is_last = f"layers.{index}", index + 1 == spec.num_layers
            rows = [residual, self._attend(index, product)]
            if is_last:  # only some rows are wanted from here on
                rows = [
                    graph.node("Gather", x, self._wanted, name=f"wanted.{place}")
                    for place, x in enumerate(rows)
                ]
                tail = "logits", "final_norm"
            else:
                tail = f"layers.{index + 1}.qkv", f"layers.{index + 1}.attention_norm"
            product, residual = compute(name, rows, tail)
        graph.output(product, "logits", ir.DataType.FLOAT, ["R", spec.vocab_size])
        return graph.model()

    def _transform(
        self, name: str, rows: Sequence[ir.Value], tail: tuple[str, str]
    ) -> Sequence[ir.Value]:
        """Compute what rows need by themselves, up to the next product; give it and the residual.

        `rows` are the residual and, unless nothing was attended to yet, what was; `tail` names the
        next product and the norm before it.
        """
        spec, is_whole = self._spec, len(rows) > 1
        linear, norm = tail
        inputs: list[ir.Value | None] = [rows[0], rows[1] if is_whole else None]
        gated = ("gate", "up") if spec.is_gated else ("up", "")
        for part in ("o", *gated, "down"):
            inputs += self._linear(f"{name}.{part}") if is_whole and part else [None] * 3
        *product, bias = self._linear(linear)
        middle = "attention_norm" if spec.shares_norms else "mlp_norm"
        gains = ("attention_output.gain", middle, "mlp_output.gain")
        inputs += [
            *product,
            *(self._optional(f"{name}.{gain}") if is_whole else None for gain in gains),
            self._optional(norm),
        ]
        is_head = linear == "logits"
        return self._graph.node_with_outputs(
            "TransformRows",
            [*inputs, bias if is_head else None],  # attention adds any other one
            2,
            name=f"{name}.rows",
            domain=DOMAIN,
            **self._blocks(),
            activation=ACTIVATIONS[spec.activation],
            is_parallel=int(spec.is_parallel),
            middle_is_plain=int(not spec.has_pre_norms),
            last_is_plain=int(not (spec.has_pre_norms or is_head)),
            cap=spec.logits_cap if is_head else 0.0,
        )

    def _mix(
        self, name: str, rows: Sequence[ir.Value], tail: tuple[str, str]
    ) -> tuple[ir.Value, ir.Value]:
        """Compute the same where a layer has experts."""
        graph, experts = self._graph, self._spec.experts
        assert experts is not None
        inputs = [*rows, *self._linear(f"{name}.o"), self._optional(f"{name}.mlp_norm")]
        inputs += [self._weight(f"{name}.router.weight"), self._optional(f"{name}.router.bias")]
        for part in EXPERT_PARTS:
            inputs += self._linear(f"{name}.{part}")
        residual = graph.node(
            "MixExperts",
            *inputs,
            name=f"{name}.mixed",
            domain=DOMAIN,
            **self._blocks(),
            used=experts.used,
            shares_whole=int(experts.shares_whole),
            sharpness=experts.sharpness,
            limit=experts.limit,
            offset=experts.offset,
        )
        product, _ = self._transform(f"{name}.output", [residual], tail)
        return product, residual

    def _blocks(self) -> dict[str, Attribute]:
        """Say how rows become bytes."""
        spec = self._spec
        return {
            "clip": self._clip,
            "normed_block": 1 if self._clip else _block(spec.hidden_size, _NORMED_BLOCK),
            "gated_block": _block(spec.intermediate_size, _SPREAD_BLOCK),
            "epsilon": spec.norm_epsilon,
        }

    def _attend(self, index: int, qkv: ir.Value) -> ir.Value:
        spec, name = self._spec, f"layers.{index}"
        layer = spec.attentions[index]
        cache = self._graph.input(
            f"cache.{index}", ir.DataType.UINT8, ["B", spec.num_kv_heads, "C", "block"]
        )
        ropes = list(dict.fromkeys(attention.rope for attention in spec.attentions))
        place = ropes.index(layer.rope)
        tables = [self._weight(f"rotary.{t}{f'.{place}' if place else ''}") for t in ("cos", "sin")]
        optional = [self._optional(f"{name}.{part}") for part in _ATTENTION]
        attended, _ = self._graph.node_with_outputs(
            "AttendSlots",
            [qkv, cache, self._slots, self._positions, *tables, *optional],
            2,
            name=f"{name}.attention",
            domain=DOMAIN,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            window=layer.window,
            epsilon=spec.head_norm_epsilon,
            cap=spec.attention_cap,
        )
        return attended

    def _linear(self, name: str) -> list[ir.Value | None]:
        """Give a weight, the scales of its columns, and its bias."""
        stem = name if f"{name}.weight" in self._stored else f"{name}.product"
        parts = self._weight(f"{stem}.weight"), self._weight(f"{stem}.scales")
        return [*parts, self._optional(f"{name}.bias")]

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
