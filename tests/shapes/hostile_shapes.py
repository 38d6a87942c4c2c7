"""Shapes that are wrong, or written to cost much; `hostile_shapes.py` NAME measures one of them."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

Body = dict[str, Any]


def nested(levels: int) -> Body:
    """Write objects in objects."""
    schema: Body = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def row(levels: int) -> Body:
    """Write definitions that refer to each other in a row."""
    tables = {
        f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"type": "null"}]} for n in range(levels)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**tables, f"a{levels}": {"type": "string"}}}


def many(count: int, **value: object) -> Body:
    """Write a table of as many entries."""
    return {f"k{number}": value for number in range(count)}


def rules(count: int, text: str) -> str:
    """Write as many rules, each of the numbers n and n + 1."""
    return "\n".join(text.format(number, number + 1) for number in range(count))


ANY = {"type": "object"}
REFUSED: dict[str, tuple[Body, str]] = {
    "remote reference": ({"guided_json": {"$ref": "https://x.org/s.json"}}, "not fetch"),
    "file reference": ({"guided_json": {"$ref": "file:///etc/passwd"}}, "not fetch"),
    "missing reference": ({"guided_json": {"$ref": "#/$defs/none"}}, "'/$defs/none' does not"),
    "reference to itself": ({"guided_json": {"$ref": "#"}}, "nothing matches it"),
    "not": ({"guided_json": {"not": {}}}, "keywords that are not supported: not"),
    "if": ({"guided_json": {"if": {}, "then": {}}}, "not supported: if, then"),
    "uniqueItems": ({"guided_json": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
    "contains": ({"guided_json": {"type": "array", "contains": {}}}, "not supported: contains"),
    "dependentRequired": ({"guided_json": ANY | {"dependentRequired": {}}}, "dependentRequired"),
    "keys that may come twice": (
        {"guided_json": ANY | {"minProperties": 2}},
        "minProperties above",
    ),
    "unknown type": ({"guided_json": {"type": "strnig"}}, "Invalid type: strnig"),
    "type that is none": ({"guided_json": {"type": 5}}, "type must be a string"),
    "properties that are none": ({"guided_json": ANY | {"properties": [1]}}, "must be an object"),
    "unknown format": ({"guided_json": {"type": "string", "format": "x"}}, "Unknown format: x"),
    "no value": ({"guided_json": {"enum": []}}, "Unsatisfiable schema"),
    "no number": ({"guided_json": {"type": "integer", "minimum": 5, "maximum": 4}}, "minimum (5)"),
    "alternatives that overlap": (
        {"guided_json": {"oneOf": [{"type": "string"}, {"type": "string"}]}},
        "oneOf constraints are not supported",
    ),
    "look-around": ({"guided_json": {"type": "string", "pattern": "(?=a)b"}}, "look-around"),
    "pattern that is none": ({"guided_json": {"type": "string", "pattern": "(["}}, "unclosed"),
    "deep": ({"guided_json": nested(70)}, "recursion limit exceeded"),
    "many properties": ({"guided_json": ANY | {"properties": many(3000)}}, "3,000 properties"),
    "many patterns": ({"guided_json": ANY | {"patternProperties": many(101)}}, "patternProperties"),
    "many alternatives": (
        {
            "guided_json": {
                "allOf": [
                    {"anyOf": [ANY | {"properties": {f"{n}{m}": {}}} for n in "abcd"]}
                    for m in range(12)
                ]
            }
        },
        "cannot be used",
    ),
    "large constant": ({"guided_json": {"const": "a" * 200_000}}, "200,000 characters"),
    "large multiple": ({"guided_json": {"multipleOf": 999_999_937}}, "multipleOf multiply"),
    "several multiples": (
        {"guided_json": {"anyOf": [{"type": "integer", "multipleOf": n} for n in (991, 983, 977)]}},
        "multipleOf multiply",
    ),
    "small multiple": ({"guided_json": {"multipleOf": 1e-300}}, "too many digits"),
    "backreference": ({"guided_regex": r"(a)\1"}, "backreferences are not supported"),
    "deep pattern": ({"guided_regex": "(" * 50_000 + ")" * 50_000}, "nested parentheses"),
    "pattern of nothing": ({"guided_regex": "[a&&b]"}, "nothing matches it"),
    "large choice": ({"guided_choice": ["a" * 9000]}, "9,000 characters"),
    "no grammar": ({"guided_grammar": "no grammar ("}, "neither Lark with a rule `start` nor GBNF"),
    "missing rule": ({"guided_grammar": "start: gone"}, 'unknown name: "gone"'),
    "rule of itself": ({"guided_grammar": "start: start"}, "nothing matches it"),
    "rules in a circle": ({"guided_grammar": "start: a\na: b\nb: a"}, "nothing matches it"),
    "deep grammar": ({"guided_grammar": "start: " + "(" * 9000}, "too deeply nested"),
    "deep GBNF": ({"guided_grammar": "root ::= " + "(" * 9000}, "nested too deeply"),
    "file in a grammar": ({"guided_grammar": 'start: A\n%import "/etc/passwd"'}, "Expected name"),
    "terminals that double": (
        {"guided_grammar": f'start: T0\n{rules(40, "T{0}: T{1} T{1}")}\nT40: "a"'},
        "too big",
    ),
    "schema in a grammar": ({"guided_grammar": "start: %json {}"}, "ask for JSON of it alone"),
    "long grammar": ({"guided_grammar": "# a" * 30_000}, "90,000 characters"),
}
"""A body, and a part of the reason for which it is refused."""

COSTLY: dict[str, Body] = {
    "long row": {"guided_json": row(3500)},
    "many values": {"guided_json": {"enum": [f"value {number}" for number in range(9000)]}},
    "many choices": {"guided_choice": [f"choice {number}" for number in range(9999)]},
    "doubled references": {
        "guided_json": {
            "$ref": "#/$defs/a0",
            "$defs": {
                **{f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(30)},
                "a30": {"type": "integer"},
            },
        }
    },
    "properties": {"guided_json": ANY | {"properties": many(1999, type="string")}},
    "patterns": {
        "guided_json": ANY | {"patternProperties": {f"k.*{n}.*x{n}$": {} for n in range(100)}}
    },
    "bounds": {"guided_json": {"type": "array", "minItems": 10**6, "maxItems": 10**9}},
    "multiple": {"guided_json": {"type": "integer", "multipleOf": 49_999}},
    "repetitions": {"guided_regex": "((((a{1,100}){1,100}){1,100}){1,100}){1,100}"},
    "counts": {"guided_regex": "a{1000000000}"},
    "catastrophic": {"guided_regex": "(a*)*b"},
    "states": {"guided_regex": "(.*a.{20}b.*)|(.*c.{20}d.*)"},
    "classes": {"guided_regex": r"\w{500}\W{500}\p{L}{500}"},
    "alternatives": {"guided_regex": "|".join(f"{'b' * 100}{number}" for number in range(2400))},
    "rules": {"guided_grammar": f'start: r0\n{rules(60, "r{0}: r{1} r{1}")}\nr60: "a"'},
    "row of rules": {"guided_grammar": f'start: r0\n{rules(4900, "r{0}: r{1}")}\nr4900: "a"'},
    "ambiguous": {"guided_grammar": 'start: s\ns: s s s | "a" |'},
}
"""Bodies that may be used or refused, within bounds."""


def main(name: str, tokenizer: str, vocab_size: str) -> None:
    """Print the processor seconds of compiling a shape and of 20 steps, and the MB that it took."""
    from aobatch.api.body import PARAMETERS
    from aobatch.api.shapes import Shape
    from aobatch.errors import RequestError
    from aobatch.models.tokenizer import VocabularyTokenizer
    from aobatch.shapes.matching import Masker, ShapeCompiler

    compiler = ShapeCompiler(VocabularyTokenizer(Path(tokenizer), int(vocab_size)))
    compiler.compile(Shape("regex", "a"), (0,))
    ((parameter, value),) = (COSTLY | {key: body for key, (body, _) in REFUSED.items()})[
        name
    ].items()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    stepped = started
    try:
        shape = PARAMETERS[parameter].kind(parameter, value)
        assert isinstance(shape, Shape)
        matcher, masker = compiler.compile(shape, (0,)).deep_copy(), Masker(int(vocab_size))
        stepped = time.process_time()
        for _ in range(20):
            if matcher.is_stopped():
                break
            allowed = masker.allowed([matcher])
            bits = [n for n in range(int(vocab_size)) if allowed[0, n // 32] >> n % 32 & 1]
            import numpy as np

            masker.take([matcher], np.array([bits[-1]]))
    except RequestError:
        stepped = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"compile": stepped - started, "steps": time.process_time() - stepped}
    sys.stdout.write(json.dumps(figures | {"mb": (peak - before) / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])
