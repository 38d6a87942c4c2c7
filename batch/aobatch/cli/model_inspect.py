"""`aobatch models inspect`: all that is known of a model, or of a file that could become one."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command
from aobatch.cli.completing import model_names
from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes
from aobatch.text import escape

if TYPE_CHECKING:
    from aobatch.models.inspection import ModelFacts
    from aobatch.models.store.folder import Quality

HELP = """Show what is known of a model, or of a file that could be imported.

\b
Examples:
  aobatch models inspect smollm2-135m-instruct
  aobatch models inspect ./model-Q8_0.gguf
  aobatch models inspect smollm2-135m-instruct --json | jq .context_length

NAME is a model of `aobatch models list`, a model folder, a GGUF file or a safetensors folder; of
the last two the headers say whether they can be imported, and how large they will be.
"""


@click.command(cls=Command, help=HELP, exit_codes=exit_codes({0: "it is shown, usable or not"}, 69))
@click.argument("name", shell_complete=model_names)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def inspect(name: str, *, as_json: bool) -> None:
    """Show what is known of a model."""
    import msgspec

    facts = find_facts(name)
    if as_json:
        show(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
        return
    rows = [row for row in table(facts) if row[1]]
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        show(f"{label:<{width}}  {escape(text)}")


def find_facts(name: str) -> "ModelFacts":
    """Find a model, converted or not; ModelError if there is none of that name."""
    from aobatch.errors import ModelError, RequestError
    from aobatch.models.inspection import inspect_folder, inspect_source
    from aobatch.models.store.catalogue import resolve
    from aobatch.models.store.locate import find_source

    try:
        return inspect_folder(resolve(name))
    except RequestError as error:
        source = find_source(name)
        if source is None:
            raise ModelError(error.message) from error
        return inspect_source(source)


def table(facts: "ModelFacts") -> Iterator[tuple[str, str]]:
    """Yield labels and what stands beside them; empty where nothing is known."""
    yield "name", facts.name
    yield "layout", facts.layout
    yield "usable", f"no: {facts.reason}" if not facts.is_usable else _usable(facts)
    yield "family", facts.family
    yield "sizes", _sizes(facts)
    yield "weights", _amounts(facts.dtypes)
    recipe = f", {facts.recipe}" if facts.recipe not in ("", facts.precision) else ""
    yield "precision", f"{facts.precision}{recipe}"
    yield "context", f"{facts.context_length:,} tokens" if facts.context_length else ""
    yield from _tokens(facts)
    for dtype, cache in facts.kv_cache.items():
        each = f"{cache.bytes_per_token:,} bytes a token"
        yield f"cache {dtype}", f"{each}, {size_text(cache.bytes_per_slot)} for a full context"
    yield "quality", _quality(facts.quality)
    yield "with int8 cache", _quality(facts.int8_cache.quality if facts.int8_cache else None)
    yield "licence", facts.licence
    yield "source", f"{facts.source} {facts.source_sha256}".strip()
    yield "size", size_text(facts.size_bytes)
    yield "once converted", _amounts(facts.converted_bytes)
    yield "digest", facts.digest
    yield "path", facts.path


def _usable(facts: "ModelFacts") -> str:
    return "" if facts.precision else "yes, once it is imported"


def _sizes(facts: "ModelFacts") -> str:
    named = {
        "vocabulary of {:,}": facts.vocab_size,
        "{:,} wide": facts.hidden_size,
        "{:,} layers": facts.num_layers,
        "{:,} heads": facts.num_heads,
        "{:,} of keys and values": facts.num_kv_heads,
        "{:,} wide each": facts.head_dim,
    }
    return ", ".join(text.format(size) for text, size in named.items() if size is not None)


def _tokens(facts: "ModelFacts") -> Iterator[tuple[str, str]]:
    def named(*token_ids: int) -> str:
        return ", ".join(f"{i} {facts.token_texts.get(i, '')}" for i in token_ids)

    yield "ends a text", named(*facts.eos_token_ids)
    if facts.document_start_token_id is not None:
        added = "added to" if facts.adds_document_start else "not added to"
        yield "document start", f"{named(facts.document_start_token_id)}, {added} prompts"
        yield "infill", named(*facts.infill_token_ids) or "none"


def _amounts(sizes: Mapping[str, int]) -> str:
    least = sum(sizes.values()) / 1000  # constants of a graph are no weights
    return ", ".join(f"{name} {size_text(size)}" for name, size in sizes.items() if size >= least)


def size_text(num_bytes: int) -> str:
    """Give a size as people read it: small ones to three digits."""
    return f"{num_bytes / 2**20:,.{0 if num_bytes >= 10 * 2**20 else 2}f} MiB"


def _quality(quality: "Quality | None") -> str:
    if quality is None or not quality.num_tokens:
        return ""
    return (
        f"KL {quality.kl:.4f} nats a token from fp32, the same best token at "
        f"{quality.top1_agreement:.1%} of {quality.num_tokens:,}"
    )
