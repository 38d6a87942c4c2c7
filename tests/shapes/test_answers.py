"""Laws of answers of a shape: each is one, as another library judges, however it is drawn."""

import json
import re
from collections.abc import Iterator
from datetime import datetime

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_table import CHOICES, GRAMMARS, REGEXES, SCHEMAS, SUM

from aobatch.api.response import Choice
from aobatch.arrays import Logits
from aobatch.engine.config import EngineConfig
from aobatch.testing import VOCAB_SIZE, random_script, scripted_engine

TEMPERATURES = (0, 1, 2)
CHECKER = jsonschema.FormatChecker(["email", "ipv4", "ipv6", "uuid"])


@CHECKER.checks("date", raises=ValueError)
def is_date(text: str) -> bool:
    """Say whether it is one of RFC 3339, which has a year 0 that Python does not know."""
    return len(text) == 10 and bool(datetime.fromisoformat(text.replace("0000-", "2000-", 1)))


@CHECKER.checks("date-time", raises=ValueError)
def is_date_time(text: str) -> bool:
    """Say whether it is one of RFC 3339, which has a 60th second as well."""
    known = text.upper().replace("0000-", "2000-", 1).replace(":60", ":59")
    return bool(datetime.fromisoformat(known))


@CHECKER.checks("time", raises=ValueError)
def is_time(text: str) -> bool:
    """Say whether it is the time of such a one."""
    return is_date_time(f"2000-01-01T{text}")


@CHECKER.checks("duration")
def is_duration(text: str) -> bool:
    """Say whether it is one of RFC 3339."""
    date, time = r"(\d+Y)?(\d+M)?(\d+D)?", r"(T(\d+H)?(\d+M)?(\d+S)?)?"
    return re.fullmatch(rf"P({date}{time}|\d+W)", text) is not None


def terse_script(token_ids: tuple[int, ...]) -> Logits:
    """Say anything, but close quotes and brackets soon, so that most answers end."""
    logits = random_script(token_ids)
    logits[[*b'"}]0,:']] += 5
    logits[[*b"{[ \n\\"]] -= 4
    logits[VOCAB_SIZE - 1] += 5
    return logits


def answers(num_prompts: int, temperature: float, **shape: object) -> Iterator[Choice]:
    """Draw answers to as many prompts, which end or have 150 tokens."""
    engine = scripted_engine(terse_script, EngineConfig(max_num_seqs=64))
    prompts = [f"prompt {number}" for number in range(num_prompts)]
    for result in engine.complete(prompts, max_tokens=150, temperature=temperature, **shape):
        assert result.error is None, result.error
        yield from result.choices


def check_json(schema: dict[str, object], choices: Iterator[Choice]) -> int:
    """Hold what has ended against the schema; count it."""
    num_ended = 0
    for choice in choices:
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.text), schema, format_checker=CHECKER)
            num_ended += 1
        else:
            assert choice.finish_reason == "length"
    return num_ended


@pytest.mark.parametrize(
    "num_prompts", [1, pytest.param(12, marks=pytest.mark.long)], ids=["some", "many"]
)
def test_answers_are_what_the_schema_allows(num_prompts: int) -> None:
    """Over the table of schemas and temperatures, what ends is valid; nearly all of it ends."""
    counts = {
        name: check_json(schema, answers(num_prompts, temperature, guided_json=schema))
        for temperature in TEMPERATURES
        for name, schema in SCHEMAS.items()
    }

    assert sum(counts.values()) > 0.8 * num_prompts * len(counts)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_other_shapes_hold_exactly(temperature: float) -> None:
    """Regular expressions match as a whole, a choice is one of the strings, a sum is a sum."""
    for pattern in REGEXES.values():
        for choice in answers(4, temperature, guided_regex=pattern):
            assert re.fullmatch(pattern, choice.text) or choice.finish_reason == "length"
    for choice in answers(8, temperature, guided_choice=CHOICES):
        assert choice.text in CHOICES
    for grammar in GRAMMARS.values():
        for choice in answers(4, temperature, guided_grammar=grammar):
            assert re.fullmatch(SUM, choice.text) or choice.finish_reason == "length"


names = st.sampled_from(["a", "b", "käse", "the key", 'q"uote'])
leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-20, 20),
        st.integers(0, 30),
    ),
    st.builds(
        lambda low, size: {"type": "string", "minLength": low, "maxLength": low + size},
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.builds(lambda values: {"enum": values}, st.lists(names | st.integers(), min_size=1)),
    st.builds(lambda value: {"const": value}, names | st.none() | st.booleans()),
)


def _object(properties: dict[str, object], is_required: list[bool]) -> dict[str, object]:
    required = [name for name, wanted in zip(properties, is_required, strict=False) if wanted]
    shape = {"type": "object", "properties": properties, "required": required}
    return shape | {"additionalProperties": False}


def _array(items: object, bounds: tuple[int, int]) -> dict[str, object]:
    return {"type": "array", "items": items, "minItems": bounds[0], "maxItems": sum(bounds)}


schemas = st.recursive(
    leaves,
    lambda inner: (
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.lists(st.booleans()))
        | st.builds(_array, inner, st.tuples(st.integers(0, 2), st.integers(0, 2)))
        | st.builds(lambda parts: {"anyOf": parts}, st.lists(inner, min_size=1, max_size=3))
    ),
    max_leaves=5,
)


def check_made_up(schema: dict[str, object], temperature: float) -> None:
    """Hold one answer to a schema that was made up."""
    check_json(schema, answers(1, temperature, guided_json=schema))


STEADY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@settings(max_examples=15, **STEADY)
@given(schemas, st.sampled_from(TEMPERATURES))
def test_answers_of_made_up_schemas_are_valid(
    schema: dict[str, object], temperature: float
) -> None:
    """Whatever small schema there is, its answers validate."""
    check_made_up(schema, temperature)


@pytest.mark.long
@settings(max_examples=200, **STEADY)
@given(schemas, st.sampled_from(TEMPERATURES))
def test_answers_of_many_made_up_schemas_are_valid(
    schema: dict[str, object], temperature: float
) -> None:
    """The same for 200 of them."""
    check_made_up(schema, temperature)


def test_a_forced_text_may_be_split_as_the_model_likes() -> None:
    """All tokens that begin it are possible, so that none is dictated."""
    texts = {choice.text for choice in answers(40, 2, guided_choice=["abc", "abd"])}

    assert texts == {"abc", "abd"}
