"""The usage report as text: a table for terminals, and Markdown for comments and wikis."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from aobatch.executors import Statistics
from aobatch.job.report.usage import GroupUsage, Percentiles, UsageReport, sum_of
from aobatch.text import aligned, duration, printable

MAX_TABLE_USERS = 12
"""Users with a row of their own in a table, those with most tokens; the others share one."""
MAX_MARKDOWN_USERS = 50

LineKind = Literal["header", "row", "total", "failure", "note", "gap"]
"""What a line of a table is, for those who can show it in colour."""


def report_lines(report: UsageReport) -> Iterator[tuple[LineKind, str]]:
    """Lay a report out in aligned columns, line by line."""
    columns = ("requests", "failed", "prompt", "completion", "total tokens")
    rows: list[tuple[LineKind, Sequence[str]]] = [("header", ("model", *columns))]
    rows += [("row", _cells(group, "(no model)")) for group in report.by_model]
    if len(report.by_model) != 1:
        rows.append(("total", _cells(sum_of("all", report.by_model))))
    if users := shown_users(report, MAX_TABLE_USERS):
        rows += [("gap", ("",) * 6), ("header", ("user", *columns))]
        rows += [("row", _cells(group, "(no user)")) for group in users]
    kinds = [kind for kind, _ in rows]
    yield from zip(kinds, aligned([cells for _, cells in rows], "<>"), strict=True)
    yield "gap", ""
    failures = report.requests.failed_by_code.items()
    width = max((len(f"{number:,}") for _, number in failures), default=0)
    for index, (name, number) in enumerate(failures):
        label = "" if index else "failed"
        yield "failure", f"{label:<23}  {number:>{width},} {printable(name)}"
    for place, message in failed_lines(report):
        yield "failure", f"{'':<23}  {printable(f'{place}: {message}', 400)}"
    for label, text in details(report):
        yield "note", f"{label:<23}  {printable(text, 400)}"


def failed_lines(report: UsageReport) -> Iterator[tuple[str, str]]:
    """Yield where the first failed lines stand, and what is wrong with them; nothing is escaped."""
    for failed in report.failed_lines:
        named = "" if failed.custom_id is None else f" ({failed.custom_id})"
        file = "" if failed.file is None else f"{failed.file} "
        yield f"{file}line {failed.line:,}{named}", failed.message


def _cells(group: GroupUsage, nameless: str = "") -> list[str]:
    return [nameless if group.name is None else printable(group.name), *_numbers(group)]


def _numbers(group: GroupUsage) -> list[str]:
    tokens = (group.prompt_tokens, group.completion_tokens, group.total_tokens)
    return [f"{number:,}" for number in (group.requests, group.failed, *tokens)]


def report_markdown(report: UsageReport, name: str) -> str:
    """Write a report under the name of its output."""
    requests = report.requests
    failed = f", **{requests.failed:,} failed**" if requests.failed else ""
    parts = [
        [f"### Usage of {code(name)}"],
        [f"{requests.completed:,} of {requests.total:,} requests completed{failed}."],
        _markdown_groups("model", report.by_model, report),
    ]
    if users := shown_users(report, MAX_MARKDOWN_USERS):
        parts.append(_markdown_groups("user", users, report))
    parts.append(_markdown_table(("", ""), "|---|---|", _facts(report)))
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def code(text: str) -> str:
    """Write text from outside so that it is shown as it stands, and mentions nobody."""
    shown = printable(text, 80) or '""'
    if not set("`|\\") & set(shown):
        return f"`{shown}`"
    plain = "".join(c if c.isalnum() or not c.isascii() else f"&#{ord(c)};" for c in shown)
    return f"<code>{plain}</code>"


def _markdown_groups(title: str, groups: Sequence[GroupUsage], report: UsageReport) -> list[str]:
    header = [title, "requests", "failed", "prompt tokens", "new tokens", "total tokens"]
    names = [f"(no {title})" if group.name is None else code(group.name) for group in groups]
    rows = [[name, *_numbers(group)] for name, group in zip(names, groups, strict=True)]
    if title == "model" and report.cost:
        header.append(printable(report.cost.currency))
        for group, row in zip(groups, rows, strict=True):
            amount = report.cost.by_model.get(group.name or "")
            row.append("–" if amount is None else money(amount))
    return _markdown_table(header, f"|---|{'---:|' * (len(header) - 1)}", rows)


def _markdown_table(header: Sequence[str], rule: str, rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _facts(report: UsageReport) -> Iterator[tuple[str, str]]:
    if by_code := report.requests.failed_by_code:
        yield "failed", _counts({code(name): number for name, number in by_code.items()})
    for place, message in failed_lines(report):
        yield "failed", f"{code(place)} {code(message)}"
    for model in report.job.models:
        way = f"{model.kernels} operators, {model.kv_cache_dtype} cache" if model.kernels else ""
        told = ", ".join(filter(None, (model.precision, way)))
        yield "model", f"{code(model.name)} {code(model.fingerprint)} {told}".rstrip()
        if model.lack:
            yield "no fused operators", printable(model.lack, 400).replace("|", "\\|")
    for label, text in details(report):
        yield label, printable(text, 400).replace("|", "\\|")


def details(report: UsageReport) -> Iterator[tuple[str, str]]:
    """Yield label and text of all that is not told by model or user; names are not escaped."""
    job, counted = report.job, report.counted
    if job.state != "finished":
        yield "state", f"{job.state}: {report.requests.total:,} of {job.lines:,} lines answered"
    if report.finish_reasons:
        yield "finish reasons", _counts(report.finish_reasons)
        for label, values, form in (
            ("prompt tokens a request", report.prompt_tokens, "{:,.0f}"),
            ("new tokens a request", report.completion_tokens, "{:,.0f}"),
            ("seconds in a slot", report.seconds, "{:,.2f}"),
            ("seconds waiting", report.waiting_seconds, "{:,.2f}"),
        ):
            if values.p50 is not None:
                yield label, percentiles_text(values, form)
    if shared := savings(counted):
        yield "shared", _counts(shared)
    if (share := occupancy(counted)) is not None:
        yield "slots in use", f"{share:.1%} while requests waited"
    if rates := worker_rates(counted).values():
        spread = " to ".join(dict.fromkeys(f"{rate:,.0f}" for rate in (min(rates), max(rates))))
        each = " each" if len(rates) > 1 else ""
        yield "workers", f"{len(rates):,}, {spread} new tokens a second{each}"
    if (cost := report.cost) is not None:
        without = f", without a price for {', '.join(cost.unpriced)}" if cost.unpriced else ""
        yield "cost", f"{money(cost.total)} {cost.currency}{without}"
    fetching = counted.model_seconds
    to_fetch = f" ({duration(fetching)} of them to get the model)" if fetching >= 1 else ""
    speed = f"{report.tokens_per_second:,.1f} new tokens a second"
    yield "time", f"{duration(counted.wall_seconds)}{to_fetch}, {speed}"


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items())


def percentiles_text(values: Percentiles, form: str) -> str:
    """List percentiles that are known."""
    names = values.__struct_fields__
    return ", ".join(f"{name} {form.format(getattr(values, name))}" for name in names)


def money(amount: float) -> str:
    """Write an amount with as many digits as small ones need."""
    digits = 2 if amount >= 100 else 4 if amount >= 0.001 or not amount else 6
    return f"{amount:,.{digits}f}"


def shown_users(report: UsageReport, most: int) -> list[GroupUsage]:
    """Choose the users with most tokens, the others as one; none if no request names its user."""
    if all(group.name is None for group in report.by_user):
        return []
    users = sorted(report.by_user, key=lambda group: -group.total_tokens)
    rest = users[most:]
    return users[:most] + [sum_of(f"({len(rest):,} others)", rest)] * bool(rest)


def savings(counted: Statistics) -> dict[str, int]:
    """What was computed once for several requests, with how much of it."""
    shared = {
        "prompt tokens of common beginnings": counted.engine.prefix_tokens_shared,
        "results of equal requests": counted.engine.requests_shared,
    }
    return {what: count for what, count in shared.items() if count}


def occupancy(counted: Statistics) -> float | None:
    """The share of slots in use while requests waited; None if none had to."""
    engine = counted.engine
    return engine.busy_rows / engine.busy_slots if engine.busy_slots else None


def worker_rates(counted: Statistics) -> dict[int, float]:
    """New tokens a second of each worker, by number."""
    workers = sorted(counted.workers.items())
    return {n: worker.sampled_tokens / worker.seconds for n, worker in workers if worker.seconds}
