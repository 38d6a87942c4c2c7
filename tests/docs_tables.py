"""docs/reference.md, which comes from the code: `python tests/docs_tables.py` writes it."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
import msgspec

from aobatch.api.body import PARAMETERS, Parameter
from aobatch.api.chat import CHAT_PARAMETERS
from aobatch.cli.command import EXIT_CODES
from aobatch.cli.main import aobatch
from aobatch.models.chat import FORMATS

PATH = Path(__file__).parents[1] / "docs" / "reference.md"
PAGE = """# Reference

Written from the code by `make docs`.

## Parameters of a request

A line is a bare request, the documented body with an optional `custom_id`, or an OpenAI batch
envelope (`{{"custom_id", "method": "POST", "url": "/v1/completions", "body": {{…}}}}`); it is
answered in its own style. A failed line carries
`{{"line", "status_code", "error": {{"message", "type", "param", "code"}}}}`.

{parameters}

## Parameters of a chat

The body of a line for `/v1/chat/completions`, and a bare one with `messages`, is answered with a
`chat.completion` object. Other parameters are those above, but for `prompt`, `suffix`, `echo` and
`best_of`.

{chat_parameters}

Chat formats: {chat_formats}.

`metadata`, `store` and `service_tier` are accepted and ignored; any other unknown field is an
error, unless `--ignore-unknown` is given. A model with infill tokens reads `suffix` by them, in the
order in which it was trained (`models inspect` shows both). One without draws at least eight
candidates and keeps those under which the suffix is most probable; the report counts which of the
two ways was taken (`suffixes_infilled`, `suffixes_resampled`). At temperature 0 there is one
candidate, so the suffix then decides nothing on such a model.

## Tables

A row of a Parquet file has a column for each field that it gives: strings, integers, numbers and
booleans as in JSON, lists for arrays, maps, structs or strings of JSON for objects. Numbers may be
floats or decimals, a whole one is an integer, and NaN says as little as a null, so that columns of
pandas with gaps are read; values marked as JSON are what they say, and an extension type is what is
below it. A custom_id may be an integer or a UUID. Folders named `max_tokens=2`, as Hive, Spark and
DuckDB part tables, are columns that hold one value; one that is no field is passed over. A null
leaves its field out; a null prompt is the null prompt. Columns of a batch envelope work too, with
`body` a struct or a string of JSON. A column of a wrong type, or one that is no field, ends the run
before a model is loaded; `--column prompt=text` says which column gives a field, and then all
columns that are no field are ignored, as with `--ignore-unknown`.

CSV and TSV have a header, UTF-8 and quotes as RFC 4180 has them, and may be compressed. All cells
are text: what a field needs as a number, an array or an object is JSON in its cell, and an empty
cell leaves such a field out. A row with more or fewer cells than the header fails alone; blank
lines are none.

`--template 'Is this good? {{text}}'`, or `--template @FILE`, writes each row's prompt: names in
braces are columns of a table, or fields of JSON lines, and `{{{{` and `}}}}` are braces. All
columns are data then, but for `custom_id` and those that `--column` names. With `--chat` it is
what a user says, `--system` ahead of it. A name that is not there ends the run before anything is
computed; a null fails its row.

`--keep topic,year`, or `--keep all`, takes columns of the inputs along into the output, with their
types; one that is called as an answer's own becomes `input_text`. In JSON lines they are an object,
`input`, in CSV text; fields of JSON lines are text, or JSON, in a table. A Parquet output says in
its metadata (`aobatch.version`, `.models`, `.settings`, `.inputs`) what made it of what.

A CSV or TSV output has the columns below, but for the last one. A Parquet output has a row for each
line of the input: `custom_id` (of the type that it has in the tables of the input, so that the two
can be joined), `index` (counted from 0), `text` and `finish_reason` of the first choice,
`prompt_tokens`, `completion_tokens`, `error_code`, `error_message`, and in `response` the whole
line as JSON, with all choices.

## Inputs and outputs

An input may be a file, a quoted pattern (`'in/*.jsonl'`, `'in/**/*.parquet'`), a folder (all
files of known suffixes below it, in the order of their paths, none that is hidden), a URI, or
`-`. Of several files, those that a job wrote are passed over: `*.out.*`, `*.errors.*`, the output
itself, and any file with a job's state beside it.

The name of the output may have `{{dir}}`, `{{stem}}` and `{{ext}}` of the input, `{{date}}`,
`{{shard}}` and `{{shards}}`; `{{{{` is a brace. With one of the first three, each input is a job
of its own, one after the other. `{{date}}` is the day on which the job began: an interrupted job
whose inputs have not changed since keeps its day, for 30 days; `SOURCE_DATE_EPOCH` sets it.

URIs are those of pyarrow's file systems: s3, gs, abfs, hf, and fsspec+NAME for all that fsspec
knows; keys and endpoints come from the usual variables or stand behind a question mark. Inputs
are streamed, once for each of counting, computing and publishing; whether they changed is asked
by ETag or size and time, and only a store that knows neither is read once more. The output and
its state are kept in `aobatch-state/` or `--state-dir` and the output is uploaded when it is
complete, after its report; a later run uploads what its store lost. The files of streams stay
there.

## Commands

{commands}

## Exit codes

{exit_codes}

## Files of a job

| file | what |
|---|---|
| `OUT` | one line for each line of the input; by default `poems.jsonl` gives `poems.out.jsonl` |
| `OUT.usage.json` | the [usage report](usage-report.md) |
| `OUT.stream/000014.sse` | the server-sent events of line 14, if it has `"stream": true` |
| `--errors FILE` | the lines of `OUT` that are errors, if asked for |
| `OUT.aobatch/` | state of the job: its results, so that nothing is computed twice, and its end |

In the user's cache (`$XDG_CACHE_HOME/aobatch`, else `~/.cache/aobatch`) a run leaves what later
ones can use: converted `models/`, unless `AOBATCH_MODELS` is another place; `speeds.json`, how fast
this machine was, from which `validate` foretells times; `kernels/`, the compiled operators;
`exports/`, how graphs of other tools behaved when they were tried. Each can be deleted, and where
nothing can be written a run does without all but models.
"""


def parameter_table(parameters: Iterable[Parameter]) -> str:
    """Write a table of request parameters."""
    rows = ["| parameter | accepted | default | meaning |", "|---|---|---|---|"]
    for parameter in parameters:
        accepted = _escaped(str(parameter.kind))
        rows.append(
            f"| `{parameter.name}` | {accepted} | {_default(parameter.default)} | {parameter.doc} |"
        )
    return "\n".join(rows)


def option_table(name: str, command: click.Command) -> str:
    """Write the table of a command's options, in the words of its help, without itself."""
    # A command keeps the names of its help option as they were first asked for.
    context = click.Context(command, info_name=name, **aobatch.context_settings)
    parameters = command.get_params(context)
    options = [option for option in parameters if isinstance(option, click.Option)][:-1]
    records = [option.get_help_record(context) or ("", "") for option in options]
    cells = [(name, " ".join(text.split())) for name, text in records]
    rows = [f"| `{_escaped(name)}` | {_escaped(text)} |" for name, text in cells]
    return "\n".join(["| option | does |", "|---|---|", *rows]) if rows else "No options."


def commands(
    group: click.Group, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group with its whole name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*names, name))
        elif command is not None:
            yield " ".join((*names, name)), command


def command_sections() -> str:
    """Write a section for each command: how it is called, what it does, its options."""
    sections = []
    for name, command in commands(aobatch):
        context = click.Context(command, info_name=f"aobatch {name}", **aobatch.context_settings)
        usage = " ".join(command.collect_usage_pieces(context))
        sentence = (command.help or "").split("\n\n")[0].strip()
        title = f"### `aobatch {name}`\n\n`aobatch {name} {usage}`: {sentence}"
        sections.append(f"{title}\n\n{option_table(name, command)}")
    return "\n\n".join(sections)


def exit_code_table() -> str:
    """Write the table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def reference() -> str:
    """Write the whole page."""
    return PAGE.format(
        commands=command_sections(),
        parameters=parameter_table(PARAMETERS.values()),
        chat_parameters=parameter_table(
            p for n, p in CHAT_PARAMETERS.items() if p is not PARAMETERS.get(n)
        ),
        chat_formats=", ".join(f"`{name}`" for name in sorted(FORMATS)),
        exit_codes=exit_code_table(),
    )


def _default(value: object) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    if value in {None, (), msgspec.UNSET}:
        return "none"
    return f"`{str(value).lower()}`"


def _escaped(cell: str) -> str:
    """Keep a bar from ending a cell."""
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(PATH.write_text(reference(), encoding="utf-8") < 0)
