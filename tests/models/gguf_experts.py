"""Weights of experts as converters to GGUF put them together: all of a kind as one tensor."""

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]
Found = Iterator[tuple[str, np.ndarray]]


def _each(found: re.Match[str], weights: Weights) -> Found:
    """Stack what experts have in a tensor each."""
    name = found[0]
    count = sum(key.startswith(f"{found[1]}experts.") for key in weights) // 3
    each = [weights[name.replace(".experts.0.", f".experts.{index}.")] for index in range(count)]
    whole = name.replace(".experts.0.", ".experts.").replace("block_sparse_moe", "feed_forward")
    is_first = whole != name.replace(".experts.0.", ".experts.")
    yield whole.removeprefix("model." if is_first else ""), np.stack(each)


def _none(_: re.Match[str], __: Weights) -> Found:
    yield from ()


def _granite(found: re.Match[str], weights: Weights) -> Found:
    """Take gates from what they are multiplied with, which follows them."""
    weight, place = weights[found[0]], f"{found[1]}mlp.experts"
    if found[2] == "output":
        yield f"{place}.down_proj.weight", weight
        return
    for part, half in zip(("gate", "up"), np.split(weight, 2, axis=1), strict=True):
        yield f"{place}.{part}_proj.weight", half


def _turns(found: re.Match[str], weights: Weights) -> Found:
    """Take gates from what they take turns with; matrices are stored as [in, out]."""
    stem, part, bias = found[1], found[2], bool(found[3])
    weight = weights[found[0]] if bias else weights[found[0]].swapaxes(1, 2)
    end = "bias" if bias else "weight"
    if part == "down":
        yield f"{stem}.down_proj.{end}", weight
        return
    for name, first in (("gate", 0), ("up", 1)):
        yield f"{stem}.{name}_proj.{end}", weight[:, first::2]


def _four_bits(found: re.Match[str], weights: Weights) -> Found:
    """Pack groups of 32, two neighbours a byte, as an exponent and two halves' numbers a byte."""
    stem, part = found[1], found[2]
    blocks, scales = weights[found[0]], weights[found[0].replace("_blocks", "_scales")]
    numbers = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    halves = numbers[..., :16] | numbers[..., 16:] << 4
    packed = np.concatenate([scales[..., None], halves], axis=-1)
    packed = packed.reshape(*blocks.shape[:2], -1)
    if part == "down":
        yield f"{stem}.down_proj.weight", packed
        return
    for name, first in (("gate", 0), ("up", 1)):
        yield f"{stem}.{name}_proj.weight", packed[:, first::2]


def _sinks(found: re.Match[str], weights: Weights) -> Found:
    yield f"{found[0]}.weight", weights[found[0]]


_RULES: Mapping[str, Callable[[re.Match[str], Weights], Found]] = {
    r"(.*\.)experts\.0\.\w+\.weight": _each,
    r".*\.experts\.\d+\.\w+\.weight|.*_scales": _none,
    r"(.*\.)block_sparse_moe\.(input|output)_linear\.weight": _granite,
    r"(.*\.experts)\.(gate_up|down)_proj_blocks": _four_bits,
    r"(.*\.experts)\.(gate_up|down)_proj(_bias)?": _turns,
    r".*\.sinks": _sinks,
}


def merged(weights: Weights) -> Found:
    """Yield weights under names that the library knows; those of experts as one."""
    for name, weight in weights.items():
        rules = ((re.fullmatch(pattern, name), rule) for pattern, rule in _RULES.items())
        found = next(((match, rule) for match, rule in rules if match), None)
        if found is None:
            yield name, weight
        else:
            match, rule = found
            yield from rule(match, weights)
