"""Laws of `aobatch run`, over single files, many, tables and stores."""

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.cli import run as module
from aobatch.cli.command import EXIT_CODES


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Give a folder with a good input and one with a bad line."""
    (tmp_path / "good.jsonl").write_text('{"prompt":"a"}\n{"prompt":"b","user":"ada"}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt":"a"}\nnonsense\n')
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with two inputs of lines and a table, one line of which is bad."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"prompt":"a"}\n')
    (folder / "b.jsonl").write_text('{"prompt":"b"}\nnonsense\n')
    pq.write_table(pa.table({"text": ["c"], "label": [1.5]}), folder / "c.parquet")
    return folder


@pytest.mark.usefixtures("backend", "jobs")
def test_output_and_report_stand_beside_the_input(invoke: Invoke, jobs: Path) -> None:
    """Without options the answers go to good.out.jsonl; standard output stays empty."""
    result = invoke("run", "good.jsonl")

    assert result.stdout == ""
    assert "answers in good.out.jsonl, report in good.out.jsonl.usage.json" in result.stderr
    assert len((jobs / "good.out.jsonl").read_bytes().splitlines()) == 2
    assert json.loads((jobs / "good.out.jsonl.usage.json").read_bytes())["requests"]["total"] == 2


@pytest.mark.usefixtures("backend", "jobs")
def test_only_answers_go_to_standard_output(invoke: Invoke) -> None:
    """With -o - every line on standard output is an answer."""
    result = invoke("run", "-", "-o", "-", input='{"prompt":"a"}\n')

    assert [json.loads(line)["object"] for line in result.stdout.splitlines()] == [
        "text_completion"
    ]
    assert "new tokens a second" in result.stderr


@pytest.mark.usefixtures("backend", "jobs")
def test_quiet_success_says_nothing(invoke: Invoke) -> None:
    """A cron job that succeeds sends no mail, whether there was something to do or not."""
    for options in ([], [], ["--log-format", "json"]):
        assert invoke("run", "-q", "good.jsonl", *options).output == ""


@pytest.mark.usefixtures("backend", "jobs")
@pytest.mark.parametrize(
    ("allowed", "code"), [("0", 1), ("1", 0), ("49%", 1), ("50%", 0), (None, 1)]
)
def test_failures_over_the_allowance_exit_1(
    invoke: Invoke, jobs: Path, allowed: str | None, code: int
) -> None:
    """The output is published all the same, and a repeated run says the same."""
    arguments = ["run", "bad.jsonl", "-q", *(["--max-failures", allowed] if allowed else [])]

    for _ in range(2):
        result = invoke(*arguments, code=code)
        assert ("1 of 2 lines failed" in result.stderr) == bool(code)
    assert len((jobs / "bad.out.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.usefixtures("backend", "jobs", "folder")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no.jsonl"], 66, "input no.jsonl does not exist"),
        (["notes.txt"], 2, "notes.txt has no known suffix"),
        (["good.jsonl", "bad.jsonl"], 2, "name it with --output"),
        (["good.jsonl", "-o", "no/out.jsonl"], 73, "does not exist; create it"),
        (["good.jsonl", "--default", "temperature=9"], 2, "'temperature'"),
        (["good.jsonl", "--default", "temperature"], 2, "not NAME=VALUE"),
        (["good.jsonl", "--default", "temprature=1"], 2, "Did you mean 'temperature'?"),
        (["good.jsonl", "--max-failures", "many"], 2, "'many' is not a number of lines"),
        (["good.jsonl", "--kv-cache-bytes", "big"], 2, "not a size such as 4GiB"),
        (["good.jsonl", "-m", "gone"], 69, "'gone' does not exist"),
        ([], 2, "Missing argument 'IN...'"),
        (["good.jsonl", "--limit", "2", "--sample", "2"], 2, "give one of them"),
        (["good.jsonl", "--limit", "0"], 2, "0 is not in the range"),
        (["good.jsonl", "--shard", "2/2"], 2, "is no shard"),
        (["good.jsonl", "--override", "n"], 2, "not NAME=VALUE"),
        (["in/c.parquet"], 65, "no field of a request: text (did you mean 'prompt'?), label"),
        (["in/c.parquet", "--column", "prompt=label"], 65, "is of type double"),
        (["in/c.parquet", "--column", "promt=text"], 2, "did you mean 'prompt'?"),
        (["in/c.parquet", "--column", "prompt"], 2, "is not FIELD=NAME"),
        (["in/c.parquet", "--column", "prompt=text", "--column", "prompt=label"], 2, "two columns"),
        (["in/a.jsonl", "--column", "prompt=text"], 2, "no input is one"),
        (["in/a.jsonl", "-o", "{name}.jsonl"], 2, "unknown field {name}; known are {dir}"),
        (["in/"], 2, "name it with --output"),
        (["", "-o", "x.jsonl"], 2, "the name is empty"),
        (["in/a.jsonl", "-o", ""], 2, "the name is empty"),
        (["in/*.zip"], 66, "holds no file of requests"),
        (["in/a.jsonl", "--state-dir", "x"], 2, "is for an output that is a URI"),
        (["in/a.jsonl", "-o", "x.parquet.gz"], 2, "compressed inside"),
        (["fsspec+memory://none/a.jsonl"], 66, "input fsspec+memory://none/a.jsonl does not exist"),
        (["no://host/a.jsonl"], 65, "no://host/a.jsonl cannot be opened"),
    ],
)
def test_errors_say_what_to_do(invoke: Invoke, arguments: list[str], code: int, words: str) -> None:
    """Each mistake has its sentence on standard error and its exit code."""
    result = invoke("run", *arguments, code=code)

    assert words in result.stderr
    assert result.stdout == ""


def test_defaults_are_json(invoke: Invoke, backend: FakeBackend, jobs: Path) -> None:
    """Defaults of the job fill what lines leave out; text that is no JSON is a string."""
    arguments = ["--default", "n=1", "--default", "prompt=from the job", "--seed", "3"]
    (jobs / "bare.jsonl").write_text("{}\n")

    result = invoke("run", "bare.jsonl", "-o", "-", *arguments)

    assert json.loads(result.stdout)["choices"][0]["text"] == "[from the job]"
    assert len(backend.computed) == 1


@pytest.mark.usefixtures("backend", "jobs")
def test_options_come_from_the_environment(invoke: Invoke, jobs: Path) -> None:
    """AOBATCH_RUN_OUTPUT stands for --output."""
    invoke("run", "good.jsonl", env={"AOBATCH_RUN_OUTPUT": "x.jsonl"})

    assert (jobs / "x.jsonl").exists()


@pytest.mark.usefixtures("jobs")
def test_finished_job_says_so(invoke: Invoke, backend: FakeBackend) -> None:
    """A second run tells that there was nothing to do."""
    invoke("run", "good.jsonl")

    result = invoke("run", "good.jsonl")

    assert result.stderr == "good.out.jsonl was finished already\n"
    assert len(backend.opened) == 1


def test_help_lists_the_exit_codes(invoke: Invoke) -> None:
    """Every exit code and its meaning is in the help of the command."""
    text = " ".join(invoke("run", "--help").stdout.split())

    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


def test_help_shows_every_option_once(invoke: Invoke) -> None:
    """No option is lost between the groups of the help, and none stands there twice."""
    lines = invoke("run", "--help").stdout.splitlines()

    for option in (name for parameter in module.run.params for name in parameter.opts):
        if option.startswith("--"):
            starts = [line for line in lines if f"{option} " in f"{line[:38]} " and line[2] == "-"]
            assert len(starts) == 1, option


def test_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    """Sizes and modes become the engine's configuration; those that shape results are settings."""
    seen = {}
    opened = module.open_backend

    def spy(options: module.RunOptions, stages: object) -> FakeBackend:
        seen["local"] = opened(options, stages)  # type: ignore[arg-type]
        return FakeBackend()

    monkeypatch.setattr(module, "open_backend", spy)
    arguments = ["--kv-cache-bytes", "1.5MiB", "--max-num-seqs", "7", "--threads", "1"]
    arguments += ["--seed", "5", "--clamp-max-tokens", "--logprobs-mode", "processed"]
    arguments += ["--kv-cache-dtype", "bf16", "--kernels", "fused"]
    invoke("run", "-", "-o", "-", *arguments, input="")

    config = seen["local"].config
    assert (config.kv_cache_bytes, config.max_num_seqs) == (3 * 2**19, 7)
    runner = seen["local"].runner
    assert (runner.kernels, runner.kv_cache_dtype) == ("fused", "bf16")
    assert seen["local"].settings == {
        "seed": 5,
        "clamp_max_tokens": True,
        "logprobs_mode": "processed",
    }


@pytest.mark.usefixtures("backend")
def test_lines_can_be_chosen(invoke: Invoke, tmp_path: Path) -> None:
    """Parts of a job are named by their shard, and each line is in one of them."""
    lines = [f'{{"prompt":"p{i}"}}\n' for i in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    arguments = ["run", "-q", "in.jsonl", "--override", "n=1"]
    for part in ("0/2", "1/2"):
        invoke(*arguments, "--shard", part)
    limited = invoke(*arguments, "--limit", "2", "-o", "-")
    sampled = invoke(*arguments, "--sample", "3", "-o", "-")

    counts = [
        len((tmp_path / f"in.out-{part}-of-00002.jsonl").read_text().splitlines())
        for part in ("00000", "00001")
    ]
    assert counts == [3, 2]
    assert [len(result.stdout.splitlines()) for result in (limited, sampled)] == [2, 3]


@pytest.mark.usefixtures("folder")
def test_patterns_go_into_one_output(invoke: Invoke, backend: FakeBackend) -> None:
    """A quoted pattern is expanded, failed lines are written apart, and a second run finds all."""
    arguments = ["run", "in/*.jsonl", "-o", "in/all.jsonl", "--errors", "in/bad.jsonl"]

    for _ in range(2):
        result = invoke(*arguments, code=1)

    lines = Path("in/all.jsonl").read_bytes().splitlines()
    assert len(lines) == 3
    assert Path("in/bad.jsonl").read_bytes().splitlines() == [lines[2]]
    assert "in/all.jsonl was finished already" in result.stderr
    assert len(backend.computed) == 2


@pytest.mark.usefixtures("folder")
def test_each_file_of_a_folder_has_its_output(invoke: Invoke, backend: FakeBackend) -> None:
    """A template with {stem} runs a job for each file; their failures count together."""
    arguments = ["run", "in/", "-o", "{dir}/{stem}.out{ext}", "--column", "prompt=text"]

    invoke(*arguments, "--max-failures", "1")
    second = invoke(*arguments, code=1)

    assert "1 of 4 lines failed" in second.stderr
    assert second.stderr.count("was finished already") == 3
    names = {path.name for path in Path("in").glob("*.out.*") if path.is_file()}
    assert {"a.out.jsonl", "b.out.jsonl", "c.out.parquet"} <= names
    assert pq.read_table("in/c.out.parquet").column("text").to_pylist() == ["[c]"]
    assert len(backend.computed) == 3


@pytest.mark.usefixtures("backend")
def test_jobs_of_a_store_are_found_by_their_uri(invoke: Invoke) -> None:
    """Status and report of a remote output are those of the state that is kept here."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/aobatch-cli/a.jsonl", b'{"prompt":"a"}\n')
    output = "fsspec+memory://aobatch-cli/a.out.jsonl"
    try:
        result = invoke("run", "fsspec+memory://aobatch-cli/a.jsonl")
        assert f"answers in {output}, report in {output}.usage.json" in result.stderr
        assert memory.cat("/aobatch-cli/a.out.jsonl").count(b"\n") == 1
    finally:
        memory.rm("/aobatch-cli", recursive=True)

    status = invoke("status", output)
    report = invoke("report", output, "--json")

    assert f"{output} is finished: 1 of 1 lines answered" in status.stdout
    assert json.loads(report.stdout)["requests"]["total"] == 1
    invoke("status", output, "--state-dir", "other", code=66)
