"""`aobatch complete`: one request from the command line."""

import json
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from aobatch.api.body import PARAMETERS, SHAPES, Parameter
from aobatch.api.kinds import Boolean
from aobatch.api.request import FailedLine, Limits, Parser
from aobatch.api.response import ChatChoice, ChatCompletion, Completion, Origin, response_of
from aobatch.api.shapes import ShapeText
from aobatch.cli.command import command, exit_codes
from aobatch.cli.console import say, show, show_json
from aobatch.cli.ending import interruptible
from aobatch.cli.models import usable_model
from aobatch.cli.options import RunnerOptions, option, options
from aobatch.cli.values import Kind, model_names, read_file, read_json, read_value
from aobatch.engine.streaming import Listener
from aobatch.errors import JobError, ModelError, UsageError
from aobatch.executors import Backend, ModelIdentity

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta


def complete_one(
    body: Mapping[str, object], model: ModelIdentity, backend: Backend, listener: Listener | None
) -> Completion | ChatCompletion:
    """Compute one body as a line of a job would be; the listener gets the pieces of a stream.

    UsageError says what is wrong with the body.
    """
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    if isinstance(request, FailedLine):
        raise UsageError(request.error.message)
    with backend.open(model) as executor:
        (result,) = executor.run([request], listener)
    if result.error is not None:
        is_ours = result.error.status_code >= 500
        raise (JobError if is_ours else UsageError)(result.error.message)
    origin = Origin(int(time.time()), request.body.model or model.name, model.fingerprint)
    return response_of(request, result.choices, result.usage, origin)


@options()
class CompleteOptions(RunnerOptions):
    """What the command line gives besides the parameters of a request."""

    prompt: str
    chat: bool = option(False, "Answer as a chat does: PROMPT is what a user says.")
    system: str | None = option(
        None, "A system message ahead of the chat; only with --chat.", metavar="TEXT"
    )
    as_json: bool = option(False, "Print the whole response object.", "--json")
    json_schema: Path | None = option(None, "Answer with JSON of the schema in a file.")
    regex: str | None = option(None, "Answer with a match of a regular expression.")
    choice: str | None = option(None, "Answer with one of some words.", metavar="A,B...")

    def shape(self) -> dict[str, object]:
        """Give the field that says which shape the answer is to have, if any."""
        parts = {
            "json": self.json_schema and read_file(self.json_schema),
            "regex": self.regex,
            "choice": self.choice and self.choice.split(","),
        }
        given = {name: part for name, part in parts.items() if part is not None}
        return {"structured_outputs": given} if given else {}


@command(CompleteOptions, exit_codes({0: "the answer is printed"}, 69, 130, 143))
def complete(options: CompleteOptions, **parameters: object) -> None:
    r"""Complete one prompt; - reads it from standard input.

    Examples:
      aobatch complete --chat "What is the capital of France?"
      aobatch complete "Once upon a time" --max-tokens 60 --stream
      aobatch complete "2 + 2 =" --temperature 0 --stop '["\n"]' --json
      aobatch complete - --n 3 < prompt.txt
      aobatch complete "Is the sea blue?" --choice " yes, no"
    """
    from aobatch.cli.progress import stage_progress
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import LocalBackend, default_kv_cache_bytes

    if options.system is not None and not options.chat:
        message = "--system is for chats; add --chat"
        raise UsageError(message)
    given = {name: value for name, value in parameters.items() if value is not None}
    body = body_of(options, given | options.shape())
    with interruptible(), stage_progress(is_quiet=False) as stages:
        size = default_kv_cache_bytes()
        config = EngineConfig(num_lanes=1, kv_cache_bytes=size, chat_format=options.chat_format)
        if isinstance(name := body.get("model"), str):
            body["model"] = name = usable_model(name, stages, is_quiet=False)
        backend = LocalBackend(config, options.runner_config(), stages)
        model = backend.resolve(name if isinstance(name, str) else None)
        listener = None if options.as_json else _print_piece
        completion = complete_one(body, model, backend, listener)
    if options.as_json:
        show_json(completion)
        return
    texts = [c.message.content if isinstance(c, ChatChoice) else c.text for c in completion.choices]
    show("" if body.get("stream") else "\n\n".join(texts))
    if not (options.chat or any(texts) or body.get("max_tokens") == 0) and _chats(model):
        say(f"the answer is empty: {model.name} answers chats; try `aobatch complete --chat`")


def body_of(options: CompleteOptions, parameters: dict[str, object]) -> dict[str, object]:
    """Write the body of a line that asks for the same."""
    text = _read_standard_input() if options.prompt == "-" else options.prompt
    if not options.chat:
        return {**parameters, "prompt": text}
    system = [] if options.system is None else [{"role": "system", "content": options.system}]
    # Chats have two names for what completions have one for.
    if (number := parameters.pop("logprobs", None)) is not None:
        parameters |= {"logprobs": True, "top_logprobs": number}
    return {**parameters, "messages": [*system, {"role": "user", "content": text}]}


def _chats(model: ModelIdentity) -> bool:
    """Say whether a model has a format of chats; not if that cannot be found out."""
    from aobatch.models.chat import NONE
    from aobatch.models.store.locate import open_model
    from aobatch.models.tokenizer import chat_format_of

    with suppress(ModelError):
        return chat_format_of(open_model(model.path)) != NONE
    return False


_DOCS = {
    "stream": "Print the answer while its tokens come.",
    "logprobs": "With --json: the logprobs of each token and of that many best ones.",
    "max_tokens": "How many tokens the answer has at most. Chats: as many as fit, up to 1024.",
}
"""What is to be said otherwise than of a line in a file."""


def _option_of(parameter: Parameter) -> click.Option:
    """Make an option of a parameter of requests; what is to be text may also be an array."""
    flag = f"--{parameter.name.replace('_', '-')}"
    text = _DOCS.get(parameter.name, parameter.doc)
    if isinstance(parameter.kind, Boolean):
        return click.Option([flag, parameter.name], is_flag=True, default=None, help=text)
    is_text, is_model = "string" in str(parameter.kind), parameter.name == "model"
    if parameter.default not in (None, (), msgspec.NODEFAULT, False):
        text = f"{text}  [default: {parameter.default}]"

    def read(value: object) -> object:
        if isinstance(value, str) and parameter.name in SHAPES:
            return read_value(value, str if isinstance(parameter.kind, ShapeText) else read_json)
        if not isinstance(value, str) or (is_text and not value.startswith("[")):
            return value
        return read_json(value)

    return click.Option(
        [flag, *(["-m"] if is_model else []), parameter.name],
        type=Kind("value", read, toml=(str, bool, int, float, list, dict)),
        metavar="VALUE",
        shell_complete=model_names if is_model else None,
        help=text,
    )


complete.params[1:1] = [_option_of(p) for p in PARAMETERS.values() if p.name != "prompt"]


def _read_standard_input() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"standard input is not UTF-8: byte {error.start + 1} cannot be decoded"
        raise UsageError(message) from error
    # As a shell does with what a command prints: echo and editors end a line, nobody a prompt.
    return text.removesuffix("\n").removesuffix("\r")


def _print_piece(delta: "Delta") -> None:
    if delta.choice.index == 0:
        show(delta.choice.text, end="")
