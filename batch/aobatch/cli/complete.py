"""`aobatch complete`: one request from the command line."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from aobatch.api.body import PARAMETERS, Parameter
from aobatch.api.kinds import Boolean
from aobatch.api.request import FailedLine, Limits, Parser
from aobatch.api.response import Completion, completion_id
from aobatch.cli.command import Command, exit_codes
from aobatch.cli.console import show
from aobatch.cli.ending import interruptible
from aobatch.cli.models import usable_model
from aobatch.cli.options import kv_cache_dtype_option, model_names, threads_option
from aobatch.engine.streaming import Listener
from aobatch.errors import JobError, UsageError
from aobatch.executors import Backend

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta


def complete_one(
    body: Mapping[str, object], backend: Backend, listener: Listener | None = None
) -> Completion:
    """Compute one body as a line of a job would be; the listener gets the pieces of a stream.

    UsageError says what is wrong with the body, ModelError that its model is not there.
    """
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    if isinstance(request, FailedLine):
        raise UsageError(request.error.message)
    model = backend.resolve(request.body.model)
    with backend.open(model) as executor:
        (result,) = executor.run([request], listener)
    if result.error is not None:
        is_ours = result.error.status_code >= 500
        raise (JobError if is_ours else UsageError)(result.error.message)
    return Completion(
        id=completion_id(request.key),
        created=int(time.time()),
        model=request.body.model or model.name,
        choices=result.choices,
        usage=result.usage,
        system_fingerprint=model.fingerprint,
    )


HELP = """Complete one prompt; - reads it from standard input.

\b
Examples:
  aobatch complete "Once upon a time" --max-tokens 60 --stream
  aobatch complete "2 + 2 =" --temperature 0 --stop '["\\n"]' --json
  aobatch complete - --n 3 < prompt.txt
"""


class JsonValue(click.ParamType[Any]):
    """A JSON value; what is no JSON is text, so that plain words need no quotes."""

    name = "value"

    def __init__(self, *, is_text: bool) -> None:
        self._is_text = is_text

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> object:
        """Read a value; one that is to be text is taken as it stands unless it is an array."""
        del param, ctx
        if not isinstance(value, str):  # from a settings file
            return value
        text = value
        if self._is_text and not text.startswith("["):
            return text
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


def parameter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add an option for every parameter of a request."""
    for parameter in reversed(list(PARAMETERS.values())):
        if parameter.name != "prompt":
            command = _option(parameter)(command)
    return command


def _option(parameter: Parameter) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag = f"--{parameter.name.replace('_', '-')}"
    names = (flag, "-m", parameter.name) if parameter.name == "model" else (flag, parameter.name)
    if isinstance(parameter.kind, Boolean):
        return click.option(*names, is_flag=True, default=None, help=parameter.doc)
    is_text = "string" in str(parameter.kind)
    value = JsonValue(is_text=is_text)
    offer = model_names if parameter.name == "model" else None
    return click.option(
        *names, type=value, metavar="VALUE", shell_complete=offer, help=parameter.doc
    )


@click.command(
    cls=Command, help=HELP, exit_codes=exit_codes({0: "the answer is printed"}, 69, 130, 143)
)
@click.argument("prompt")
@parameter_options
@click.option("--json", "as_json", is_flag=True, help="Print the whole response object.")
@kv_cache_dtype_option
@threads_option
def complete(
    prompt: str,
    kv_cache_dtype: Literal["fp32", "int8"],
    threads: int,
    *,
    as_json: bool,
    **fields: object,
) -> None:
    """Complete one prompt."""
    import msgspec

    from aobatch.cli.progress import stage_progress
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import LocalBackend, default_kv_cache_bytes
    from aobatch.runners import RunnerConfig

    body = {name: value for name, value in fields.items() if value is not None}
    body["prompt"] = _read_standard_input() if prompt == "-" else prompt
    with interruptible(), stage_progress(is_quiet=False) as stages:
        config = EngineConfig(num_lanes=1, kv_cache_bytes=default_kv_cache_bytes())
        if isinstance(model := body.get("model"), str):
            body["model"] = usable_model(model, stages, is_quiet=False)
        backend = LocalBackend(config, RunnerConfig(threads, kv_cache_dtype), stages)
        completion = complete_one(body, backend, None if as_json else _print_piece)
    if as_json:
        show(msgspec.json.format(msgspec.json.encode(completion), indent=2).decode())
    elif body.get("stream"):
        show("")
    else:
        show("\n\n".join(choice.text for choice in completion.choices))


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        message = f"standard input is not UTF-8: byte {error.start + 1} cannot be decoded"
        raise UsageError(message) from error


def _print_piece(delta: "Delta") -> None:
    if delta.choice.index == 0:
        show(delta.choice.text, end="")
