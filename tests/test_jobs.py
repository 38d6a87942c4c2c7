"""Laws of the example jobs: each runs on the default model and gives what the README says."""

import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from openai.types import Completion
from scipy.special import log_softmax

from aobatch.cli.main import aobatch
from aobatch.executors.local import open_runner
from aobatch.models.store.catalogue import resolve
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk, RunnerConfig

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]

JOBS = Path(__file__).parents[1] / "jobs"
Row = dict[str, object]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[list[Row], list[Row], Row]]:
    """Give a function that runs a job and gives its input, its output and its report.

    It can be told to cut what lines ask for to so many tokens.
    """

    def run_job(
        name: str, max_tokens: int | None = None, options: tuple[str, ...] = ()
    ) -> tuple[list[Row], list[Row], Row]:
        source = Path(shutil.copy(JOBS / name, tmp_path))
        if max_tokens:
            rows = [
                row | {"max_tokens": min(row["max_tokens"], max_tokens)} for row in _rows(source)
            ]
            source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        outcome = CliRunner().invoke(aobatch, ["run", str(source), *options])
        assert outcome.exit_code == 0, outcome.output
        output = tmp_path / name.replace(".jsonl", ".out.jsonl")
        report = json.loads(output.with_name(f"{output.name}.usage.json").read_text())
        return _rows(source), _rows(output), report

    return run_job


@pytest.mark.parametrize("max_tokens", [8, pytest.param(None, marks=pytest.mark.long)])
def test_poems_are_answered_in_order(
    run: Callable[..., tuple[list[Row], list[Row], Row]], tmp_path: Path, max_tokens: int | None
) -> None:
    """Every line has its response object, the report adds them up, the stream is the response."""
    requests, answers, report = run("poems.jsonl", max_tokens)
    usages = [Completion.model_validate(answer).usage for answer in answers]

    assert [row["custom_id"] for row in requests] == [row["custom_id"] for row in answers]
    assert report["usage"] == {
        name: sum(getattr(usage, name) for usage in usages)
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    line = next(i for i, row in enumerate(requests) if row.get("stream"))
    events = (tmp_path / f"poems.out.jsonl.stream/{line + 1:06d}.sse").read_text().split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert answers[line]["choices"][0]["text"] == text


def test_translations_come_back_in_their_envelopes(
    run: Callable[..., tuple[list[Row], list[Row], Row]],
) -> None:
    """Envelope in, envelope out; every translation ends before its line does."""
    requests, answers, _ = run("translate.jsonl")
    bodies = [answer["response"]["body"] for answer in answers]

    assert [row["custom_id"] for row in requests] == [row["custom_id"] for row in answers]
    assert all(answer["error"] is None for answer in answers)
    assert all("\n" not in body["choices"][0]["text"] for body in bodies)
    assert all(body["choices"][0]["text"].strip() for body in bodies)


def test_scores_follow_the_echo_contract(
    run: Callable[..., tuple[list[Row], list[Row], Row]], pytestconfig: pytest.Config
) -> None:
    """Cutting by the context's length gives the continuation's logprobs, as harnesses do.

    The context is in `user`; one more token is generated and dropped by [:-1].
    """
    requests, answers, _ = run("score.jsonl")
    folder = resolve(None)
    tokenizer = load_tokenizer(folder)
    runner = open_runner(folder, RunnerConfig(2, pytestconfig.getoption("kernels")))
    runner.reserve(1, 256, [])
    sums = []
    for request, answer in zip(requests, answers, strict=True):
        ids = tokenizer.encode(request["prompt"])
        start = len(tokenizer.encode(request["user"]))
        logprobs = log_softmax(runner.prefill([Chunk(0, 0, ids, len(ids))]), axis=1)
        expected = logprobs[np.arange(start - 1, len(ids) - 1), ids[start:]]
        listed = answer["choices"][0]["logprobs"]
        assert len(listed["tokens"]) == len(ids) + 1
        np.testing.assert_allclose(expected, listed["token_logprobs"][start:-1], atol=1e-4)
        for token, top in zip(listed["tokens"][1:], listed["top_logprobs"][1:], strict=True):
            assert token in top
        sums.append(sum(listed["token_logprobs"][start:-1]))

    assert np.reshape(sums, (6, 4)).argmax(axis=1).tolist() == [0] * 6


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_answer_of_a_shape_can_be_read(
    run: Callable[..., tuple[list[Row], list[Row], Row]],
) -> None:
    """Each extraction is JSON of the schema, each class one of two, and most are right."""
    schema = json.loads((JOBS / "extract.schema.json").read_text())
    shape = ("--default", f"response_format=@{JOBS / 'extract.schema.json'}", "--limit", "6")
    asked, answers, report = run("extract.jsonl", options=shape)
    found = [json.loads(answer["choices"][0]["text"]) for answer in answers]  # type: ignore[index]
    for value in found:
        jsonschema.validate(value, schema)
    expected = [row["metadata"]["expected"] for row in asked[:6]]  # type: ignore[index]

    assert sum(map(operator.eq, found, expected)) >= 5
    assert report["statistics"]["requests_shaped"] == 6  # type: ignore[index]
    _, classes, _ = run("classify.jsonl", options=("--limit", "6"))
    texts = {answer["choices"][0]["text"] for answer in classes}  # type: ignore[index]
    assert texts <= {"positive", "negative"}
