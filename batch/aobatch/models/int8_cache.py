"""The second graph of a model: the same weights over a cache of keys and values in int8.

Keys and values are rounded to a scale a channel as they are written. The scales come from what the
float32 cache holds of a text. Rotary embedding turns a key's channels in pairs, further with every
position, so a key channel gets room for the length of its pair: that holds in the whole context,
where the largest value seen in a short text does not.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.arrays import Floats

_LEVELS = 127
_SCALE_INPUTS = {"key": 12, "value": 13}
"""Where GroupQueryAttention takes the scales."""


def channel_scales(caches: Iterable[Mapping[str, Floats]]) -> dict[str, NDArray[np.float32]]:
    """Choose scales [kv_heads, head_dim] for keys and values [kv_heads, T, head_dim] by name."""
    peaks: dict[str, Floats] = {}
    for cache in caches:
        for name, array in cache.items():
            size = _pair_lengths(array) if name.endswith(".key") else np.abs(array)
            peak = size.max(axis=1)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    # A channel that is always zero keeps a scale that can be divided by.
    return {
        name: np.where(peak == 0, 1, peak / _LEVELS).astype(np.float32)
        for name, peak in peaks.items()
    }


def write_int8_cache_graph(
    graph: Path, target: Path, scales: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write beside a decoder graph the same one over an int8 cache; both read the same weights."""
    model = ir.load(graph)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name and value.name.startswith(("past.", "present.")):
            value.dtype = ir.DataType.INT8
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    for index, node in enumerate(attentions):
        for part, position in _SCALE_INPUTS.items():
            scale = scales[f"{index}.{part}"][None, :, None, :]
            node.replace_input_with(
                position, _constant(model.graph, f"{index}.{part}.scale", scale)
            )
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_CHANNEL"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
    ir.save(model, target)


def _pair_lengths(keys: Floats) -> Floats:
    """Give each channel of keys [..., head_dim] the length of its rotary pair, (i, i + half)."""
    first, second = np.split(keys, 2, axis=-1)
    length = np.hypot(first, second)
    return np.concatenate([length, length], axis=-1)


def _constant(graph: ir.Graph, name: str, array: NDArray[np.float32]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value
