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
    activated,
    attended,
    hadamard,
    quantised,
    rms_norm,
    turned,
)
from aobatch.models.convert.writer import DOMAIN, Attribute, GraphWriter
from aobatch.runners.session import open_session


def compute(
    kind: str,
    inputs: Sequence[NDArray[Any] | None],
    num_outputs: int,
    attributes: Mapping[str, Attribute],
    *,
    threads: int = 1,
) -> list[NDArray[Any]]:
    """Compute a single node; inputs that are None are left out."""
    graph = GraphWriter("node", opsets={DOMAIN: 1})
    feeds = {f"x{i}": array for i, array in enumerate(inputs) if array is not None}
    values = {
        name: graph.input(name, ir.DataType.from_numpy(array.dtype), array.shape)
        for name, array in feeds.items()
    }
    outputs = graph.node_with_outputs(
        kind,
        [values.get(f"x{i}") for i in range(len(inputs))],
        num_outputs,
        name="node",
        domain=DOMAIN,
        **attributes,
    )
    types = _OUTPUTS[kind]
    for value, dtype in zip(outputs, types, strict=False):
        graph.output(value, str(value.name), dtype, ["N", "W"])
    model = bytes(ir.to_proto(graph.model()).SerializeToString())
    session = open_session(model, threads, operators=library())
    found: list[NDArray[Any]] = session.run(None, feeds)
    return found


_BYTES, _FLOAT = ir.DataType.UINT8, ir.DataType.FLOAT
_OUTPUTS = {
    "NormQuantise": (_BYTES, _FLOAT, _FLOAT),
    "ActivateQuantise": (_BYTES, _FLOAT),
    "AttendSlots": (_FLOAT, _BYTES),
}


def _try_rows(rng: np.random.Generator) -> None:
    residual, product = rng.standard_normal((2, 9, 64)).astype(np.float32)
    scale = rng.random((9, 1)).astype(np.float32)
    found = compute(
        "NormQuantise",
        [residual, product, scale],
        3,
        {"clip": 4.0, "block": 1, "epsilon": 1e-5},
    )
    total = residual.astype(np.float64) + product * scale.astype(np.float64)
    expected, _ = quantised(rms_norm(total, 1.0, 1e-5), 4.0)
    _compare("NormQuantise", found[0], expected, 1)
    _compare("NormQuantise", found[1], total, 1e-5)
    found = compute("ActivateQuantise", [residual, product], 2, {"activation": 1, "block": 64})
    gated = activated("silu", residual.astype(np.float64)) * product
    expected, peaks = quantised(hadamard(gated, 64), 0.0)
    _compare("ActivateQuantise", found[0], expected, 1)
    _compare("ActivateQuantise", found[1], peaks, 1e-4)


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
    found, _ = compute("AttendSlots", inputs, 2, sizes, threads=2)
    x = rows.astype(np.float64).reshape(num_tokens, 8, 32)
    seen = turned(x[:, :6], *(table[:num_tokens].astype(np.float64) for table in tables))
    expected = attended(seen[:, :4], seen[:, 4:], x[:, 6:], heads.window)
    _compare("AttendSlots", found, expected.reshape(num_tokens, -1), 1e-4)


def _compare(name: str, found: NDArray[Any], expected: NDArray[Any], bound: float) -> None:
    if not np.abs(found.astype(np.float64) - expected).max() <= bound:
        message = f"{name} computes other numbers than its reference"
        raise KernelsError(message)


def main() -> None:
    """Try every operator; what goes wrong ends this process."""
    rng = np.random.default_rng(0)
    _try_rows(rng)
    _try_attention(rng)


if __name__ == "__main__":
    try:
        main()
    except KernelsError as error:
        sys.exit(str(error))
