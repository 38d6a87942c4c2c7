"""What the operators compute, in numpy and float64: their oracle, and the self-test's.

Shapes: N tokens, H query heads, K heads of keys and values, D numbers a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erf
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats

Activation: TypeAlias = Literal["silu", "gelu_tanh", "gelu", "relu_squared"]


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


def activated(kind: Activation, x: Floats) -> Floats:
    """Apply SiLU, ReLU squared (So et al. 2021), GELU or that by tanh (Hendrycks, Gimpel 2016)."""
    if kind == "silu":
        return np.asarray(x / (1 + np.exp(-x)))
    if kind == "relu_squared":
        return np.maximum(x, 0) ** 2
    if kind == "gelu":
        return np.asarray(0.5 * x * (1 + np.vectorize(erf, [float])(x / np.sqrt(2))))
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


def quantised(x: Floats, clip: float) -> tuple[NDArray[np.uint8], Floats]:
    """Write rows as bytes around 128: of `clip`, or each of its largest number if that is 0.

    Gives the bytes and what a row's largest stands for, [N, 1].
    """
    peaks = np.full((len(x), 1), clip) if clip else np.abs(x).max(axis=1, keepdims=True)
    units = np.divide(127 * x, peaks, out=np.zeros(x.shape), where=peaks > 0)
    return (np.clip(np.rint(units), -128, 127) + 128).astype(np.uint8), peaks


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight of signed bytes [in, out], what its columns are multiplied by, and a bias, [out]."""

    weight: NDArray[np.int8]
    scales: Floats
    bias: Floats | None = None

    def __call__(self, x: Floats, *, clip: float = 0.0, block: int = 1) -> Floats:
        """Multiply rows, turned and as bytes."""
        rows, peaks = quantised(hadamard(x, block) if block > 1 else x, clip)
        product = (rows.astype(np.int64) - 128) @ self.weight.astype(np.int64)
        scaled = product * (peaks / 127) * self.scales
        return np.asarray(scaled if self.bias is None else scaled + self.bias)


@dataclass(frozen=True, slots=True)
class RowSettings:
    """How rows are normed and become bytes between products."""

    clip: float
    """One scale for all normed rows; 0: each of its own."""
    normed_block: int
    gated_block: int
    activation: Activation
    epsilon: float
    is_parallel: bool = False
    """Whether the gated block reads the residual as the attention before it did."""
    is_plain: tuple[bool, bool] = (False, False)
    """Whether the rows of the gated block, and of the next product, are not normed."""
    cap: float = 0.0
    """The next product's numbers are cap * tanh(number); 0 for as they are."""


def transformed(
    residual: Floats,
    attended: Floats | None,
    linears: Mapping[str, Linear],
    gains: Mapping[str, Floats],
    settings: RowSettings,
) -> tuple[Floats, Floats]:
    """Compute what a decoder does with rows by themselves: the next product, and their residual.

    `linears` are o, gate, up, down and next, `gains` those of out, middle, down and last that there
    are; without up nothing is gated. Without attended rows there is only the last norm and product.
    """
    clip, block, epsilon = settings.clip, settings.normed_block, settings.epsilon

    def normed(x: Floats, place: int) -> Floats:
        gain = gains.get(("middle", "last")[place], 1.0)
        return x * gain if settings.is_plain[place] else rms_norm(x, gain, epsilon)

    def added(to: Floats, product: Floats, gain: str) -> Floats:
        return to + (rms_norm(product, gains[gain], epsilon) if gain in gains else product)

    total = residual
    if attended is not None:
        total = added(total, linears["o"](attended), "out")
        rows = normed(residual if settings.is_parallel else total, 0)
        inner = activated(settings.activation, linears["gate"](rows, clip=clip, block=block))
        if "up" in linears:
            inner = inner * linears["up"](rows, clip=clip, block=block)
        total = added(total, linears["down"](inner, block=settings.gated_block), "down")
    product = linears["next"](normed(total, 1), clip=clip, block=block)
    return settings.cap * np.tanh(product) if settings.cap else product, total


@dataclass(frozen=True, slots=True)
class Routing:
    """How rows choose experts and what these activate: see `models.spec.Experts`."""

    router: Floats
    """[width, experts]."""
    bias: Floats | None
    used: int
    shares_whole: bool = True
    sharpness: float = 1.0
    limit: float = 0.0
    offset: float = 0.0


def mixed(
    rows: tuple[Floats, Floats],
    before: tuple[Linear, Floats | None],
    experts: Sequence[Mapping[str, Linear]],
    routing: Routing,
    settings: RowSettings,
) -> Floats:
    """Compute what a layer of experts does with residual and attended rows: the new residual.

    `before` are the product ahead of the experts, and the gain of the norm between.
    """
    out, gain = before
    total = rows[0] + out(rows[1])
    normed = rms_norm(total, 1.0 if gain is None else gain, settings.epsilon)
    scores = normed @ routing.router + (0 if routing.bias is None else routing.bias)
    added = np.zeros_like(total)
    for row, own in enumerate(scores):
        chosen = np.argsort(-own, kind="stable")[: routing.used]
        powers = np.exp(own - own.max())
        shares = powers[chosen] / (powers[chosen] if routing.shares_whole else powers).sum()
        for number, share in zip(chosen, shares, strict=True):
            added[row] += share * _gated(normed[row : row + 1], experts[number], routing, settings)
    return np.asarray(total + added)


def _gated(x: Floats, expert: Mapping[str, Linear], routing: Routing, how: RowSettings) -> Floats:
    gate, up = (expert[part](x, clip=how.clip, block=how.normed_block) for part in ("gate", "up"))
    most = routing.limit or np.inf
    gate, up = np.minimum(gate, most), np.clip(up, -most, most)
    inner = gate / (1 + np.exp(-routing.sharpness * gate)) * (up + routing.offset)
    return np.asarray(expert["down"](inner, block=how.gated_block)[0])


@dataclass(frozen=True, slots=True)
class Heads:
    """How rows of queries, keys and values are divided, and what each token sees."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int = 0
    """How many of the last tokens a token sees; 0 for all."""
    cap: float = 0.0
    """Scores are cap * tanh(score / cap); 0 for as they are."""


def turned(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Turn pairs (i, half + i) of heads [N, H, D] by angles [N, half] (RoPE, Su et al. 2021)."""
    half = cosines.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    c, s = cosines[:, None], sines[:, None]
    return np.concatenate([first * c - second * s, second * c + first * s, rest], axis=-1)


def attended(
    q: Floats,
    k: Floats,
    v: Floats,
    heads: Heads,
    *,
    first: int = 0,
    sinks: Floats | None = None,
) -> Floats:
    """Attend causally from queries [N, H, D], the tokens from `first` on, to [T, K, D].

    `sinks`, [H], are scores beside those of tokens, without a value.
    """
    group = q.shape[1] // k.shape[1]
    out = np.empty_like(q)
    for row in range(len(q)):
        last = first + row + 1
        seen = slice(max(0, last - heads.window) if heads.window else 0, last)
        for head in range(q.shape[1]):
            scores = k[seen, head // group] @ q[row, head]
            scores = heads.cap * np.tanh(scores / heads.cap) if heads.cap else scores
            sink = -np.inf if sinks is None else sinks[head]
            most = max(scores.max(), sink)
            weights = np.exp(scores - most)
            whole = weights.sum() + np.exp(sink - most)
            out[row, head] = weights / whole @ v[seen, head // group]
    return out
