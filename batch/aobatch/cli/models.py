"""`aobatch models`: list, fetch, convert, inspect and verify models."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from aobatch.cli.command import Group
from aobatch.cli.console import say, show
from aobatch.cli.model_inspect import inspect, size_text
from aobatch.cli.model_pull import MODEL_CODES, PRECISIONS, pull
from aobatch.cli.model_verify import verify
from aobatch.cli.signals import interruptible
from aobatch.text import escape


@click.group(cls=Group)
def models() -> None:
    """List, fetch, convert, inspect and verify models."""


models.add_command(pull)
models.add_command(inspect)
models.add_command(verify)

LIST_HELP = """List the models that there are, and which of them are ready.

\b
Examples:
  aobatch models list
  aobatch models list --json | jq -r '.models[] | select(.is_ready) | .name'
"""


@models.command("list", help=LIST_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def list_(*, as_json: bool) -> None:
    """List the models that there are, and which of them are ready."""
    from aobatch.models.store.catalogue import list_models

    if as_json:
        show(json.dumps({"models": [asdict(row) for row in list_models()]}, indent=2))
        return
    rows = [("name", "state", "precision", "size", "licence", "aliases")]
    for row in list_models():
        size = size_text(row.size_bytes) if row.size_bytes else ""
        aliases = ", ".join(row.aliases)
        state = "ready" if row.is_ready else "not pulled"
        name, precision, licence = map(escape, (row.name, row.precision, row.licence))
        rows.append((name, state, precision, size, licence, aliases))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        show(line.rstrip())


IMPORT_HELP = """Convert the GGUF file or safetensors folder at PATH into a model called NAME.

\b
Examples:
  aobatch models import model-q8_0.gguf mine
  aobatch models import Qwen3-0.6B/ mine --precision nbits8
  aobatch run jobs/poems.jsonl -m mine
"""


@models.command("import", help=IMPORT_HELP, exit_codes=MODEL_CODES)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("name")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="int8",
    show_default=True,
    help="How the weights are kept.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def import_(path: Path, name: str, precision: str, *, quiet: bool) -> None:
    """Convert a GGUF file or a safetensors folder at PATH into a model called NAME."""
    from aobatch.cli.progress import stage_progress
    from aobatch.models.store.catalogue import import_model
    from aobatch.runners.scoring import score_texts

    with interruptible(), stage_progress(is_quiet=quiet) as progress:
        folder = import_model(
            path, name, precision=precision, progress=progress, scorer=score_texts
        )
    if not quiet:
        say(f"{folder.manifest.name} is ready in {folder.path}")
