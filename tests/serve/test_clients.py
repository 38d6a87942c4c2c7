"""Laws of clients: the documentation's examples run as they stand, openai's SDK from end to end."""

import json
import subprocess
from pathlib import Path

import openai
import pytest
from documented import examples
from scripted_models import envelopes
from test_batches import BAD, GOOD, run_of

KEY = "sk-of-the-tests-0001"


@pytest.fixture
def client(address: str) -> openai.OpenAI:
    """Give a client of the server."""
    return openai.OpenAI(api_key=KEY, base_url=f"{address}/v1", max_retries=0)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_documented_curl_commands(address: str, number: int) -> None:
    """Each is answered: two with the documented object, one with the documented stream."""
    command = examples(address, KEY).curl[number]
    answer = subprocess.run(
        ["sh", "-c", f"curl -sSf{command[4:]}"], capture_output=True, check=True
    )

    if number < 2:
        found = json.loads(answer.stdout)
        documented = ["id", "object", "created", "model", "choices", "usage"]
        assert [key for key in found if key in documented] == documented
        assert found["model"] == "gpt-3.5-turbo-instruct"
    else:
        *events, done, end = answer.stdout.decode().split("\n\n")
        assert (done, end) == ("data: [DONE]", "")
        pieces = [json.loads(event.removeprefix("data: ")) for event in events]
        assert {piece["object"] for piece in pieces} == {"text_completion"}


def test_documented_python_programs(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The client, the completion, the stream and the four scenarios run as they stand."""
    found = examples(address, KEY)
    names: dict[str, object] = {"long_text": "text " * 20}

    exec(found.python, names)
    exec(found.scenarios, names)

    assert capsys.readouterr().out.strip()
    names["client"].close()  # type: ignore[attr-defined]


def test_a_batch_of_the_sdk_from_end_to_end(client: openai.OpenAI, tmp_path: Path) -> None:
    """Upload, begin, poll, download: the bytes of a job; then the lists, and deletion."""
    content = envelopes(*GOOD, *BAD)
    file = client.files.create(file=("poems.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"job": "poems"},
    )
    while batch.status not in ("completed", "failed"):
        batch = client.batches.retrieve(batch.id)

    assert (batch.status, batch.object) == ("completed", "batch")
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (20, 3)
    output, errors = run_of(content, tmp_path / "job")
    assert client.files.content(str(batch.error_file_id)).content == errors
    kept = client.files.content(str(batch.output_file_id)).content
    assert kept + errors == output
    assert batch.id in [found.id for found in client.batches.list()]
    assert {file.id, batch.output_file_id} <= {found.id for found in client.files.list()}
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_bad_file_is_told_by_its_lines(client: openai.OpenAI) -> None:
    """The SDK's batch object has the line numbers of what is wrong."""
    content = envelopes(GOOD[0]) + b"{\n" + envelopes(GOOD[1])
    file = client.files.create(file=("poems.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )
    while batch.status != "failed":
        batch = client.batches.retrieve(batch.id)

    assert batch.errors is not None
    found = [(error.line, error.code) for error in batch.errors.data or []]
    assert found == [(2, "invalid_json_line"), (3, "duplicate_custom_id")]


def test_the_sdk_knows_the_errors(address: str, client: openai.OpenAI) -> None:
    """Each status becomes the exception that programs catch."""
    wrong = openai.OpenAI(api_key="sk-wrong", base_url=f"{address}/v1", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        wrong.models.list()
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="scripted", prompt="a", temperature=3)
    assert caught.value.code == "decimal_above_max_value"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="none", prompt="a")
    with client.completions.create(model="scripted", prompt="a" * 5, stream=True) as stream:
        assert next(iter(stream)).choices
    wrong.close()
