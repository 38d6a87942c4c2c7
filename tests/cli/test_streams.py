"""Laws of standard streams: formats of their own, and pipes that nothing drives."""

import io
import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_command import COMMAND as FAKE

from aobatch.cli.options import STREAM_FORMATS
from aobatch.formats import COMPRESSIONS, FORMATS

COMMAND = [*FAKE, "0", "run", "-q"]
LINES = b'{"prompt":"a"}\n{"prompt":"b"}\n'
TEXTS = ["[a]", "[b]"]


def run(folder: Path, *arguments: str, text: bytes = b"", code: int = 0) -> bytes:
    """Run the command in a folder; give what it writes to standard output, or says."""
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=folder, input=text, capture_output=True, check=False
    )
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


def texts(lines: bytes) -> list[str]:
    """Give the texts of output lines."""
    return [json.loads(line)["choices"][0]["text"] for line in lines.splitlines()]


def table(**columns: list[str]) -> bytes:
    """Write a table as the bytes of a Parquet file."""
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def test_formats_are_those_of_files() -> None:
    """Whatever a file can be by its suffix, a stream can be by the option."""
    known = {"jsonl", "parquet", "csv", "csv.gz", "csv.zst", "tsv"}
    known |= {f"jsonl{suffix}" for suffix in COMPRESSIONS}

    assert set(STREAM_FORMATS) == known
    assert {f".{name.partition('.')[0]}" for name in STREAM_FORMATS} == {*FORMATS} - {".ndjson"}


@pytest.mark.parametrize("name", STREAM_FORMATS)
def test_streams_have_the_format_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What comes out of one run goes into a file of the suffix, and is the same there."""
    (tmp_path / "in.jsonl").write_bytes(LINES)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    written = run(tmp_path, "in.jsonl", "-o", "-", "--format", name)
    run(tmp_path, "in.jsonl", "-o", f"out.{name}")

    assert written == (tmp_path / f"out.{name}").read_bytes()
    again = run(tmp_path, "-", "-o", f"again.{name}", "--format", name, text=encoded(name))
    assert again == b""
    found = (tmp_path / f"again.{name}").read_bytes()
    if name == "parquet":  # whose metadata names the input
        assert pq.read_table(io.BytesIO(found)).equals(pq.read_table(io.BytesIO(written)))
    else:
        assert found == written


def encoded(name: str) -> bytes:
    """Give the requests in a format."""
    if name == "parquet":
        return table(prompt=["a", "b"])
    codec = COMPRESSIONS.get(f".{name.partition('.')[2]}")
    sink = pa.BufferOutputStream()
    is_table = name.startswith(("csv", "tsv"))
    with pa.output_stream(sink, compression=codec) as stream:
        stream.write(b"prompt\na\nb\n" if is_table else LINES)
    return bytes(sink.getvalue())


def test_columns_of_a_piped_table_are_named(tmp_path: Path) -> None:
    """`--column` holds for standard input as for a file."""
    arguments = ["--format", "parquet", "--column", "prompt=text", "-o", "out.jsonl"]

    run(tmp_path, "-", *arguments, text=table(text=["a", "b"]))

    assert texts((tmp_path / "out.jsonl").read_bytes()) == TEXTS


def test_format_of_named_files_is_in_their_names(tmp_path: Path) -> None:
    """The option without a stream is a slip."""
    (tmp_path / "in.jsonl").write_bytes(LINES)

    said = run(tmp_path, "in.jsonl", "--format", "parquet", code=2)

    assert b"--format is for an IN or OUT that is -" in said


def test_damaged_stream_is_an_error_of_the_input(tmp_path: Path) -> None:
    """What is not what it is said to be ends with exit code 65."""
    said = run(tmp_path, "-", "-o", "out.jsonl", "--format", "parquet", text=LINES, code=65)

    assert b"standard input has lines of JSON and is not Parquet" in said


@pytest.mark.parametrize("options", [["-i", "in.jsonl"], ["--input-file=in.jsonl"]], ids=str)
def test_command_lines_of_other_tools_run(tmp_path: Path, options: list[str]) -> None:
    """An input may stand behind -i, and is the same as one that stands alone."""
    (tmp_path / "in.jsonl").write_bytes(LINES)

    run(tmp_path, *options, "-o", "out.jsonl", "--model", "fake")

    assert texts((tmp_path / "out.jsonl").read_bytes()) == TEXTS


def test_inputs_of_both_kinds_are_one_job(tmp_path: Path) -> None:
    """Those behind -i come first."""
    for name in "abc":
        (tmp_path / f"{name}.jsonl").write_text(f'{{"prompt":"{name}"}}\n')

    written = run(tmp_path, "c.jsonl", "-i", "b.jsonl", "-i", "a.jsonl", "-o", "-")

    assert texts(written) == ["[b]", "[a]", "[c]"]


REQUESTS = '{"prompt": "a", "max_tokens": 3, "user": "ada"}\n{"prompt": "b", "n": 0}\n'
COMMANDS = (
    (1, "run", "in.jsonl"),
    (0, "run", "in.jsonl", "-o", "-", "--max-failures", "1"),
    (1, "validate", "in.jsonl"),
    (0, "status", "in.out.jsonl"),
    (0, "report", "in.out.jsonl"),
    (0, "report", "in.out.jsonl", "--markdown", "-"),
    (0, "models", "list"),
    (0, "models", "inspect", "smollm2-135m-instruct"),
    (0, "complete", "a", "--max-tokens", "3", "--stream"),
    (0, "bench", "--job", "in.jsonl", "--rounds", "1"),
    (0, "config", "show"),
    (0, "doctor"),
    (0, "--version"),
    (2, "run", "in.jsonl", "--no-such-option"),
    (66, "run", "gone.jsonl"),
)
"""Exit codes and arguments, one after another in one folder."""


def run_all(
    folder: Path, command: Path, models: Path, count: int = len(COMMANDS), **variables: str
) -> dict[tuple[str, ...], bytes]:
    """Run the first commands; give all that each has written."""
    environment = {**os.environ, "AOBATCH_MODELS": str(models), "TERM": "xterm-256color"}
    environment = {k: v for k, v in environment.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    (folder / "in.jsonl").write_text(REQUESTS)
    said = {}
    for code, *arguments in COMMANDS[:count]:
        result = subprocess.run(
            [command, *map(str, arguments)],
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            check=False,
        )
        assert result.returncode == code, (arguments, result.stderr)
        said[tuple(map(str, arguments))] = result.stdout + result.stderr
    return said


def test_pipes_get_no_control_characters(tmp_path: Path, command: Path, tiny_home: Path) -> None:
    """Every command writes whole lines of printable text, whatever the terminal could do."""
    for arguments, text in run_all(tmp_path, command, tiny_home).items():
        assert text.replace(b"\n", b"").decode().isprintable(), arguments
        assert text.endswith(b"\n"), arguments


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
    ids=str,
)
def test_colours_can_be_forced(
    tmp_path: Path, command: Path, variables: dict[str, str], is_coloured: bool, tiny_home: Path
) -> None:
    """FORCE_COLOR colours reports in a pipe, and draws no bar there; NO_COLOR is the stronger."""
    said = run_all(tmp_path, command, tiny_home, 5, **variables)
    report = said["report", "in.out.jsonl"]

    assert (b"\x1b[2m" in report) == is_coloured
    assert all(b"\r" not in text for text in said.values())
    for text in said.values():
        plain = text.replace(b"\x1b[", b"")
        assert plain.replace(b"\n", b"").decode().isprintable()
