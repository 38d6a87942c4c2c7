"""Laws of CSV and TSV: each of 30 odd files is read right, or refused in one sentence."""

import csv
import gzip
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.errors import InputError
from aobatch.formats import MAX_LINE_BYTES, Row, read_rows, write_records
from aobatch.formats.delimited import check
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.template import parse_template

PLAIN = Columns(names={"prompt": "text"})


def rows_of(path: Path, content: bytes, columns: Columns = PLAIN) -> list[Row]:
    """Write a file and read its rows."""
    path.write_bytes(content)
    check(path, columns)
    return list(read_rows(path, MAX_LINE_BYTES, columns))


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"text\na\nb\n", ["a", "b"]),
        (b"text\na\nb", ["a", "b"]),
        (b"text\r\na\r\nb\r\n", ["a", "b"]),
        (b"text\ra\rb\r", ["a", "b"]),
        (b"\xef\xbb\xbftext\na\n", ["a"]),
        (b'\xef\xbb\xbf"text"\na\n', ["a"]),
        (b'text\n"a, b"\n', ["a, b"]),
        (b'text\n"a\nb"\n', ["a\nb"]),
        (b'text\n"a\r\nb"\r\nc\r\n', ["a\r\nb", "c"]),
        (b'text\n"say ""hi"""\n', ['say "hi"']),
        (b'text\n""\n', [""]),
        (b"text,x\n,1\n", [""]),
        (b"text\n\n\na\n\n", ["a"]),
        (b"x,text\n1,a\n2,b\n", ["a", "b"]),
        (b'"text","x"\n"a","1"\n', ["a"]),
        (b"text\n  a  \n", ["  a  "]),
        ("text\n春风, 🎉\n".encode(), None),
        ("text\n春风 🎉\n".encode(), ["春风 🎉"]),
        (b"text\n=1+2\n-3\n@x\n+y\n", ["=1+2", "-3", "@x", "+y"]),
        (b"text\na\x0bb\n", ["a\x0bb"]),
        ("text\na\u2028b\n".encode(), ["a\u2028b"]),
        (b"text\nNA\nnull\nNaN\n", ["NA", "null", "NaN"]),
        (b"text\n" + b"a" * 200_000 + b"\n", ["a" * 200_000]),
        (b"text\n", []),
        (b"text", []),
        (b"x,text\n1,a\n2\n3,c\n", None),
        (b"x,text\n1,a\n2,b,c,d\n3,c\n", None),
        (b"x;text,y\n1,a\n", "no column 'text'; it has x;text, y"),
    ],
)
def test_odd_files_are_read(content: bytes, texts: list[str] | str | None, tmp_path: Path) -> None:
    """Quotes, line breaks, marks and blanks mean what they mean; a ragged row fails alone."""
    if isinstance(texts, str):
        with pytest.raises(InputError, match=texts):
            rows_of(tmp_path / "a.csv", content)
        return
    rows = rows_of(tmp_path / "a.csv", content)
    if texts is None:
        wrong = [row for row in rows if row.error]
        assert [row.error.code for row in wrong if row.error] == ["invalid_value"]
        assert [row.number for row in rows] == [*range(1, len(rows) + 1)]
        return
    assert [row.fields and row.fields["prompt"] for row in rows] == texts
    assert not any(row.error for row in rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; its first line has to name its columns"),
        (b"\n\n", "is empty"),
        (b"a;text\n1;x\n", "seems to be separated by semicolons"),
        (b"a\ttext\n1\tx\n", "seems to be separated by tabs"),
        (b"text,text\na,b\n", "has two columns 'text'"),
        (b"text,\na,b\n", "has no name for its column 2"),
        ("text\ncafé\n".encode("latin-1"), "is not UTF-8: byte 0xe9 .* as iconv"),
        ("text\na\n".encode("utf-16"), "is UTF-16"),
        (b'text\n"a\nb\nc\n', "cannot be read beyond its line 4: unexpected end of data"),
        (b'text\n"a"b\n', "cannot be read beyond its line 2"),
        (b"\x1f\x8b\x08\x00", "is gzip"),
        (b"id,body_text\n1,a\n", "has no column 'prompt'; it has id, body_text: .*--template"),
    ],
)
def test_files_that_are_none_are_told(content: bytes, message: str, tmp_path: Path) -> None:
    """One sentence says what is wrong and what to do, before or while rows are counted."""
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / "a.csv", content, PLAIN if b"text" in content[:8] else Columns())


def test_rows_give_all_fields_as_text_or_json(tmp_path: Path) -> None:
    """Numbers, arrays and objects are JSON in a cell; an empty cell leaves its field out."""
    content = (
        b"custom_id,prompt,max_tokens,temperature,stop,logit_bias,echo\n"
        b'a,7,16,0.5,"[""x"", ""y""]","{""5"": -1}",true\n'
        b",hi,,,.,,\n"
        b"c,hi,many,,,,\n"
    )
    first, second, third = rows_of(tmp_path / "a.csv", content, Columns())

    assert first.fields == {
        "custom_id": "a",
        "prompt": "7",
        "max_tokens": 16,
        "temperature": 0.5,
        "stop": '["x", "y"]',
        "logit_bias": {"5": -1},
        "echo": True,
    }
    assert second.fields is not None
    assert second.fields["custom_id"] is None
    assert (second.fields["max_tokens"], second.fields["stop"]) == (None, ".")
    assert third.error is not None
    assert third.error.param == "max_tokens"


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.zst", ".csv.bz2", ".tsv", ".tsv.gz"])
def test_files_may_be_compressed_or_have_tabs(suffix: str, tmp_path: Path) -> None:
    """What is written under a name is read under it."""
    path = tmp_path / f"a{suffix}"
    record = {"custom_id": "a,\t1", "choices": [{"text": 'x "y"\n', "finish_reason": "stop"}]}
    with path.open("wb") as stream:
        write_records([json.dumps(record).encode()], stream, path)

    (row,) = read_rows(path, MAX_LINE_BYTES, PLAIN)
    assert row.fields == {"custom_id": "a,\t1", "prompt": 'x "y"\n'}
    if suffix == ".csv.gz":
        assert gzip.decompress(path.read_bytes()).startswith(b"custom_id,index,text")


def test_answers_of_all_kinds_are_rows(tmp_path: Path) -> None:
    """Completions, chats, envelopes and errors each have their row; formulas are left alone."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    choice = {"finish_reason": "stop"}
    records = [
        {"custom_id": "a", "choices": [{"text": "=1+2", **choice}], "usage": usage},
        {"choices": [{"message": {"content": "hi"}, **choice}], "usage": usage},
        {"custom_id": "c", "response": {"body": {"error": {"code": "x", "message": "m, n"}}}},
    ]
    stream = io.BytesIO()
    write_records([json.dumps(r).encode() for r in records], stream, tmp_path / "a.csv")

    assert stream.getvalue().decode() == (
        "custom_id,index,text,finish_reason,prompt_tokens,completion_tokens,error_code,"
        'error_message\r\na,0,=1+2,stop,1,2,,\r\n,1,hi,stop,1,2,,\r\nc,2,,,,,x,"m, n"\r\n'
    )


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8")), min_size=2, max_size=2)))
def test_any_table_is_read_as_it_was_written(table: list[list[str]]) -> None:
    """Whatever cells say, the standard library's writer and this reader agree."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([["id", "text"], *table])
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder) / "a.csv", text.getvalue().encode())

    assert [row.fields and row.fields["prompt"] for row in rows] == [cells[1] for cells in table]


def test_templates_write_of_columns(tmp_path: Path) -> None:
    """Cells are text in a template; other columns are data, unless they are named."""
    columns = Columns(names={"custom_id": "id"}, template=parse_template("{a} {{of}} {b}: {a}"))
    rows = rows_of(tmp_path / "a.csv", b"id,a,b,max_tokens\n7,x,y,99\n8,,z,1\n", columns)

    assert [row.fields for row in rows] == [
        {"custom_id": "7", "prompt": "x {of} y: x"},
        {"custom_id": "8", "prompt": " {of} z: "},
    ]
