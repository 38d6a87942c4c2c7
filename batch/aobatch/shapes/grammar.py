"""A shape as a grammar in llguidance's form of Lark, and what is refused before it is compiled."""

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark

from aobatch.api.shapes import Shape
from aobatch.text import printable

MAX_GRAMMAR: Final = 2**16
"""Characters of a grammar, which is converted by a slow parser if it is in GBNF."""
MAX_ENTRIES: Final = {"properties": 2000, "patternProperties": 100}
"""Of all objects of a schema: compiling takes time by their squares."""
MAX_MULTIPLES: Final = 50_000
"""The product of all numbers behind `multipleOf`, without their points and zeros: remainders are
counted by states, and might be without an end."""
MAX_LITERAL: Final = 8192
"""Characters of one string that an answer may have to repeat: each step takes time by them."""

_OPTIONS = '%llguidance {"no_forcing": true}\n'
# Without it, the library would have a text tokenised where only one can follow. So the model picks
# among all tokens that begin it, and the bytes are those of our table of tokens alone.

_WRITTEN = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
"""On one line, as most JSON in examples is: a model that may indent takes more tokens, or never
stops to."""

_ANNOTATIONS = frozenset({"$comment", "$id", "$schema", "description", "examples", "title"})


class UnusableShapeError(ValueError):
    """Why a shape cannot be compiled, as the end of a sentence."""


def grammar_of(shape: Shape) -> str:
    """Write the grammar; UnusableShapeError if it would cost too much or is no grammar."""
    if shape.kind == "json":
        return f"{_OPTIONS}start: %json {_schema(shape.text)}"
    if shape.kind == "regex":
        return f"{_OPTIONS}start: /{regex_to_lark(shape.text, '')}/"
    if shape.kind == "choice":
        choices = json.loads(shape.text)
        _check_literals(choices)
        literals = (json.dumps(choice, ensure_ascii=False) for choice in choices)
        # One terminal of all costs a state where alternatives of a rule cost an item each.
        return f"{_OPTIONS}start: CHOICE\nCHOICE: {' | '.join(literals)}"
    return _OPTIONS + _lark(shape.text)


def _schema(text: str) -> str:
    schema = json.loads(text)
    _check_literals(list(_literals(schema)))
    for keyword, maximum in MAX_ENTRIES.items():
        count = sum(map(len, _tables(schema, keyword)))
        if count > maximum:
            message = f"it has {count:,} {keyword}, more than {maximum:,}"
            raise UnusableShapeError(message)
    if any(_counts_keys(node) for node in _nodes(schema) if isinstance(node, dict)):
        message = (
            "minProperties above 1 cannot be kept, as a key that is not required may come twice"
        )
        raise UnusableShapeError(message)
    if math.prod({*_multiples(schema)}) > MAX_MULTIPLES:
        message = f"its numbers behind multipleOf multiply to more than {MAX_MULTIPLES:,}"
        raise UnusableShapeError(message)
    options = {**_WRITTEN, "lenient": False, "coerce_one_of": False}
    return json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def _lark(text: str) -> str:
    if len(text) > MAX_GRAMMAR:
        message = f"it has {len(text):,} characters, more than {MAX_GRAMMAR:,}"
        raise UnusableShapeError(message)
    if "%json" in text:
        message = "a schema in it is not looked at; ask for JSON of it alone"
        raise UnusableShapeError(message)
    try:
        return str(any_to_lark(text))
    except RecursionError as error:
        message = "its parentheses are nested too deeply"
        raise UnusableShapeError(message) from error
    except Exception as error:  # the library raises all sorts, and plain ones too
        message = f"it is neither Lark with a rule `start` nor GBNF: {error}"
        raise UnusableShapeError(message) from error


def _check_literals(texts: list[str]) -> None:
    longest = max(texts, key=len, default="")
    if len(longest) > MAX_LITERAL:
        message = (
            f"'{printable(longest, 24)}' has {len(longest):,} characters, more than {MAX_LITERAL:,}"
        )
        raise UnusableShapeError(message)


def _nodes(schema: object) -> Iterator[dict[str, Any] | str]:
    """Walk through the objects and strings of a schema, but those for people."""
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += [value for key, value in node.items() if key not in _ANNOTATIONS]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str):
            yield node


def _literals(schema: object) -> Iterator[str]:
    return (node for node in _nodes(schema) if isinstance(node, str))


def _counts_keys(node: dict[str, Any]) -> bool:
    """Say whether a schema asks for more keys than it names, of which one may be given twice."""
    minimum, required = node.get("minProperties"), node.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    return isinstance(minimum, int | float) and minimum > max(1, num_required)


def _multiples(schema: object) -> Iterator[int]:
    """Give the significant digits of each number behind `multipleOf`."""
    for node in _nodes(schema):
        number = node.get("multipleOf") if isinstance(node, dict) else None
        if isinstance(number, int | float) and math.isfinite(number) and number:
            digits = Decimal(str(abs(number))).normalize().as_tuple().digits
            yield int("".join(map(str, digits)))


def _tables(schema: object, keyword: str) -> Iterator[dict[str, Any]]:
    for node in _nodes(schema):
        if isinstance(node, dict) and isinstance(found := node.get(keyword), dict):
            yield found
