"""What a shell offers in place of a value that was begun."""

import click
from click.shell_completion import CompletionItem


def model_names(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the names and aliases of the models that begin so."""
    from aobatch.models.store.catalogue import list_models

    offered = []
    for row in list_models():
        state = "ready" if row.is_ready else "not pulled"
        names = [(row.name, state), *((alias, f"is {row.name}") for alias in row.aliases)]
        offered += [CompletionItem(name, help=text) for name, text in names]
    return [item for item in offered if item.value.startswith(incomplete)]
