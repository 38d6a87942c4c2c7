"""`aobatch models pull`: fetch a model and convert it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command
from aobatch.cli.completing import model_names
from aobatch.cli.console import say, shows_bars
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.signals import interruptible
from aobatch.errors import ModelError, RequestError, UsageError

if TYPE_CHECKING:
    from aobatch.models.store.folder import ModelFolder
    from aobatch.models.store.hub import HubModel

MODEL_CODES = exit_codes({0: "the model is ready"}, 69, 73, 74, 130, 143)

PRECISIONS = ("int8", "nbits8", "fp32")
"""Those of `models.recipes`, which takes long to load."""

HELP = """Fetch a model of the list, or one of Hugging Face, and convert it.

\b
Examples:
  aobatch models pull smollm2-135m-instruct
  aobatch models pull smollm2-135m-instruct --precision fp32
  aobatch models pull gemma-3-270m --accept-licence
  aobatch models pull Qwen/Qwen3-0.6B
  aobatch models pull ORG/NAME-GGUF --file NAME-Q8_0.gguf --name mine

NAME is a name of `aobatch models list`, or ORG/NAME, a repository of Hugging Face (extra [remote]):
of that its safetensors or the named file are fetched, never anything that could run code. HF_TOKEN,
HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are honoured.
"""


@click.command(cls=Command, help=HELP, exit_codes=MODEL_CODES)
@click.argument("name", shell_complete=model_names)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="How the weights are kept; other than the list's own: makes a model NAME-PRECISION.",
)
@click.option(
    "--accept-licence", is_flag=True, help="Accept the terms of the model, if it has any."
)
@click.option("--revision", metavar="REV", help="Of a repository: branch, tag or commit.")
@click.option("--file", metavar="FILE", help="Of a repository: the GGUF or ONNX file to take.")
@click.option("--name", "new_name", metavar="NAME", help="Of a repository: what to call the model.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def pull(
    name: str,
    precision: str | None,
    *,
    accept_licence: bool,
    quiet: bool,
    **hub: str | None,
) -> None:
    """Fetch a model of the list, or one of Hugging Face, and convert it."""
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.local import pull as pull_model
    from aobatch.models.store.catalogue import find_card

    is_repository = "/" in name and find_card(name) is None
    if not is_repository:
        if any(hub.values()):
            message = "--revision, --file and --name are for repositories, ORG/NAME"
            raise UsageError(message)
        _settle_licence(name, is_accepted=accept_licence)
    with interruptible(), stage_progress(is_quiet=quiet) as progress:
        if is_repository:
            found = _pull_repository(_hub_model(name, precision, hub), progress)
        else:
            try:
                found = pull_model(name, progress, precision)
            except RequestError as error:
                raise ModelError(error.message) from error
    if not quiet:
        say(_outcome(found))


def _hub_model(name: str, precision: str | None, hub: dict[str, str | None]) -> "HubModel":
    from aobatch.models.store.hub import HubModel

    return HubModel(
        repository=name,
        name=hub["new_name"] or "",
        revision=hub["revision"],
        file=hub["file"],
        precision=precision or "int8",
    )


def _pull_repository(
    model: "HubModel", progress: Callable[[str, int, int], None]
) -> "ModelFolder | Path":
    from aobatch.models.store.hub import pull_from_hub
    from aobatch.runners.scoring import score_texts

    return pull_from_hub(model, progress, score_texts)


def _outcome(found: "ModelFolder | Path") -> str:
    if isinstance(found, Path):
        return f"the exported graph is in {found}; use it by that path, as in --model {found}"
    return f"{found.manifest.name} is ready in {found.path}"


def _settle_licence(name: str, *, is_accepted: bool) -> None:
    """Show the terms of a model that has any, and remember it if they are accepted."""
    from aobatch.models.store.card import accept, needs_acceptance
    from aobatch.models.store.catalogue import find_card, models_home

    card = find_card(name)
    if card is None or not needs_acceptance(card, models_home()):
        return
    say(*card.notice.strip().splitlines())
    if not is_accepted and sys.stdin is not None and sys.stdin.isatty() and shows_bars():
        is_accepted = click.confirm("Do you accept these terms?", err=True)
    if is_accepted:
        accept(card, models_home())
