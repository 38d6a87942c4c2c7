"""The usage report as text for people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from aobatch.job.notes import notes
from aobatch.job.report import GroupUsage, UsageReport
from aobatch.text import printable

MAX_USERS = 12
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
    if users := shown_users(report, MAX_USERS):
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
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    for kind, (name, *numbers) in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True))
        yield TableLine("  ".join([f"{name:<{widths[0]}}", *cells]).rstrip(), kind)


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
