"""Made-up lines: any JSON, and bodies that are right."""

import json
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from aobatch.api.body import PARAMETERS

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine does not fail a law."""

SAME = settings(STEADY, derandomize=True, database=None)
"""The same examples each time."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from([*PARAMETERS, "custom_id", "method", "url", "body", "metadata", "x"])
BODIES = st.fixed_dictionaries(
    {"prompt": TEXTS | st.lists(TEXTS, min_size=1, max_size=3)},
    optional={
        "model": TEXTS,
        "suffix": TEXTS,
        "max_tokens": st.integers(8, 10**6),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "n": st.integers(1, 5),
        "best_of": st.integers(5, 20),
        "logprobs": st.integers(0, 20),
        "echo": st.booleans(),
        "stop": st.lists(TEXTS.filter(len), min_size=1, max_size=3),
        "frequency_penalty": st.floats(-2, 2),
        "user": TEXTS,
        "seed": st.integers(-(2**63), 2**63 - 1),
        "top_k": st.integers(-1, 100),
        "min_tokens": st.integers(0, 8),
        "stop_token_ids": st.lists(st.integers(0, 10**6), max_size=3),
    },
)


def written(fields: dict[str, object], seed: int) -> bytes:
    """Write an object in another of the ways in which JSON can say it."""
    source = random.Random(seed)
    return (_space(source) + _object(fields, source) + _space(source)).encode()


def _object(fields: dict[str, object], source: random.Random) -> str:
    names = source.sample(sorted(fields), len(fields))
    pieces = [
        f"{_text(name, source)}{_space(source)}:{_value(fields[name], source)}" for name in names
    ]
    return f"{{{_space(source)}{f'{_space(source)},{_space(source)}'.join(pieces)}}}"


def _value(value: object, source: random.Random) -> str:
    if isinstance(value, str):
        return _text(value, source)
    if isinstance(value, dict):
        return _object(value, source)
    if isinstance(value, list):
        return (
            f"[{f',{_space(source)}'.join(_value(item, source) for item in value)}{_space(source)}]"
        )
    if isinstance(value, float):
        return source.choice([repr(value), f"{value:.17e}", f"{value:.17E}"])
    return json.dumps(value)


def _text(text: str, source: random.Random) -> str:
    pieces = []
    for character in text:
        raw = json.dumps(character, ensure_ascii=False)[1:-1]
        units = character.encode("utf-16-be").hex()
        escaped = "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))
        pieces.append(source.choice([raw, escaped, escaped.upper().replace("\\U", "\\u")]))
    return f'"{"".join(pieces)}"'


def _space(source: random.Random) -> str:
    return source.choice(["", "", " ", "\t", "\r", "  \t"])
