"""Laws of the page: it is whole, needs nothing, hides nothing, and obeys no name."""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from msgspec import structs
from report_files import FACTS, HOSTILE, full_report

from aobatch.errors import UsageError
from aobatch.executors import Statistics
from aobatch.job.report.page import HEIGHT, WIDTH, histogram_chart, report_page, time_chart
from aobatch.job.report.usage import FailedSample, Histogram, InputFacts, UsageTally

VOID = {"meta", "path", "rect", "br", "link", "img", "text"}
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


class Page(HTMLParser):
    """A page taken apart; tags that are not closed in order are a mistake."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(content.decode())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Hold an end against its beginning."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, but not that of the style sheet."""
        if not self._open or self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """All that is written on the page."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page() -> Page:
    """Give the page of a report that has everything."""
    return Page(report_page(full_report(), f"{HOSTILE}.jsonl"))


def numbers(value: object) -> Iterator[int | float]:
    """Yield every number of a report, but those that are drawn: bounds and points."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name not in {"bounds", "timeline", "created"}:
                yield from numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def written(number: float) -> set[str]:
    """Give the ways in which a number may stand on the page."""
    return {f"{number:,}", *(f"{number:,.{digits}f}" for digits in (1, 2, 4, 6))}


def test_every_number_of_the_report_is_on_the_page(page: Page) -> None:
    """Counts, tokens, percentiles, counters, costs and the counts of each bucket can be read."""
    shown = set(re.findall(r"[\d,]*\d(?:\.\d+)?", page.text))

    wanted = set(numbers(msgspec.to_builtins(full_report())))
    assert len(wanted) >= 50
    assert {number for number in wanted if not written(number) & shown} == set()


def test_page_refers_to_nothing(page: Page) -> None:
    """No tag loads anything, and a policy forbids that one ever does."""
    attributes = [attributes for _, attributes in page.tags]

    assert not {"src", "href", "srcset", "data", "action", "onload"} & {
        name for names in attributes for name in names
    }
    assert {"script", "link", "iframe", "object", "img"}.isdisjoint(tag for tag, _ in page.tags)
    policies = [names for names in attributes if names.get("http-equiv")]
    assert policies == [{"http-equiv": "Content-Security-Policy", "content": POLICY}]
    content = report_page(full_report(), "out.jsonl").decode()
    assert set(re.findall(r"\w+://[^\s\"]+", content)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in content


def test_names_are_shown_and_not_obeyed(page: Page) -> None:
    """Markup in names of models, users and files is text, and hidden characters are named."""
    assert page.text.count('<script>alert("1")</script>') >= 4
    assert "\\u001b[2J\\u202e" in page.text
    assert not {"\x1b", "\u202e"} & set("".join(page.texts))


def test_charts_have_names_and_their_parts_titles(page: Page) -> None:
    """Who cannot see a chart hears what it shows; who points at a bar reads its numbers."""
    charts = [names for tag, names in page.tags if tag == "svg"]
    ids = {names["id"] for _, names in page.tags if "id" in names}

    assert len(charts) == 6
    assert all(chart["role"] == "img" and chart["aria-labelledby"] in ids for chart in charts)
    rects = sum(tag == "rect" for tag, _ in page.tags)
    assert sum(tag == "title" for tag, _ in page.tags) == 1 + rects + 3


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_page_of_an_unfinished_job_says_so(state: str) -> None:
    """The page of what there is so far is not taken for the whole."""
    report = full_report()
    facts = msgspec.structs.replace(report.job, state=state, lines=5000)  # type: ignore[arg-type]

    text = Page(report_page(msgspec.structs.replace(report, job=facts), "a.jsonl")).text

    assert f"{state}: 124 of 5,000 lines answered" in text


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_page_of_an_empty_job_is_whole(seconds: float) -> None:
    """Without lines, times and charts there is a page, too."""
    report = UsageTally().report(Statistics(wall_seconds=seconds), FACTS)
    text = Page(report_page(report, "a.jsonl")).text

    assert "no lines" in text
    assert "every line answered" not in text
    # A table of nothing is an empty box on a phone.
    assert "Tokens" not in text


def test_page_says_what_was_read_and_what_failed() -> None:
    """Inputs stand there with their hashes, the first failed lines with what is wrong with them."""
    tally = UsageTally()
    for line in range(1, 13):
        sample = FailedSample(line, "a", "invalid_type", f"Wrong is {line * 1001}.", "b.jsonl")
        tally.add_failure("invalid_type", None, None, sample)
    inputs = [InputFacts("jobs/a.jsonl", "0123456789abcdef" * 4)]
    report = tally.report(Statistics(runs=1), msgspec.structs.replace(FACTS, inputs=inputs))

    content = report_page(report, "a.jsonl")
    text = Page(content).text
    assert "jobs/a.jsonl 0123456789ab" in text
    assert b"0123456789abcdef" * 4 in content
    assert [f"Wrong is {line * 1001}." in text for line in range(1, 13)] == [True] * 3 + [False] * 9
    assert "b.jsonl line 3 (a) Wrong" in text
    assert "and 9 more" in text


def test_a_models_name_heads_the_page_once() -> None:
    """Lines that name the job's own model and lines that name none are of one model."""
    report = full_report()
    models = [model for model in report.job.models for _ in range(2)]
    doubled = structs.replace(report, job=structs.replace(report.job, models=models))

    heads = [report_page(each, "a").decode().partition("<h2")[0] for each in (report, doubled)]

    assert heads[0] == heads[1]


def test_settings_are_words() -> None:
    """What a setting is called in files is not what people read."""
    settings = {"clamp_max_tokens": "false", "columns": "{}", "seed": "7", "default n": "2"}
    facts = msgspec.structs.replace(FACTS, settings=settings)

    text = Page(report_page(UsageTally().report(Statistics(), facts), "a.jsonl")).text
    assert "max_tokens beyond the context refused columns of tables as they are named" in text
    assert "seed of draws 7 default n 2" in text


@pytest.mark.parametrize(
    ("bounds", "labels"),
    [
        ([round(0.04 * n, 2) for n in range(1, 14)], ["0.20", "0.40"]),
        ([1.585, 1.586, 1.587, 1.588, 1.589, 1.59], ["1.585", "1.586", "1.587", "1.588", "1.589"]),
        ([0, 100, 200, 300], ["0", "100", "200", "300"]),
        ([0.37, 0.370001], ["0.37"]),
        ([8760.1551, 8760.1552, 8760.1553], ["8,760.1551", "8,760.1552", "8,760.1553"]),
    ],
)
def test_labels_of_an_axis_are_round_and_differ(bounds: list[float], labels: list[str]) -> None:
    """Labels are multiples of their distance, with the digits that tell them apart."""
    counts = [1] * (len(bounds) - 1)
    chart = histogram_chart("t", "s", Histogram(bounds, counts), is_whole=False)

    assert [label for _, label in chart.x_ticks][: len(labels)] == labels
    assert (chart.x_label, chart.y_label) == ("s", "requests")
    assert len({bar.label for bar in chart.bars}) == len(chart.bars)


def test_page_is_small() -> None:
    """A page can be mailed."""
    assert len(report_page(full_report(), "out.jsonl")) < 80_000


def test_bars_are_as_high_as_their_counts() -> None:
    """Bars stand on one line, within the drawing, with heights in the ratio of the counts."""
    chart = histogram_chart("t", "tokens", Histogram([0, 10, 20, 30], [5, 0, 20]), is_whole=True)
    heights = [bar.height for bar in chart.bars]

    assert heights == pytest.approx([heights[2] / 4, 0, heights[2]], abs=0.2)
    assert {round(bar.y + bar.height, 1) for bar in chart.bars} == {chart.bars[1].y}
    assert all(0 <= bar.x <= bar.x + bar.width <= WIDTH for bar in chart.bars)
    assert [bar.label for bar in chart.bars] == [
        "0–9 tokens: 5 requests",
        "10–19 tokens: 0 requests",
        "20–29 tokens: 20 requests",
    ]


def test_line_passes_through_its_values() -> None:
    """The line is at half height where half of the highest value was reached, and within."""
    series = [(0.0, 1.0, None), (1.0, 2.0, 50.0), (2.0, 3.0, 100.0), (3.0, 4.0, 0.0)]
    chart = time_chart("t", "%", series, highest=100)
    places = [tuple(map(float, point)) for point in re.findall(r"([\d.]+) ([\d.]+)", chart.line)]
    low, high = max(y for _, y in places), min(y for _, y in places)

    assert [y for _, y in places[1:-1]] == pytest.approx([(low + high) / 2, high, low], abs=0.2)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert [label for _, label in chart.x_ticks] == ["0", "1 s", "2 s", "3 s", "4 s"]


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the template engine the user hears how to get it."""
    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(UsageError, match=r"extra \[report\]: `pip install jinja2`"):
        report_page(full_report(), "out.jsonl")
