"""A usage report filled in with what is known of its job."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec.structs import replace

from aobatch.api.errors import ErrorObject
from aobatch.errors import InputError, InputMissingError
from aobatch.job.config import JobConfig
from aobatch.job.context import Job
from aobatch.job.ledger import read_statistics, reading
from aobatch.job.report.usage import (
    CountedCompletion,
    JobFacts,
    ModelFacts,
    Point,
    Prices,
    UsageReport,
    UsageTally,
    cost_of,
    report_path,
    timeline,
)
from aobatch.job.source import StateFolder, state_path
from aobatch.job.status import job_status, read_marker

_NOT_SHOWN = {"results version", "limits", "created"}
_TEXTS = {"prompt", "suffix"}
"""Fields that hold what is completed, which stands in no report."""
_FIELDS = {"defaults": "default", "overrides": "override"}
"""Settings that are body fields of all lines."""


def finished_report(job: Job, tally: UsageTally) -> UsageReport:
    """Give the report of a job whose lines are all added up."""
    report = tally.report(job.ledger.statistics)
    models = [
        ModelFacts(name or model.name, model.fingerprint, model.precision)
        for name, model in job.models.found.items()
    ]
    facts = JobFacts(
        state="finished",
        lines=report.requests.total,
        created=job.created,
        version=aobatch_version(),
        models=models,
        settings=shown_settings(job.settings),
    )
    whole = replace(report, timeline=timeline(job.ledger.points()), job=facts)
    return with_cost(whole, job.config.prices)


def with_cost(report: UsageReport, prices: Prices | None) -> UsageReport:
    """Give a report with what its tokens cost; without prices it stays as it is."""
    if prices is None:
        return report
    return replace(report, cost=cost_of(report.by_model, prices))


def shown_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Choose the settings that say something to people, without texts of requests."""
    shown: dict[str, str] = {}
    for name, value in settings.items():
        if name in _FIELDS:
            fields = {key: v for key, v in json.loads(value).items() if key not in _TEXTS}
            shown |= {f"{_FIELDS[name]} {k}": _plain(json.dumps(v)) for k, v in fields.items()}
        elif name not in _NOT_SHOWN and not name.startswith("model"):
            shown[name] = _plain(value)
    return shown


def _plain(value: str) -> str:
    """Write JSON of a plain string without its quotes."""
    return value[1:-1] if value.startswith('"') and "\\" not in value else value


def aobatch_version() -> str:
    """Give the version of this package, empty if it is not installed."""
    try:
        return version("aobatch")
    except PackageNotFoundError:
        return ""


_RESULTS = "SELECT status_code, body, seconds FROM results"


def past_report(output: Path) -> UsageReport:
    """Give the report of the job of an output; InputMissingError if there is none."""
    state = StateFolder(state_path(JobConfig((), output)))
    if state.path.is_dir():
        marker = read_marker(state.marker)
        if marker is not None:
            return marker.report
        if state.ledger.exists():
            return _unfinished_report(output, state)
    path = report_path(output)
    try:
        return msgspec.json.decode(path.read_bytes(), type=UsageReport)
    except FileNotFoundError as error:
        message = f"{output} is not the output of a job: there is no {path}"
        raise InputMissingError(message) from error
    except (OSError, msgspec.DecodeError) as error:
        message = f"{path} is not a readable report ({error}); run the job again"
        raise InputError(message) from error


def _unfinished_report(output: Path, state: StateFolder) -> UsageReport:
    """Add up the results that a ledger has; who asked for them is not known without the inputs."""
    status = job_status(output)
    tally = UsageTally()
    num_results = 0
    with reading(state.ledger) as connection:
        connection.execute("BEGIN")  # a run may be adding results
        for status_code, body, seconds in connection.execute(_RESULTS):
            num_results += 1
            if status_code == 200:
                completion = msgspec.json.decode(body, type=CountedCompletion)
                tally.add_completion(completion, None, seconds)
            else:
                tally.add_failure(msgspec.json.decode(body, type=ErrorObject).code, None, None)
        settings = dict(connection.execute("SELECT name, value FROM settings"))
        statistics = read_statistics(connection)
        rows = connection.execute("SELECT * FROM points ORDER BY rowid")
        points = [Point(*row) for row in rows]
    for _ in range(status.answered - num_results):
        tally.add_failure(None, None, None)  # lines that are no requests have no result
    facts = JobFacts(
        state=status.state,
        lines=status.lines,
        created=int(settings.get("created", 0)),
        version=aobatch_version(),
        models=_models(settings),
        settings=shown_settings(settings),
    )
    report = tally.report(statistics)
    return replace(report, by_user=[], timeline=timeline(points), job=facts)


def _models(settings: dict[str, str]) -> list[ModelFacts]:
    """Read the models that a ledger is bound to, see `ModelDirectory`."""
    names = {"model": "(the job's own)"} | {
        setting: setting.removeprefix("model ")[1:-1]
        for setting in settings
        if setting.startswith(("model '", 'model "'))
    }
    return [
        ModelFacts(name, settings[setting], "")
        for setting, name in names.items()
        if setting in settings
    ]
