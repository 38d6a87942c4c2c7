"""What the operators compute, in numpy and float64: their oracle, and the self-test's.

Shapes: N tokens, H query heads, K heads of keys and values, D numbers a head.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats


def hadamard(x: Floats, block: int) -> Floats:
    """Turn blocks of the last axis by the orthonormal Hadamard matrix (Sylvester)."""
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    turned = x.reshape(*x.shape[:-1], x.shape[-1] // block, block) @ (matrix / np.sqrt(block))
    return np.asarray(turned.reshape(x.shape))


def rms_norm(x: Floats, gain: Floats | float, epsilon: float) -> Floats:
    """Divide the last axis by its root mean square (RMSNorm, Zhang and Sennrich 2019)."""
    return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * gain)


def activated(kind: Literal["none", "silu", "gelu_tanh"], x: Floats) -> Floats:
    """Apply SiLU, or the GELU by tanh (Hendrycks and Gimpel 2016)."""
    if kind == "silu":
        return np.asarray(x / (1 + np.exp(-x)))
    if kind == "gelu_tanh":
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        return np.asarray(0.5 * x * (1 + np.tanh(inner)))
    return x


def quantised(x: Floats, clip: float) -> tuple[NDArray[np.uint8], Floats]:
    """Write rows as bytes around 128: of `clip`, or each of its largest number if that is 0.

    Gives the bytes and what a row's largest stands for, [N, 1].
    """
    peaks = np.full((len(x), 1), clip) if clip else np.abs(x).max(axis=1, keepdims=True)
    units = np.divide(127 * x, peaks, out=np.zeros_like(x), where=peaks > 0)
    return (np.clip(np.rint(units), -128, 127) + 128).astype(np.uint8), peaks


@dataclass(frozen=True, slots=True)
class Heads:
    """How rows of queries, keys and values are divided, and what each token sees."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int = 0
    """How many of the last tokens a token sees; 0 for all."""


def turned(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Turn pairs (i, half + i) of heads [N, H, D] by angles [N, half] (RoPE, Su et al. 2021)."""
    half = cosines.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    c, s = cosines[:, None], sines[:, None]
    return np.concatenate([first * c - second * s, second * c + first * s, rest], axis=-1)


def attended(q: Floats, k: Floats, v: Floats, window: int = 0, *, first: int = 0) -> Floats:
    """Attend causally from queries [N, H, D], the tokens from `first` on, to [T, K, D]."""
    group = q.shape[1] // k.shape[1]
    out = np.empty_like(q)
    for row in range(len(q)):
        last = first + row + 1
        seen = slice(max(0, last - window) if window else 0, last)
        for head in range(q.shape[1]):
            scores = k[seen, head // group] @ q[row, head]
            weights = np.exp(scores - scores.max())
            out[row, head] = weights / weights.sum() @ v[seen, head // group]
    return out
