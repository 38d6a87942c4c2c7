"""Laws of the report as Markdown."""

import html
import re

import msgspec
import pytest
from report_files import FACTS, HOSTILE, full_report

from aobatch.executors import Statistics
from aobatch.job.report.text import code, report_markdown
from aobatch.job.report.usage import UsageTally


def cells(line: str) -> list[str]:
    """Split a row of a table at the bars that are not escaped."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_tables_are_tables() -> None:
    """Every row has as many cells as its header, whatever names stand in it."""
    blocks = report_markdown(full_report(), f"{HOSTILE}.jsonl").split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]

    assert len(tables) == 3
    for rows in tables:
        assert len({len(cells(row)) for row in rows}) == 1


def test_numbers_are_those_of_the_report() -> None:
    """The row of a model says what it used and cost."""
    report = full_report()
    (row,) = [
        cells(line)
        for line in report_markdown(report, "a").splitlines()
        if "| `small` | 120" in line
    ]
    usage = report.usage

    assert row[1:6] == [
        "120",
        "0",
        f"{usage.prompt_tokens:,}",
        f"{usage.completion_tokens:,}",
        f"{usage.total_tokens:,}",
    ]
    assert float(row[6]) == pytest.approx(
        (1.5 * usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6, abs=1e-4
    )


def test_model_without_a_price_is_not_free() -> None:
    """Where nothing is known of a cost there is no number."""
    report = full_report()
    cost = report.cost
    assert cost is not None
    unpriced = msgspec.structs.replace(cost, by_model={}, unpriced=["small"])
    text = report_markdown(msgspec.structs.replace(report, cost=unpriced), "a")

    (row,) = [cells(line) for line in text.splitlines() if "| `small` | 120" in line]
    assert row[6] == "–"
    assert "without a price for small" in text


@pytest.mark.parametrize("name", ["plain-name_1", HOSTILE, "@all", "`", "a|b", "a\\", "<b>", ""])
def test_names_stand_as_they_are(name: str) -> None:
    """A name is shown in code, where it marks up nothing and mentions nobody."""
    shown = code(name)

    quoted = re.fullmatch(r"`([^`|\\]+)`", shown)
    encoded = re.fullmatch(r"<code>((?:[^\x00-\x7f]|[A-Za-z0-9]|&#\d+;)*)</code>", shown)
    assert bool(quoted) != bool(encoded)
    if quoted:
        assert quoted[1] == (name or '""')
    if encoded and name.isprintable():
        assert html.unescape(encoded[1]) == name


def test_empty_job_has_its_table() -> None:
    """Without lines there are headers and times."""
    assert report_markdown(UsageTally().report(Statistics(), FACTS), "a").startswith(
        "### Usage of `a`\n\n0 of 0 "
    )
