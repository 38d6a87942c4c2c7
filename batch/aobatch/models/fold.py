"""Constants folded into weights, so that the graph does less when it runs.

Gains of RMSNorm go into the matrices behind it, 1/sqrt(head_dim) into q, and, where a precision
asks for it, a rotation of the residual stream into everything that reads or writes it. RMSNorm
without gain commutes with a rotation, so the model computes the same; but outlier channels are
spread evenly, which is what makes 8-bit activations accurate (QuaRot, SpinQuant).
"""

from dataclasses import dataclass

import numpy as np

from aobatch.arrays import Floats
from aobatch.models.spec import Checkpoint, Weight


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer after folding; every matrix is [out, in]."""

    qkv: Weight
    o: Weight
    gate: Weight
    up: Weight
    down: Weight


def rotation(size: int, seed: int = 0) -> Floats:
    """Give a random orthogonal matrix [size, size]."""
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def hadamard(size: int) -> Floats:
    """Give the orthonormal Hadamard matrix [size, size] (Sylvester); size is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size))


def fold_layer(checkpoint: Checkpoint, index: int, turn: Floats | None) -> LayerWeights:
    """Load one layer and fold gains, the attention scale and the rotation `turn` into it."""

    def load(name: str) -> Floats:
        return checkpoint.load(f"layers.{index}.{name}").astype(np.float64)

    def reads(weight: Floats, gain: Floats) -> Weight:
        return _rounded(weight * gain if turn is None else (weight * gain) @ turn)

    def writes(weight: Floats) -> Weight:
        return _rounded(weight if turn is None else turn.T @ weight)

    attention_gain, mlp_gain = load("attention_norm"), load("mlp_norm")
    scaled_q = load("q") / np.sqrt(checkpoint.spec.head_dim)
    return LayerWeights(
        qkv=reads(np.concatenate([scaled_q, load("k"), load("v")]), attention_gain),
        o=writes(load("o")),
        gate=reads(load("gate"), mlp_gain),
        up=reads(load("up"), mlp_gain),
        down=writes(load("down")),
    )


def fold_embedding(checkpoint: Checkpoint, turn: Floats | None) -> Weight:
    """Load the token embedding [V, hidden] in the rotated residual stream."""
    table = checkpoint.load("embedding").astype(np.float64)
    return _rounded(table if turn is None else table @ turn)


def fold_head(checkpoint: Checkpoint, turn: Floats | None) -> Weight:
    """Load the output head [V, hidden] with the final gain and the rotation folded in."""
    head = checkpoint.load("head").astype(np.float64)
    head *= checkpoint.load("final_norm")
    return _rounded(head if turn is None else head @ turn)


def _rounded(weight: Floats) -> Weight:
    return weight.astype(np.float32)
