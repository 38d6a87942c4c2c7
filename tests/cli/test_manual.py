"""Laws of the help and of the manual page: they say what the commands say."""

import shutil
import subprocess
from collections.abc import Iterator

import click
import pytest

from aobatch.cli.main import aobatch
from aobatch.cli.manual import manual_page


def commands(ctx: click.Context) -> Iterator[click.Context]:
    """Give every command that is no group."""
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            member = ctx.command.get_command(ctx, name)
            assert member is not None
            yield from commands(click.Context(member, info_name=name, parent=ctx))
    else:
        yield ctx


COMMANDS = list(commands(click.Context(aobatch, info_name="aobatch", **aobatch.context_settings)))


@pytest.mark.parametrize("ctx", COMMANDS, ids=lambda ctx: ctx.command_path)
def test_help_begins_with_examples(ctx: click.Context) -> None:
    """Behind the first sentence come examples that name the command, ahead of all else."""
    text = ctx.command.get_help(ctx)

    examples = text.index("Examples:")
    assert examples < text.index("Options") if "Options" in text else True
    assert ctx.command_path in text[examples:]
    assert text.index("Exit codes:") > examples
    assert all(line.count("\b") == 0 for line in text.splitlines())


def test_manual_has_every_command_and_option() -> None:
    """No command and no option is missing in the page."""
    page = manual_page().replace(r"\-", "-")

    for ctx in COMMANDS:
        section = page[page.index(f".SS {ctx.command_path}\n") + 4 :]
        section = section[: section.index("\n.S")]
        for parameter in ctx.command.get_params(ctx):
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in section, (ctx.command_path, parameter.name)


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_manual_is_right_for_groff() -> None:
    """The page is formatted without a warning, and backslashes of examples survive."""
    command = ["groff", "-man", "-Tutf8", "-ww", "-b"]
    result = subprocess.run(
        command, input=manual_page(), capture_output=True, text=True, check=True, timeout=60
    )

    assert result.stderr == ""
    assert "'[\"\\n\"]'" in result.stdout
