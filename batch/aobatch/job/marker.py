"""What is known of a finished job: enough to see that running it again would change nothing."""

import os
from pathlib import Path

import msgspec

from aobatch.errors import RequestError
from aobatch.executors import Backend
from aobatch.files import storage_errors, write_whole
from aobatch.job.config import JobConfig
from aobatch.job.context import Job, result_settings
from aobatch.job.report import UsageReport, report_json, report_path
from aobatch.job.selection import Selection
from aobatch.job.source import Source, digest_file


class Marker(msgspec.Struct, frozen=True):
    """A finished job: what went in, what came out, and what it hung on."""

    inputs: tuple[str, ...]
    output: str
    settings: dict[str, str]
    models: dict[str, str]
    report: UsageReport
    selection: Selection = Selection()
    errors: str | None = None
    """The digest of the file of failed lines, if there is one."""


def mark_finished(path: Path, job: Job, report: UsageReport) -> None:
    """Note that a job is published."""
    output = digest_file(job.config.output)
    models = job.models.fingerprints
    selection = job.config.selection
    errors = digest_file(job.config.errors) if job.config.errors else None
    inputs, settings = job.source.digests, dict(job.settings)
    write_marker(path, Marker(inputs, output, settings, models, report, selection, errors))


def write_marker(path: Path, marker: Marker) -> None:
    """Write what is known of a finished job."""
    write_whole(path, msgspec.json.encode(marker))


def read_marker(path: Path) -> Marker | None:
    """Give the marker of a finished job, None if there is none or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Marker)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def has_same_settings(marker: Marker, config: JobConfig, backend: Backend) -> bool:
    """Say whether a job as it is asked for now would give a request the same result."""
    is_same = marker.settings == result_settings(config, backend)
    return is_same and _has_same_models(marker, config, backend)


def is_current(marker: Marker, source: Source) -> bool:
    """Say whether inputs, chosen lines and output are as they were when the job was finished."""
    output = source.config.output
    return (
        marker.inputs == source.digests
        and marker.selection == source.config.selection
        and output.is_file()
        and marker.output == digest_file(output)
        and _has_errors(marker, source.config.errors)
    )


def _has_errors(marker: Marker, errors: Path | None) -> bool:
    return errors is None or (errors.is_file() and marker.errors == digest_file(errors))


def model_folders(marker: Marker, config: JobConfig, backend: Backend) -> list[Path]:
    """Give the folders of the models that a finished job used."""
    return [backend.resolve(name or config.model).path for name in marker.models]


def refresh(report: UsageReport, output: Path) -> None:
    """Make the files of a finished job newer than its inputs, as make wants them."""
    write_report(report, output)
    with storage_errors(output):
        os.utime(output)


def write_report(report: UsageReport, output: Path) -> None:
    """Write the usage report beside the output."""
    write_whole(report_path(output), report_json(report))


def _has_same_models(marker: Marker, config: JobConfig, backend: Backend) -> bool:
    try:
        return all(
            backend.resolve(name or config.model).fingerprint == fingerprint
            for name, fingerprint in marker.models.items()
        )
    except RequestError:
        return False
