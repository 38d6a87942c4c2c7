"""What the parts of a running job share."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from aobatch.errors import UsageError
from aobatch.executors import Backend
from aobatch.job.config import JobConfig
from aobatch.job.in_flight import InFlight
from aobatch.job.ledger import Ledger
from aobatch.job.progress import Progress
from aobatch.job.resolution import ModelDirectory
from aobatch.job.source import Source

RESULTS_VERSION = 1
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
    ledger.claim(settings)
    if source.config.retries_failed:
        ledger.forget_failures()
    ledger.add_deaths([key for key in in_flight.left_behind() if key not in ledger])
    in_flight.clear()
    models = ModelDirectory(backend, source.config.model, ledger)
    created = _begin_run(ledger)
    num_lines = source.count()
    ledger.note({"lines": num_lines, "bad lines": 0})
    progress.start(num_lines, len(ledger))
    return Job(source, backend, ledger, models, in_flight, progress, settings, created)


def result_settings(config: JobConfig, backend: Backend) -> dict[str, str]:
    """Name everything that shapes results, beside the inputs and the models."""
    return {
        "results version": str(RESULTS_VERSION),
        "defaults": _canonical(_without_texts(config.defaults)),
        "overrides": _canonical(_without_texts(config.overrides)),
        "limits": _canonical(config.limits),
        "columns": _canonical(config.columns),
        "ignore_unknown": _canonical(config.ignore_unknown),
        **{name: _canonical(value) for name, value in backend.settings.items()},
    }


def _begin_run(ledger: Ledger) -> int:
    # A resumed job keeps its start, so that its responses are those of an uninterrupted one.
    started = os.environ.get("SOURCE_DATE_EPOCH") or str(int(time.time()))
    if not started.isdecimal():
        message = f"SOURCE_DATE_EPOCH is {started!r}; set it to a number of seconds or unset it"
        raise UsageError(message)
    started = ledger.settings.get("created", started)
    ledger.claim({"created": started})
    ledger.add_statistics({"runs": 1})
    return int(started)


def _without_texts(defaults: Mapping[str, object]) -> dict[str, object]:
    # A message may name settings, and what is completed belongs in none.
    digests = {
        name: hashlib.sha256(_canonical(defaults[name]).encode()).hexdigest()
        for name in ("prompt", "suffix")
        if name in defaults
    }
    return {**defaults, **digests}


def _canonical(value: object) -> str:
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, ensure_ascii=False)
