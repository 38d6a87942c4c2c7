"""The usage report of a job again: as it was published, or of what an unfinished job has so far."""

from pathlib import Path

import msgspec
from msgspec.structs import replace

from aobatch.api.errors import ErrorObject
from aobatch.errors import InputError, InputMissingError
from aobatch.job.config import JobConfig
from aobatch.job.database import reading
from aobatch.job.facts import aobatch_version, shown_settings
from aobatch.job.marker import read_marker
from aobatch.job.report import (
    CountedCompletion,
    JobFacts,
    ModelFacts,
    UsageReport,
    UsageTally,
    report_path,
)
from aobatch.job.state import StateFolder, state_path
from aobatch.job.status import job_status
from aobatch.job.timeline import Point, timeline

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
        statistics = dict(connection.execute("SELECT name, value FROM statistics"))
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
