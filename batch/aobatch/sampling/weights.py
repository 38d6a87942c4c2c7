"""Weights of logits: exponentials, and logarithms of their sums, to the same bits everywhere.

Nothing here leaves an exponential, a logarithm or the order of additions to the library.
"""

from typing import Final

import numpy as np

from aobatch.arrays import Floats, Logits

LOG2_E: Final = 1.4426950408889634
LOG_2: Final = 0.6931471805599453

LEAST: Final = np.finfo(np.float32).min
"""The smallest finite logit."""

GRID: Final = 2.0**-34
"""Masses are multiples of this part of the best token's: up to 2**19 of them add up exactly, so
that no order and no company of others can be told from a sum."""
_TO_GRID: Final = 1.5 * 2.0**18
"""Added to a float64 of 0 to 1 and taken off again, it leaves the nearest multiple of GRID."""
_WIDTH: Final = 2**15
"""Logits of a row that are weighed at a time."""

_FLOOR: Final = np.float32(-127)
_ROUNDING: Final = np.float32(1.5 * 2**23)
"""Added to a float32 and taken off again, it leaves the nearest integer, whose bits it shows."""
_TERMS: Final = tuple(
    np.float32(term)
    for term in (
        1.326472731307149e-3,
        9.671512991189957e-3,
        5.550733581185341e-2,
        2.402224242687225e-1,
        6.931470036506653e-1,
        1.0,
    )
)
"""Of 2**x for |x| <= 1/2, the best of degree 5 that is 1 at 0: within 1.1e-7 of itself."""


def power_of_two(x: Logits, work: Logits | None = None) -> Logits:
    """Compute 2**x of float32 x <= 0, within 2e-7 of itself and 0 from -127 on; x is used up.

    The result is the first of two arrays like x, `work`, if these are given.
    """
    power, shifted = np.empty((2, *x.shape), np.float32) if work is None else work
    np.maximum(x, _FLOOR, out=x)
    np.add(x, _ROUNDING, out=shifted)
    np.subtract(shifted, _ROUNDING, out=power)
    x -= power
    np.multiply(x, _TERMS[0], out=power)
    for term in _TERMS[1:-1]:
        power += term
        power *= x
    power += _TERMS[-1]
    exponents = shifted.view(np.int32)
    exponents <<= 23
    bits = power.view(np.int32)
    bits += exponents
    return np.asarray(power)


def logarithm(x: Floats) -> Floats:
    """Compute the natural logarithm of float64 x > 0, by the series of the inverse tanh."""
    mantissas, exponents = np.frexp(x)
    is_low = mantissas < np.sqrt(0.5)
    mantissas = np.where(is_low, 2 * mantissas, mantissas)
    ratio = (mantissas - 1) / (mantissas + 1)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for odd in range(23, 0, -2):
        series = series * square + 1 / odd
    return np.asarray((exponents - is_low) * LOG_2 + 2 * ratio * series)


def scales_of(temperatures: Floats) -> Logits:
    """Say by what differences of logits are multiplied to be exponents of two, [n]."""
    safe = np.where(temperatures > 0, temperatures, 1.0)
    return np.where(temperatures > 0, LOG2_E / safe, 0.0).astype(np.float32)


def weights_of(logits: Logits, peaks: Logits, scales: Logits, work: Logits | None = None) -> Logits:
    """Compute exp((logit - peak) / temperature) of rows of logits, which are used up.

    All are broadcast against each other; `work` is that of `power_of_two`.
    """
    logits -= np.where(np.isneginf(peaks), 0, peaks)
    logits *= scales
    return power_of_two(logits, work)


def masses_of(logits: Logits, peaks: Logits, temperatures: Floats) -> Floats:
    """Compute exp((logit - peak) / temperature) of rows of logits [n, K] on the grid, [n, K].

    Logits do not exceed their row's peak [n].
    """
    peaks, scales = peaks[:, None], scales_of(temperatures)[:, None]
    masses = np.empty(logits.shape)
    for start in range(0, logits.shape[1], _WIDTH):
        part = slice(start, start + _WIDTH)
        masses[:, part] = weights_of(logits[:, part].copy(), peaks, scales)
    masses += _TO_GRID
    masses -= _TO_GRID
    return masses
