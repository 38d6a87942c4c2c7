"""`aobatch serve`: answer requests over HTTP, and batches as clients speak them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aobatch.cli.command import command, exit_codes
from aobatch.cli.console import Level, LogFormat, log_format, say
from aobatch.cli.models import usable_model
from aobatch.cli.options import EngineOptions, option, options
from aobatch.cli.values import ANY_PATH, AT_LEAST_1, DURATION, SIZE, model_names
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.serve.engines import Models
    from aobatch.serve.server import ServeConfig

TRY = """\
curl http://{host}:{port}/v1/completions -H 'Content-Type: application/json'{key} \\
  -d '{{"model": "{model}", "prompt": "Once upon a time", "max_tokens": 40, "stream": true}}'"""


@options("Machine")
class ServeOptions(EngineOptions):
    """All options of a server."""

    host: str = option(
        "127.0.0.1", "The address to listen at; others than this machine's need keys."
    )
    port: int = option(8000, "The port; 0 takes one that is free.")
    model: str | None = option(
        None,
        "The model that stays open, and answers what names none.",
        "-m",
        metavar="NAME",
        shell_complete=model_names,
        group="Requests",
    )
    data: Path = option(
        "aobatch-data",
        "Where files and batches are kept.",
        metavar="DIR",
        type=ANY_PATH,
        group="Files",
    )
    api_keys: Path | None = option(
        None, "Keys that clients give, one a line, or sha256:HEX of each.", type=ANY_PATH
    )
    no_auth: bool = option(False, "Let others in without keys.")
    requests_per_minute: int | None = option(
        None, "How many requests a key may make.", metavar="N", type=AT_LEAST_1, group="Requests"
    )
    tokens_per_minute: int | None = option(
        None, "How many tokens a key may use.", metavar="N", type=AT_LEAST_1, group="Requests"
    )
    max_waiting: int = option(
        256, "Requests that may wait for a place; more get 429.", type=AT_LEAST_1, group="Requests"
    )
    max_file_bytes: int = option("1GiB", "How large an upload may be.", type=SIZE, group="Files")
    grace: float = option("10s", "How long requests under way have when it stops.", type=DURATION)
    log_format: LogFormat = option(
        "text",
        "What is said on standard error: text, or a JSON object a line.",
        group="Report",
    )

    def engine_config(self) -> "EngineConfig":
        """Say how engines are configured: a part of the slots is kept for who waits."""
        from dataclasses import replace

        return replace(super().engine_config(), awaited_slots=self.max_num_seqs // 8)

    def serve_config(self) -> "ServeConfig":
        """Say what the server is to be."""
        from aobatch.serve.server import ServeConfig

        return ServeConfig(
            host=self.host,
            port=self.port,
            data=self.data,
            api_keys=self.api_keys,
            no_auth=self.no_auth,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_open=self.max_num_seqs + self.max_waiting,
            max_file_bytes=self.max_file_bytes,
            grace=self.grace,
        )


SERVE_CODES = exit_codes({0: "it was stopped, by SIGINT or SIGTERM"}, 69, 73, 74, 75)


@command(ServeOptions, SERVE_CODES)
def serve(options: ServeOptions) -> None:
    """Answer requests over HTTP, and batches of files.

    Examples:
      aobatch serve
      aobatch serve --host 0.0.0.0 --api-keys keys.txt --requests-per-minute 600
      aobatch serve --model gemma-3-270m --data /var/lib/aobatch
    """
    try:
        from aobatch.serve.server import Server, listen, make_gateway, opened_data
    except ImportError as error:
        message = (
            "serve needs the extra [serve]: `pip install starlette uvicorn python-multipart` adds "
            "what it has"
        )
        raise UsageError(message) from error

    config = options.serve_config()
    with log_format(options.log_format):
        config.keys()
        taken = listen(options.host, options.port)
        with taken, opened_data(config.data):
            models = open_models(options)
            gateway = make_gateway(config, models)
            logging.getLogger().addHandler(Teller(logging.WARNING))
            server = Server(gateway, options.grace)
            say_address(
                options, taken.getsockname()[1], models.own.name, has_keys=bool(gateway.keys)
            )
            server.run(sockets=[taken])
            models.close()
    if server.failure is not None:
        raise server.failure


def open_models(options: ServeOptions) -> "Models":
    """Find the server's own model, fetching or converting it if that must be."""
    from aobatch.cli.ending import interruptible
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.local import LocalBackend
    from aobatch.serve.engines import Models

    with interruptible(), stage_progress(is_quiet=False) as stages:
        name = usable_model(options.model, stages, is_quiet=False)
        backend = LocalBackend(options.engine_config(), options.runner_config(), stages)
        # A model that is opened later gets half of what is free then.
        return Models(
            backend,
            lambda model: LocalBackend(options.engine_config(), backend.runner).load(model),
            name,
        )


def say_address(options: ServeOptions, port: int, model: str, *, has_keys: bool) -> None:
    """Say where the server is, and a command to try."""
    key = " -H 'Authorization: Bearer YOUR_KEY'" if has_keys else ""
    host = f"[{options.host}]" if ":" in options.host else options.host
    example = TRY.format(host=host, port=port, key=key, model=model)
    where = f"serving {model} at http://{host}:{port}/v1, data in {options.data}; try"
    say(where, *example.split("\n"), event="serving", host=options.host, port=port)


class Teller(logging.Handler):
    """Says what libraries and the server log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        level = record.levelname.lower()
        known = level if level in ("info", "warning", "error", "critical") else "info"
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        say(*message.split("\n"), level=cast("Level", known), event="serve")
