"""Laws of completion: shells get click's scripts, and models are offered by name."""

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from aobatch.cli.main import aobatch


def offered(words: list[str], incomplete: str) -> list[str]:
    """Give what is offered behind words."""
    complete = BashComplete(aobatch, {}, "aobatch", "_AOBATCH_COMPLETE")
    return [item.value for item in complete.get_completions(words, incomplete)]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(runner: CliRunner, shell: str) -> None:
    """The script asks the command by the variable that it answers to."""
    result = runner.invoke(aobatch, ["completion", shell])

    assert result.exit_code == 0
    assert f"_AOBATCH_COMPLETE={shell}_complete" in result.stdout


def test_bash_takes_the_script(runner: CliRunner, tmp_path: Path) -> None:
    """Bash reads it without complaint."""
    script = tmp_path / "aobatch.bash"
    script.write_text(runner.invoke(aobatch, ["completion", "bash"]).stdout)

    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=True)
    assert result.stderr == b""


def test_commands_options_and_choices_are_offered() -> None:
    """What the help lists can be completed."""
    assert "validate" in offered([], "val")
    assert "--max-num-seqs" in offered(["run"], "--max-n")
    assert offered(["run", "--kv-cache-dtype"], "") == ["fp32", "int8"]


@pytest.mark.parametrize(
    "words", [["run", "-m"], ["validate", "--model"], ["complete", "-m"], ["models", "pull"]]
)
def test_models_are_offered(words: list[str]) -> None:
    """Names and aliases that begin so, whether pulled or not."""
    assert offered(words, "gpt") == ["gpt-3.5-turbo-instruct"]
    assert "smollm2-135m-instruct" in offered(words, "smol")


def test_unknown_shell_is_refused(runner: CliRunner) -> None:
    """Another shell is an error of usage that names those there are."""
    result = runner.invoke(aobatch, ["completion", "tcsh"])

    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.stderr
