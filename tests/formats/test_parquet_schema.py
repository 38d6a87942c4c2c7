"""Laws of a Parquet file's columns: they are right before a row is read, or the file is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import parse_rows, rows_of, write_table

from aobatch.errors import InputError, UsageError
from aobatch.formats import find_format
from aobatch.formats.parquet_fields import Columns


@pytest.mark.parametrize(
    ("field", "column", "words"),
    [
        ("prompt", pa.array([1]), "is of type int64, but 'prompt' needs strings, or lists of"),
        ("prompt", pa.array([b"a"]), "is of type binary"),
        ("max_tokens", pa.array([[1]]), "is of type list<.*>, but 'max_tokens' needs integers"),
        ("max_tokens", pa.array(["1"]), "is of type string"),
        ("max_tokens", pa.array([True]), "is of type bool"),
        ("temperature", pa.array(["hot"]), "'temperature' needs numbers"),
        ("echo", pa.array([1]), "'echo' needs booleans"),
        ("stop", pa.array([[1]]), "'stop' needs strings, or lists of strings"),
        ("logit_bias", pa.array([1]), "'logit_bias' needs maps or structs of numbers, or strings"),
        ("custom_id", pa.array([True]), "'custom_id' needs strings, or integers"),
        ("model", pa.array([["a"]]), "'model' needs strings"),
    ],
)
def test_wrong_type_is_refused(tmp_path: Path, field: str, column: pa.Array, words: str) -> None:
    """A column of a wrong type is the file's error, not that of each row."""
    others = {} if field == "prompt" else {"prompt": ["p"]}
    path = write_table(tmp_path / "in.parquet", {**others, field: column})

    with pytest.raises(InputError, match=rf"column '{field}' of .*in.parquet {words}|{words}"):
        find_format(path).check(path, Columns())
    with pytest.raises(InputError):
        rows_of(path)


def test_unknown_columns_are_refused_unless_columns_are_chosen(tmp_path: Path) -> None:
    """A column that is no field is a slip, but not once the user says what columns are."""
    path = write_table(tmp_path / "in.parquet", {"prompt": ["a"], "temprature": [1.0]})

    with pytest.raises(InputError, match=r"temprature \(did you mean 'temperature'\?\)"):
        rows_of(path)
    both = write_table(tmp_path / "two.parquet", {"zzz": ["a"], "promt": ["a"], "topP": [1.0]})
    hints = r"zzz, promt \(did you mean 'prompt'\?\), topP \(did you mean 'top_p'\?\); drop"
    with pytest.raises(InputError, match=f"no field of a request: {hints}"):
        rows_of(both)
    for columns in (Columns(ignores_unknown=True), Columns({"prompt": "prompt"})):
        assert [row.fields for row in rows_of(path, columns)] == [{"prompt": "a"}]
    renamed = rows_of(path, Columns({"temperature": "temprature"}))
    assert [row.fields for row in renamed] == [{"prompt": "a", "temperature": 1.0}]


def test_table_without_a_field_has_its_rows(tmp_path: Path) -> None:
    """Where the job gives the prompt, each row is a request, whatever its columns are called."""
    path = write_table(tmp_path / "in.parquet", {"id": list(range(50))}, row_group_size=20)

    rows = rows_of(path, Columns(ignores_unknown=True, optional=frozenset({"prompt"})))

    assert [(row.number, row.fields) for row in rows] == [(n, {}) for n in range(1, 51)]


def test_columns_are_mapped(tmp_path: Path) -> None:
    """A mapped column gives its field, in place of one of the field's own name."""
    path = write_table(
        tmp_path / "in.parquet",
        {"text": ["a"], "prompt": ["other"], "url": ["http://x"], "id": [7], "user": ["ada"]},
    )

    (row,) = rows_of(path, Columns({"prompt": "text", "custom_id": "id"}))

    assert row.fields == {"prompt": "a", "custom_id": "7", "user": "ada"}


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """Without a prompt, or without a column that was named, the message lists what there is."""
    path = write_table(tmp_path / "in.parquet", {"user": ["a"]})

    with pytest.raises(InputError, match=r"no column 'prompt'; it has user: .* --column prompt="):
        rows_of(path)
    with pytest.raises(InputError, match="no column 'text'; it has user"):
        rows_of(path, Columns({"prompt": "text"}))
    assert len(rows_of(path, Columns(optional=frozenset({"prompt"})))) == 1


def test_unknown_field_of_a_mapping_is_an_error_of_usage() -> None:
    """A field that does not exist cannot have a column."""
    with pytest.raises(UsageError, match=r"no field 'promt' for a column .*'prompt'"):
        Columns({"promt": "text"}).check()
    Columns({"prompt": "text", "custom_id": "id", "body": "json"}).check()


def test_ignored_and_index_columns_do_no_harm(tmp_path: Path) -> None:
    """What the API ignores, and the index that pandas keeps, are no unknown columns."""
    path = write_table(
        tmp_path / "in.parquet",
        {"prompt": ["a"], "metadata": [[1.5]], "__index_level_0__": [9]},
    )

    assert [row.fields for row in rows_of(path)] == [{"prompt": "a"}]


def test_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Which of them is meant would be a guess."""
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["prompt", "prompt"])
    pq.write_table(table, tmp_path / "in.parquet")

    with pytest.raises(InputError, match="two columns 'prompt'"):
        rows_of(tmp_path / "in.parquet")


def test_wrong_fields_in_a_body_are_refused(tmp_path: Path) -> None:
    """The children of a struct body are held to the same rules as columns."""
    body = pa.array([{"prompt": "a", "max_tokens": "1"}, {"prompt": "b", "max_tokens": "2"}])
    head = {"custom_id": ["1", "2"], "method": ["POST"] * 2, "url": ["/v1/completions"] * 2}
    path = write_table(tmp_path / "in.parquet", {**head, "body": body})

    with pytest.raises(InputError, match="'max_tokens' needs integers"):
        rows_of(path)
    del head["url"]
    path = write_table(tmp_path / "in.parquet", {**head, "body": pa.array(["{}", "{}"])})
    with pytest.raises(InputError, match="no column 'url'"):
        rows_of(path)


def test_bodies_without_a_known_field_keep_their_rows(tmp_path: Path) -> None:
    """Where unknown fields are ignored, a body of nothing else is a body that lacks its prompt."""
    head = {"custom_id": ["1", "2"], "method": ["POST"] * 2, "url": ["/v1/completions"] * 2}
    body = pa.array([{"x": 1}, None])
    path = write_table(tmp_path / "in.parquet", {**head, "body": body})

    rows = rows_of(path, Columns(ignores_unknown=True))

    assert [row.fields and row.fields["body"] for row in rows] == [{}, None]


def test_null_rows_are_lines_without_values(tmp_path: Path) -> None:
    """A null is left out, a null prompt is the documented null prompt, a null body is wrong."""
    path = write_table(tmp_path / "in.parquet", {"prompt": [None], "max_tokens": [None]})

    (request,) = parse_rows(path)

    assert request.body.prompts == ("",)  # type: ignore[union-attr]
    assert request.body.max_tokens == 16  # type: ignore[union-attr]


def test_table_without_columns_is_told(tmp_path: Path) -> None:
    """A file of no columns does not ask which of them is the prompt."""
    pq.write_table(pa.table({}), tmp_path / "in.parquet")

    with pytest.raises(InputError, match=r"in\.parquet has no columns; write one for each"):
        find_format(tmp_path / "in.parquet").check(tmp_path / "in.parquet", Columns())
