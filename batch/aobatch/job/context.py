"""What the parts of a running job share: its state, its settings, and how results are recorded."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from aobatch.api.errors import error_object
from aobatch.api.request import Request
from aobatch.api.response import Origin, response_of
from aobatch.engine.sequence import Result
from aobatch.errors import UsageError
from aobatch.executors import Backend, ModelIdentity, Statistics
from aobatch.job.config import JobConfig
from aobatch.job.in_flight import InFlight
from aobatch.job.ledger import Ledger, Record
from aobatch.job.models import ModelDirectory
from aobatch.job.source import Source


class Progress(Protocol):
    """Someone who watches a job."""

    def start(self, total: int, known: int) -> None:
        """Hear how many lines there are, and how many an earlier run has answered."""

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Hear that further lines were answered with so many new tokens."""

    def fail(self) -> None:
        """Hear that the line that was answered last has an error."""

    def warn(self, message: str) -> None:
        """Hear of something that went wrong and does not stop the job."""

    def close(self) -> None:
        """Hear that nothing more will be computed."""


class Unwatched:
    """Hears of everything and does nothing."""

    def warn(self, *_: object) -> None:
        """Hear of something."""

    start = advance = fail = close = warn


RESULTS_VERSION = 2
"""Raised when the same settings would give other results than an earlier version gave."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that owns its state folder, with an open ledger."""

    source: Source
    backend: Backend
    ledger: Ledger
    models: ModelDirectory
    in_flight: InFlight
    progress: Progress
    settings: Mapping[str, str]
    """Everything that shapes results, beside the inputs and the models."""
    created: int
    """When the job began, in Unix seconds; it stands in every response."""

    @property
    def config(self) -> JobConfig:
        """What the job is to do."""
        return self.source.config


def begin_job(
    source: Source, backend: Backend, ledger: Ledger, in_flight: InFlight, progress: Progress
) -> Job:
    """Begin a job, or go on with it; InputError if the ledger belongs to another job."""
    settings = result_settings(source.config, backend)
    if not len(ledger):  # what a run without any result was asked for binds nobody
        ledger.unclaim([name for name in ledger.settings if name != "created"])
    ledger.claim({**settings, "shard": str(source.config.selection.shard)})
    if source.config.retries_failed:
        ledger.forget_failures()
    ledger.add_deaths([key for key in in_flight.left_behind() if key not in ledger])
    in_flight.clear()
    started = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
    if not started.isdecimal():
        message = f"SOURCE_DATE_EPOCH is {started!r}; set it to a number of seconds or unset it"
        raise UsageError(message)
    # A resumed job keeps its start, so that its responses are those of an uninterrupted one.
    created = ledger.settings.get("created", started)
    ledger.claim({"created": created})
    ledger.add_statistics(Statistics(runs=1))
    num_lines = source.count()
    keys = (line.key for line in source.lines() if isinstance(line, Request))
    ledger.begin_lines(num_lines, _canonical([source.digests, source.config.selection]), keys)
    progress.start(num_lines, ledger.num_used)
    models = ModelDirectory(backend, source.config.model, ledger)
    return Job(source, backend, ledger, models, in_flight, progress, settings, int(created))


def result_settings(config: JobConfig, backend: Backend) -> dict[str, str]:
    """Name everything that shapes results, beside the inputs and the models."""
    return {
        "results version": str(RESULTS_VERSION),
        "defaults": _canonical(_without_texts(config.defaults)),
        "overrides": _canonical(_without_texts(config.overrides)),
        "columns": _canonical(config.columns),
        "ignore_unknown": _canonical(config.ignore_unknown),
        **({"template": _digest(config.template)} if config.template else {}),
        **{name: _canonical(value) for name, value in backend.settings.items()},
    }


def _without_texts(defaults: Mapping[str, object]) -> dict[str, object]:
    # A message may name settings, and what is completed belongs in none.
    digests = {name: _digest(defaults[name]) for name in ("prompt", "suffix") if name in defaults}
    return {**defaults, **digests}


def _digest(value: object) -> str:
    """Name a value that belongs in no message."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, ensure_ascii=False)


def record_of(job: Job, model: ModelIdentity, result: Result) -> Record:
    """Make the record of a result: the whole completion object, or the error object."""
    request, error, usage = result.request, result.error, result.usage
    origin = origin_of(job, model, request)
    name = origin.model
    if error is not None:
        body = msgspec.json.encode(error_object(error))
        return Record(
            request.key, error.status_code, body, name, seconds=result.seconds, waited=result.waited
        )
    return Record(
        request.key,
        200,
        msgspec.json.encode(response_of(request, result.choices, usage, origin)),
        name,
        usage.prompt_tokens,
        usage.completion_tokens,
        result.seconds,
        result.waited,
        ",".join(choice.finish_reason or "" for choice in result.choices),
    )


def origin_of(job: Job, model: ModelIdentity, request: Request) -> Origin:
    """Say what a response of the job has of its job and its model."""
    name = job.models.asked_name(request.body.model) or model.name
    return Origin(job.created, name, model.fingerprint)
