"""Rotary positions: read out of either kind of file, and the angles that they come to."""

from dataclasses import replace
from math import ceil, floor, isclose, log, pi, sqrt

import numpy as np

from aobatch.models.source.config import EXPORT
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
    part = fields.number("partial_rotary_factor", 0, 1, 1.0)
    for key in ("rope_parameters", "rope_scaling"):
        if key in fields:
            return rope_from_section(fields.section(key), base, head_dim, contexts(fields), part)
    return Rope(base, width=None if part == 1 else int(head_dim * part))


def contexts(fields: Fields) -> tuple[int, int]:
    """Read how many tokens a model takes, and how many it took before it was stretched."""
    whole = fields.integer("max_position_embeddings", *CONTEXTS)
    return whole, fields.integer("original_max_position_embeddings", *CONTEXTS, whole)


def stretched_context(fields: Fields, context: int) -> int:
    """Say how many tokens a model takes whose context yarn stretches, where it is the original one.

    Who adds the scaling to a description often leaves the context as it was.
    """
    for key in ("rope_parameters", "rope_scaling"):
        section = fields.section(key) if key in fields else Fields({}, fields.source)
        is_original = section.get("original_max_position_embeddings") == context
        if is_original and section.get("rope_type", section.get("type")) == "yarn":
            factor = section.number("factor", *_FACTORS, 1.0)
            return min(CONTEXTS[1], int(context * max(1.0, factor)))
    return context


def rope_from_section(
    section: Fields, base: float, head_dim: int, lengths: tuple[int, int], part: float = 1.0
) -> Rope:
    """Read one object of config.json that describes a scaling; ModelError for an unknown one.

    Where it does not say which part of a head is turned, it is `part`; `lengths` are `contexts`.
    """
    old = section.integer("original_max_position_embeddings", *CONTEXTS, lengths[1])
    theta = section.number("rope_theta", *BASES, base)
    divisors: tuple[float, ...] = ()
    gain = 1.0
    width = int(head_dim * section.number("partial_rotary_factor", 0, 1, part))
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "dynamic":  # frequencies change beyond the context that is taken
        section.number("factor", *_FACTORS)
    elif kind == "linear":
        divisors = (section.number("factor", *_FACTORS),) * (width // 2)
    elif kind == "llama3":
        divisors = _llama3(section, theta, width, old)
    elif kind == "yarn":
        divisors, gain = _yarn(section, theta, width, (lengths[0], old))
    elif kind in ("longrope", "su"):
        divisors, gain = _longrope(section, width, lengths[0], old)
    elif kind != "default":
        section.refuse(
            f"rotary scaling {kind!r} is not supported; supported are default, linear, dynamic, "
            f"llama3, yarn, longrope; {EXPORT}"
        )
    for other in ("max_position_embeddings", "finetuned"):  # say nothing of angles
        section.get(other)
    section.check_all_read()
    return Rope(theta, divisors, None if width == head_dim else width, gain)


_YARN = {
    "factor": "factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "attention_factor": "yarn_attn_factor",
    "mscale_all_dim": "yarn_log_multiplier",
    "truncate": "yarn_truncate",
}
"""How GGUF files call what config.json says of a scaling."""


def rope_from_gguf(at: Fields, head_dim: int, context: int) -> Rope:
    """Read a base and its scaling from a GGUF's metadata; ModelError for an unknown one.

    The divisors of longrope are in tensors.
    """
    base = at.number("rope.freq_base", *BASES, _DEFAULT_BASE)
    width = at.integer("rope.dimension_count", 2, head_dim, head_dim)
    if width % 2:
        at.refuse(f"heads are turned by pairs, and {width} of their numbers are no pairs")
    old = at.number("rope.scale_linear", *_FACTORS, 1.0)
    gain = at.number("rope.scaling.attn_factor", 1e-3, 1e3, 1.0)
    at.number("rope.scaling.yarn_ext_factor", 1, 1, 1.0)
    values = {name: at.get(f"rope.scaling.{key}") for name, key in _YARN.items()}
    kind = at.text("rope.scaling.type", "none")
    if kind == "linear" or (kind == "none" and old != 1):
        values = {"rope_type": "linear", "factor": at.number("rope.scaling.factor", *_FACTORS, old)}
    elif kind == "yarn":
        values |= {"rope_type": kind, "mscale": 1.0 if values["mscale_all_dim"] else None}
    else:
        values = {"rope_type": "default" if kind in ("none", "longrope") else kind}
    original = at.integer("rope.scaling.original_context_length", *CONTEXTS, context)
    # Half a number more, so that rounding down gives the width.
    part = min(1.0, (width + 0.5) / head_dim)
    stated = {name: value for name, value in values.items() if value is not None}
    section = Fields(stated, f"{at.source}: 'rope.scaling'")
    rope = rope_from_section(section, base, head_dim, (context, original), part)
    # Some converters write the gain of yarn there, which readers have by the factor anyway.
    if kind == "yarn" and isclose(gain, rope.gain, rel_tol=1e-4):
        return rope
    return replace(rope, gain=rope.gain * gain)


def with_divisors(rope: Rope, divisors: np.ndarray) -> Rope:
    """Divide each frequency of a rope by one more number, if it turns anything."""
    if rope.width == 0:
        return rope
    before = np.array(rope.divisors) if rope.divisors else np.ones(len(divisors))
    return replace(rope, divisors=tuple((before * divisors).tolist()))


def angles(rope: Rope, head_dim: int, num_positions: int) -> np.ndarray:
    """Compute the angle of each position and frequency, [positions, head_dim / 2].

    What is not turned has the angle 0.
    """
    width = head_dim if rope.width is None else rope.width
    frequencies = _frequencies(rope.theta, width)
    if rope.divisors:
        frequencies = frequencies / np.array(rope.divisors)
    padded = np.pad(frequencies, (0, (head_dim - width) // 2))
    return np.asarray(np.arange(num_positions)[:, None] * padded[None])


def rotary_tables(rope: Rope, head_dim: int, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute cosines and sines by which heads are turned, each [positions, head_dim / 2]."""
    table = angles(rope, head_dim, num_positions)
    gains = np.ones(head_dim // 2)
    gains[: (head_dim if rope.width is None else rope.width) // 2] = rope.gain
    return (np.cos(table) * gains).astype(np.float32), (np.sin(table) * gains).astype(np.float32)


def head_order(head_dim: int, width: int, *, pairs_neighbours: bool) -> np.ndarray:
    """Order the numbers of a head so that the pairs that are turned are (i, i + head_dim / 2).

    The first `width` of them are turned, in pairs of neighbours or of halves.
    """
    turned, rest = np.arange(width), np.arange(width, head_dim)
    firsts, seconds = turned[: width // 2], turned[width // 2 :]
    if pairs_neighbours:
        firsts, seconds = turned[::2], turned[1::2]
    half = len(rest) // 2
    return np.concatenate([firsts, rest[:half], seconds, rest[half:]])


def _frequencies(theta: float, head_dim: int) -> np.ndarray:
    return np.asarray(theta ** -(np.arange(0, head_dim, 2) / head_dim))


def _llama3(section: Fields, theta: float, head_dim: int, old: int) -> tuple[float, ...]:
    """Stretch long waves by a factor, keep short ones, and blend between."""
    factor = section.number("factor", *_FACTORS)
    low = section.number("low_freq_factor", *_FACTORS)
    high = section.number("high_freq_factor", *_FACTORS)
    if high <= low:
        section.refuse("'high_freq_factor' has to be greater than 'low_freq_factor'")
    turns = old * _frequencies(theta, head_dim) / (2 * pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return tuple((1 / ((1 - kept) / factor + kept)).tolist())


_TURNS = (1e-3, 1e6)


def _yarn(
    section: Fields, theta: float, width: int, lengths: tuple[int, int]
) -> tuple[tuple[float, ...], float]:
    """Stretch waves that turn seldom within the original context (YaRN, Peng et al. 2023)."""
    old = lengths[1]
    by_lengths = lengths[0] / old if section.is_stated("factor") else None
    factor = section.number("factor", *_FACTORS, by_lengths)
    fast = section.number("beta_fast", *_TURNS, 32.0)
    slow = section.number("beta_slow", *_TURNS, 1.0)
    ends = [width * log(old / (turns * 2 * pi)) / (2 * log(theta)) for turns in (fast, slow)]
    if section.flag("truncate", default=True):
        ends = [floor(ends[0]), ceil(ends[1])]
    low, high = max(ends[0], 0), min(ends[1], width - 1)
    high = high + 0.001 if low == high else high
    kept = 1 - np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    scales = [section.number(f"mscale{name}", 0, 1e3, 0.0) for name in ("", "_all_dim")]
    gains = [_yarn_gain(factor, scale) for scale in (scales if all(scales) else (1.0, 0.0))]
    gain = gains[0] / gains[1]
    gain = section.number("attention_factor", 0, 1e3, gain)
    return tuple((1 / ((1 - kept) / factor + kept)).tolist()), gain


def _yarn_gain(factor: float, scale: float) -> float:
    return 0.1 * scale * log(factor) + 1 if factor > 1 else 1.0


def _longrope(
    section: Fields, width: int, context: int, old: int
) -> tuple[tuple[float, ...], float]:
    """Take the divisors for contexts up to the original one (LongRoPE, Ding et al. 2024)."""
    divisors = tuple(section.numbers("short_factor"))
    list(section.numbers("long_factor"))
    if len(divisors) != width // 2 or not all(_FACTORS[0] <= d <= _FACTORS[1] for d in divisors):
        section.refuse(f"'short_factor' has to be {width // 2} numbers from {_FACTORS[0]:g} on")
    factor = section.number("factor", *_FACTORS, context / old)
    gain = sqrt(1 + log(factor) / log(old)) if factor > 1 else 1.0
    return divisors, section.number("attention_factor", 0, 1e3, gain)
