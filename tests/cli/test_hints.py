"""Laws of hints: a mistake on the command line is told with what was probably meant."""

import json
from pathlib import Path

import pytest
from fake_command import Invoke


@pytest.fixture(autouse=True)
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of one job, where commands are."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n')
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run in.jsonl --max-tokens 5", "say it of all lines with --default max_tokens=5"),
        ("run in.jsonl --top-p", "say it of all lines with --default top_p=VALUE"),
        ("run in.jsonl --max-new-tokens 7", "--default max_tokens=7"),
        ("validate in.jsonl --temperature 0", "--default temperature=0"),
        ("run in.jsonl --dri-run", "Did you mean '--dry-run'?"),
        ("complete hi --topP 1", "Did you mean '--top-p'?"),
        ("runn in.jsonl", "No such command 'runn'. Did you mean 'run'?"),
        ("models pul", "No such command 'pul'. Did you mean 'pull'?"),
    ],
)
def test_misspelt_command_line_gets_a_hint(invoke: Invoke, arguments: str, words: str) -> None:
    """Options and commands that do not exist name those that do, fields of requests their way."""
    assert words in invoke(*arguments.split(), code=2).stderr


@pytest.mark.parametrize("arguments", ["run in.jsonl --zzz", "qqq", "run in.jsonl --in-format"])
def test_no_hint_where_nothing_is_like_it(invoke: Invoke, arguments: str) -> None:
    """A hint that is not sure is none."""
    told = invoke(*arguments.split(), code=2).stderr

    assert "No such" in told
    assert "Did you mean" not in told


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SmolLM2-135M-Instruct", "Did you mean 'smollm2-135m-instruct'?"),
        ("smollm2-135", "Did you mean 'smollm2-135m-instruct'?"),
        ("gemma", "Did you mean 'gemma-3-270m'?"),
        ("gpt-3.5-turbo", "Did you mean 'smollm2-135m-instruct'?"),
        ("some-org/A.Model-7b", "get it with `aobatch models pull some-org/A.Model-7b`"),
    ],
)
def test_model_that_is_not_there_gets_a_hint(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    """Beginnings, other cases, aliases and names of Hugging Face lead to what to do."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))

    assert words in invoke("run", "in.jsonl", "-m", name, code=69).stderr


def test_output_that_is_a_folder_is_told(invoke: Invoke) -> None:
    """It needs no suffix, but a name of a file."""
    told = invoke("run", "in.jsonl", "-o", ".", code=73).stderr

    assert "the output . is a folder; name a file in it" in told


def test_wrong_variable_is_told_by_its_name(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks for the option on the command line does not find it there."""
    monkeypatch.setenv("AOBATCH_RUN_THREADS", "many")

    told = invoke("run", "in.jsonl", code=2).stderr

    assert "Invalid value for the variable AOBATCH_RUN_THREADS: 'many'" in told


def test_misspelt_variable_is_warned_of(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would do nothing, and nobody would know; others are no business of ours."""
    monkeypatch.setenv("AOBATCH_VALIDATE_THREAD", "1")
    monkeypatch.setenv("AOBATCH_RUN_WHATEVER", "1")

    told = invoke("validate", "in.jsonl").stderr

    assert "AOBATCH_VALIDATE_THREAD is of no option and does nothing; did you mean" in told
    assert "AOBATCH_VALIDATE_THREADS?" in told
    assert "WHATEVER" not in told


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--threads", "x"], ["-o"]])
def test_errors_of_usage_are_json_too(invoke: Invoke, arguments: list[str]) -> None:
    """Who reads a log by lines of JSON reads the first mistake, too."""
    told = invoke("run", "in.jsonl", "--log-format", "json", *arguments, code=2).stderr

    (entry,) = map(json.loads, told.splitlines())
    assert (entry["level"], entry["event"]) == ("error", "end")
    assert entry["message"]
