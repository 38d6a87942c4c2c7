"""Laws of what is private: prompts and completions are in no message, and names make no files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes import FakeBackend

from aobatch.cli.main import aobatch
from aobatch.errors import StorageError
from aobatch.models.store.folder import ModelFolder

SECRET = "xyzzy"
LINES: list[object] = [
    {"prompt": SECRET},
    {"prompt": f"fail {SECRET}"},
    {"prompt": SECRET * 10**5},
    {"prompt": SECRET, "model": "gone"},
    {"prompt": SECRET, "temperature": 9},
    {"prompt": SECRET, "tempreture": 1},
    {"prompt": SECRET, "max_tokens": 10**6, "suffix": SECRET},
    {"prompt": [SECRET, 5]},
    {"prompt": [5, SECRET]},
    {"prompt": {SECRET: SECRET}},
    {"prompt": [SECRET] * 3000},
    {"prompt": SECRET, "suffix": [SECRET]},
    {"prompt": SECRET, "stop": SECRET * 100},
    {"prompt": SECRET, "stop": ["", SECRET]},
    {"prompt": SECRET, "echo": SECRET, "n": SECRET},
    {"prompt": SECRET, "stream": True, "echo": True},
    {"prompt": SECRET, "custom_id": "a"},
    {"prompt": SECRET, "custom_id": "a"},
    {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": SECRET},
    {"custom_id": "c", "method": "POST", "url": "/v1/chat", "body": {"prompt": SECRET}},
    [SECRET],
    SECRET,
]
RAW = [
    f'{{"prompt": "{SECRET}'.encode(),
    f'{{"prompt": "{SECRET}\\ud800"}}'.encode(),
    f'{{"prompt": "{SECRET}", "prompt": "{SECRET}"}}'.encode(),
    f'{{"prompt": "{SECRET}\xff"}}'.encode("latin-1"),
    f'{{"prompt": "{SECRET}"}}'.encode("utf-16"),
    f'{{"prompt": "{SECRET}", "n": NaN}}'.encode(),
    f'{SECRET} {{"prompt": "a"}}'.encode(),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a job whose prompts are secret and fail in every way."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join([*(json.dumps(line).encode() for line in LINES), *RAW]))
    return path


@pytest.fixture
def invoke(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Give a function that runs the command at its most talkative."""
    monkeypatch.setenv("AOBATCH_DEBUG", "1")
    return lambda *arguments: runner.invoke(aobatch, ["run", *map(str, arguments)])


def error_messages(path: Path) -> list[str]:
    """Read what the output says of the lines that failed."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    bodies = [line["response"]["body"] if "response" in line else line for line in lines]
    return [body["error"]["message"] for body in bodies if "error" in body]


def test_prompts_are_in_no_message(
    invoke: Callable[..., Result], source: Path, tiny_fp32: ModelFolder
) -> None:
    """A real job that fails in every way quotes no prompt, neither in its log nor in an error."""
    result = invoke(source, "-m", tiny_fp32.path)

    assert result.exit_code == 1, result.output
    assert SECRET not in result.output
    messages = error_messages(source.with_name("in.out.jsonl"))
    assert len(messages) >= len(LINES) + len(RAW) - 5
    assert [message for message in messages if SECRET in message] == []


@pytest.mark.parametrize("explosion", [KeyError("logits"), ValueError("a\nb"), OSError(5, "I/O")])
def test_crash_quotes_no_prompt(
    invoke: Callable[..., Result], source: Path, backend: FakeBackend, explosion: Exception
) -> None:
    """What is said of a defect of the engine shows its kind, not what was being computed."""
    backend.explosion, backend.explodes_at = explosion, 1

    result = invoke(source)

    assert result.exit_code == 1
    assert f"the engine failed ({type(explosion).__name__}" in result.stderr
    assert SECRET not in result.output


def test_default_prompt_is_in_no_message(
    invoke: Callable[..., Result], source: Path, backend: FakeBackend
) -> None:
    """A job that does not go on with other defaults names them, but not what is completed."""
    defaults = ["--default", f"prompt={SECRET} one", "--default", f"suffix={SECRET}"]
    backend.explosion, backend.explodes_at = StorageError("full"), 1
    invoke(source, *defaults)

    result = invoke(source, *defaults, "--default", f"prompt={SECRET} two")

    assert result.exit_code == 65
    assert "of other settings: defaults" in result.stderr
    assert SECRET not in result.output


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "name",
    ["../../up", "{tmp}/up", "a\0b", "x" * 300, "..", "C:\\up", "out.jsonl", "a/b/../../c"],
    ids=["up", "absolute", "nul", "long", "dots", "drive", "output", "folders"],
)
def test_nothing_of_a_request_enters_a_path(
    invoke: Callable[..., Result], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever names a line gives, the files of the job are the documented ones."""
    job = tmp_path / "a" / "deep" / "in.jsonl"
    job.parent.mkdir(parents=True)
    monkeypatch.chdir(job.parent)
    name = name.replace("{tmp}", str(tmp_path))
    everywhere = {"custom_id": name, "user": name, "stop": name[:256], "suffix": name}
    lines = [
        {"prompt": name, **everywhere, "stream": True},
        {"prompt": name, "model": name, "stream": True},
        {"prompt": name, name: name},
    ]
    job.write_text("\n".join(map(json.dumps, lines)))

    result = invoke(job, "-o", job.with_name("out.jsonl"))

    assert result.exit_code == 1, result.output
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    # Events are kept under hashes, too.
    assert {name for name in made if not re.search(r"/events/[0-9a-f]{32}\.sse$", name)} == {
        f"a/deep/{file}"
        for file in (
            "in.jsonl",
            "out.jsonl",
            "out.jsonl.usage.json",
            "out.jsonl.stream/000001.sse",
            "out.jsonl.aobatch/done.json",
            "out.jsonl.aobatch/in-flight",
            "out.jsonl.aobatch/ledger.sqlite3",
            "out.jsonl.aobatch/lock",
        )
    }
