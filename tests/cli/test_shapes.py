"""Laws of shapes on the command line: from files, for whole jobs, checked ahead, resumed."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_command import Invoke

from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}}
SCHEMA |= {"required": ["n"], "additionalProperties": False}
ANSWER = re.compile(r'\{"n": ?[0-9]\}')

LINES = [
    {"prompt": "free", "response_format": {"type": "text"}},
    {"prompt": "default"},
    {"prompt": "own", "guided_choice": ["yes", "no"]},
    {"prompt": "bad", "guided_regex": "("},
    {"prompt": "unsupported", "guided_json": {"not": {}}},
    {"prompt": "twice", "guided_json": {}, "guided_regex": "a"},
    {"prompt": "default again", "temperature": 1.5, "n": 2},
]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a job, and beside it a schema."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    return path


def answers(path: Path) -> list[list[str] | str]:
    """Give the texts of each line, or the parameter that its error names."""
    lines = map(json.loads, path.read_text().splitlines())
    return [
        line["error"]["param"] if "error" in line else [c["text"] for c in line["choices"]]
        for line in lines
    ]


def test_a_job_has_a_shape_and_lines_their_own(
    invoke: Invoke, job: Path, tiny_fp32: ModelFolder
) -> None:
    """A default out of a file holds for lines that say nothing; wrong lines are told ahead."""
    shape = f"response_format=@{job.parent / 'schema.json'}"
    options = [
        str(job),
        "-m",
        str(tiny_fp32.path),
        "--default",
        shape,
        "--default",
        "max_tokens=24",
    ]
    validated = json.loads(invoke("validate", *options, "--json", code=1).stdout)
    invoke("run", "-q", *options, code=1)
    free, default, own, *wrong, again = answers(job.parent / "in.out.jsonl")
    report = json.loads((job.parent / "in.out.jsonl.usage.json").read_text())

    assert [error["line"] for error in validated["errors"]["data"]] == [4, 5, 6]
    assert wrong == ["guided_regex", "guided_json", "guided_regex"]
    assert all(ANSWER.fullmatch(text) for text in (*default, *again))
    assert own[0] in ("yes", "no")
    assert not ANSWER.fullmatch(free[0])
    assert report["statistics"]["requests_shaped"] == 5
    assert json.loads(report["job"]["settings"]["default response_format"]) == SCHEMA


def test_a_resumed_job_gives_the_answers_of_one_run(
    invoke: Invoke, job: Path, tiny_fp32: ModelFolder
) -> None:
    """Lines that come later, and a shape in a settings file, change no answer before them."""
    lines = [
        json.dumps({"prompt": str(n), "temperature": 1, "max_tokens": 9, "guided_regex": "[a-e]+"})
        for n in range(8)
    ]
    outputs = []
    for parts in ([3, 8], [8]):
        path = job.parent / f"{len(parts)}.jsonl"
        for size in parts:
            path.write_text("".join(f"{line}\n" for line in lines[:size]))
            invoke("run", "-q", str(path), "-m", str(tiny_fp32.path))
        outputs.append(answers(path.with_suffix(".out.jsonl")))

    assert outputs[0] == outputs[1]
    assert all(re.fullmatch("[a-e]+", texts[0]) for texts in outputs[0])


def test_settings_read_files_too(
    invoke: Invoke, job: Path, tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An @ ahead of a name stands for what the file holds, @@ for one @."""
    monkeypatch.chdir(job.parent)
    Path("aobatch.toml").write_text('[run.default]\nguided_json = "@schema.json"\nuser = "@@me"\n')
    job.write_text('{"prompt": "a", "max_tokens": 24}\n')
    invoke("run", "-q", str(job), "-m", str(tiny_fp32.path))
    report = json.loads(Path("in.out.jsonl.usage.json").read_text())

    assert ANSWER.fullmatch(answers(Path("in.out.jsonl"))[0][0])
    assert [group["name"] for group in report["by_user"]] == ["@me"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "gone.json cannot be read: No such file or directory"),
        (b"\xff", "gone.json is not UTF-8: byte 1"),
        (b'{"type": "strnig"}', "expected 'text', 'json_object', 'json_schema' or the type of a"),
    ],
)
def test_wrong_files_end_with_one_sentence(
    invoke: Invoke, job: Path, content: bytes | None, message: str
) -> None:
    """What cannot be read, or is no shape, is an error of usage."""
    path = job.parent / "gone.json"
    if content is not None:
        path.write_bytes(content)
    outcome = invoke("run", str(job), "--default", f"response_format=@{path}", code=2)

    assert message in " ".join(outcome.stderr.split())


@pytest.fixture
def ask(tiny_fp32: ModelFolder) -> Callable[..., Result]:
    """Give a function that completes on the tiny model."""

    def invoke(*arguments: str) -> Result:
        command = ["complete", "x", "--model", str(tiny_fp32.path), "--max-tokens", "24"]
        return CliRunner().invoke(aobatch, [*command, *arguments])

    return invoke


def test_one_answer_has_a_shape(ask: Callable[..., Result], job: Path) -> None:
    """A file of a schema, a regular expression or words say it, and so does each parameter."""
    schema = job.parent / "schema.json"

    assert ANSWER.fullmatch(ask("--json-schema", str(schema)).stdout.strip())
    assert ANSWER.fullmatch(ask("--response-format", f"@{schema}").stdout.strip())
    assert ANSWER.fullmatch(ask("--guided-json", json.dumps(SCHEMA)).stdout.strip())
    assert re.fullmatch("[0-9]", ask("--regex", "[0-9]").stdout.strip())
    assert ask("--choice", "a,b").stdout.strip() in ("a", "b")
    assert ask("--guided-choice", '["a"]').stdout.strip() == "a"
    assert ask("--guided-regex", "[0]").stdout.strip() == "0"


def test_two_shapes_of_one_answer_are_refused(ask: Callable[..., Result]) -> None:
    """One sentence says that they exclude each other."""
    both, third = ask("--regex", "a", "--choice", "a,b"), ask("--regex", "a", "--guided-regex", "b")

    assert (both.exit_code, third.exit_code) == (2, 2)
    assert "it has 2 of json, regex, choice, grammar" in " ".join(both.stderr.split())
    assert "another one of the parameters that shape" in " ".join(third.stderr.split())
