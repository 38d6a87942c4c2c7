"""Laws of settings: option wins over variable, variable over file, file over default."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.cli import run as module


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[module.RunOptions]]:
    """Give the options of the runs that reach the engine."""
    options: list[module.RunOptions] = []

    def open_backend(given: module.RunOptions, _stages: object) -> FakeBackend:
        options.append(given)
        return FakeBackend()

    monkeypatch.setattr(module, "open_backend", open_backend)
    return options


def run(invoke: Invoke, *arguments: str, code: int = 0, **variables: str) -> Result:
    """Run an empty job."""
    return invoke("run", "-", "-o", "-", *arguments, code=code, input="", env=variables)


def write(text: str, name: str = "aobatch.toml") -> None:
    """Write a settings file into the working folder."""
    Path(name).write_text(text)


def test_precedence_is_option_variable_file_default(
    invoke: Invoke, seen: list[module.RunOptions]
) -> None:
    """Each of the four is taken when those above it are silent."""
    run(invoke)
    write("[run]\nseed = 1\n")
    run(invoke)
    run(invoke, AOBATCH_RUN_SEED="2")
    run(invoke, "--seed", "3", AOBATCH_RUN_SEED="2")

    assert [options.seed for options in seen] == [0, 1, 2, 3]


def test_every_kind_of_option_can_stand_in_a_file(
    invoke: Invoke, seen: list[module.RunOptions]
) -> None:
    """Flags, sizes, durations, choices and body fields are read; a body field by a table."""
    write(
        """
model = "fake"
threads = 1
[run]
max_failures = 3
time-limit = "2h"
step-timeout = 90
kv-cache-bytes = "1GiB"
kv-cache-dtype = "int8"
prefix-sharing = false
clamp-max-tokens = true
[run.default]
temperature = 0.5
stop = ["a", "b"]
[run.override]
n = 2
"""
    )
    run(invoke, "--default", "n=1")

    (options,) = seen
    assert (options.model, options.threads, options.max_failures) == ("fake", 1, "3")
    assert (options.time_limit, options.step_timeout) == (7200, 90)
    assert (options.kv_cache_bytes, options.kv_cache_dtype) == (2**30, "int8")
    assert (options.prefix_sharing, options.clamp_max_tokens) == (False, True)
    assert options.default == (("n", 1),)
    assert options.override == (("n", 2),)
    run(invoke)
    assert dict(seen[1].default) == {"temperature": 0.5, "stop": ["a", "b"]}


def test_where_the_file_is_found(invoke: Invoke, seen: list[module.RunOptions]) -> None:
    """A named file, else aobatch.toml, else the table of pyproject.toml, and only one of them."""
    write("[tool.aobatch.run]\nseed = 1\nlimit = 9\n[tool.other]\nrun = 1\n", "pyproject.toml")
    run(invoke)
    write("[run]\nseed = 2\n")
    run(invoke)
    write("[run]\nseed = 3\n", "named.toml")
    run(invoke, "-C", "named.toml")
    arguments = ["--config", "named.toml", "run", "-", "-o", "-"]
    invoke(*arguments, input="")

    assert [options.seed for options in seen] == [1, 2, 3, 3]
    assert [options.limit for options in seen] == [9, None, None, None]


@pytest.mark.usefixtures("seen")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[run]\nsead = 1", "aobatch.toml: run.sead is no setting; did you mean seed?"),
        ("[rum]\nseed = 1", "aobatch.toml: rum is no setting; did you mean run?"),
        ("thread = 1", "aobatch.toml: thread is no setting; did you mean threads?"),
        ("[models.pull]\nquite = true", "models.pull.quite is no setting; did you mean quiet?"),
        ("[models]\nquiet = true", "aobatch.toml: models.quiet is no setting"),
        ("run = 1", "aobatch.toml: run is no setting"),
        ("[run]\ninputs = 'a'", "run.inputs is no setting"),
        ("[run]\nseed = 'x'", "run.seed: expected an integer, but got 'x'"),
        ("[run]\nseed = true", "run.seed: expected an integer, but got True"),
        ("[run]\nquiet = 1", "run.quiet: expected true or false, but got 1"),
        ("[run]\nmax-num-seqs = 0", "run.max-num-seqs: 0 is not in the range x>=1"),
        ("[run]\nkv-cache-dtype = 'int4'", "run.kv-cache-dtype: 'int4' is not one of"),
        ("[run]\ndefault = 'n=1'", "run.default: expected a table, but got 'n=1'"),
        ("[bench]\nrounds = 0", "bench.rounds: 0 is not in the range x>=1"),
        ("[run", "settings file aobatch.toml cannot be read"),
    ],
)
def test_slips_name_file_and_key(invoke: Invoke, text: str, words: str) -> None:
    """Whatever is wrong anywhere in the file ends with code 2 and says where it stands."""
    write(text)

    result = run(invoke, code=2)

    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_make_is_told_of_the_settings_file(invoke: Invoke, seen: list[module.RunOptions]) -> None:
    """The file that was found, or named, is among those that the output is made from."""
    Path("in.jsonl").write_text('{"prompt": "a"}\n')
    write("")
    write("", "other.toml")
    command = ["run", "in.jsonl", "--restart", "--depfile", "job.d"]
    for options, name in (([], "aobatch.toml"), (["--config", "other.toml"], "other.toml")):
        invoke(*command, *options)
        rule = Path("job.d").read_text().partition("\n\n")[0]
        assert rule.split(" \\\n  ") == ["in.out.jsonl:", "in.jsonl", name]


def test_make_follows_one_output_of_a_run(invoke: Invoke, seen: list[module.RunOptions]) -> None:
    """A template that names several outputs, and an output elsewhere, have no dependency file."""
    for name in ("a", "b"):
        Path(f"{name}.jsonl").write_text('{"prompt": "a"}\n')
    several = ["run", "a.jsonl", "b.jsonl", "-o", "{stem}.new{ext}"]
    for command in (several, ["run", "a.jsonl", "-o", "s3://bucket/a.jsonl"]):
        result = invoke(*command, "--depfile", "job.d", code=2)
        assert "depfile" in result.stderr
        assert not Path("job.d").exists()


def test_config_show_says_where_values_come_from(invoke: Invoke) -> None:
    """Default, file and variable are told apart, in the table and in the JSON."""
    write("quiet = true\n[run]\nlimit = 5\n[run.default]\nn = 2\n")
    variables = {"AOBATCH_RUN_SEED": "7"}

    shown = invoke("config", "show", "--json", env=variables)
    table = invoke("config", "show", env=variables).stdout

    found = json.loads(shown.stdout)
    rows = {(row["command"], row["name"]): row for row in found["settings"]}
    assert found["file"] == "aobatch.toml"
    expected = [
        ("seed", 7, "variable", "AOBATCH_RUN_SEED"),
        ("limit", 5, "file", "aobatch.toml"),
        ("max-num-seqs", 128, "default", None),
        ("model", None, "default", None),
        ("default", [["n", 2]], "file", "aobatch.toml"),
    ]
    for name, value, source, where in expected:
        row = rows["run", name]
        assert (row["value"], row["source"], row["where"]) == (value, source, where), name
    assert rows["models pull", "quiet"]["source"] == "file"
    assert rows["complete", "temperature"]["source"] == "default"
    (line,) = [line for line in table.splitlines() if line.startswith("run seed ")]
    assert line.split() == ["run", "seed", "7", "variable", "AOBATCH_RUN_SEED"]


def test_version_comes_as_json(invoke: Invoke) -> None:
    """The JSON names aobatch, Python and packages, in whatever order the options stand."""
    for arguments in (["--version", "--json"], ["--json", "--version"]):
        facts = json.loads(invoke(*arguments).stdout)
        assert {"aobatch", "python", "platform", "packages"} == set(facts)
        assert facts["packages"]["onnxruntime"].startswith("1.")
