"""`aobatch complete`: one request from the command line."""

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from aobatch.api.body import PARAMETERS, Parameter
from aobatch.api.kinds import Boolean
from aobatch.api.request import FailedLine, Limits, Parser
from aobatch.api.response import Completion, completion_id
from aobatch.cli.command import command, exit_codes
from aobatch.cli.console import show, show_json
from aobatch.cli.ending import interruptible
from aobatch.cli.models import usable_model
from aobatch.cli.options import RunnerOptions, option, options
from aobatch.cli.values import Kind, model_names, read_json
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


@options()
class CompleteOptions(RunnerOptions):
    """What the command line gives besides the parameters of a request."""

    prompt: str
    as_json: bool = option(False, "Print the whole response object.", "--json")


@command(CompleteOptions, exit_codes({0: "the answer is printed"}, 69, 130, 143))
def complete(options: CompleteOptions, **parameters: object) -> None:
    r"""Complete one prompt; - reads it from standard input.

    Examples:
      aobatch complete "Once upon a time" --max-tokens 60 --stream
      aobatch complete "2 + 2 =" --temperature 0 --stop '["\n"]' --json
      aobatch complete - --n 3 < prompt.txt
    """
    from aobatch.cli.progress import stage_progress
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import LocalBackend, default_kv_cache_bytes

    body = {name: value for name, value in parameters.items() if value is not None}
    body["prompt"] = _read_standard_input() if options.prompt == "-" else options.prompt
    with interruptible(), stage_progress(is_quiet=False) as stages:
        config = EngineConfig(num_lanes=1, kv_cache_bytes=default_kv_cache_bytes())
        if isinstance(model := body.get("model"), str):
            body["model"] = usable_model(model, stages, is_quiet=False)
        backend = LocalBackend(config, options.runner_config(), stages)
        completion = complete_one(body, backend, None if options.as_json else _print_piece)
    if options.as_json:
        show_json(completion)
    elif body.get("stream"):
        show("")
    else:
        show("\n\n".join(choice.text for choice in completion.choices))


def _option_of(parameter: Parameter) -> click.Option:
    """Make an option of a parameter of requests; what is to be text may also be an array."""
    flag = f"--{parameter.name.replace('_', '-')}"
    if isinstance(parameter.kind, Boolean):
        return click.Option([flag, parameter.name], is_flag=True, default=None, help=parameter.doc)
    is_text, is_model = "string" in str(parameter.kind), parameter.name == "model"

    def read(value: object) -> object:
        if not isinstance(value, str) or (is_text and not value.startswith("[")):
            return value
        return read_json(value)

    return click.Option(
        [flag, *(["-m"] if is_model else []), parameter.name],
        type=Kind("value", read, toml=(str, bool, int, float, list, dict)),
        metavar="VALUE",
        shell_complete=model_names if is_model else None,
        help=parameter.doc,
    )


complete.params[1:1] = [_option_of(p) for p in PARAMETERS.values() if p.name != "prompt"]


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        message = f"standard input is not UTF-8: byte {error.start + 1} cannot be decoded"
        raise UsageError(message) from error


def _print_piece(delta: "Delta") -> None:
    if delta.choice.index == 0:
        show(delta.choice.text, end="")
