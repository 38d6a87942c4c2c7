"""The usage report as Markdown, for comments and wikis."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from aobatch.executors import Statistics
from aobatch.job.report.usage import Cost, GroupUsage, Percentiles, UsageReport
from aobatch.text import aligned, duration, printable


def notes(report: UsageReport) -> Iterator[tuple[str, str]]:
    """Give the labels and what stands behind them; names are left as requests give them."""
    facts = report.job
    if facts is not None and facts.state != "finished":
        yield "state", f"{facts.state}: {report.requests.total:,} of {facts.lines:,} lines answered"
    if report.finish_reasons:
        yield "finish reasons", counts(report.finish_reasons)
        spread = (
            ("prompt tokens a request", report.prompt_tokens, "{:,.0f}"),
            ("new tokens a request", report.completion_tokens, "{:,.0f}"),
            ("seconds a request", report.seconds, "{:,.2f}"),
        )
        for label, values, form in spread:
            if values.p50 is not None:
                yield label, percentiles(values, form)
    counted = report.counted
    if shared := savings(counted):
        yield "shared", ", ".join(f"{count:,.0f} {what}" for what, count in shared.items())
    if (share := occupancy(counted)) is not None:
        yield "slots in use", f"{share:.1%} while requests waited"
    if rates := worker_rates(counted):
        yield "workers", _workers([*rates.values()])
    if report.cost is not None:
        yield "cost", cost(report.cost)
    yield "time", _time(report)


def savings(counted: Statistics) -> dict[str, int]:
    """Say what was computed once for several."""
    engine = counted.engine
    shared = {
        "prompt tokens of common beginnings": engine.prefix_tokens_shared,
        "results of equal requests": engine.requests_shared,
    }
    return {what: count for what, count in shared.items() if count}


def occupancy(counted: Statistics) -> float | None:
    """Say how full the slots were while requests waited, None if none had to."""
    engine = counted.engine
    return engine.busy_rows / engine.busy_slots if engine.busy_slots else None


def worker_rates(counted: Statistics) -> dict[int, float]:
    """Give the new tokens a second of each worker, if there were workers."""
    workers = sorted(counted.workers.items())
    return {n: worker.sampled_tokens / worker.seconds for n, worker in workers if worker.seconds}


def counts(numbers: Mapping[str, int]) -> str:
    """List how often there was what."""
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())


def percentiles(values: Percentiles, form: str) -> str:
    """List percentiles."""
    named = (("p50", values.p50), ("p90", values.p90), ("p99", values.p99))
    return ", ".join(f"{name} {form.format(value)}" for name, value in named if value is not None)


def cost(amount: Cost) -> str:
    """Say what a job cost, and which models are not in it."""
    text = f"{money(amount.total)} {amount.currency}"
    if amount.unpriced:
        text += f", without a price for {', '.join(amount.unpriced)}"
    return text


def money(amount: float) -> str:
    """Write an amount with as many digits as small ones need."""
    digits = 2 if amount >= 100 else 4 if amount >= 0.001 or not amount else 6
    return f"{amount:,.{digits}f}"


def _workers(rates: list[float]) -> str:
    spread = " to ".join(dict.fromkeys(f"{rate:,.0f}" for rate in (min(rates), max(rates))))
    return f"{len(rates):,}, {spread} new tokens a second{' each' if len(rates) > 1 else ''}"


def _time(report: UsageReport) -> str:
    wall_seconds, model_seconds = report.counted.wall_seconds, report.counted.model_seconds
    fetching = (
        f" ({duration(model_seconds)} of them to get the model)" if model_seconds >= 1 else ""
    )
    speed = f"{report.tokens_per_second:,.1f} new tokens a second"
    return f"{duration(wall_seconds)}{fetching}, {speed}"


MAX_TABLE_USERS = 12
"""Users with a row of their own, those with most tokens; the others share one."""

_HEADER = ("", "requests", "failed", "prompt", "completion", "total tokens")
_Kind = Literal["header", "row", "total", "failure", "note", "gap"]


@dataclass(frozen=True, slots=True)
class TableLine:
    """A line of the table, and what it is, for those who can show it in colour."""

    text: str
    kind: _Kind


def report_table(report: UsageReport) -> str:
    """Lay a report out in aligned columns."""
    return "\n".join(line.text for line in report_lines(report))


def report_lines(report: UsageReport) -> list[TableLine]:
    """Lay a report out in aligned columns, line by line."""
    rows: list[tuple[_Kind, tuple[str, ...]]] = [("header", ("model", *_HEADER[1:]))]
    rows += [_row(group, "(no model)") for group in report.by_model]
    if len(report.by_model) != 1:
        rows.append(("total", _total_row(report)))
    if users := shown_users(report, MAX_TABLE_USERS):
        rows += [("gap", ("",) * len(_HEADER)), ("header", ("user", *_HEADER[1:]))]
        rows += [_row(group, "(no user)") for group in users]
    return [*_aligned(rows), TableLine("", "gap"), *_failures(report), *_notes(report)]


def shown_users(report: UsageReport, most: int) -> list[GroupUsage]:
    """Give the users with most tokens, the others as one; none if no request names its user."""
    if all(group.name is None for group in report.by_user):
        return []
    users = sorted(report.by_user, key=lambda group: -group.total_tokens)
    if len(users) <= most:
        return users
    rest = GroupUsage(f"({len(users) - most:,} others)")
    for group in users[most:]:
        rest.requests += group.requests
        rest.failed += group.failed
        rest.prompt_tokens += group.prompt_tokens
        rest.completion_tokens += group.completion_tokens
        rest.total_tokens += group.total_tokens
    return [*users[:most], rest]


def _row(group: GroupUsage, nameless: str) -> tuple[_Kind, tuple[str, ...]]:
    name = nameless if group.name is None else printable(group.name)
    tokens = (group.prompt_tokens, group.completion_tokens, group.total_tokens)
    numbers = (f"{number:,}" for number in (group.requests, group.failed, *tokens))
    return "row", (name, *numbers)


def _total_row(report: UsageReport) -> tuple[str, ...]:
    requests, usage = report.requests, report.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    return "all", *(f"{number:,}" for number in (requests.total, requests.failed, *tokens))


def _aligned(rows: Sequence[tuple[_Kind, tuple[str, ...]]]) -> Iterator[TableLine]:
    lines = aligned([cells for _, cells in rows], "<>")
    return (TableLine(line, kind) for line, (kind, _) in zip(lines, rows, strict=True))


def _failures(report: UsageReport) -> Iterator[TableLine]:
    """List the errors, a code each, the most frequent first."""
    by_code = report.requests.failed_by_code
    width = max((len(f"{number:,}") for number in by_code.values()), default=0)
    for index, (code, number) in enumerate(by_code.items()):
        label = "" if index else "failed"
        yield TableLine(f"{label:<23}  {number:>{width},} {printable(code)}", "failure")


def _notes(report: UsageReport) -> Iterator[TableLine]:
    for label, text in notes(report):
        yield TableLine(f"{label:<23}  {printable(text, 400)}", "note")


MAX_USERS = 50
"""Users with a row of their own, those with most tokens; the others share one."""


def report_markdown(report: UsageReport, name: str) -> str:
    """Write a report under the name of its output."""
    return "\n".join(_lines(report, name)) + "\n"


def code(text: str) -> str:
    """Write text from outside so that it is shown as it stands, and mentions nobody."""
    shown = printable(text, 80) or '""'
    if not set("`|\\") & set(shown):
        return f"`{shown}`"
    plain = "".join(c if c.isalnum() or not c.isascii() else f"&#{ord(c)};" for c in shown)
    return f"<code>{plain}</code>"


def _lines(report: UsageReport, name: str) -> Iterator[str]:
    requests = report.requests
    failed = f", **{requests.failed:,} failed**" if requests.failed else ""
    yield f"### Usage of {code(name)}"
    yield ""
    yield f"{requests.completed:,} of {requests.total:,} requests completed{failed}."
    yield ""
    yield from _groups("model", report.by_model, "(no model)", report)
    if users := shown_users(report, MAX_USERS):
        yield ""
        yield from _groups("user", users, "(no user)", report)
    yield ""
    yield from _table(("", ""), _facts(report))


def _groups(
    title: str, groups: Sequence[GroupUsage], nameless: str, report: UsageReport
) -> Iterator[str]:
    costs = report.cost if title == "model" else None
    header = [title, "requests", "failed", "prompt tokens", "new tokens", "total tokens"]
    rows = [
        [nameless if group.name is None else code(group.name), *_numbers(group)] for group in groups
    ]
    if costs is not None:
        header.append(printable(costs.currency))
        for group, row in zip(groups, rows, strict=True):
            amount = costs.by_model.get(group.name or "")
            row.append("–" if amount is None else money(amount))
    return _table(header, rows)


def _numbers(group: GroupUsage) -> Iterator[str]:
    tokens = (group.prompt_tokens, group.completion_tokens, group.total_tokens)
    return (f"{number:,}" for number in (group.requests, group.failed, *tokens))


def _facts(report: UsageReport) -> Iterator[tuple[str, str]]:
    if by_code := report.requests.failed_by_code:
        yield "failed", counts({code(name): number for name, number in by_code.items()})
    for model in report.job.models if report.job else ():
        yield "model", f"{code(model.name)} {model.precision} {code(model.fingerprint)}"
    for label, text in notes(report):
        yield label, printable(text, 400).replace("|", "\\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|---|{'---:|' * (len(header) - 1)}" if len(header) > 2 else "|---|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"
