"""Laws of completions over HTTP: the answers of files, streams of the same, places given back."""

import json
import socket
from pathlib import Path

import httpx
import pytest
from scripted_models import Rig, Serve, raw_connection
from waiting import wait_until

from aobatch.api.request import Limits, Parser, Request
from aobatch.arrays import Logits
from aobatch.executors import ModelIdentity
from aobatch.testing import random_script, scripted_engine

KEY = "sk-of-the-tests-0001"
GAUGES = tuple(
    f"aobatch_{name}"
    for name in ("sequences_running", "sequences_waiting", "completions_open", "http_requests_open")
)
BODIES: list[dict[str, object]] = [
    {"prompt": "a", "temperature": 0},
    {"prompt": ["a", "b"], "n": 2, "seed": 7, "echo": True, "logprobs": 2},
    {"prompt": "a", "best_of": 4, "seed": 3, "stop": ["e"], "max_tokens": 40},
    {"prompt": [65, 66], "max_tokens": 0, "echo": True, "logprobs": 0},
    {"prompt": "a", "suffix": "b", "seed": 1, "logit_bias": {"70": 5}, "user": "x"},
]


def of_a_file(body: dict[str, object]) -> list[dict[str, object]]:
    """Compute the choices that a line of a file with this body gets."""
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    assert isinstance(request, Request)
    result = next(scripted_engine().run([request]))
    assert result.error is None
    choices = [
        {"text": c.text, "index": c.index, "finish_reason": c.finish_reason, "l": c.logprobs}
        for c in result.choices
    ]
    return [{**choice, "l": choice["l"] and len(choice["l"].tokens)} for choice in choices]  # type: ignore[attr-defined]


def events_of(text: str) -> list[dict[str, object]]:
    """Read the events of a stream, which has to end as documented."""
    parts = text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


@pytest.mark.parametrize("body", BODIES)
def test_answers_are_those_of_files(rig: Rig, body: dict[str, object]) -> None:
    """Every parameter does what it does in a line of a file; the object is the documented one."""
    answer = rig.complete(**body)

    assert answer.status_code == 200
    found = answer.json()
    choices = [
        {**choice, "l": choice["logprobs"] and len(choice["logprobs"]["tokens"])}
        for choice in found["choices"]
    ]
    assert [{k: c[k] for k in ("text", "index", "finish_reason", "l")} for c in choices] == (
        of_a_file(body)
    )
    assert found["object"] == "text_completion"
    assert found["id"].startswith("cmpl-")
    assert found["model"] == "scripted"
    assert sum(found["usage"].values()) == 2 * found["usage"]["total_tokens"]
    assert answer.headers["openai-processing-ms"].isdecimal()


def test_the_model_is_called_as_it_was_asked_for(rig: Rig) -> None:
    """An alias stays an alias; another model that is here is opened for its requests."""
    for name in ("gpt-3.5-turbo-instruct", "scripted", "second"):
        found = rig.complete(prompt="a", model=name).json()
        own = "second" if name == "second" else "scripted"
        assert (found["model"], found["system_fingerprint"]) == (name, f"fp_{own}")
    names = [model["id"] for model in rig.client.get("/v1/models").json()["data"]]
    assert names == ["scripted", "gpt-3.5-turbo-instruct", "second"]
    assert [rig.client.get(f"/v1/models/{name}").json()["id"] for name in names] == names


def test_a_third_model_waits_for_its_place(rig: Rig) -> None:
    """One model is open beside the server's own, and makes room when nobody needs it."""
    models = rig.gateway.desk.models
    second = models.acquire(models.find("second"), waits=False)
    other = ModelIdentity("other", "fp_other", Path("other"))
    assert rig.complete(prompt="a", model="second").status_code == 200

    with pytest.raises(Exception, match="another one is in its place"):
        models.acquire(other, waits=False)
    models.release(second)
    models.release(models.acquire(other, waits=False))

    assert set(models.open_engines()) == {"scripted", "other"}


def test_equal_requests_draw_anew_unless_seeded(rig: Rig) -> None:
    """Whoever asks twice gets two answers, as OpenAI's clients expect; a seed gives the same."""
    free = {rig.complete(prompt="a").json()["choices"][0]["text"] for _ in range(4)}
    seeded = {rig.complete(prompt="a", seed=1).json()["choices"][0]["text"] for _ in range(4)}

    assert len(free) > 1
    assert len(seeded) == 1


@pytest.mark.parametrize("body", BODIES[:2])
def test_pieces_of_a_stream_are_the_answer(rig: Rig, body: dict[str, object]) -> None:
    """Joined, the pieces of each choice are its text; the last one has the reason."""
    answer = rig.complete(**body, stream=True)
    events = events_of(answer.text)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    texts: dict[int, str] = {}
    for event in events:
        assert "usage" not in event
        (choice,) = event["choices"]  # type: ignore[misc]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    whole = of_a_file(body)
    assert [texts[c["index"]] for c in whole] == [c["text"] for c in whole]  # type: ignore[index]
    assert len({event["id"] for event in events}) == 1


def test_chats_are_answered(rig: Rig) -> None:
    """Whole or as a stream, in the objects of chats; the role stands in the first piece."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "seed": 1}
    whole = rig.client.post("/v1/chat/completions", json=body).json()
    stream = rig.client.post("/v1/chat/completions", json={**body, "stream": True}).text
    pieces = [event["choices"][0]["delta"] for event in events_of(stream)]  # type: ignore[index]

    assert whole["object"] == "chat.completion"
    assert whole["id"].startswith("chatcmpl-")
    said = "".join(piece.get("content", "") for piece in pieces)
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": said,
        "refusal": None,
    }
    assert [piece.get("role") for piece in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
    failed = rig.client.post("/v1/chat/completions", json={"prompt": "a"})
    assert (failed.status_code, failed.json()["error"]["code"]) == (400, "unsupported_parameter")


def test_the_usage_of_a_stream_comes_last(rig: Rig) -> None:
    """It is null until the piece without choices has it."""
    body = {"prompt": "abc", "max_tokens": 4, "ignore_eos": True}
    answer = rig.complete(**body, stream=True, stream_options={"include_usage": True})
    *pieces, last = events_of(answer.text)

    assert [piece["usage"] for piece in pieces] == [None] * len(pieces)
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)  # type: ignore[index]


def test_what_fails_in_a_stream_is_told_there(serve: Serve) -> None:
    """An error behind the first piece is an event; the stream ends as all do."""

    def script(token_ids: tuple[int, ...]) -> Logits:
        return random_script(token_ids) * (float("nan") if len(token_ids) > 4 else 1)

    rig = serve(script=script)
    answer = rig.complete(prompt="a", ignore_eos=True, stream=True)

    assert answer.status_code == 200
    assert events_of(answer.text)[-1]["error"]["code"] == "numerical_error"  # type: ignore[index]
    assert rig.complete(prompt="abcdef").status_code == 500


def test_an_engine_that_fails_goes_on(serve: Serve) -> None:
    """Whoever is under way gets 500, with the request's id; the next request is answered."""

    def script(token_ids: tuple[int, ...]) -> Logits:
        if token_ids[0] == ord("x"):
            message = "a defect"
            raise ValueError(message)
        return random_script(token_ids)

    rig = serve(script=script)
    failed = rig.complete(prompt="x")

    assert (failed.status_code, failed.json()["error"]["code"]) == (500, "engine_crash")
    assert failed.headers["x-request-id"].startswith("req_")
    assert rig.complete(prompt="a").status_code == 200
    assert rig.complete(prompt="a", stream=True).status_code == 200


def ask(address: str, body: dict[str, object], *, is_whole: bool = True) -> bytes:
    """Write a request as it goes over a connection, or the first half of it."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {address.removeprefix('http://')}\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + (content if is_whole else content[: len(content) // 2])


def metric(address: str, name: str) -> float:
    """Read a metric."""
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_gives_its_places_back(address: str, stream: bool) -> None:
    """Nothing is computed for nobody: slots are free, and the request counts as given up."""
    before = metric(address, "aobatch_completions_given_up_total")
    body = {"prompt": "a", "max_tokens": 2000, "ignore_eos": True, "n": 20, "stream": stream}
    connection = raw_connection(address)
    connection.sendall(ask(address, body))
    wait_until(lambda: metric(address, "aobatch_sequences_running") > 0)

    connection.close()

    wait_until(lambda: metric(address, "aobatch_completions_given_up_total") == before + 1)
    for name in GAUGES:
        wait_until(lambda name=name: metric(address, name) == 0)


def test_half_a_body_is_not_waited_for_for_ever(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that sends no more gets 408, and its connection is closed."""
    monkeypatch.setattr("aobatch.serve.completions.BODY_SECONDS", 0.1)
    with raw_connection(address) as connection:
        connection.sendall(ask(address, {"prompt": "a"}, is_whole=False))
        received = b"".join(iter(lambda: connection.recv(4096), b""))

    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in received
    assert metric(address, "aobatch_http_requests_open") == 0


def test_a_client_that_reads_nothing_loses_its_connection(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its stream is given up when nothing has gone out for a time; nobody else waits."""
    monkeypatch.setattr("aobatch.serve.completions.SEND_SECONDS", 0.2)
    body = {"prompt": "a" * 9, "max_tokens": 900, "n": 4, "stream": True, "ignore_eos": True}
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = address.removeprefix("http://").split(":")
        connection.connect((host, int(port)))
        connection.sendall(ask(address, body))

        wait_until(lambda: metric(address, "aobatch_completions_open") == 1)
        wait_until(lambda: metric(address, "aobatch_completions_open") == 0)
        assert metric(address, "aobatch_sequences_running") == 0

        received = b"".join(iter(lambda: connection.recv(4096), b""))
        assert b"[DONE]" not in received
