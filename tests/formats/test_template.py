"""Laws of templates: names in braces and nothing else, over tables and over JSON lines."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.errors import InputError, RequestError, UsageError
from aobatch.formats import MAX_LINE_BYTES, Row, find_format, read_rows
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.template import parse_template


def rows_of(path: Path, text: str, template: str, **names: str) -> list[Row]:
    """Check a file of lines, and read it with a template."""
    path.write_text(text, encoding="utf-8")
    columns = Columns(names=names, template=parse_template(template))
    find_format(path).check(path, columns)
    return list(read_rows(path, MAX_LINE_BYTES, columns))


@given(st.dictionaries(st.text(st.characters(exclude_characters="{}"), min_size=1), st.text()))
def test_a_template_is_its_text_with_values_in_place(values: dict[str, str]) -> None:
    """Names are replaced by values, which are never looked into for names of their own."""
    if not values:
        return
    text = "{{".join(f"<{{{name}}}>" for name in values)

    assert parse_template(text).write(values) == "{".join(f"<{v}>" for v in values.values())


@pytest.mark.parametrize("text", ["a {b", "a } b", "{}", "{a{b}}", "no names", "", "{{a}}"])
def test_what_is_no_template_is_told(text: str) -> None:
    """A single brace, an empty name and a text without names are errors of the command line."""
    with pytest.raises(UsageError, match="the template"):
        parse_template(text)


@pytest.mark.parametrize("name", ["a.b", "a[0]", "a!r", "a:>5", "a b", "0"])
def test_nothing_but_names_stands_in_braces(name: str) -> None:
    """What other templates take for programs is the name of a column like any other."""
    assert parse_template(f"{{{name}}}").write({name: "x"}) == "x"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        (0.5, "0.5"),
        (True, "true"),
        (Decimal("1.50"), "1.50"),
        (date(2026, 1, 2), "2026-01-02"),
        (["a", 1], '["a", 1]'),
        ({"a": "é"}, '{"a": "é"}'),
        (b"caf\xc3\xa9", "café"),
    ],
)
def test_values_are_written_as_people_write_them(value: object, text: str) -> None:
    """Numbers, dates and what JSON knows."""
    assert parse_template("{a}").write({"a": value}) == text


def test_a_null_is_the_error_of_its_row() -> None:
    """Nothing is written for what is not there."""
    with pytest.raises(RequestError, match="'a', which the template needs, is null"):
        parse_template("{a}").write({"a": None})


def test_rows_of_a_table_become_requests(tmp_path: Path) -> None:
    """Values of any type are written; a null fails its row; other columns are no fields."""
    path = tmp_path / "a.parquet"
    table = {"year": [1999, None], "text": ["x", "y"], "temperature": [9.0, 9.0], "id": [1, 2]}
    pq.write_table(pa.table(table), path)
    template = parse_template("{text} in {year}", is_chat=True, system="Be brief.")
    columns = Columns(names={"custom_id": "id"}, template=template)

    find_format(path).check(path, columns)
    first, second = read_rows(path, MAX_LINE_BYTES, columns)
    assert first.fields == {
        "custom_id": "1",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "x in 1999"},
        ],
    }
    assert second.error is not None
    assert second.error.param == "messages"


def test_lines_of_data_become_requests(tmp_path: Path) -> None:
    """Fields of JSON lines are data, but for the custom_id and what --column names."""
    text = (
        '{"custom_id": 5, "text": "a", "n": 3, "words": 2}\n'
        '{"text": null}\n'
        "{broken\n"
        '{"text": "b", "words": 4}\n'
    )
    rows = rows_of(tmp_path / "a.jsonl", text, "<{text}>", max_tokens="words")

    assert [row.fields for row in rows if row.error is None] == [
        {"custom_id": "5", "max_tokens": 2, "prompt": "<a>"},
        {"max_tokens": 4, "prompt": "<b>"},
    ]
    assert [row.error.code for row in rows if row.error] == ["invalid_value", "invalid_json_line"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_missing_name_is_told_before_anything_is_computed(name: str, tmp_path: Path) -> None:
    """With the names that there are, and the one that was probably meant."""
    text = '{"title": "a", "text": "b"}\n' if name == "a.jsonl" else "title,text\na,b\n"

    with pytest.raises(InputError, match=r"no 'txt' .*did you mean 'text'.* has title, text"):
        rows_of(tmp_path / name, text, "{txt}")
