"""Laws of refusals: each has its status, its error object and its headers."""

import re
from pathlib import Path

import pytest
from scripted_models import Rig, Serve

from aobatch.errors import UsageError
from aobatch.serve.guard import Bucket, Keys, read_keys
from aobatch.serve.server import ServeConfig

KEY = "sk-of-the-tests-0001"
GOOD = {"prompt": "a", "max_tokens": 2}
JSON = {"content-type": "application/json"}


@pytest.fixture
def keyed(serve: Serve, tmp_path: Path) -> Rig:
    """Give an application that asks for a key."""
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\n")
    path.chmod(0o600)
    return serve(api_keys=path)


COMPLETE, UPLOAD, BEGIN = "POST /v1/completions", "POST /v1/files", "POST /v1/batches"
FORM_ALONE = "multipart/form-data"
FORM = {"content-type": f"{FORM_ALONE}; boundary=b"}
FOR_BATCH = {"purpose": "batch"}
BATCH = {
    "input_file_id": "file-x",
    "endpoint": "/v1/completions",
    "completion_window": "24h",
}
TABLE: list[tuple[str, dict[str, object], str]] = [
    (COMPLETE, {"json": {}}, "400 missing_required_parameter"),
    (COMPLETE, {"json": {"prompt": "a", "n": 0}}, "400 integer_below_min_value"),
    (COMPLETE, {"json": {"prompt": "a", "custom_id": "x"}}, "400 unknown_parameter"),
    (COMPLETE, {"json": {"prompt": "a" * 3000}}, "400 context_length_exceeded"),
    (COMPLETE, {"json": {"prompt": "a" * 3000, "stream": True}}, "400 context_length_exceeded"),
    (COMPLETE, {"content": b"{", "headers": JSON}, "400 invalid_json_line"),
    (COMPLETE, {"content": b"\xff", "headers": JSON}, "400 invalid_utf8"),
    (COMPLETE, {"json": {**GOOD, "model": "none"}}, "404 model_not_found"),
    (COMPLETE, {"json": {**GOOD, "model": "third"}}, "404 model_not_found"),
    (COMPLETE, {"json": {**GOOD, "model": "/etc"}}, "404 model_not_found"),
    (COMPLETE, {"content": b"{}"}, "415 unsupported_media_type"),
    (COMPLETE, {"data": {"prompt": "a"}}, "415 unsupported_media_type"),
    (COMPLETE, {"content": b" " * (2**24 + 1), "headers": JSON}, "413 request_too_large"),
    ("GET /v1/completions", {}, "405 method_not_allowed"),
    ("GET /v1/nothing", {}, "404 not_found"),
    ("GET /v1/models/none", {}, "404 model_not_found"),
    ("GET /v1/files/file-x", {}, "404 file_not_found"),
    ("GET /v1/files/..%2F..%2Fetc/content", {}, "404 not_found"),
    ("DELETE /v1/files/file-x", {}, "404 file_not_found"),
    (UPLOAD, {"json": {}}, "415 unsupported_media_type"),
    (UPLOAD, {"files": {"file": b"x"}}, "400 invalid_value"),
    (UPLOAD, {"files": {"file": b"x", "more": b"y"}}, "400 invalid_value"),
    (UPLOAD, {"files": {"other": b"x"}, "data": FOR_BATCH}, "400 unknown_parameter"),
    (UPLOAD, {"files": {"file": (None, "x")}, "data": FOR_BATCH}, "400 missing_required_parameter"),
    (UPLOAD, {"files": {"file": b"x" * 5000}, "data": FOR_BATCH}, "413 request_too_large"),
    (UPLOAD, {"content": b"--x", "headers": FORM}, "400 invalid_value"),
    (
        UPLOAD,
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        "400 invalid_value",
    ),
    ("GET /v1/files?limit=0", {}, "400 invalid_value"),
    ("GET /v1/batches?after=x", {}, "400 invalid_value"),
    ("GET /v1/batches/batch_x", {}, "404 batch_not_found"),
    ("POST /v1/batches/batch_x/cancel", {}, "404 batch_not_found"),
    (BEGIN, {"json": {"input_file_id": "x"}}, "400 invalid_value"),
    (BEGIN, {"json": BATCH}, "404 file_not_found"),
    (BEGIN, {"json": {**BATCH, "endpoint": "/v1/embeddings"}}, "400 invalid_value"),
    (BEGIN, {"json": {**BATCH, "metadata": {"k": "v" * 513}}}, "400 invalid_value"),
]


@pytest.mark.parametrize(("asked", "options", "told"), TABLE)
def test_what_cannot_be_done_is_told_in_openais_words(
    serve: Serve, asked: str, options: dict[str, object], told: str
) -> None:
    """The status, the code, all four fields of the error object and an id are there."""
    rig = serve(max_file_bytes=4096)
    answer = rig.client.request(*asked.split(" "), **options)  # type: ignore[arg-type]

    assert f"{answer.status_code} {answer.json()['error']['code']}" == told
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(r"req_\w{29}", answer.headers["x-request-id"])
    assert rig.gateway.num_open == len(rig.gateway.desk.under_way) == 0


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        "Bearer sk-of-the-tests-0002",
        f"Bearer {KEY}x",
    ],
)
def test_only_a_key_opens(keyed: Rig, header: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is no key gets 401 on every path but two, and is shown by its end at most."""
    headers = {} if header is None else {"authorization": header}
    for path in ("/v1/models", "/v1/files", "/v1/nothing"):
        answer = keyed.client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "x-request-id" in answer.headers
        assert "sk-of" not in answer.text
    assert keyed.client.get("/health", headers=headers).status_code == 200
    assert keyed.client.get("/metrics", headers=headers).status_code == 200
    assert "sk-" not in caplog.text


def test_a_key_is_taken(keyed: Rig) -> None:
    """The right key passes, however its scheme is written."""
    for scheme in ("Bearer", "bearer"):
        assert keyed.complete({"authorization": f"{scheme} {KEY}"}, **GOOD).status_code == 200


def test_keys_are_kept_as_hashes_and_compared_without_haste(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No object of the server has a key, and all hashes are compared whichever matches."""
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return left == right

    path = tmp_path / "keys"
    path.write_text(f"{KEY}\nsk-of-the-tests-0002\n")
    path.chmod(0o600)
    keys = read_keys(path)
    monkeypatch.setattr("aobatch.serve.guard.compare_digest", compare)

    keys.check(f"Bearer {KEY}")

    assert len(compared) == 2
    assert all(len(digest) == 32 and b"sk-" not in digest for digest in compared)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (f"{KEY}\n", 0o644, "other users may read it"),
        ("", 0o600, "has no key"),
        ("# none\n\n", 0o600, "has no key"),
        ("short\n", 0o600, "fewer than 16 characters"),
        ("sk with a blank in it\n", 0o600, "or a blank"),
    ],
)
def test_files_of_keys_that_are_wrong(
    tmp_path: Path, content: str, mode: int, message: str
) -> None:
    """Each is one sentence that says what to do."""
    path = tmp_path / "keys"
    path.write_text(content)
    path.chmod(mode)

    with pytest.raises(UsageError, match=message):
        read_keys(path)


def test_hashes_may_be_read_by_all(tmp_path: Path) -> None:
    """A file of hashes gives nothing away."""
    from hashlib import sha256

    path = tmp_path / "keys"
    path.write_text(f"sha256:{sha256(KEY.encode()).hexdigest()}\n")

    assert read_keys(path).check(f"Bearer {KEY}")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "example.org"])
def test_others_are_let_in_with_keys_alone(tmp_path: Path, host: str) -> None:
    """A start on an address that others reach is refused, unless there are keys or it is meant."""
    with pytest.raises(UsageError, match="--no-auth"):
        ServeConfig(host=host).keys()
    assert not ServeConfig(host=host, no_auth=True).keys()
    assert not any(ServeConfig(host=own).keys() for own in ("127.0.0.1", "::1", "localhost"))


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"host": "evil.example:8000"}, {"origin": "null"}],
)
def test_pages_of_other_hosts_may_not_ask(rig: Rig, headers: dict[str, str]) -> None:
    """Without keys, what a browser sends for a page from elsewhere is refused."""
    assert rig.client.get("/v1/models", headers=headers).status_code == 403
    for own in ("localhost:8000", "[::1]:8000", "127.0.0.1"):
        found = rig.client.get("/v1/models", headers={"host": own, "origin": f"http://{own}"})
        assert found.status_code == 200


def test_requests_of_a_minute_are_counted(serve: Serve) -> None:
    """The headers say what is left; then 429 says when to try again."""
    rig = serve(requests_per_minute=2)
    found = [rig.complete(**GOOD) for _ in range(3)]

    assert [answer.status_code for answer in found] == [200, 200, 429]
    left = [answer.headers["x-ratelimit-remaining-requests"] for answer in found]
    assert left == ["1", "0", "0"]
    assert found[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert found[2].json()["error"]["type"] == "requests"
    assert 1 <= int(found[2].headers["retry-after"]) <= 30
    assert found[0].headers["x-ratelimit-limit-requests"] == "2"
    assert found[0].headers["x-ratelimit-reset-requests"].endswith("s")
    assert rig.client.get("/v1/models").status_code == 200


def test_tokens_of_a_minute_are_counted_as_they_were_used(serve: Serve) -> None:
    """What was asked for is held back, and what was not used is given back."""
    rig = serve(tokens_per_minute=60)
    first = rig.complete(prompt="abcd", max_tokens=50, ignore_eos=True)
    second = rig.complete(prompt="abcd", max_tokens=50)

    assert first.headers["x-ratelimit-remaining-tokens"] == "9"
    assert (second.status_code, second.json()["error"]["type"]) == (429, "tokens")
    assert rig.complete(prompt="a", max_tokens=0).status_code == 200


def test_a_request_that_failed_costs_no_tokens(serve: Serve) -> None:
    """What never ran is given back whole."""
    rig = serve(tokens_per_minute=1000)
    for _ in range(5):
        assert rig.complete(prompt="a" * 3000, max_tokens=900).status_code == 400
    assert rig.complete(prompt="a", max_tokens=900, model="none").status_code == 404
    assert rig.complete(**GOOD).status_code == 200


def test_buckets_fill_evenly() -> None:
    """Half of a minute brings half of the allowance, and never more than all of it."""
    bucket = Bucket(60)
    bucket.left, started = 0.0, bucket._filled

    bucket.refill(started + 30)
    assert bucket.left == pytest.approx(30)
    assert bucket.seconds_until(40) == pytest.approx(10)
    assert bucket.seconds_until(1000) == pytest.approx(30)
    bucket.refill(started + 3600)
    assert bucket.left == 60


def test_too_many_that_wait_are_turned_away(serve: Serve) -> None:
    """Beyond the bound the answer is 429, with when to try again."""
    rig = serve(max_open=1)
    rig.gateway.desk.under_way.add("somebody")
    answer = rig.complete(**GOOD)

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "server_overloaded")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("state", ["loading", "stopping"])
def test_a_server_that_is_not_ready_says_so(serve: Serve, state: str) -> None:
    """503 with when to try again; health and metrics answer all the same."""
    rig = serve(state=state)
    answer = rig.complete(**GOOD)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, f"server_{state}")
    assert answer.json()["error"]["type"] == "server_error"
    assert int(answer.headers["retry-after"]) > 0
    assert rig.client.get("/health").status_code == 503
    assert rig.client.get("/health").json() == {"status": state}
    assert "aobatch_up 0" in rig.client.get("/metrics").text


def test_a_key_is_shown_by_its_end_at_most() -> None:
    """Short ones, of which four characters are much, are not shown at all."""
    from aobatch.serve.guard import HttpError

    keys = Keys([b"x" * 32])
    for key, shown in (("sk-1234567890abcdef", "cdef"), ("hunter2", "")):
        with pytest.raises(HttpError) as caught:
            keys.check(f"Bearer {key}")
        assert key[:5] not in str(caught.value)
        assert not shown or shown in str(caught.value)
