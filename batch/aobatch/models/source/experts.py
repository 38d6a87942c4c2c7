"""Experts as safetensors files store them: each by itself, together, or in four bits.

Canonical weights of experts are [experts, out, in], their biases [experts, out].
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aobatch.models.spec import EXPERT_PARTS, Weight

Shape: TypeAlias = tuple[int, ...]
Load: TypeAlias = Callable[[str, int, int], NDArray[Any]]
"""Gives rows start to stop of a stored tensor: floats as float32, bytes as they are."""

_GROUP = 32
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_FOUR_BITS = np.concatenate([_VALUES, -_VALUES])
"""What four bits stand for: a sign, two bits of exponent and one of mantissa (OCP MX, 2023)."""
_PAIRS = np.stack([np.tile(_FOUR_BITS, 16), np.repeat(_FOUR_BITS, 16)], axis=1).view(np.uint64)
"""The bits of the two numbers of each byte, the first in the low bits."""


@dataclass(frozen=True, slots=True)
class ExpertPart:
    """Where the tensors of one canonical weight of experts are, and which of their rows it is."""

    stored: str
    """The name behind the layer's, with {} for the expert's number if each has a tensor."""
    place: int = 0
    count: int = 1
    """Which of how many parts of a tensor's rows it is."""
    takes_turns: bool = False
    """Whether rows of these parts take turns."""
    is_transposed: bool = False

    def tensors(self, layer: str, shape: Shape, stored: Container[str]) -> dict[str, Shape]:
        """Give the tensors that a weight of that shape is read from, with the shapes they need."""
        experts, outputs, *inputs = shape
        outputs *= self.count
        name = layer + self.stored
        if "{}" in name:
            return {name.format(expert): (outputs, *inputs) for expert in range(experts)}
        if f"{name}_blocks" in stored:
            groups = experts, outputs, -(-inputs[0] // _GROUP)
            return {f"{name}_blocks": (*groups, _GROUP // 2), f"{name}_scales": groups}
        rows = (*inputs, outputs) if self.is_transposed else (outputs, *inputs)
        return {name: (experts, *rows)}

    def load(
        self, layer: str, shape: Shape, stored: Container[str], load: Load, expert: int
    ) -> Weight:
        """Load one expert's matrix, [out, in], or bias, [out]."""
        name, own = layer + self.stored, slice(expert, expert + 1)
        if "{}" in name:
            return load(name.format(expert), 0, shape[1])
        if f"{name}_blocks" in stored:
            both = (load(f"{name}_{x}", own.start, own.stop)[0] for x in ("blocks", "scales"))
            return four_bits(*map(self._own_rows, both))[:, : shape[2]]
        whole = load(name, own.start, own.stop)[0]
        return self._own_rows(whole.T if self.is_transposed else whole)

    def _own_rows(self, whole: NDArray[Any]) -> NDArray[Any]:
        if self.takes_turns:
            return whole[self.place :: self.count]
        return np.split(whole, self.count)[self.place]


def four_bits(blocks: NDArray[np.uint8], scales: NDArray[np.uint8]) -> Weight:
    """Give the numbers of groups of 32 with an exponent each (OCP MX): [out, in] float32.

    `blocks` is [out, groups, 16], two numbers a byte, the first in the low bits; `scales`, of which
    127 stands for one and 255 for no number, is [out, groups].
    """
    numbers = np.take(_PAIRS, blocks).view(np.float32)
    powers = np.where(scales == 255, np.nan, np.ldexp(1.0, scales.astype(np.int32) - 127))
    grouped = numbers.reshape(*scales.shape, _GROUP) * powers[..., None].astype(np.float32)
    return np.asarray(grouped.reshape(len(blocks), -1), np.float32)


def apart(stem: str, gate: str, up: str, down: str) -> Mapping[str, ExpertPart]:
    """Give the places of experts each of which has three tensors."""
    names = zip(EXPERT_PARTS, (gate, up, down), strict=True)
    return {part: ExpertPart(f"{stem}.{{}}.{name}.weight") for part, name in names}


GRANITE: Mapping[str, ExpertPart] = {
    "gate": ExpertPart("block_sparse_moe.input_linear.weight", 0, 2),
    "up": ExpertPart("block_sparse_moe.input_linear.weight", 1, 2),
    "down": ExpertPart("block_sparse_moe.output_linear.weight"),
}
_GATED, _DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
GPT_OSS: Mapping[str, ExpertPart] = {
    "gate": ExpertPart(_GATED, 0, 2, takes_turns=True, is_transposed=True),
    "up": ExpertPart(_GATED, 1, 2, takes_turns=True, is_transposed=True),
    "down": ExpertPart(_DOWN, is_transposed=True),
    "gate_bias": ExpertPart(f"{_GATED}_bias", 0, 2, takes_turns=True),
    "up_bias": ExpertPart(f"{_GATED}_bias", 1, 2, takes_turns=True),
    "down_bias": ExpertPart(f"{_DOWN}_bias"),
}
