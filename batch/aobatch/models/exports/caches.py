"""Past and present of each layer, paired by what their names say, not by their order."""

import re
from collections.abc import Mapping
from pathlib import Path

from aobatch.models.checks import shown
from aobatch.models.exports.layout import CacheTensor, Hints, Port
from aobatch.models.exports.unsupported import unusable

_NAME = re.compile(
    r"(?P<time>past|present)(?:_key_values)?"
    r"(?:[._](?P<before>key_value|key|value))?[._](?P<layer>\d{1,4})"
    r"(?:[._](?P<behind>key_value|key|value))?"
)
_TYPES = ("float32", "float16")
_AXES: Mapping[int, tuple[int, int]] = {3: (0, 1), 4: (0, 2), 5: (1, 3)}
"""Where rows and tokens lie, by the number of dimensions."""


def place(name: str) -> tuple[str, int, str] | None:
    """Read `past` or `present`, the layer and the part out of a name; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or (match["before"] and match["behind"]):
        return None
    return match["time"], int(match["layer"]), match["before"] or match["behind"] or ""


def cache_tensors(
    path: Path, inputs: Mapping[str, Port], outputs: Mapping[str, Port], hints: Hints
) -> tuple[CacheTensor, ...]:
    """Pair what goes in with what comes out, by layer and part, in their order.

    Raises ModelError if something has no partner, or is no cache of keys and values as known.
    """
    pasts = {found[1:]: port for name, port in inputs.items() if (found := place(name))}
    presents = {found[1:]: port for name, port in outputs.items() if (found := place(name))}
    if not pasts:
        raise unusable(path, "it keeps no keys and values; export it with its cache (with past)")
    odd = sorted(pasts.keys() ^ presents.keys())
    if odd:
        raise unusable(path, f"layer {odd[0][0]} of its cache goes only in, or only out")
    return tuple(_tensor(path, key[0], pasts[key], presents[key], hints) for key in sorted(pasts))


def _tensor(path: Path, layer: int, past: Port, present: Port, hints: Hints) -> CacheTensor:
    rank = len(past.dimensions)
    if past.dtype not in _TYPES or present.dtype != past.dtype:
        raise unusable(path, f"its cache {shown(past.name)} is of type {past.dtype}")
    if rank not in _AXES or (rank == 5 and past.dimensions[0] != 2):
        raise unusable(path, f"its cache {shown(past.name)} has {rank} dimensions")
    batch, token = _AXES[rank]
    if past.dimensions[token] is not None:
        raise unusable(path, "its cache has a fixed length; export it with dynamic axes")
    open_sizes = {rank - 1: hints.head_dim, rank - 3: hints.num_kv_heads}
    sizes = [size or open_sizes.get(axis, 0) for axis, size in enumerate(past.dimensions)]
    sizes[batch] = sizes[token] = 0
    if 0 in (size for axis, size in enumerate(sizes) if axis not in (batch, token)):
        reason = f"nothing states the sizes of its cache {shown(past.name)}; add its config.json"
        raise unusable(path, reason)
    return CacheTensor(layer, past.name, present.name, past.dtype, tuple(sizes), batch, token)
