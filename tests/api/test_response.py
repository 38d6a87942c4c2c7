"""Responses as documented: their shape, their ids, and the lines of an output file."""

import json
import re
from collections import Counter

import msgspec
import pytest
from msgspec.structs import replace
from openai.types import Completion as OpenAICompletion
from pydantic import ValidationError

from aobatch.api.request import FailedLine, Limits, Parser
from aobatch.api.response import (
    Choice,
    Completion,
    Logprobs,
    Usage,
    batch_request_id,
    completion_id,
    render_failure,
    render_success,
    request_id,
)
from aobatch.errors import RequestError

KEY = "00112233445566778899aabbccddeeff"
LOGPROBS = Logprobs(
    [" a", "bytes:\\xe2"], [-0.25, -9999.0], [{" a": -0.25, " b": -1.5}, {"bytes:\\xe2": -9999.0}],
    [2, 4],
)  # fmt: skip
ERROR = RequestError("No.", code="numerical_error", status_code=500)


def completion(logprobs: Logprobs | None = None) -> Completion:
    """Give a completion of one choice."""
    return Completion(
        id=completion_id(KEY),
        created=1704067200,
        model="gpt-3.5-turbo-instruct",
        choices=[Choice("春\n", 0, logprobs, "stop")],
        usage=Usage(10, 20, 30),
        system_fingerprint="fp_0",
    )


def test_completion_has_the_documented_keys_in_order() -> None:
    """All keys are always there, logprobs as null if they were not asked for."""
    assert msgspec.json.encode(completion()).decode() == (
        f'{{"id":"{completion_id(KEY)}","object":"text_completion","created":1704067200,'
        '"model":"gpt-3.5-turbo-instruct",'
        '"choices":[{"text":"春\\n","index":0,"logprobs":null,"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30},'
        '"system_fingerprint":"fp_0"}'
    )


def test_logprobs_have_the_legacy_arrays_in_order() -> None:
    """Floats are written with the fewest digits that read back as the same number."""
    assert msgspec.json.encode(LOGPROBS).decode() == (
        '{"tokens":[" a","bytes:\\\\xe2"],"token_logprobs":[-0.25,-9999.0],'
        '"top_logprobs":[{" a":-0.25," b":-1.5},{"bytes:\\\\xe2":-9999.0}],"text_offset":[2,4]}'
    )


def test_floats_survive_json() -> None:
    """A logprob reads back as the same number."""
    values = [0.1, -1e-300, -0.12345678901234567, -1e22, -5e-324, -2.0]
    raw = msgspec.json.encode(replace(LOGPROBS, token_logprobs=values))

    assert json.loads(raw)["token_logprobs"] == values


@pytest.mark.parametrize("logprobs", [None, LOGPROBS], ids=["plain", "logprobs"])
def test_completion_is_one_for_the_openai_client(logprobs: Logprobs | None) -> None:
    """The official client's model accepts the object and keeps every value."""
    raw = json.loads(msgspec.json.encode(completion(logprobs)))

    assert OpenAICompletion.model_validate(raw, strict=True).model_dump(exclude_unset=True) == raw


@pytest.mark.parametrize("field", ["token_logprobs", "top_logprobs"])
def test_null_of_an_echoed_prompt_is_beyond_the_openai_client(field: str) -> None:
    """The documented null of the first echoed token is not in the client's type, for any server.

    The client itself builds responses without validation, so that it reads them all the same.
    """
    raw = json.loads(msgspec.json.encode(completion(LOGPROBS)))
    raw["choices"][0]["logprobs"][field][0] = None

    with pytest.raises(ValidationError, match=field):
        OpenAICompletion.model_validate(raw)
    assert OpenAICompletion.construct(**raw).choices[0].logprobs is not None


def test_usage_adds_up() -> None:
    """Each of the three counts is added."""
    assert Usage(1, 2, 3) + Usage(10, 20, 30) == Usage(11, 22, 33)


@pytest.mark.parametrize(
    ("derive", "prefix"),
    [(completion_id, "cmpl-"), (batch_request_id, "batch_req_"), (request_id, "req_")],
)
def test_ids_are_29_letters_and_digits(derive: object, prefix: str) -> None:
    """An id depends on the key alone and looks as documented."""
    assert callable(derive)
    ids = {derive(f"{number:032x}") for number in range(200)}

    assert len(ids) == 200
    assert all(re.fullmatch(rf"{prefix}[A-Za-z0-9]{{29}}", name) for name in ids)
    assert derive(KEY) == derive(KEY)


def test_ids_of_one_key_share_no_letters() -> None:
    """One id of a request does not give away another."""
    assert len({derive(KEY)[-29:] for derive in (completion_id, batch_request_id, request_id)}) == 3


def test_ids_use_all_letters_alike() -> None:
    """No letter is favoured: 29,000 draws of 62 stay within six standard deviations."""
    counts = Counter("".join(completion_id(f"{number:032x}")[5:] for number in range(1000)))
    mean = 29_000 / 62

    assert len(counts) == 62
    assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_ids_stay_the_same() -> None:
    """A resumed job must give the ids that the interrupted one would have given."""
    assert completion_id(KEY) == "cmpl-D9DnJjYwQRy6naOkOzigflVZHmA6Y"
    assert batch_request_id(KEY) == "batch_req_y8mrm9rYevY4ZufpPtbO2d7k0fJtH"


def test_bare_success_is_the_completion() -> None:
    """A bare line without custom_id is answered with the response object, unchanged."""
    encoded = msgspec.json.encode(completion())

    assert render_success(KEY, None, False, encoded) == encoded


def test_bare_success_begins_with_custom_id() -> None:
    """The custom_id comes first, then the response object's keys."""
    encoded = msgspec.json.encode(completion())
    line = render_success(KEY, 'a"\n春', False, encoded)

    assert line.startswith('{"custom_id":"a\\"\\n春","id":"cmpl-'.encode())
    assert json.loads(line) == {"custom_id": 'a"\n春', **json.loads(encoded)}


def test_envelope_success_holds_the_completion() -> None:
    """An envelope is answered with an envelope around the unchanged response object."""
    encoded = msgspec.json.encode(completion(LOGPROBS))

    assert render_success(KEY, "a", True, encoded).decode() == (
        f'{{"id":"{batch_request_id(KEY)}","custom_id":"a","response":{{'
        f'"status_code":200,"request_id":"{request_id(KEY)}","body":{encoded.decode()}}},'
        '"error":null}'
    )


@pytest.mark.parametrize(
    ("fields", "start"), [({}, '{"line":4'), ({"custom_id": "a"}, '{"custom_id":"a","line":4')]
)
def test_bare_failure_names_line_and_error(fields: dict[str, str], start: str) -> None:
    """A failed bare line has its custom_id if it had one, its number, status and error."""
    line = render_failure(FailedLine.of(4, fields.get("custom_id"), False, ERROR)).decode()

    assert line == (
        f'{start},"status_code":500,"error":{{"message":"No.","type":"server_error",'
        '"param":null,"code":"numerical_error"}}'
    )


def test_envelope_failure_holds_the_error() -> None:
    """A failed envelope has the documented error body under its status."""
    line = json.loads(render_failure(FailedLine.of(4, "a", True, ERROR)))

    assert list(line) == ["id", "custom_id", "response", "error"]
    assert list(line["response"]) == ["status_code", "request_id", "body"]
    assert (line["custom_id"], line["error"]) == ("a", None)
    assert line["response"]["status_code"] == 500
    assert line["response"]["body"] == {
        "error": {
            "message": "No.",
            "type": "server_error",
            "param": None,
            "code": "numerical_error",
        }
    }


def test_failed_envelopes_have_ids_of_their_own() -> None:
    """Envelopes that never became requests differ in their ids, and keep them in the next run."""
    raw = b'{"method":"POST","url":"/v1/completions","body":{}}'
    failures = [Parser({}, Limits()).parse(line, raw) for line in (1, 2, 1)]
    lines = [render_failure(failed) for failed in failures if isinstance(failed, FailedLine)]
    ids = [json.loads(line)["id"] for line in lines]

    assert ids[0] == ids[2] != ids[1]
    assert json.loads(lines[0])["custom_id"] is None


def test_unreadable_line_is_answered_barely(parser: Parser) -> None:
    """A line that is no JSON has no style of its own."""
    failed = parser.parse(9, b'{"method":"POST","body"')
    assert isinstance(failed, FailedLine)

    assert list(json.loads(render_failure(failed))) == ["line", "status_code", "error"]
