"""Laws of what people read: hostile names and texts do not drive their terminal."""

import json
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from fake_command import COMMAND as FAKE

from aobatch.cli import ending as failures
from aobatch.cli.console import say
from aobatch.cli.main import aobatch
from aobatch.cli.progress import StageBars
from aobatch.errors import InputError, ModelError

COMMAND = [*FAKE, "0"]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\u202e\u2066\x9b31m\u200b\x7f\udcff\n"
ENDLESS = 10


def is_harmless(text: str) -> bool:
    """Say whether a text is made of characters that can be seen, and line feeds."""
    return text.replace("\n", "").isprintable()


def on_terminal(*arguments: str, text: bytes = b"") -> tuple[str, str]:
    """Run the command with its standard output on a terminal; what it shows, and says."""
    ours, theirs = os.openpty()
    command = [*COMMAND, *arguments]
    pipes = {"input": text, "stderr": subprocess.PIPE}
    result = subprocess.run(command, stdout=theirs, check=True, **pipes)  # type: ignore[call-overload]
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 2**16):
            shown += part
    except OSError:
        pass  # how a terminal without writers ends
    os.close(ours)
    return shown.decode().replace("\r\n", "\n"), result.stderr.decode()


@pytest.mark.parametrize(
    "error",
    [
        InputError(f"input {HOSTILE}.jsonl does not exist"),
        ModelError(f"The model '{HOSTILE}' does not exist."),
        OSError(2, HOSTILE, HOSTILE),
        RuntimeError(HOSTILE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_error_is_one_harmless_line(
    capsys: pytest.CaptureFixture[str], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an exception quotes, it neither moves the cursor nor forges a second line."""
    with pytest.raises(click.exceptions.Exit), failures.reported_failures():
        raise error
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert is_harmless(said)
    assert "owned" in said

    monkeypatch.setenv("AOBATCH_DEBUG", "1")
    with pytest.raises(click.exceptions.Exit), failures.reported_failures():
        raise error
    assert is_harmless(capsys.readouterr().err)


def test_hostile_file_name_is_harmless(runner: CliRunner, tmp_path: Path) -> None:
    """Names of files are shown by every command without their control characters."""
    (tmp_path / f"{HOSTILE}.jsonl").write_text("")
    name = f"{HOSTILE}.jsonl"

    for arguments in (
        ["run", name, "-o", "no/out.jsonl"],
        ["run", f"--{name}"],
        ["models", "inspect", name],
        ["models", "import", name, "mine"],
        ["models", "list", name],
        [name],
    ):
        result = runner.invoke(aobatch, arguments)
        assert result.exit_code not in (0, 70), (arguments, result.output)
        assert is_harmless(result.output), result.output


@pytest.mark.usefixtures("backend")
def test_hostile_names_in_the_report_are_harmless(runner: CliRunner, tmp_path: Path) -> None:
    """A job's models and users come from its lines; the table shows them escaped and cut."""
    text = HOSTILE.replace("\udcff", "")
    lines = [{"prompt": "a", "model": text * ENDLESS}, {"prompt": "a", "user": text, "n": text}]
    source = tmp_path / "in\x1b[2J.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))

    result = runner.invoke(aobatch, ["run", str(source)])

    assert "owned" in result.stderr
    assert is_harmless(result.stderr)
    assert max(map(len, result.stderr.splitlines())) < 300


def test_stages_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    """The texts of a bar are escaped as well."""
    bars = StageBars()
    bars(f"fetching {HOSTILE}", 1, 1)

    assert "\x1b]" not in (said := capsys.readouterr().err)
    assert "\u202e" not in said


def test_say_keeps_each_line_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Several lines are several arguments."""
    say("a\nb", "c")

    assert capsys.readouterr().err == "a\\u000ab\nc\n"


@pytest.mark.parametrize("arguments", [[], ["--stream"], ["--json"]], ids=str)
def test_completion_on_a_terminal_is_harmless(arguments: list[str]) -> None:
    """What a model wrote is shown with its layout, but moves no cursor; a pipe gets its bytes."""
    prompt = HOSTILE.replace("\udcff", "") + "two\tlines 👨‍👩‍👧"

    shown, said = on_terminal("complete", *arguments, "-", text=prompt.encode())
    piped = subprocess.run(
        [*COMMAND, "complete", *arguments, "-"],
        input=prompt.encode(),
        capture_output=True,
        check=True,
    ).stdout

    assert is_harmless(shown.replace("\t", "").replace("\u200d", ""))
    assert "\\u001b]0;owned\\u0007" in shown
    if "--json" in arguments:
        assert json.loads(shown)["choices"] == json.loads(piped)["choices"]
        assert json.loads(piped)["choices"][0]["text"] == f"[{prompt}]"
    else:
        assert shown.endswith("\ntwo\tlines 👨‍👩‍👧]\n")
        assert piped.decode() == f"[{prompt}]\n"
    assert said == ""


def test_answers_on_a_terminal_are_harmless() -> None:
    """`run - -o -` escapes what JSON leaves as it is, and the JSON says the same."""
    prompt = HOSTILE.replace("\udcff", "")
    line = json.dumps({"prompt": prompt, "custom_id": prompt}, ensure_ascii=False).encode()

    shown, said = on_terminal("run", "-", "-o", "-", "-q", text=line)

    assert is_harmless(shown)
    answer = json.loads(shown)
    assert (answer["choices"][0]["text"], answer["custom_id"]) == (f"[{prompt}]", prompt)
    assert said == ""
