"""`aobatch completion`: the script by which a shell completes the command line."""

import click
from click.shell_completion import get_completion_class

from aobatch.cli.command import Command
from aobatch.cli.console import show

HELP = """Print the script by which a shell completes commands.

\b
Examples:
  eval "$(aobatch completion bash)"       # in ~/.bashrc
  eval "$(aobatch completion zsh)"        # in ~/.zshrc, behind compinit
  aobatch completion fish > ~/.config/fish/completions/aobatch.fish
"""


@click.command(cls=Command, help=HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script by which a shell completes commands."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "aobatch", "_AOBATCH_COMPLETE")
    # Not source(), which asks the bash that is installed here whether it is new enough.
    show(script.source_template % script.source_vars())
