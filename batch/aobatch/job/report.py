"""The usage report of a job, added up from the lines that it publishes."""

import math
import re
from array import array
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.api.errors import shorten
from aobatch.api.response import Usage
from aobatch.job.histogram import Histogram, histogram
from aobatch.job.percentiles import NO_PERCENTILES, Percentiles, percentiles, tidy
from aobatch.job.prices import Cost
from aobatch.job.timeline import Timeline

NO_HISTOGRAM = Histogram([], [])

MAX_GROUPS = 50_000
"""Names that are counted by themselves, of models and of users; others come after them."""

MAX_NAME_LENGTH = 512
"""Longer names of models are cut."""

OTHERS = "(others)"
"""The group of the names beyond the first 50,000."""


class CountedChoice(msgspec.Struct, frozen=True):
    """What a report counts of a choice."""

    finish_reason: str | None


class CountedCompletion(msgspec.Struct, frozen=True):
    """What a report counts of a completion object."""

    model: str
    choices: tuple[CountedChoice, ...]
    usage: Usage


class RequestCounts(msgspec.Struct, frozen=True):
    """How many lines there were and what became of them."""

    total: int
    completed: int
    failed: int
    failed_by_code: dict[str, int]
    """By the `code` of their error objects."""


class GroupUsage(msgspec.Struct):
    """The lines that share a name; null is the name of those that give none."""

    name: str | None
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def add(self, other: "GroupUsage") -> None:
        """Add what a group of the same name has in another report."""
        self.requests += other.requests
        self.failed += other.failed
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.total_tokens += other.total_tokens


class Histograms(msgspec.Struct, frozen=True):
    """How the completed requests are spread."""

    prompt_tokens: Histogram = NO_HISTOGRAM
    completion_tokens: Histogram = NO_HISTOGRAM
    seconds: Histogram = NO_HISTOGRAM


class ModelFacts(msgspec.Struct, frozen=True):
    """A model that answered lines."""

    name: str
    """As the lines, or the job, ask for it."""
    fingerprint: str
    precision: str
    """How its weights are kept; empty if that is not known."""


class JobFacts(msgspec.Struct, frozen=True):
    """What a job was."""

    state: Literal["running", "interrupted", "finished"]
    lines: int
    """Of the inputs; more than requests in the report if the job is not finished."""
    created: int
    """When the job began, in Unix seconds."""
    version: str
    """Of aobatch."""
    models: list[ModelFacts]
    settings: dict[str, str]
    """Those that shape results."""


class UsageReport(msgspec.Struct, frozen=True):
    """What a job did; the sum of its lines and the time it took."""

    requests: RequestCounts
    usage: Usage
    finish_reasons: dict[str, int]
    """How many choices ended for which reason."""
    by_model: list[GroupUsage]
    by_user: list[GroupUsage]
    completion_tokens: Percentiles
    """New tokens a completed request."""
    seconds: Percentiles
    """Time from admission to finish of a completed request."""
    tokens_per_second: float
    """New tokens a second of wall time without fetching models, over all runs of the job."""
    statistics: dict[str, int | float]
    """Counts and seconds over all runs of the job, `wall_seconds` among them."""
    # Reports of earlier versions lack what follows.
    prompt_tokens: Percentiles = NO_PERCENTILES
    """Prompt tokens a completed request."""
    histograms: Histograms = Histograms()
    timeline: Timeline = Timeline()
    """What had been computed at a time, in columns of one length."""
    job: JobFacts | None = None
    cost: Cost | None = None
    """Null without prices."""


def report_path(output: Path) -> Path:
    """Name the file of a job's usage report."""
    return output.with_name(f"{output.name}.usage.json")


def report_json(report: UsageReport) -> bytes:
    """Write a report for programs and people: indented, each list of numbers on one line."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    # A string holds no raw line end, so only lists match.
    numbers = rb"\[\n\s+([-+.\deE,\s]+?)\n\s+\]"
    return re.sub(numbers, lambda match: b"[%s]" % b" ".join(match[1].split()), text) + b"\n"


class UsageTally:
    """A usage report while it is added up."""

    def __init__(self) -> None:
        self._failed_by_code: Counter[str] = Counter()
        self._finish_reasons: Counter[str] = Counter()
        self._by_model: dict[str | None, GroupUsage] = {}
        self._by_user: dict[str | None, GroupUsage] = {}
        self._num_completed = 0
        self._prompt_tokens = array("q")
        self._completion_tokens = array("q")
        self._seconds = array("d")

    def add_completion(
        self, completion: CountedCompletion, user: str | None, seconds: float
    ) -> None:
        """Count a line that was answered."""
        usage = completion.usage
        for group in self._groups(completion.model, user):
            group.prompt_tokens += usage.prompt_tokens
            group.completion_tokens += usage.completion_tokens
            group.total_tokens += usage.total_tokens
        self._finish_reasons.update(choice.finish_reason or "" for choice in completion.choices)
        self._num_completed += 1
        self.add_measures(usage.prompt_tokens, usage.completion_tokens, seconds)

    def add_measures(self, prompt_tokens: int, completion_tokens: int, seconds: float) -> None:
        """Add a completed request to the spread of all."""
        self._prompt_tokens.append(prompt_tokens)
        self._completion_tokens.append(completion_tokens)
        self._seconds.append(seconds)

    def add_failure(self, code: str | None, model: str | None, user: str | None) -> None:
        """Count a line that ended in an error."""
        for group in self._groups(model, user):
            group.failed += 1
        self._failed_by_code[code or "unknown"] += 1

    def add_report(self, report: UsageReport) -> None:
        """Count what another report has counted, but for the spread of its requests."""
        self._num_completed += report.requests.completed
        self._failed_by_code.update(report.requests.failed_by_code)
        self._finish_reasons.update(report.finish_reasons)
        for known, groups in (
            (self._by_model, report.by_model),
            (self._by_user, report.by_user),
        ):
            for group in groups:
                _group(known, group.name).add(group)

    def report(self, statistics: Mapping[str, float]) -> UsageReport:
        """Give the sums, with the counts and seconds of the job's runs."""
        models = list(self._by_model.values())
        usage = Usage(
            sum(group.prompt_tokens for group in models),
            sum(group.completion_tokens for group in models),
            sum(group.total_tokens for group in models),
        )
        wall_seconds = statistics.get("wall_seconds", 0.0) - statistics.get("model_seconds", 0.0)
        # What is sorted already is sorted again in no time.
        prompt_tokens = sorted(self._prompt_tokens)
        completion_tokens = sorted(self._completion_tokens)
        seconds = sorted(self._seconds)
        return UsageReport(
            requests=self._counts(),
            usage=usage,
            finish_reasons=dict(sorted(self._finish_reasons.items())),
            by_model=models,
            by_user=list(self._by_user.values()),
            completion_tokens=percentiles(completion_tokens),
            seconds=percentiles(seconds),
            tokens_per_second=round(usage.completion_tokens / (wall_seconds or math.inf), 3),
            statistics={name: tidy(value) for name, value in sorted(statistics.items())},
            prompt_tokens=percentiles(prompt_tokens),
            histograms=Histograms(
                histogram(prompt_tokens, is_whole=True),
                histogram(completion_tokens, is_whole=True),
                histogram(seconds, is_whole=False),
            ),
        )

    def _groups(self, model: str | None, user: str | None) -> tuple[GroupUsage, GroupUsage]:
        groups = _group(self._by_model, model), _group(self._by_user, user)
        for group in groups:
            group.requests += 1
        return groups

    def _counts(self) -> RequestCounts:
        completed, failed = self._num_completed, self._failed_by_code.total()
        by_code = dict(self._failed_by_code.most_common())
        return RequestCounts(completed + failed, completed, failed, by_code)


def _group(groups: dict[str | None, GroupUsage], name: str | None) -> GroupUsage:
    """Give the group of a name; their number is bounded, whatever the lines name."""
    name = name if name is None else shorten(name, MAX_NAME_LENGTH)
    if name not in groups and len(groups) >= MAX_GROUPS:
        name = OTHERS
    return groups.setdefault(name, GroupUsage(name))
