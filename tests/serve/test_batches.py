"""Laws of batches over HTTP: the bytes of a job, in the steps and fields of OpenAI's batches."""

import json
import threading
import time
from pathlib import Path

import pytest
from scripted_models import Rig, ScriptedBackend, Serve, envelope, envelopes
from waiting import wait_until

from aobatch.arrays import Logits
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job
from aobatch.serve.batches import Batch
from aobatch.testing import random_script

GOOD = [
    {"model": "scripted", "prompt": f"p{number}", "max_tokens": 5, "seed": number % 3}
    for number in range(20)
]
CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
BAD = [{"prompt": "a", "temperature": 3}, {"prompt": "a", "model": "none"}, {"prompt": "x" * 3000}]


def run_of(content: bytes, folder: Path) -> tuple[bytes, bytes]:
    """Run a job on the same lines; give its output and its failed lines."""
    folder.mkdir()
    source, output, errors = (folder / f"{name}.jsonl" for name in ("in", "out", "errors"))
    source.write_bytes(content)
    run_job(JobConfig((source,), output, errors=errors), ScriptedBackend())
    return output.read_bytes(), errors.read_bytes()


class Gated:
    """A script that holds its model at every step once it is told to, until it is let go."""

    def __init__(self) -> None:
        self.is_open, self.holds = threading.Event(), threading.Event()
        self.is_open.set()

    def __call__(self, token_ids: tuple[int, ...]) -> Logits:
        """Wait, and draw as the usual script does."""
        if not self.is_open.is_set() and token_ids[0] == ord("p"):
            self.holds.set()
            self.is_open.wait()
        return random_script(token_ids)


def test_the_output_is_that_of_a_job(rig: Rig, tmp_path: Path) -> None:
    """Without failed lines, byte for byte; the object has the counts and the usage."""
    content = envelopes(*GOOD[:-1], {**GOOD[-1], "stream": True})
    name = rig.begin(content, metadata={"for": "tests"})
    batch = rig.ended(name)

    assert rig.content(batch["output_file_id"]) == run_of(content, tmp_path / "job")[0]
    assert batch["status"] == "completed"
    assert batch["error_file_id"] is None
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
    usage = batch["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 100  # type: ignore[index]
    assert batch["metadata"] == {"for": "tests"}
    steps = ("created_at", "in_progress_at", "finalizing_at", "completed_at", "expires_at")
    times = [batch[step] for step in steps]
    assert times == sorted(times)  # type: ignore[type-var]
    assert rig.gateway.files.find(str(batch["output_file_id"])).purpose == "batch_output"
    assert [p.name for p in (rig.gateway.batches._folder / name).iterdir()] == ["batch.json"]


def test_failed_lines_are_in_a_file_of_their_own(rig: Rig, tmp_path: Path) -> None:
    """What is wrong in bodies fails its line alone, as a job with --errors writes it."""
    content = envelopes(*GOOD[:3], *BAD, *GOOD[3:])
    batch = rig.ended(rig.begin(content))
    output, errors = run_of(content, tmp_path / "job")

    assert rig.content(batch["error_file_id"]) == errors
    right = [line for line in output.splitlines() if line not in errors.splitlines()]
    assert rig.content(batch["output_file_id"]).splitlines() == right
    assert batch["request_counts"] == {"total": 23, "completed": 20, "failed": 3}


def test_chats_come_in_batches_too(rig: Rig, tmp_path: Path) -> None:
    """The endpoint of a batch is that of its lines."""
    content = envelopes(CHAT, {**CHAT, "n": 2}).replace(b"/v1/comp", b"/v1/chat/comp")
    batch = rig.ended(rig.begin(content, endpoint="/v1/chat/completions"))

    assert batch["status"] == "completed"
    assert rig.content(batch["output_file_id"]) == run_of(content, tmp_path / "job")[0]


def test_requests_in_between_change_no_byte(rig: Rig, tmp_path: Path) -> None:
    """Two batches and connections share an engine; each output is that of its job alone."""
    contents = [envelopes(*GOOD, *GOOD[:n]) for n in (2, 5)]
    names = [rig.begin(content) for content in contents]
    for _ in range(5):
        assert rig.complete(prompt="b", max_tokens=30).status_code == 200
    batches = [rig.ended(name) for name in names]

    for number, (content, batch) in enumerate(zip(contents, batches, strict=True)):
        expected = run_of(content, tmp_path / f"job-{number}")[0]
        assert rig.content(batch["output_file_id"]) == expected


@pytest.mark.parametrize(
    ("content", "line", "code"),
    [
        (b"", 0, "empty_file"),
        (b"\n\n", 0, "empty_file"),
        (envelopes(GOOD[0]) + b"{", 2, "invalid_json_line"),
        (envelopes(GOOD[0]) + b"\xff\n", 2, "invalid_utf8"),
        (envelopes(*GOOD[:2]) + envelope("r0", GOOD[0]), 3, "duplicate_custom_id"),
        (envelopes(GOOD[0]).replace(b"/v1/completions", b"/v1/embeddings"), 1, "invalid_url"),
        (envelopes(GOOD[0]).replace(b"POST", b"GET"), 1, "invalid_value"),
        (envelopes(GOOD[0]).replace(b"custom_id", b"id"), 1, "unknown_parameter"),
        (json.dumps(GOOD[0]).encode(), 1, "missing_required_parameter"),
        (envelopes(CHAT).replace(b"/v1/comp", b"/v1/chat/comp"), 1, "invalid_url"),
    ],
)
def test_a_file_that_is_no_batch_fails_with_its_lines(
    rig: Rig, content: bytes, line: int, code: str
) -> None:
    """Every bad line is named, and nothing is computed."""
    batch = rig.ended(rig.begin(content))

    assert batch["status"] == "failed"
    assert batch["errors"]["object"] == "list"  # type: ignore[index]
    (error,) = batch["errors"]["data"]  # type: ignore[index]
    assert (error["line"], error["code"]) == (line, code)
    assert batch["output_file_id"] is batch["error_file_id"] is None


def test_a_batch_is_cancelled_at_once_and_keeps_what_it_has(serve: Serve) -> None:
    """Answers are its output, other lines say why they have none; slots are given back."""
    gate = Gated()
    rig = serve(script=gate)
    gate.is_open.clear()
    name = rig.begin(envelopes({"prompt": "q", "max_tokens": 0}, *GOOD))
    wait_until(gate.holds.is_set)
    wait_until(lambda: rig.batch(name)["request_counts"]["completed"] == 1)  # type: ignore[index]

    answer = rig.client.post(f"/v1/batches/{name}/cancel").json()
    assert answer["status"] == "cancelling"
    assert rig.client.post(f"/v1/batches/{name}/cancel").json()["status"] != "in_progress"
    batch = rig.ended(name)
    gate.is_open.set()

    assert (batch["status"], batch["cancelled_at"] >= batch["cancelling_at"]) == ("cancelled", True)  # type: ignore[operator]
    assert batch["request_counts"] == {"total": 21, "completed": 1, "failed": 20}
    (kept,) = rig.content(batch["output_file_id"]).splitlines()
    assert json.loads(kept)["response"]["body"]["choices"]
    errors = [json.loads(line) for line in rig.content(batch["error_file_id"]).splitlines()]
    assert {error["error"]["code"] for error in errors} == {"batch_cancelled"}
    assert [error["custom_id"] for error in errors] == [f"r{number}" for number in range(1, 21)]
    (engine,) = rig.gateway.desk.models.open_engines().values()
    wait_until(lambda: engine.occupancy == (0, 0))
    refused = rig.client.post(f"/v1/batches/{name}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "batch_not_cancellable")


def test_a_batch_ends_with_its_window(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are not answered by then are expired."""
    monkeypatch.setattr("aobatch.serve.batches._seconds_of", lambda _: 0)
    gate = Gated()
    gate.is_open.clear()
    rig = serve(script=gate)
    batch = rig.ended(rig.begin(envelopes(*GOOD)))
    gate.is_open.set()

    assert batch["status"] == "expired"
    assert batch["expired_at"] is not None


def test_a_stopped_server_goes_on_with_its_batches(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered is kept, and the output is that of one run."""
    gate = Gated()
    folder, content = tmp_path / "data", envelopes({"prompt": "q", "max_tokens": 0}, *GOOD)
    gate.is_open.clear()
    first = serve(folder, script=gate)
    name = first.begin(content)
    wait_until(lambda: first.batch(name)["request_counts"]["completed"] == 1)  # type: ignore[index]
    first.gateway.batches.stop(60)
    gate.is_open.set()
    assert first.batch(name)["status"] == "in_progress"

    monkeypatch.setattr("aobatch.serve.server.hold_lock", lambda _: threading.Lock())
    second = serve(folder)
    batch = second.ended(name)

    assert batch["status"] == "completed"
    assert second.content(batch["output_file_id"]) == run_of(content, tmp_path / "job")[0]


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling"])
def test_a_batch_goes_on_from_any_step(serve: Serve, tmp_path: Path, status: str) -> None:
    """Whatever the record says after a death, the end is reached."""
    import msgspec

    rig = serve()
    rig.gateway.batches.stop(60)
    name = rig.begin(envelopes(*GOOD))
    path = rig.gateway.batches._folder / name / "batch.json"
    record = msgspec.json.decode(path.read_bytes(), type=Batch)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(record, status=status)))

    batches = type(rig.gateway.batches)(path.parents[1], rig.gateway.files, rig.gateway.desk.models)
    batches.start()

    expected = "cancelled" if status == "cancelling" else "completed"
    wait_until(lambda: batches.find(name).status == expected)
    batches.stop(60)


def test_a_full_disk_makes_a_batch_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on when there is room; nothing is lost or failed."""
    from aobatch.errors import StorageError

    monkeypatch.setattr("aobatch.serve.batches.RETRY_SECONDS", 0.01)
    real, calls = run_job, [0]

    def run(*arguments: object) -> object:
        calls[0] += 1
        if calls[0] == 1:
            message = "the disk is full"
            raise StorageError(message)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("aobatch.serve.batches.run_job", run)

    assert rig.ended(rig.begin(envelopes(*GOOD)))["status"] == "completed"
    assert "the disk is full" in caplog.text


def test_files_are_listed_shown_and_deleted(rig: Rig) -> None:
    """Uploads have their fields, names enter no path, and files in use stay."""
    content = envelopes(GOOD[0])
    files = {"file": ("../../../etc/passwd", content)}
    answer = rig.client.post("/v1/files", files=files, data={"purpose": "batch"}).json()
    name = answer["id"]
    now = time.time()

    assert (answer["object"], answer["bytes"], answer["purpose"]) == ("file", len(content), "batch")
    assert answer["created_at"] == pytest.approx(now, abs=60)
    assert rig.client.get(f"/v1/files/{name}").json() == answer
    assert rig.content(name) == content
    assert rig.client.get("/v1/files").json()["data"] == [answer]
    assert rig.client.get("/v1/files?purpose=batch_output").json()["data"] == []
    assert sorted(p.name for p in rig.gateway.files._folder.iterdir()) == [
        f"{name}.json",
        f"{name}.jsonl",
    ]
    assert rig.client.delete(f"/v1/files/{name}").json() == {
        "id": name,
        "object": "file",
        "deleted": True,
    }
    assert rig.client.get(f"/v1/files/{name}").status_code == 404
    assert list(rig.gateway.files._folder.iterdir()) == []


def test_a_file_in_use_is_not_deleted(serve: Serve) -> None:
    """A batch at work keeps its input."""
    gate = Gated()
    gate.is_open.clear()
    rig = serve(script=gate)
    name = rig.begin(envelopes(*GOOD))
    file_id = rig.batch(name)["input_file_id"]

    assert rig.client.delete(f"/v1/files/{file_id}").status_code == 409
    gate.is_open.set()
    rig.ended(name)
    assert rig.client.delete(f"/v1/files/{file_id}").status_code == 200


def test_lists_are_read_in_pages(rig: Rig) -> None:
    """The newest comes first; each page says where the next begins and whether there is one."""
    names = [rig.upload(b"{}").json()["id"] for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = rig.client.get(f"/v1/files?limit=2{after}").json()
        seen += [file["id"] for file in page["data"]]
        assert page["last_id"] == seen[-1]
        after = f"&after={seen[-1]}"
        if not page["has_more"]:
            break

    assert seen == list(reversed(names))
    upwards = rig.client.get("/v1/files?order=asc").json()["data"]
    assert [file["id"] for file in upwards] == names


def test_files_outlive_the_server(serve: Serve, tmp_path: Path) -> None:
    """What was uploaded is there at the next start; half an upload is not."""
    from aobatch.serve.files import Files

    rig = serve()
    name = rig.upload(b"{}").json()["id"]
    folder = rig.gateway.files._folder
    (folder / "file-x.part").write_bytes(b"half")

    assert [file.id for file in Files(folder).all()] == [name]
    assert not (folder / "file-x.part").exists()
