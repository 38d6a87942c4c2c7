"""A usage report filled in with what is known of its job."""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from msgspec.structs import replace

from aobatch.job.context import Job
from aobatch.job.prices import Prices, cost_of
from aobatch.job.report import JobFacts, ModelFacts, UsageReport, UsageTally
from aobatch.job.timeline import timeline

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
