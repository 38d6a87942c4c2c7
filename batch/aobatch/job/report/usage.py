"""The usage report of a job: its parts, and how they are added up from published lines."""

import math
import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from aobatch.api.errors import shorten
from aobatch.api.response import Usage
from aobatch.errors import InputMissingError, UsageError
from aobatch.executors import Statistics

MAX_GROUPS = 50_000
"""Names that are counted by themselves, of models and of users; others come after them."""
MAX_NAME_LENGTH = 512
"""Longer names of models are cut."""
OTHERS = "(others)"
"""The group of the names beyond the first 50,000."""
NUM_BUCKETS = 24
"""About as many buckets are wanted; the last one may hold all that lies far beyond the others."""
MAX_POINTS = 200
FIRST_SECONDS = 0.25
"""The time between two points at first; it doubles whenever there are too many of them."""


class RequestCounts(msgspec.Struct, frozen=True):
    """How many lines there were and what became of them."""

    total: int
    completed: int
    failed: int
    failed_by_code: dict[str, int]
    """By the `code` of their error objects."""


class GroupUsage(msgspec.Struct):
    """The lines that share a name; null of those that give none, or that could not be read.

    Lines that name no model ask for the job's own and stand under its name.
    """

    name: str | None
    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def add(self, other: "GroupUsage") -> None:
        """Add the lines of another group."""
        for name in self.__struct_fields__[1:]:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def sum_of(name: str | None, groups: Iterable[GroupUsage]) -> GroupUsage:
    """Add groups up."""
    total = GroupUsage(name)
    for group in groups:
        total.add(group)
    return total


class Percentiles(msgspec.Struct, frozen=True):
    """The values that half, nine tenths and 99 of 100 requests do not exceed."""

    p50: int | float | None = None
    p90: int | float | None = None
    p99: int | float | None = None


def percentiles(values: Sequence[float]) -> Percentiles:
    """Choose the nearest-rank percentiles of some values; all are None without any."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles()
    # ceil(p/100 * N)-th smallest value.
    ranks = (math.ceil(p * len(ordered) / 100) for p in (50, 90, 99))
    return Percentiles(*(_tidy(ordered[rank - 1]) for rank in ranks))


class Histogram(msgspec.Struct, frozen=True):
    """Values in buckets."""

    bounds: list[int | float]
    """Bucket i goes from bounds[i] to below bounds[i + 1]; the last one holds its end as well."""
    counts: list[int]
    """Values in each bucket."""


class Histograms(msgspec.Struct, frozen=True):
    """How the completed requests are spread."""

    prompt_tokens: Histogram
    completion_tokens: Histogram
    seconds: Histogram


def histogram(values: Sequence[float], *, is_whole: bool) -> Histogram:
    """Put values into buckets of one width, whole numbers into buckets with whole bounds.

    Where a few values would leave most buckets empty, those beyond the 99th percentile share the
    last bucket.
    """
    if not values:
        return Histogram([], [])
    ordered = sorted(values)
    lowest, usual, end = ordered[0], ordered[(len(ordered) * 99 - 1) // 100], ordered[-1] + is_whole
    step = nice_step((usual - lowest) / NUM_BUCKETS, smallest=1 if is_whole else 1e-6)
    first, last = math.floor(lowest / step), math.ceil(end / step)
    if is_far := last - first > 2 * NUM_BUCKETS:
        last = math.floor(usual / step) + 1
    bounds = [_tidy(index * step, 9) for index in range(first, max(last, first + 1) + 1)]
    bounds += [_tidy(end, 9)] * is_far
    places = [0, *(bisect_left(ordered, bound) for bound in bounds[1:-1]), len(ordered)]
    return Histogram(bounds, [end - start for start, end in pairwise(places)])


def nice_step(width: float, smallest: float = 1e-9) -> float:
    """Round a width up to one of 1, 2, 5, 10, 20, 50 and so on."""
    width = max(width, smallest)
    power = 10.0 ** math.floor(math.log10(width))
    # A quotient such as 2.0000000000000004 is a two.
    factor = next(factor for factor in (1, 2, 5, 10) if factor >= width / power - 1e-9)
    step = factor * power
    return round(step) if step >= 1 else step


def _tidy(value: float, digits: int = 6) -> int | float:
    """Write counts as integers, and seconds to the microsecond."""
    return int(value) if value == int(value) else round(value, digits)


class Point(NamedTuple):
    """A row of a timeline: what had been computed at a time, counted from the job's beginning."""

    run: int = 1
    seconds: float = 0.0
    lines: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    rows: int = 0
    slots: int = 0


class Timeline(msgspec.Struct, frozen=True):
    """Points in columns; those of a resumed job continue those of its earlier runs."""

    run: list[int] = []
    """Which run of the job it was."""
    seconds: list[float] = []
    """Time in which requests were computed, without opening models."""
    lines: list[int] = []
    """Requests with a result."""
    prompt_tokens: list[int] = []
    """Prompt tokens that were computed."""
    new_tokens: list[int] = []
    """Tokens that were drawn."""
    rows: list[int] = []
    """Slots in use, summed over all steps of decoding."""
    slots: list[int] = []
    """Slots, summed over all steps of decoding."""


def timeline(points: Iterable[Point]) -> Timeline:
    """Put points into columns."""
    return Timeline(*map(list, zip(*points, strict=True)))


def joined(timelines: Iterable[Timeline]) -> Timeline:
    """Put the timelines of several parts of a job behind each other, as those of further runs."""
    points: list[Point] = []
    before = Point(run=0)
    for part in timelines:
        columns = [getattr(part, name) for name in Point._fields]
        points += [Point(*map(add, before, values)) for values in zip(*columns, strict=True)]
        before = points[-1] if points else before
    while len(points) > MAX_POINTS:
        points = thinned(points)
    return timeline(points)


def interval_after(seconds: float) -> float:
    """The time from one point to the next in a job that was computed for so many seconds."""
    interval = FIRST_SECONDS
    while seconds > MAX_POINTS * interval:
        interval *= 2
    return interval


def thinned(points: Sequence[Point]) -> list[Point]:
    """Drop every second point but the last; what remains says the same, more coarsely."""
    return [*points[:-1:2], points[-1]]


class ModelFacts(msgspec.Struct, frozen=True):
    """A model that answered lines."""

    name: str
    """As the lines, or the job, ask for it."""
    fingerprint: str
    precision: str
    """How its weights are kept; empty if that is not known."""
    kernels: str = ""
    """Whether fused operators computed it, or `stock`; empty if that is not known."""
    kv_cache_dtype: str = ""
    lack: str = ""
    """Why fused operators could not be had."""


class FailedSample(msgspec.Struct, frozen=True):
    """One of the first lines that failed."""

    line: int
    custom_id: str | None
    code: str
    message: str
    file: str | None = None
    """Where the line stands, in a job of several inputs."""


NUM_SAMPLES = 3
"""Failed lines that a report shows."""


class InputFacts(msgspec.Struct, frozen=True):
    """An input of a job."""

    name: str
    digest: str
    """Its sha256, or what its store says of it."""


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
    inputs: list[InputFacts] = []
    """None in the report of an unfinished job, or of shards that were merged."""


Price: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class ModelPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of a million tokens of one model."""

    prompt: Price
    completion: Price


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a file of prices."""

    currency: str
    models: dict[str, ModelPrice]
    """Under "*" that of all models that are not named."""


class Cost(msgspec.Struct, frozen=True):
    """What a job cost."""

    currency: str
    """As the file of prices names it."""
    total: float
    by_model: dict[str, float]
    unpriced: list[str]
    """Models that answered lines and have no price; they are not in the total."""


def read_prices(path: Path) -> Prices:
    """Read a TOML file of prices; UsageError says what is wrong with it."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Prices)
    except OSError as error:
        message = f"prices {path} cannot be read: {error.strerror}"
        raise InputMissingError(message) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = (
            f"prices {path} are not as they should be ({error}); give a currency, and for each "
            'model prompt and completion, the price of a million tokens, under [models."NAME"]'
        )
        raise UsageError(message) from error


def cost_of(groups: Iterable[GroupUsage], prices: Prices) -> Cost:
    """Add up what the tokens of some models cost."""
    by_model: dict[str, float] = {}
    unpriced = []
    for group in groups:
        name = group.name or ""
        price = prices.models.get(name, prices.models.get("*"))
        if price is not None and group.total_tokens:
            tokens = price.prompt * group.prompt_tokens + price.completion * group.completion_tokens
            by_model[name] = round(tokens / 1_000_000, 9)
        elif group.total_tokens:
            unpriced.append(name)
    return Cost(prices.currency, round(sum(by_model.values()), 9), by_model, unpriced)


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
    """Time in a slot of a completed request, from its prompt's first step to its last token."""
    tokens_per_second: float
    """New tokens a second of wall time without fetching models, over all runs of the job."""
    statistics: dict[str, int | float]
    """Counts and seconds over all runs of the job, `wall_seconds` among them."""
    prompt_tokens: Percentiles
    """Prompt tokens a completed request."""
    histograms: Histograms
    timeline: Timeline
    """What had been computed at a time, in columns of one length."""
    job: JobFacts
    cost: Cost | None = None
    """Null without prices."""
    waiting_seconds: Percentiles = Percentiles()
    """Time for which a completed request, read ahead, waited for a slot."""
    failed_lines: list[FailedSample] = []
    """The first ones, at most three; none in the report of an unfinished job."""

    @property
    def counted(self) -> Statistics:
        """The statistics, by attribute."""
        return Statistics.of(self.statistics)


def with_cost(report: UsageReport, prices: Prices | None) -> UsageReport:
    """Add what the tokens of a report cost; without prices it stays as it is."""
    return replace(report, cost=cost_of(report.by_model, prices)) if prices else report


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
        self._failed_by_code = Counter[str]()
        self._finish_reasons = Counter[str]()
        self._by_model: dict[str | None, GroupUsage] = {}
        self._by_user: dict[str | None, GroupUsage] = {}
        self._measures = array("d"), array("d"), array("d"), array("d")
        self._samples: list[FailedSample] = []

    def add_completion(
        self,
        model: str | None,
        user: str | None,
        finish_reasons: Iterable[str],
        measures: tuple[int, int, float, float],
    ) -> None:
        """Count a line that was answered with these tokens, in these seconds after these."""
        tokens = measures[:2]
        self._add(model, user, GroupUsage(None, 1, 0, *tokens, sum(tokens)))
        self._finish_reasons.update(finish_reasons)
        self.add_measures(measures)

    def add_measures(self, measures: tuple[int, int, float, float]) -> None:
        """Add tokens, seconds and seconds of waiting of a completed request to those of all."""
        for values, value in zip(self._measures, measures, strict=True):
            values.append(value)

    def add_failure(
        self,
        code: str | None,
        model: str | None,
        user: str | None,
        sample: FailedSample | None = None,
    ) -> None:
        """Count a line that ended in an error; the first samples are kept."""
        if sample is not None and len(self._samples) < NUM_SAMPLES:
            self._samples.append(sample)
        self._add(model, user, GroupUsage(None, 1, 1))
        self._failed_by_code[code or "unknown"] += 1

    def add_report(self, report: UsageReport) -> None:
        """Count what another report has counted, but for the spread of its requests."""
        self._failed_by_code.update(report.requests.failed_by_code)
        self._finish_reasons.update(report.finish_reasons)
        for group in report.by_model:
            _group(self._by_model, group.name).add(group)
        for group in report.by_user:
            _group(self._by_user, group.name).add(group)

    @property
    def model_names(self) -> list[str]:
        """Those of lines so far."""
        return [name for name in self._by_model if name is not None]

    @property
    def num_lines(self) -> int:
        """Lines so far."""
        return sum(group.requests for group in self._by_model.values())

    def report(
        self, statistics: Statistics, job: JobFacts, timeline: Timeline | None = None
    ) -> UsageReport:
        """Make the report of the sums, with what else is known of the job."""
        total = sum_of(None, self._by_model.values())
        by_code = dict(self._failed_by_code.most_common())
        # What is sorted already is sorted again in no time.
        prompt_tokens, completion_tokens, seconds, waited = map(sorted, self._measures)
        speed = total.completion_tokens / (statistics.job_seconds or math.inf)
        return UsageReport(
            RequestCounts(total.requests, total.requests - total.failed, total.failed, by_code),
            Usage(total.prompt_tokens, total.completion_tokens, total.total_tokens),
            finish_reasons=dict(sorted(self._finish_reasons.items())),
            by_model=list(self._by_model.values()),
            by_user=list(self._by_user.values()),
            completion_tokens=percentiles(completion_tokens),
            seconds=percentiles(seconds),
            waiting_seconds=percentiles(waited),
            tokens_per_second=round(speed, 3),
            statistics={n: _tidy(value) for n, value in sorted(statistics.numbers().items())},
            prompt_tokens=percentiles(prompt_tokens),
            histograms=Histograms(
                histogram(prompt_tokens, is_whole=True),
                histogram(completion_tokens, is_whole=True),
                histogram(seconds, is_whole=False),
            ),
            timeline=timeline or Timeline(),
            job=job,
            failed_lines=self._samples,
        )

    def _add(self, model: str | None, user: str | None, line: GroupUsage) -> None:
        _group(self._by_model, model).add(line)
        _group(self._by_user, user).add(line)


def _group(groups: dict[str | None, GroupUsage], name: str | None) -> GroupUsage:
    """Find or begin the group of a name; their number is bounded, whatever the lines name."""
    name = name if name is None else shorten(name, MAX_NAME_LENGTH)
    if name not in groups and len(groups) >= MAX_GROUPS:
        name = OTHERS
    return groups.setdefault(name, GroupUsage(name))
