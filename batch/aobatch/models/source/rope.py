"""Rotary positions: read out of either kind of file, and the angles that they come to."""

from dataclasses import replace
from math import pi

import numpy as np

from aobatch.models.source.fields import Fields
from aobatch.models.spec import Rope

BASES = (1.0, 1e12)
_FACTORS = (1e-3, 1e6)
_DEFAULT_BASE = 10000.0
CONTEXTS = (1, 2**24)


def rope_from_config(fields: Fields, head_dim: int) -> Rope:
    """Read a base and its scaling from config.json, whichever way it spells them.

    Raises ModelError for a scaling that is not supported.
    """
    base = fields.number("rope_theta", *BASES, _DEFAULT_BASE)
    for key in ("rope_parameters", "rope_scaling"):
        if key in fields:
            context_length = fields.integer("max_position_embeddings", *CONTEXTS)
            return rope_from_section(fields.section(key), base, head_dim, context_length)
    return Rope(base)


def rope_from_section(section: Fields, base: float, head_dim: int, context_length: int) -> Rope:
    """Read one object of config.json that describes a scaling; ModelError for an unknown one."""
    theta = section.number("rope_theta", *BASES, base)
    divisors: tuple[float, ...] = ()
    if section.number("partial_rotary_factor", 0, 1, 1.0) != 1:
        section.refuse("only a part of each head is turned, which is not supported")
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "linear":
        divisors = (section.number("factor", *_FACTORS),) * (head_dim // 2)
    elif kind == "llama3":
        divisors = _llama3(section, theta, head_dim, context_length)
    elif kind != "default":
        section.refuse(
            f"rotary scaling {kind!r} is not supported; supported are default, linear, llama3"
        )
    section.check_all_read()
    return Rope(theta, divisors)


def rope_from_gguf(fields: Fields, family: str, head_dim: int) -> Rope:
    """Read a base and its scaling from a GGUF's metadata; ModelError for an unknown one."""
    key = f"{family}.rope.scaling"
    kind = fields.text(f"{key}.type", "none")
    old = fields.number(f"{family}.rope.scale_linear", *_FACTORS, 1.0)
    factor = fields.number(f"{key}.factor", *_FACTORS, old)
    if fields.number(f"{key}.attn_factor", *_FACTORS, 1.0) != 1:
        fields.refuse(f"'{key}.attn_factor' is not supported unless it is 1")
    if kind not in ("none", "linear"):
        fields.refuse(f"rotary scaling {kind!r} is not supported; supported are none, linear")
    is_scaled = factor != 1 and (kind == "linear" or old != 1)
    base = fields.number(f"{family}.rope.freq_base", *BASES, _DEFAULT_BASE)
    return Rope(base, (factor,) * (head_dim // 2) if is_scaled else ())


def with_divisors(rope: Rope, divisors: np.ndarray) -> Rope:
    """Divide each frequency of a rope by one more number."""
    before = np.array(rope.divisors) if rope.divisors else np.ones(len(divisors))
    return replace(rope, divisors=tuple((before * divisors).tolist()))


def angles(rope: Rope, head_dim: int, num_positions: int) -> np.ndarray:
    """Compute the angle of each position and frequency, [positions, head_dim / 2]."""
    frequencies = _frequencies(rope.theta, head_dim)
    if rope.divisors:
        frequencies = frequencies / np.array(rope.divisors)
    return np.asarray(np.arange(num_positions)[:, None] * frequencies[None])


def _frequencies(theta: float, head_dim: int) -> np.ndarray:
    return np.asarray(theta ** -(np.arange(0, head_dim, 2) / head_dim))


def _llama3(section: Fields, theta: float, head_dim: int, context: int) -> tuple[float, ...]:
    """Stretch long waves by a factor, keep short ones, and blend between."""
    factor = section.number("factor", *_FACTORS)
    low = section.number("low_freq_factor", *_FACTORS)
    high = section.number("high_freq_factor", *_FACTORS)
    old = section.integer("original_max_position_embeddings", *CONTEXTS, context)
    if high <= low:
        section.refuse("'high_freq_factor' has to be greater than 'low_freq_factor'")
    turns = old * _frequencies(theta, head_dim) / (2 * pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - kept) / factor + kept)).tolist())
