"""The operators of our own in ONNX Runtime: single nodes, and their trial against references.

Run as a program it is the trial, see `choice.operators`.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.kernels import BLOCK, KernelsError, block_bytes, library
from aobatch.kernels.reference import (
    Heads,
    Linear,
    Routing,
    RowSettings,
    attended,
    mixed,
    transformed,
    turned,
)
from aobatch.models.convert.fused import ACTIVATIONS
from aobatch.models.convert.writer import Attribute, GraphWriter
from aobatch.models.spec import DOMAIN
from aobatch.runners.session import open_session


def compute(
    kind: str,
    inputs: Sequence[NDArray[Any] | None],
    attributes: Mapping[str, Attribute],
    *,
    threads: int = 1,
) -> list[NDArray[Any]]:
    """Compute a single node; inputs that are None are left out."""
    graph = GraphWriter("node", opsets={DOMAIN: 1})
    arrays = {f"x{place}": array for place, array in enumerate(inputs) if array is not None}
    constants = {f"x{place}" for place in _CONSTANTS[kind]}
    values = {
        name: graph.weight(name, array)
        if name in constants
        else graph.input(name, ir.DataType.from_numpy(array.dtype), array.shape)
        for name, array in arrays.items()
    }
    types = _OUTPUTS[kind]
    outputs = graph.node_with_outputs(
        kind,
        [values.get(f"x{i}") for i in range(len(inputs))],
        len(types),
        name="node",
        domain=DOMAIN,
        **attributes,
    )
    for value, dtype in zip(outputs, types, strict=True):
        graph.output(value, str(value.name), dtype, ["N", "W"])
    model = bytes(ir.to_proto(graph.model()).SerializeToString())
    session = open_session(model, threads, operators=library())
    feeds = {name: array for name, array in arrays.items() if name not in constants}
    found: list[NDArray[Any]] = session.run(None, feeds)
    return found


_OUTPUTS = {
    "TransformRows": (ir.DataType.FLOAT, ir.DataType.FLOAT),
    "AttendSlots": (ir.DataType.FLOAT, ir.DataType.UINT8),
    "MixExperts": (ir.DataType.FLOAT,),
}
_LINEARS = {"o": 2, "gate": 5, "up": 8, "down": 11, "next": 14}
_GAINS = {"out": 16, "middle": 17, "down": 18, "last": 19}
_NUM_INPUTS, _NEXT_BIAS = 21, 20
"""Where a TransformRows takes weights, scales and, next's apart, biases behind them; and gains."""
_CONSTANTS = {
    "TransformRows": {place + part for place in _LINEARS.values() for part in (0, 1)},
    "AttendSlots": set[int](),
    "MixExperts": {2, 3, 6, 8, 9, 11, 12, 14, 15},
}


def transform(
    residual: NDArray[np.float32],
    attended: NDArray[np.float32] | None,
    linears: Mapping[str, Linear],
    gains: Mapping[str, NDArray[Any]],
    settings: RowSettings,
    *,
    threads: int = 1,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute `kernels.reference.transformed` by the operator, in single precision.

    Without attended rows the residual comes back as it is.
    """
    inputs: list[NDArray[Any] | None] = [residual, attended, *[None] * (_NUM_INPUTS - 2)]
    for name, linear in linears.items():
        place = _LINEARS[name]
        inputs[place : place + 2] = linear.weight, linear.scales.astype(np.float32)
        if linear.bias is not None:
            place = _NEXT_BIAS if name == "next" else place + 2
            inputs[place] = linear.bias.astype(np.float32)
    for name, gain in gains.items():
        inputs[_GAINS[name]] = gain.astype(np.float32)
    attributes: dict[str, Attribute] = {name: getattr(settings, name) for name in _ROWS}
    attributes["activation"] = ACTIVATIONS[settings.activation]
    attributes |= {"is_parallel": int(settings.is_parallel), "cap": settings.cap}
    plain = zip(("middle_is_plain", "last_is_plain"), settings.is_plain, strict=True)
    attributes |= {name: int(value) for name, value in plain}
    product, total = compute("TransformRows", inputs, attributes, threads=threads)
    return product, residual if attended is None else total


def mix(
    rows: tuple[NDArray[np.float32], NDArray[np.float32]],
    before: tuple[Linear, NDArray[Any] | None],
    experts: Sequence[Mapping[str, Linear]],
    routing: Routing,
    settings: RowSettings,
    *,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Compute `kernels.reference.mixed` by the operator, in single precision."""
    out, gain = before
    stacks = {part: [expert[part] for expert in experts] for part in ("gate", "up", "down")}
    inputs: list[NDArray[Any] | None] = [*rows, out.weight, _single(out.scales), _single(out.bias)]
    inputs += [_single(gain), _single(routing.router), _single(routing.bias)]
    for stack in stacks.values():
        biases = [x.bias for x in stack if x.bias is not None]
        inputs += [
            np.stack([x.weight for x in stack]),
            _single(np.stack([x.scales for x in stack])),
            _single(np.stack(biases)) if biases else None,
        ]
    attributes: dict[str, Attribute] = {
        **{name: getattr(settings, name) for name in _ROWS},
        **{name: getattr(routing, name) for name in ("used", "sharpness", "limit", "offset")},
        "shares_whole": int(routing.shares_whole),
    }
    return compute("MixExperts", inputs, attributes, threads=threads)[0]


_ROWS = ("clip", "normed_block", "gated_block", "epsilon")


def _single(array: NDArray[Any] | None) -> NDArray[np.float32] | None:
    return None if array is None else array.astype(np.float32)


def _try_rows(rng: np.random.Generator) -> None:
    residual, rows = rng.standard_normal((2, 115, 64)).astype(np.float32)
    sizes = {"o": (64, 64), "gate": (64, 96), "up": (64, 96), "down": (96, 64), "next": (64, 50)}
    linears = {
        name: Linear(rng.integers(-127, 128, size).astype(np.int8), np.full(size[1], 1e-3))
        for name, size in sizes.items()
    }
    for clip in (4.0, 0.0):
        settings = RowSettings(clip, 1 if clip else 64, 32, "silu", 1e-5)
        # Threads share many rows by rows, few by columns; rows alone are multiplied in another way.
        found, total = transform(residual, rows, linears, {}, settings, threads=2)
        product, added = transformed(residual, rows, linears, {}, settings)
        _compare("TransformRows", found, product, 0.05)
        _compare("TransformRows", total, added, 0.05)
        for part in (slice(0, 45), slice(45, 46), slice(46, 55)):
            some, _ = transform(residual[part], rows[part], linears, {}, settings, threads=2)
            _compare("TransformRows", some, found[part], 0)


def _try_experts(rng: np.random.Generator) -> None:
    residual, rows = rng.standard_normal((2, 19, 64)).astype(np.float32)
    sizes = {"gate": (64, 48), "up": (64, 48), "down": (48, 64)}

    def linear(size: tuple[int, int]) -> Linear:
        weight = rng.integers(-127, 128, size).astype(np.int8)
        return Linear(weight, np.full(size[1], 1e-3), rng.standard_normal(size[1]))

    experts = [{name: linear(size) for name, size in sizes.items()} for _ in range(5)]
    routing = Routing(rng.standard_normal((64, 5)), None, 2, limit=2.0, offset=1.0)
    before, settings = (linear((64, 64)), None), RowSettings(0.0, 64, 16, "silu", 1e-5)
    found = mix((residual, rows), before, experts, routing, settings, threads=2)
    expected = mixed((residual, rows), before, experts, routing, settings)
    _compare("MixExperts", found, expected, 0.05)


def _try_attention(rng: np.random.Generator) -> None:
    heads, num_tokens = Heads(num_heads=4, num_kv_heads=2, head_dim=32), 21
    rows = rng.standard_normal((num_tokens, 8 * 32)).astype(np.float32)
    angles = np.arange(64)[:, None] / 100 ** (np.arange(16) / 16)
    tables = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    positions = np.arange(num_tokens, dtype=np.int32)
    cache = np.full((3, 2, 64 // BLOCK, block_bytes("fp32", 32)), 255, np.uint8)
    slots = np.full(num_tokens, 2, np.int32)
    sizes = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "window": 0, "epsilon": 1e-5}
    inputs: list[NDArray[Any]] = [rows, cache, slots, positions, *tables]
    found, _ = compute("AttendSlots", inputs, sizes, threads=2)
    x = rows.astype(np.float64).reshape(num_tokens, 8, 32)
    seen = turned(x[:, :6], *(table[:num_tokens].astype(np.float64) for table in tables))
    expected = attended(seen[:, :4], seen[:, 4:], x[:, 6:], heads)
    _compare("AttendSlots", found, expected.reshape(num_tokens, -1), 1e-4)


def _compare(name: str, found: NDArray[Any], expected: NDArray[Any], bound: float) -> None:
    if not np.abs(found.astype(np.float64) - expected).max() <= bound:
        message = f"{name} computes other numbers than its reference"
        raise KernelsError(message)


def main() -> None:
    """Try every operator; what goes wrong ends this process."""
    rng = np.random.default_rng(0)
    _try_rows(rng)
    _try_experts(rng)
    _try_attention(rng)


if __name__ == "__main__":
    try:
        main()
    except KernelsError as error:
        sys.exit(str(error))
