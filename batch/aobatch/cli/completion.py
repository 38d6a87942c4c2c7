"""`aobatch completion`: the script by which a shell completes the command line."""

from typing import Literal

import click
from click.shell_completion import get_completion_class

from aobatch.cli.command import command
from aobatch.cli.console import show
from aobatch.cli.options import Options, options


@options()
class ShellOptions(Options):
    """What the command line gives."""

    shell: Literal["bash", "zsh", "fish"]


@command(ShellOptions)
def completion(options: ShellOptions) -> None:
    """Print the script by which a shell completes commands.

    Examples:
      eval "$(aobatch completion bash)"       # in ~/.bashrc
      eval "$(aobatch completion zsh)"        # in ~/.zshrc, behind compinit
      aobatch completion fish > ~/.config/fish/completions/aobatch.fish
    """
    kind = get_completion_class(options.shell)
    assert kind is not None
    program = click.get_current_context().find_root().command
    script = kind(program, {}, "aobatch", "_AOBATCH_COMPLETE")
    # Not source(), which asks the bash that is installed here whether it is new enough.
    show(script.source_template % script.source_vars())
