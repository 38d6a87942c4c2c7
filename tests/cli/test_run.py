"""Laws of `aobatch run`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import FakeBackend

from aobatch.cli import run as module
from aobatch.cli.command import EXIT_CODES
from aobatch.cli.main import aobatch


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Give a folder with a good input and one with a bad line."""
    (tmp_path / "good.jsonl").write_text('{"prompt":"a"}\n{"prompt":"b","user":"ada"}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt":"a"}\nnonsense\n')
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.mark.usefixtures("backend", "jobs")
def test_output_and_report_stand_beside_the_input(runner: CliRunner, jobs: Path) -> None:
    """Without options the answers go to good.out.jsonl; standard output stays empty."""
    result = runner.invoke(aobatch, ["run", "good.jsonl"])

    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "answers in good.out.jsonl, report in good.out.jsonl.usage.json" in result.stderr
    assert len((jobs / "good.out.jsonl").read_bytes().splitlines()) == 2
    assert json.loads((jobs / "good.out.jsonl.usage.json").read_bytes())["requests"]["total"] == 2


@pytest.mark.usefixtures("backend", "jobs")
def test_only_answers_go_to_standard_output(runner: CliRunner) -> None:
    """With -o - every line on standard output is an answer."""
    result = runner.invoke(aobatch, ["run", "-", "-o", "-"], input='{"prompt":"a"}\n')

    assert [json.loads(line)["object"] for line in result.stdout.splitlines()] == [
        "text_completion"
    ]
    assert "new tokens a second" in result.stderr


@pytest.mark.usefixtures("backend", "jobs")
def test_quiet_success_says_nothing(runner: CliRunner) -> None:
    """A cron job that succeeds sends no mail, whether there was something to do or not."""
    for _ in range(2):
        result = runner.invoke(aobatch, ["run", "-q", "good.jsonl"])

        assert (result.exit_code, result.output) == (0, "")


@pytest.mark.usefixtures("backend", "jobs")
@pytest.mark.parametrize(
    ("allowed", "code"), [("0", 1), ("1", 0), ("49%", 1), ("50%", 0), (None, 1)]
)
def test_failures_over_the_allowance_exit_1(
    runner: CliRunner, jobs: Path, allowed: str | None, code: int
) -> None:
    """The output is published all the same, and a repeated run says the same."""
    arguments = ["run", "bad.jsonl", "-q", *(["--max-failures", allowed] if allowed else [])]

    for _ in range(2):
        result = runner.invoke(aobatch, arguments)
        assert result.exit_code == code
        assert ("1 of 2 lines failed" in result.stderr) == bool(code)
    assert len((jobs / "bad.out.jsonl").read_bytes().splitlines()) == 2


@pytest.mark.usefixtures("backend", "jobs")
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
        (["good.jsonl", "-m", "gone"], 69, "error: gone"),
        ([], 2, "Missing argument 'IN...'"),
    ],
)
def test_errors_say_what_to_do(
    runner: CliRunner, arguments: list[str], code: int, words: str
) -> None:
    """Each mistake has its sentence on standard error and its exit code."""
    result = runner.invoke(aobatch, ["run", *arguments])

    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert result.stdout == ""


def test_defaults_are_json(runner: CliRunner, backend: FakeBackend, jobs: Path) -> None:
    """Defaults of the job fill what lines leave out; text that is no JSON is a string."""
    arguments = ["--default", "n=1", "--default", "prompt=from the job", "--seed", "3"]
    (jobs / "bare.jsonl").write_text("{}\n")

    result = runner.invoke(aobatch, ["run", "bare.jsonl", "-o", "-", *arguments])

    assert json.loads(result.stdout)["choices"][0]["text"] == "[from the job]"
    assert len(backend.computed) == 1


@pytest.mark.usefixtures("backend", "jobs")
def test_options_come_from_the_environment(runner: CliRunner, jobs: Path) -> None:
    """AOBATCH_RUN_OUTPUT stands for --output."""
    result = runner.invoke(aobatch, ["run", "good.jsonl"], env={"AOBATCH_RUN_OUTPUT": "x.jsonl"})

    assert result.exit_code == 0
    assert (jobs / "x.jsonl").exists()


@pytest.mark.usefixtures("jobs")
def test_finished_job_says_so(runner: CliRunner, backend: FakeBackend) -> None:
    """A second run tells that there was nothing to do."""
    runner.invoke(aobatch, ["run", "good.jsonl"])

    result = runner.invoke(aobatch, ["run", "good.jsonl"])

    assert result.exit_code == 0
    assert result.stderr == "good.out.jsonl was finished already\n"
    assert len(backend.opened) == 1


def test_help_lists_the_exit_codes(runner: CliRunner) -> None:
    """Every exit code and its meaning is in the help of the command."""
    text = " ".join(runner.invoke(aobatch, ["run", "--help"]).stdout.split())

    for code, meaning in EXIT_CODES.items():
        assert f"{code} {meaning}" in text


def test_help_shows_every_option_once(runner: CliRunner) -> None:
    """No option is lost between the groups of the help, and none stands there twice."""
    lines = runner.invoke(aobatch, ["run", "--help"]).stdout.splitlines()

    for option in (name for parameter in module.run.params for name in parameter.opts):
        if option.startswith("--"):
            starts = [line for line in lines if f"{option} " in f"{line[:38]} " and line[2] == "-"]
            assert len(starts) == 1, option


def test_options_reach_the_engine(monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> None:
    """Sizes and modes become the engine's configuration; those that shape results are settings."""
    seen = {}
    opened = module.open_backend

    def spy(options: module.RunOptions, stages: object) -> FakeBackend:
        seen["local"] = opened(options, stages)  # type: ignore[arg-type]
        return FakeBackend()

    monkeypatch.setattr(module, "open_backend", spy)
    arguments = ["--kv-cache-bytes", "1.5MiB", "--max-num-seqs", "7", "--threads", "1"]
    arguments += ["--seed", "5", "--clamp-max-tokens", "--logprobs-mode", "processed"]
    arguments += ["--kv-cache-dtype", "int8"]
    result = runner.invoke(aobatch, ["run", "-", "-o", "-", *arguments], input="")

    assert result.exit_code == 0, result.output
    config = seen["local"].config
    assert (config.kv_cache_bytes, config.max_num_seqs) == (3 * 2**19, 7)
    assert seen["local"].settings == {
        "seed": 5,
        "clamp_max_tokens": True,
        "logprobs_mode": "processed",
        "kv_cache_dtype": "int8",
    }


@pytest.mark.usefixtures("backend")
def test_lines_can_be_chosen(runner: CliRunner, tmp_path: Path) -> None:
    """Parts of a job are named by their shard, and each line is in one of them."""
    lines = [f'{{"prompt":"p{i}"}}\n' for i in range(5)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    arguments = ["run", "-q", "in.jsonl", "--override", "n=1"]
    for part in ("0/2", "1/2"):
        assert runner.invoke(aobatch, [*arguments, "--shard", part]).exit_code == 0
    limited = runner.invoke(aobatch, [*arguments, "--limit", "2", "-o", "-"])
    sampled = runner.invoke(aobatch, [*arguments, "--sample", "3", "-o", "-"])

    counts = [
        len((tmp_path / f"in.out-{part}-of-00002.jsonl").read_text().splitlines())
        for part in ("00000", "00001")
    ]
    assert counts == [3, 2]
    assert [len(result.stdout.splitlines()) for result in (limited, sampled)] == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--limit", "2", "--sample", "2"], "give one of them"),
        (["--limit", "0"], "0 is not in the range"),
        (["--shard", "2/2"], "is no shard"),
        (["--override", "n"], "not NAME=VALUE"),
    ],
)
def test_wrong_choices_are_refused(runner: CliRunner, arguments: list[str], words: str) -> None:
    """What cannot be chosen is an error of usage."""
    result = runner.invoke(aobatch, ["run", "-", "-o", "-", *arguments], input="")

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
