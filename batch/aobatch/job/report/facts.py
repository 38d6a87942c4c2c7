"""The usage report of a job that is finished, of one that is not, and of one that was."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from aobatch.api.errors import ErrorObject, shorten
from aobatch.errors import InputError, InputMissingError
from aobatch.executors import package_version
from aobatch.job.config import JobConfig
from aobatch.job.context import Job
from aobatch.job.ledger import read_statistics, reading
from aobatch.job.models import ASKED
from aobatch.job.report.usage import (
    InputFacts,
    JobFacts,
    ModelFacts,
    Point,
    UsageReport,
    UsageTally,
    report_path,
    timeline,
    with_cost,
)
from aobatch.job.state import StateFolder, state_path
from aobatch.job.status import job_status, read_finished

_NOT_SHOWN = {"results version", "created", "shard", "inputs"}
LONGEST_SETTING = 400
"""More characters of a setting, such as a schema, are not shown."""
_TEXTS = {"prompt", "suffix"}
"""Fields that hold what is completed, which stands in no report."""
_FIELDS = {"defaults": "default", "overrides": "override"}
"""Settings that are body fields of all lines."""


def finished_report(job: Job, tally: UsageTally) -> UsageReport:
    """Write the report of a job whose lines are all added up."""
    statistics = job.ledger.statistics
    facts = JobFacts(
        state="finished",
        lines=tally.num_lines,
        created=job.created,
        version=package_version(),
        models=[
            ModelFacts(
                name or model.name,
                *(model.fingerprint, model.precision, model.kernels, model.kv_cache_dtype),
                model.lack,
            )
            for name, model in job.models.found.items()
        ],
        settings=shown_settings(job.settings),
        inputs=[InputFacts(each.name, each.digest) for each in job.source.inputs],
    )
    report = tally.report(statistics, facts, timeline(job.ledger.points()))
    return with_cost(report, job.config.prices)


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
    """Write JSON of a plain string without its quotes, and cut what is very long."""
    plain = value[1:-1] if value.startswith('"') and "\\" not in value else value
    return shorten(plain, LONGEST_SETTING)


_RESULTS = """
SELECT iif(results.status_code = 200, NULL, body), results.model, user, finish_reasons,
       prompt_tokens, completion_tokens, seconds, waited
FROM results LEFT JOIN lines ON lines.key = results.key WHERE is_used
UNION ALL SELECT error, nullif(model, ''), user, '', 0, 0, 0, 0 FROM failed_lines
"""


def past_report(output: Path) -> UsageReport:
    """Read or add up the report of the job of an output; InputMissingError if there is none."""
    state = StateFolder(state_path(JobConfig((), output)))
    if state.path.is_dir():
        if (finished := read_finished(state)) is not None:
            return finished.report
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
    """Add up the results that a ledger has; users are known of lines that the last run read."""
    status = job_status(output)
    tally = UsageTally()
    with reading(state.ledger) as connection:
        connection.execute("BEGIN")  # a run may be adding results
        for error, model, user, reasons, *measures in connection.execute(_RESULTS):
            if error is None:
                tally.add_completion(model, user, reasons.split(","), measures)
            else:
                code = msgspec.json.decode(error, type=ErrorObject).code
                tally.add_failure(code, model, user)
        settings = dict(connection.execute("SELECT name, value FROM settings"))
        statistics = read_statistics(connection)
        points = [Point(*row) for row in connection.execute("SELECT * FROM points ORDER BY rowid")]
    facts = JobFacts(
        state=status.state,
        lines=status.lines,
        created=int(settings.get("created", 0)),
        version=package_version(),
        models=_models(settings, tally.model_names),
        settings=shown_settings(settings),
    )
    return tally.report(statistics, facts, timeline(points))


def _models(settings: Mapping[str, str], names: Iterable[str]) -> list[ModelFacts]:
    """Read the models that a ledger is bound to, see `ModelDirectory`; answers name the job's own.

    As long as there is no answer of it, it has no name.
    """
    named = {
        name.removeprefix("model ")[1:-1]: fingerprint
        for name, fingerprint in settings.items()
        if name.startswith(("model '", 'model "'))
    }
    asked = settings.get(ASKED)
    own = asked or next((name for name in names if name not in named), "the job's own model")
    found = {own: settings["model"]} if "model" in settings else {}
    return [ModelFacts(name, digest, "") for name, digest in (found | named).items()]
