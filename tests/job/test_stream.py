"""Laws of event files: one for each line that asks, chunks joined are the response."""

import json
from pathlib import Path

import pytest
from fakes import FakeBackend

from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job

BODIES: list[dict[str, object]] = [
    {"prompt": "plain"},
    {"prompt": "streamed", "stream": True},
    {"prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}},
    {"prompt": "fail", "stream": True, "custom_id": "../../escape"},
]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Run the bodies; give the output."""
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(body) + "\n" for body in BODIES))
    run_job(JobConfig((source,), tmp_path / "out.jsonl"), FakeBackend())
    return tmp_path / "out.jsonl"


def events(output: Path, line: int) -> list[object]:
    """Give the decoded events of a line's file, the end mark as it stands."""
    blocks = (output.parent / "out.jsonl.stream" / f"{line:06d}.sse").read_text().split("\n\n")
    assert blocks.pop() == ""
    data = [block.removeprefix("data: ") for block in blocks]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def test_only_lines_that_ask_get_a_file_named_by_number(output: Path) -> None:
    """Nothing from a request enters a file's name."""
    names = sorted(path.name for path in (output.parent / "out.jsonl.stream").iterdir())

    assert names == ["000002.sse", "000003.sse", "000004.sse"]


def test_chunks_have_the_head_of_the_response(output: Path) -> None:
    """A chunk is the response with a piece of its choices, and without usage unless asked."""
    response = json.loads(output.read_text().splitlines()[1])
    *chunks, end = events(output, 2)
    head = {key: value for key, value in response.items() if key not in ("choices", "usage")}

    assert end == "[DONE]"
    assert all(head == {k: v for k, v in chunk.items() if k != "choices"} for chunk in chunks)
    assert response["choices"] == [choice for chunk in chunks for choice in chunk["choices"]]


def test_usage_comes_last_if_it_is_asked_for(output: Path) -> None:
    """include_usage adds a chunk without choices; usage is null in the others."""
    response = json.loads(output.read_text().splitlines()[2])
    *chunks, last, _ = events(output, 3)

    assert ([], response["usage"]) == (last["choices"], last["usage"])
    assert [None] * len(chunks) == [chunk["usage"] for chunk in chunks]


def test_a_failed_request_ends_its_file_with_the_error(output: Path) -> None:
    """The error object takes the place of the chunks."""
    (error, end) = events(output, 4)

    assert (json.loads(output.read_text().splitlines()[3])["error"], "[DONE]") == (
        error["error"],
        end,
    )
