"""Laws of the command as a whole: help, versions, completion, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from fake_command import Invoke

from aobatch import errors
from aobatch.cli import ending as failures
from aobatch.cli.command import EXIT_CODES, Command
from aobatch.cli.main import COMMANDS, aobatch
from aobatch.cli.settings import leaves

ROOT = click.Context(aobatch, info_name="aobatch", **aobatch.context_settings)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_names_every_command(invoke: Invoke, option: str) -> None:
    """Both options print all commands on standard output."""
    result = invoke(option)

    for name, (_, sentence) in COMMANDS.items():
        assert f"{name} " in result.stdout
        assert sentence in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_the_command_says(name: str) -> None:
    """The sentence that is known without importing a command is the command's own."""
    with click.Context(aobatch, **aobatch.context_settings) as ctx:
        command = aobatch.get_command(ctx, name)

    assert command is not None
    sentence = command.get_short_help_str(limit=1000).rstrip(".")
    assert sentence == COMMANDS[name][1].rstrip(".")


@pytest.mark.parametrize("ctx", [*leaves(ROOT)], ids=lambda ctx: ctx.command_path)
def test_help_has_examples_settings_and_exit_codes(ctx: click.Context) -> None:
    """Behind the first sentence come examples that name the command, ahead of all else."""
    text = ctx.command.get_help(ctx)

    examples = text.index("Examples:")
    assert isinstance(ctx.command, Command)
    assert examples < text.index("ptions:") < text.index("Exit codes:")
    assert "  -C, --config FILE" in text
    assert ctx.command_path in text[examples:]
    assert "\b" not in text


def test_help_imports_nothing_heavy() -> None:
    """Neither the help nor a command's help waits for numpy, pyarrow or the runtime."""
    script = (
        "import sys; from click.testing import CliRunner; from aobatch.cli.main import aobatch\n"
        "for args in ['--help'], ['run', '--help'], ['models', '--help']:\n"
        "    assert CliRunner().invoke(aobatch, args).exit_code == 0\n"
        "print({'numpy', 'pyarrow', 'onnxruntime', 'msgspec', 'tqdm'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert result.stdout.strip() == "set()"


def test_module_is_the_command() -> None:
    """`python -m aobatch` names itself aobatch and prints versions."""
    result = subprocess.run(
        [sys.executable, "-m", "aobatch", "--version"], capture_output=True, text=True, check=True
    )

    assert result.stdout.startswith("aobatch ")
    assert "onnxruntime 1." in result.stdout


def test_unknown_command_is_an_error_of_usage(invoke: Invoke) -> None:
    """A typing error in a command exits 2."""
    invoke("rum", code=2)


def test_every_job_error_has_a_documented_exit_code() -> None:
    """The table in the help knows the code of each error that can end a job."""
    kinds = [errors.JobError, *errors.JobError.__subclasses__()]

    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.InputError("a.jsonl is bad"), 65, "aobatch: error: a.jsonl is bad\n"),
        (errors.BusyError("busy"), 75, "aobatch: error: busy\n"),
        (OSError(28, "No space left on device"), 74, "No space left on device"),
        (KeyError("x"), 70, "internal error: KeyError: 'x'; please report it"),
    ],
)
def test_errors_become_one_sentence(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, words: str
) -> None:
    """Every error is one line on standard error, without a traceback, and its exit code."""
    with pytest.raises(click.exceptions.Exit) as exit_, failures.reported_failures():
        raise error

    captured = capsys.readouterr()
    assert exit_.value.exit_code == code
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_traceback_is_shown_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AOBATCH_DEBUG=1 adds the traceback to the sentence."""
    monkeypatch.setenv("AOBATCH_DEBUG", "1")

    with pytest.raises(click.exceptions.Exit), failures.reported_failures():
        raise errors.InputError

    assert "Traceback (most recent call last)" in capsys.readouterr().err


def offered(words: list[str], incomplete: str) -> list[str]:
    """Give what is offered behind words."""
    complete = BashComplete(aobatch, {}, "aobatch", "_AOBATCH_COMPLETE")
    return [item.value for item in complete.get_completions(words, incomplete)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(invoke: Invoke, shell: str) -> None:
    """The script asks the command by the variable that it answers to."""
    result = invoke("completion", shell)

    assert f"_AOBATCH_COMPLETE={shell}_complete" in result.stdout


def test_bash_takes_the_script(invoke: Invoke, tmp_path: Path) -> None:
    """Bash reads it without complaint."""
    script = tmp_path / "aobatch.bash"
    script.write_text(invoke("completion", "bash").stdout)

    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=True)
    assert result.stderr == b""


def test_commands_options_and_choices_are_offered() -> None:
    """What the help lists can be completed."""
    assert "validate" in offered([], "val")
    assert "--max-num-seqs" in offered(["run"], "--max-n")
    assert offered(["run", "--kv-cache-dtype"], "") == ["int8", "bf16", "fp32"]


@pytest.mark.parametrize(
    "words", [["run", "-m"], ["validate", "--model"], ["complete", "-m"], ["models", "pull"]]
)
def test_models_are_offered(words: list[str]) -> None:
    """Names and aliases that begin so, whether pulled or not."""
    assert offered(words, "gpt") == ["gpt-3.5-turbo-instruct"]
    assert "smollm2-135m-instruct" in offered(words, "smol")


def test_unknown_shell_is_refused(invoke: Invoke) -> None:
    """Another shell is an error of usage that names those there are."""
    result = invoke("completion", "tcsh", code=2)

    assert "'bash', 'zsh', 'fish'" in result.stderr
