"""Laws of columns that give answers a shape: structs, lists and strings of JSON say the same."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tables import parse_rows, rows_of, write_table

from aobatch.api.request import Request
from aobatch.api.shapes import Shape
from aobatch.errors import InputError

SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", "y"]}},
    None,
]
FORMATS = [
    schema and {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for schema in SCHEMAS
]


def texts(values: list[object]) -> pa.Array:
    """Write each value as JSON."""
    return pa.array([value and json.dumps(value) for value in values])


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("guided_json", pa.array(SCHEMAS)),
        ("guided_json", texts(SCHEMAS)),
        ("response_format", pa.array(FORMATS)),
        ("response_format", texts(FORMATS)),
        ("structured_outputs", pa.array([schema and {"json": schema} for schema in SCHEMAS])),
        ("structured_outputs", texts([schema and {"json": schema} for schema in SCHEMAS])),
    ],
)
def test_schemas_are_structs_or_json(tmp_path: Path, column: str, values: pa.Array) -> None:
    """What a struct has no value for is not there; keys keep their order."""
    path = write_table(tmp_path / "in.parquet", {"prompt": ["a"] * 3, column: values})
    lines = parse_rows(path)

    assert all(isinstance(line, Request) for line in lines), lines
    shapes = [line.body.shape for line in lines if isinstance(line, Request)]
    found = [json.loads(shape.text) if shape else None for shape in shapes]
    assert found == SCHEMAS


def test_other_shapes_have_columns(tmp_path: Path) -> None:
    """A regular expression and a grammar are text, choices a list or JSON."""
    lists, json_texts = [["b", "a"], ["c"]], ['["b", "a"]', '["c"]']
    for column, values, expected in (
        ("guided_regex", ["a+", "b"], ["a+", "b"]),
        ("guided_grammar", ['start: "a"'] * 2, ['start: "a"'] * 2),
        ("guided_choice", lists, json_texts),
        ("guided_choice", json_texts, json_texts),
    ):
        path = write_table(tmp_path / "in.parquet", {"prompt": ["a"] * 2, column: values})
        shapes = [line.body.shape for line in parse_rows(path)]  # type: ignore[union-attr]

        kind = column.removeprefix("guided_")
        assert shapes == [Shape(kind, text, column) for text in expected]  # type: ignore[arg-type]


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    """The message says what it may be."""
    path = write_table(tmp_path / "in.parquet", {"prompt": ["a"], "guided_json": [5]})

    with pytest.raises(InputError, match="needs maps or structs, or strings of JSON; convert it"):
        rows_of(path)
