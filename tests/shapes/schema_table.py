"""Schemas of every supported keyword, and other shapes, for answers that are drawn of them."""

from typing import Any

NODE = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"$ref": "#/$defs/node"}},
    "required": ["value"],
    "additionalProperties": False,
}
KINDS = ({"kind": {"const": "a"}, "x": {"type": "integer"}}, {"kind": {"const": "b"}})

SCHEMAS: dict[str, dict[str, Any]] = {
    "anything": {},
    "object": {"type": "object"},
    "null": {"type": "null"},
    "boolean": {"type": "boolean"},
    "several types": {"type": ["integer", "null", "string"]},
    "integer": {"type": "integer"},
    "number": {"type": "number"},
    "bounds": {"type": "integer", "minimum": -3, "maximum": 12},
    "open bounds": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0},
    "string": {"type": "string"},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "loose pattern": {"type": "string", "pattern": "ab", "maxLength": 12},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "date and time": {"type": "string", "format": "date-time"},
    "duration": {"type": "string", "format": "duration"},
    "email": {"type": "string", "format": "email"},
    "ipv4": {"type": "string", "format": "ipv4"},
    "ipv6": {"type": "string", "format": "ipv6"},
    "uuid": {"type": "string", "format": "uuid"},
    "enum": {"enum": ["red", 'dark "green"', 5, 1.5, None, True, ["x", {"y": "春"}]]},
    "const": {"const": {"a": [1, "zwei", None]}},
    "list": {"type": "array", "items": {"type": "integer"}},
    "bounded list": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "properties": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, 2]}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    "patterned map": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"id": {"type": "integer"}, "ok": {"type": "boolean"}},
                    "required": ["id", "ok"],
                    "additionalProperties": False,
                },
                "maxItems": 2,
            }
        },
        "required": ["items"],
        "additionalProperties": False,
    },
    "any of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]},
    "one of": {
        "oneOf": [
            {
                "type": "object",
                "properties": table,
                "required": [*table],
                "additionalProperties": False,
            }
            for table in KINDS
        ]
    },
    "all of": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 9}]},
    "references": {
        "$defs": {"half": {"type": "integer", "minimum": 0, "maximum": 9}},
        "type": "array",
        "items": {"$ref": "#/$defs/half"},
        "minItems": 1,
    },
    "recursive": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "tree": {
        "type": "object",
        "properties": {"sub": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2}},
        "required": ["sub"],
        "additionalProperties": False,
    },
}

REGEXES = {
    "digits": r"\d{3}-\d{4}",
    "words": r"(red|green|blue)( (red|green|blue)){0,2}",
    "not": r"[^a-m\n]{1,6}!",
    "dot": r"a.{2,4}b",
    "unicode": r"[春夏秋冬]{1,3}",
    "optional": r"x?y*z",
    "case": r"(?i:yes|no)",
}
CHOICES = ["yes", "yes, indeed", "no", "春", 'a "quoted" one', "back\\slash", "two\nlines"]
GRAMMARS = {
    "lark": 'start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]{1,3}/',
    "gbnf": 'root ::= number ("+" number)*\nnumber ::= [0-9] [0-9]? [0-9]?',
}
SUM = r"[0-9]{1,3}(\+[0-9]{1,3})*"
"""What both grammars say."""
