"""Laws of `aobatch status`, `report` and `merge`."""

import json
from pathlib import Path

import pytest
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.errors import StorageError
from aobatch.models.store.folder import ModelFolder

PRICES = 'currency = "EUR"\n[models.fake]\nprompt = 1000000\ncompletion = 0\n'
LINES = [
    {"prompt": "Once", "max_tokens": 6},
    {"prompt": "Once", "max_tokens": 6},
    {"prompt": ["a", "b"], "n": 2, "max_tokens": 4},
    {"prompt": "Once", "max_tokens": 6, "user": "ada", "stream": True},
    {"prompt": "c", "n": 0},
    {"prompt": "greedy", "temperature": 0, "max_tokens": 5, "logprobs": 2},
    {"prompt": "last", "max_tokens": 3, "best_of": 3},
]


@pytest.fixture
def job(invoke: Invoke, backend: FakeBackend, tmp_path: Path) -> Path:
    """Give the folder of a finished job with one failed line."""
    lines = ['{"prompt":"abc","user":"ada"}', "bad", '{"prompt":"de"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    (tmp_path / "prices.toml").write_text(PRICES)
    invoke("run", "-q", "in.jsonl", code=1)
    return tmp_path


@pytest.mark.usefixtures("job")
def test_table_is_shown_on_standard_output(invoke: Invoke) -> None:
    """Without options the report is a table for people, by model and by user."""
    result = invoke("report", "in.out.jsonl", "--prices", "prices.toml")
    rows = [line.split() for line in result.stdout.splitlines()]

    assert ["fake", "2", "0", "5", "9", "14"] in rows
    assert ["ada", "1", "0", "3", "5", "8"] in rows
    assert ["failed", "1", "invalid_json_line"] in rows
    assert ["cost", "5.0000", "EUR"] in rows
    assert result.stderr == ""


def test_json_is_the_published_report(invoke: Invoke, job: Path) -> None:
    """JSON goes to standard output, or into a file that is named."""
    published = (job / "in.out.jsonl.usage.json").read_text()

    shown = invoke("report", "in.out.jsonl", "--json")
    written = invoke("report", "in.out.jsonl", "--json", "again.json")

    assert shown.stdout == published == (job / "again.json").read_text()
    assert (written.stdout, written.stderr) == ("", "report in again.json\n")


def test_all_forms_come_at_once(invoke: Invoke, job: Path) -> None:
    """A page, Markdown and JSON can be asked for together."""
    arguments = ["--html", "a.html", "--markdown", "-", "--json", "a.json"]
    result = invoke("report", "in.out.jsonl", *arguments)

    assert (job / "a.html").read_text().startswith("<!doctype html>")
    assert result.stdout.startswith("### Usage of `in.out.jsonl`")
    assert json.loads((job / "a.json").read_text())["requests"]["total"] == 3


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["in.out.jsonl", "--html", "-", "--markdown", "-"], 2, "only one form"),
        (["in.out.jsonl", "--html", "no/a.html"], 73, "no/a.html cannot be created"),
        (["in.out.jsonl", "--prices", "in.jsonl"], 2, "prices in.jsonl are not as they should be"),
        (["in.out.jsonl", "--prices", "no.toml"], 66, "no.toml cannot be read"),
        (["no.jsonl"], 66, "no.jsonl is not the output of a job"),
    ],
)
def test_errors_say_what_to_do(invoke: Invoke, arguments: list[str], code: int, words: str) -> None:
    """Each mistake has its sentence and its exit code."""
    assert words in invoke("report", *arguments, code=code).stderr


@pytest.mark.usefixtures("job")
def test_colours_are_left_out_on_request(invoke: Invoke) -> None:
    """A terminal gets colours, one with NO_COLOR does not, and the text is the same."""
    painted = invoke("report", "in.out.jsonl", color=True)
    plain = invoke("report", "in.out.jsonl", color=True, env={"NO_COLOR": "1"})

    assert "\x1b[31mfailed" in painted.stdout
    assert "\x1b" not in plain.stdout
    assert "failed" in plain.stdout


def test_prices_of_a_finished_job_reach_its_report(invoke: Invoke, job: Path) -> None:
    """A job that is run again with prices computes nothing and has its cost in the report."""
    invoke("run", "-q", "in.jsonl", "--prices", "prices.toml", code=1)

    cost = json.loads((job / "in.out.jsonl.usage.json").read_text())["cost"]
    assert (cost["total"], cost["currency"]) == (5.0, "EUR")


def test_status_follows_a_job(invoke: Invoke, backend: FakeBackend, tmp_path: Path) -> None:
    """Interrupted, then finished; as a sentence and as JSON."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"a"}\n{"prompt":"b"}\n')
    backend.explosion, backend.explodes_at = StorageError("full"), 1
    invoke("run", "in.jsonl", code=74)
    stopped = invoke("status", "in.out.jsonl")
    backend.explosion = None
    invoke("run", "in.jsonl")
    finished = invoke("status", "in.out.jsonl", "--json")

    assert "was interrupted; run the same command again: 1 of 2 lines answered" in stopped.stdout
    assert json.loads(finished.stdout)["state"] == "finished"


def test_status_of_nothing_exits_with_66(invoke: Invoke) -> None:
    """An output that no job wrote is a missing input."""
    result = invoke("status", "no.jsonl", code=66)

    assert "not the output of a job" in result.stderr


def test_shards_of_a_model_merge_into_its_bytes(
    invoke: Invoke, tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws, equal requests, streams and failures come out as from the undivided job."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    command = ["run", "-q", "in.jsonl", "-m", str(tiny_int8.path), "--max-failures", "1"]
    for part in ((), ("--shard", "0/3"), ("--shard", "1/3"), ("--shard", "2/3")):
        invoke(*command, *part)
    shards = sorted(path.name for path in tmp_path.glob("in.out-*.jsonl"))

    merged = invoke("merge", *shards, "-o", "merged.jsonl")

    assert "answers in merged.jsonl" in merged.stderr
    assert merged.stdout == ""
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "in.out.jsonl").read_bytes()
    events = [
        (tmp_path / f"{name}.stream/000004.sse").read_bytes()
        for name in ("in.out.jsonl", "merged.jsonl")
    ]
    assert events[0] == events[1] != b""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.jsonl", "-o", "out.jsonl"], 66, "shard gone.jsonl does not exist"),
        (["plain.jsonl", "-o", "out.jsonl"], 65, "is not the output of a finished shard"),
        (["plain.jsonl"], 2, "Missing option '-o'"),
    ],
)
def test_what_is_no_shard_is_refused(
    invoke: Invoke, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    """Each mistake has its sentence and exit code, and nothing is written."""
    (tmp_path / "plain.jsonl").write_text("{}\n")

    result = invoke("merge", *arguments, code=code)

    assert result.stdout == ""
    assert words in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
