"""Laws of written files: none is also another file of the run, and all can be created."""

import os
from pathlib import Path

import pytest
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.errors import StorageError

LINES = '{"prompt":"a","stream":true}\n{"prompt":"b"}\n'
RUN = {
    "input": "in.jsonl",
    "output": "out.jsonl",
    "errors": "errors.jsonl",
    "summary": "s.json",
    "metrics": "m.prom",
    "depfile": "job.d",
    "prices": "prices.toml",
    "settings": "aobatch.toml",
    "report": "out.jsonl.usage.json",
    "stream": "out.jsonl.stream",
    "event": "out.jsonl.stream/000001.sse",
    "state": "out.jsonl.aobatch",
    "ledger": "out.jsonl.aobatch/ledger.sqlite3",
}
"""Every file and folder that a run reads or writes."""
OPTIONS = {
    "output": "--output",
    "errors": "--errors",
    "summary": "--summary-file",
    "metrics": "--metrics-file",
    "depfile": "--depfile",
}
"""The options of a run that write a file, by what they write."""
PAIRS = [(what, other) for what in OPTIONS for other in RUN if what != other]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with what a run reads, in which one has run already."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(LINES)
    Path("prices.toml").write_text('currency = "EUR"\n[models]\n')
    Path("aobatch.toml").write_text("[run]\nmax-failures = 0\n")
    return tmp_path


def arguments(**named: str) -> list[str]:
    """Write a command line that names every file."""
    files = RUN | named
    options = [part for what, option in OPTIONS.items() for part in (option, files[what])]
    return ["run", "-q", files["input"], "--prices", files["prices"], *options]


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files but those that a run writes to say how it ended."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("s.json", "m.prom")
    }


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize(("what", "other"), PAIRS)
def test_no_file_is_written_that_is_also_another_one(
    invoke: Invoke, folder: Path, what: str, other: str, has_run: bool
) -> None:
    """Exit code 2, one sentence that names the option, and no file is touched.

    An output with the name of a folder has no other folders beside it; that it is one is told.
    """
    if has_run:
        invoke(*arguments())
    before = contents(folder)

    is_folder = has_run and what == "output" and other in {"stream", "state"}
    result = invoke(*arguments(**{what: RUN[other]}), code=73 if is_folder else 2)

    assert contents(folder) == before
    (line,) = result.stderr.splitlines()
    assert RUN[other] in line
    told = ("no known suffix", "is a folder", *OPTIONS.values())
    assert any(words in line for words in told)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", ["dots", "link", "hard link"])
@pytest.mark.parametrize(("what", "other"), [("summary", "input"), ("errors", "output")])
def test_other_names_of_a_file_are_known(
    invoke: Invoke, folder: Path, what: str, other: str, how: str
) -> None:
    """A file is what it is, however its name is written."""
    invoke(*arguments())
    name = f"../{folder.name}/{RUN[other]}"
    if how == "link":
        (folder / "name.jsonl").symlink_to(RUN[other])
    elif how == "hard link":
        (folder / "name.jsonl").hardlink_to(RUN[other])
    before = contents(folder)

    invoke(*arguments(**{what: name if how == "dots" else "name.jsonl"}), code=2)

    assert contents(folder) == before


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("other", [name for name in RUN if name not in ("summary", "metrics")])
def test_a_wrong_command_line_writes_no_file_of_the_run(
    invoke: Invoke, folder: Path, other: str
) -> None:
    """A command line that ends ahead of its jobs does not replace what may be theirs."""
    invoke(*arguments())
    before = contents(folder)

    invoke(*arguments(summary=RUN[other]), "--no-such-option", code=2)
    invoke(*arguments(metrics=RUN[other]), "--max-failures", "many", code=2)

    assert contents(folder) == before


@pytest.mark.usefixtures("backend", "folder")
def test_pipes_may_be_named_twice(invoke: Invoke) -> None:
    """What is no regular file is written to as it is, and nothing is lost in it."""
    os.mkfifo("pipe")
    descriptor = os.open("pipe", os.O_RDWR)
    invoke(*arguments(summary="pipe", metrics="pipe"))

    assert Path("pipe").is_fifo()
    written = os.read(descriptor, 2**16).decode()
    os.close(descriptor)
    assert written.startswith('{"state":"finished"')
    assert "aobatch_exit_code" in written


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "other", ["output", "report", "stream", "event", "state", "ledger", "prices", "settings"]
)
@pytest.mark.parametrize("form", ["json", "html", "markdown"])
def test_a_report_replaces_no_file_of_its_job(
    invoke: Invoke, folder: Path, form: str, other: str
) -> None:
    """Nor an input, which is known by its name alone, nor another form of the report."""
    invoke(*arguments())
    before = contents(folder)
    report = ["report", "out.jsonl", "--prices", "prices.toml", f"--{form}"]

    for path in (RUN[other], "in.jsonl"):
        result = invoke(*report, path, code=2)
        assert path in result.stderr
    twice = "--html" if form == "json" else "--json"
    invoke(*report, "r.txt", twice, "r.txt", code=2)

    assert contents(folder) == before


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "other", ["shard", "its state", "its events", "prices.toml", "aobatch.toml"]
)
def test_shards_are_not_merged_into_what_is_read(invoke: Invoke, folder: Path, other: str) -> None:
    """The output is no shard, nor settings or prices."""
    for index in range(2):
        invoke("run", "-q", "in.jsonl", "--shard", f"{index}/2")
    shards = sorted(path.name for path in folder.glob("in.out-*.jsonl"))
    names = {"shard": shards[0], "its state": f"{shards[0]}.aobatch/o.jsonl"}
    name = names.get(other, other)
    if other == "its events":
        name = f"{shards[0]}.stream/o.jsonl"
    before = contents(folder)

    invoke("merge", *shards, "-o", name, "--prices", "prices.toml", code=2)

    assert contents(folder) == before


@pytest.mark.parametrize("what", [*OPTIONS, "report"])
@pytest.mark.parametrize("obstacle", ["folder", "link into a missing folder"])
def test_what_cannot_be_created_is_told_first(
    invoke: Invoke, folder: Path, backend: FakeBackend, what: str, obstacle: str
) -> None:
    """Nothing is computed for a run one of whose files could not appear in the end."""
    if obstacle == "folder":
        (folder / RUN[what]).mkdir()
    else:
        (folder / RUN[what]).symlink_to("no/such/file.jsonl")

    result = invoke(*arguments(), code=73)

    (line,) = result.stderr.splitlines()
    assert RUN[what] in line or "no/such" in line
    assert backend.computed == []


@pytest.mark.usefixtures("backend", "folder")
def test_shards_have_files_of_errors_of_their_own(invoke: Invoke) -> None:
    """One that every shard would replace is refused; names of one's own are one's own business."""
    shard = ["run", "-q", "in.jsonl", "--shard", "0/2"]

    assert "{shard}" in invoke(*shard, "--errors", "e.jsonl", code=2).stderr
    assert "{shard}" in invoke(*shard, "-o", "{shard}.jsonl", "--errors", "e.jsonl", code=2).stderr
    invoke(*shard, "-o", "{shard}.jsonl", "--errors", "e{shard}.jsonl")
    invoke(*shard, "-o", "first.jsonl", "--errors", "e.jsonl")


@pytest.mark.usefixtures("folder")
def test_a_run_without_results_binds_no_other(invoke: Invoke, backend: FakeBackend) -> None:
    """What a first command line asked for in vain is not held against the corrected one."""
    invoke("run", "-q", "in.jsonl", "--model", "nope", code=69)
    invoke("run", "-q", "in.jsonl", "--model", "nope", "--default", "n=2", code=69)
    backend.explosion, backend.explodes_at = StorageError("the disk is full"), 0
    backend.settings["seed"] = 3
    invoke("run", "-q", "in.jsonl", "--model", "other", code=74)
    backend.explosion, backend.settings["seed"] = None, 0

    invoke("run", "-q", "in.jsonl")

    assert '"model":"fake"' in Path("in.out.jsonl").read_text()
