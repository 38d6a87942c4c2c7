"""`aobatch models`: list, fetch, convert, inspect and verify models."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Group, command, exit_codes
from aobatch.cli.console import say, show_json, show_table, shows_bars
from aobatch.cli.ending import interruptible
from aobatch.cli.options import JsonOption, QuietOption, option, options
from aobatch.cli.values import model_names
from aobatch.errors import ModelError, UsageError
from aobatch.models import PRECISIONS

if TYPE_CHECKING:
    from aobatch.models.inspection import ModelFacts
    from aobatch.models.store.folder import ModelFolder, Quality

MODEL_CODES = exit_codes({0: "the model is ready"}, 69, 73, 74, 130, 143)
NAME = {"shell_complete": model_names}


@click.group(cls=Group)
def models() -> None:
    """List, fetch, convert, inspect and verify models."""


@command(JsonOption, name="list")
def list_(options: JsonOption) -> None:
    """List the models that there are, and which of them are ready.

    Examples:
      aobatch models list
      aobatch models list --json | jq -r '.models[] | select(.is_ready) | .name'
    """
    from aobatch.models.store.catalogue import list_models

    if options.as_json:
        show_json({"models": list_models()})
        return
    rows = [("name", "state", "precision", "size", "licence", "aliases")]
    for row in list_models():
        size = size_text(row.size_bytes) if row.size_bytes else ""
        if size and not row.is_ready:
            size += " to fetch"
        state, aliases = "ready" if row.is_ready else "not pulled", ", ".join(row.aliases)
        rows.append((row.name, state, row.precision, size, row.licence, aliases))
    show_table(rows)


@options()
class PullOptions(QuietOption):
    """What the command line gives."""

    name: str = field(metadata=NAME)
    precision: str | None = option(
        None,
        "How the weights are kept; other than the list's own: makes a model NAME-PRECISION.",
        type=click.Choice(PRECISIONS),
    )
    accept_licence: bool = option(False, "Accept the terms of the model, if it has any.")
    revision: str | None = option(None, "Of a repository: branch, tag or commit.", metavar="REV")
    file: str | None = option(
        None, "Of a repository: the GGUF or ONNX file to take.", metavar="FILE"
    )
    new_name: str | None = option(
        None, "Of a repository: what to call the model.", "--name", metavar="NAME"
    )


@command(PullOptions, MODEL_CODES)
def pull(options: PullOptions) -> None:
    """Fetch a model of the list, or one of Hugging Face, and convert it.

    Examples:
      aobatch models pull smollm2-135m-instruct
      aobatch models pull smollm2-135m-instruct --precision fp32
      aobatch models pull gemma-3-270m --accept-licence
      aobatch models pull Qwen/Qwen3-0.6B
      aobatch models pull ORG/NAME-GGUF --file NAME-Q8_0.gguf --name mine

    NAME is a name of `aobatch models list`, or ORG/NAME, a repository of Hugging Face (extra
    [remote]): of that its safetensors or the named file are fetched, never anything that could run
    code. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are honoured.
    """
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.local import pull as pull_model
    from aobatch.models.store.catalogue import find_card

    is_repository = "/" in options.name and find_card(options.name) is None
    if not is_repository:
        if options.revision or options.file or options.new_name:
            message = "--revision, --file and --name are for repositories, ORG/NAME"
            raise UsageError(message)
        _settle_licence(options.name, is_accepted=options.accept_licence)
    with interruptible(), stage_progress(is_quiet=options.quiet) as progress:
        if is_repository:
            found = _pull_repository(options, progress)
        else:
            found = pull_model(options.name, progress, options.precision)
    _say_outcome(found, is_quiet=options.quiet)


def _pull_repository(
    options: PullOptions, progress: Callable[[str, int, int], None]
) -> "ModelFolder | Path":
    from aobatch.models.store.hub import HubModel, pull_from_hub
    from aobatch.runners.scoring import score_texts

    model = HubModel(
        repository=options.name,
        name=options.new_name or "",
        revision=options.revision,
        file=options.file,
        precision=options.precision or "int8",
    )
    return pull_from_hub(model, progress, score_texts)


_MARKS = {"ok": "ok", "failed": "FAILED", "not checked": "-"}


def _say_outcome(found: "ModelFolder | Path", *, is_quiet: bool) -> None:
    if isinstance(found, Path):
        outcome = f"the exported graph is in {found}; use it by that path, as in --model {found}"
    else:
        for note in found.manifest.notes:
            say(note, level="warning")
        outcome = f"{found.manifest.name} is ready in {found.path}"
    if not is_quiet:
        say(outcome)


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


@options()
class ImportOptions(QuietOption):
    """What the command line gives."""

    path: Path
    name: str
    precision: str = option("int8", "How the weights are kept.", type=click.Choice(PRECISIONS))
    lora: tuple[Path, ...] = option(
        (),
        "An adapter to merge into it: a PEFT folder or a LoRA GGUF.",
        type=click.Path(path_type=Path),
        metavar="PATH",
    )
    strict: bool = option(False, "Refuse a model whose config.json says what is not known here.")


@command(ImportOptions, MODEL_CODES, name="import")
def import_(options: ImportOptions) -> None:
    """Convert the GGUF file or safetensors folder at PATH into a model called NAME.

    Examples:
      aobatch models import model-q8_0.gguf mine
      aobatch models import Qwen3-0.6B/ mine --precision nbits8
      aobatch models import Qwen3-0.6B/ tuned --lora checkpoint-500/
      aobatch run jobs/poems.jsonl -m mine

    PATH of a GGUF file in parts is any of them, or their folder. docs/models.md lists the families.
    """
    from aobatch.cli.progress import stage_progress
    from aobatch.models.store.catalogue import import_model
    from aobatch.runners.scoring import score_texts

    with interruptible(), stage_progress(is_quiet=options.quiet) as progress:
        folder = import_model(
            options.path,
            options.name,
            adapters=options.lora,
            precision=options.precision,
            progress=progress,
            scorer=score_texts,
            is_strict=options.strict,
        )
    _say_outcome(folder, is_quiet=options.quiet)


@options()
class NameOptions(JsonOption):
    """What the command line gives."""

    name: str = field(metadata=NAME)


@command(NameOptions, exit_codes({0: "it is shown, usable or not"}, 69))
def inspect(options: NameOptions) -> None:
    """Show what is known of a model, or of a file that could be imported.

    Examples:
      aobatch models inspect smollm2-135m-instruct
      aobatch models inspect ./model-Q8_0.gguf
      aobatch models inspect smollm2-135m-instruct --json | jq .context_length

    NAME is a model of `aobatch models list`, a model folder, a GGUF file or a safetensors folder;
    of the last two the headers say whether they can be imported, and how large they will be.
    """
    from aobatch.models.inspection import inspect_folder, inspect_source
    from aobatch.models.store.catalogue import find_source, resolve

    source = find_source(options.name)
    facts = inspect_source(source) if source else inspect_folder(resolve(options.name))
    if options.as_json:
        show_json(facts)
    else:
        show_table(row for row in table(facts) if row[1])


def table(facts: "ModelFacts") -> Iterator[tuple[str, str]]:
    """Yield labels and what stands beside them; empty where nothing is known."""
    yield "name", facts.name
    yield "layout", facts.layout
    usable = "" if facts.precision else "yes, once it is imported"
    yield "usable", usable if facts.is_usable else f"no: {facts.reason}"
    yield "notes", "; ".join(facts.notes)
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
    if facts.fused is not None:
        yield "fused operators", facts.fused.reason or _quality(facts.fused.quality)
    yield "licence", facts.licence
    yield "source", f"{facts.source} {facts.source_sha256}".strip()
    for adapter in facts.adapters:
        yield "adapter", f"{adapter.name} {adapter.sha256}"
    yield "size", size_text(facts.size_bytes)
    yield "once converted", _amounts(facts.converted_bytes)
    yield "digest", facts.digest
    yield "path", facts.path


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
        suffix_first = ", the suffix first" if facts.infill_order == "SPM" else ""
        yield "infill", (named(*facts.infill_token_ids) or "none") + suffix_first
    yield "chats", facts.chat_format


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


@command(
    NameOptions, exit_codes({0: "nothing is wrong", 69: "something failed, see its line"}, 130, 143)
)
def verify(options: NameOptions) -> None:
    """Check the files of a model, run it, and measure its quality again.

    Examples:
      aobatch models verify smollm2-135m-instruct
      aobatch models verify mine --json | jq '.checks[] | select(.state == "failed")'

    Checksums of all files, operators and sizes of the graphs, the vocabulary; then the scores of
    prompts alone and in a batch, which have to be the same to the bit. KL divergence and greedy
    agreement are measured against the model in full precision, if that is here too as NAME-fp32.
    """
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.verification import find_model
    from aobatch.executors.verification import verify as verify_model

    path = find_model(options.name)
    with interruptible(), stage_progress(is_quiet=options.as_json) as progress:
        found = verify_model(path, progress)
    if options.as_json:
        show_json(found)
    else:
        show_table(
            (_MARKS[check.state], check.name, "; ".join(filter(None, (check.found, check.advice))))
            for check in found.checks
        )
    if not found.is_right:
        raise click.exceptions.Exit(ModelError.exit_code)


for member in (list_, pull, import_, inspect, verify):
    models.add_command(member)


def usable_model(
    name: str | None, stages: Callable[[str, int, int], None], *, is_quiet: bool
) -> str | None:
    """Give the name under which a model can be used; a file's is that of what it is converted to.

    ModelError if the file cannot be converted.
    """
    from aobatch.models.store.catalogue import PRECISION, adopt, find_adopted, find_source

    source = find_source(name) if name else None
    if source is None:
        return name
    if (known := find_adopted(source)) is not None:
        return known.manifest.name
    from aobatch.runners.scoring import score_texts

    adopted = adopt(source, stages, score_texts)
    for note in adopted.folder.manifest.notes if adopted.is_new else ():
        say(note, level="warning")
    if adopted.is_new and not is_quiet:
        say(
            f"{source} was converted to {PRECISION} once, in {adopted.folder.path}; "
            f"`aobatch models import {source} NAME` gives it a name and a precision of your choice"
        )
    return adopted.folder.manifest.name


def known_model(name: str | None) -> "tuple[str | None, Callable[[str | None], ModelFolder]]":
    """Give a name, and how models are found, for commands that convert nothing."""
    from aobatch.models.store.catalogue import find_adopted, find_source, resolve

    source = find_source(name) if name else None
    if source is None:
        return name, resolve
    if (known := find_adopted(source)) is not None:
        return known.manifest.name, resolve

    def find(asked: str | None) -> "ModelFolder":
        if asked == name:
            message = f"{name} is not converted yet, which a run does once"
            raise ModelError(message)
        return resolve(asked)

    return name, find
