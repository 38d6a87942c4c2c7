"""The usage report as Markdown, for comments and wikis."""

from collections.abc import Iterable, Iterator, Sequence

from aobatch.job.notes import counts, money, notes
from aobatch.job.report import GroupUsage, UsageReport
from aobatch.job.table import shown_users
from aobatch.text import printable

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
