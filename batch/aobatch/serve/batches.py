"""Batches: an uploaded file as an ordinary job, in the fields and steps of OpenAI's batches."""

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from aobatch.api import errors
from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.request import CHAT_ENDPOINT, ENDPOINT, ENVELOPE_FIELDS, FailedLine, Request
from aobatch.api.response import batch_request_id, render_failure, render_success
from aobatch.errors import JobError, StorageError
from aobatch.files import replacing, storage_errors, write_whole
from aobatch.job.config import JobConfig
from aobatch.job.context import Unwatched
from aobatch.job.ledger import Answer
from aobatch.job.runner import known_answers, run_job
from aobatch.job.source import check_inputs, open_source
from aobatch.job.state import StateFolder
from aobatch.job.status import job_status
from aobatch.job.validation import BatchError
from aobatch.serve.engines import Halt, HaltedError, Models, SharedBackend
from aobatch.serve.files import Files
from aobatch.serve.guard import HttpError, new_id

NUM_WORKERS = 4
"""Batches under way together; others wait for one of them to end."""
MAX_ERRORS = 100
"""Bad lines that are shown of a file."""
CHECK_LINES = 1000
"""So many lines are checked before a batch looks whether it is to stop."""
RETRY_SECONDS = 30.0
"""What a batch waits for that a full disk has stopped."""
FORM_CODES = frozenset(
    {
        "duplicate_custom_id",
        "duplicate_key",
        "invalid_json_line",
        "invalid_unicode",
        "invalid_utf8",
        "line_too_long",
        "too_deep",
    }
)
"""What makes a file no batch; anything else in a body fails its line alone."""
FINAL = frozenset({"failed", "completed", "expired", "cancelled"})
GIVEN_UP = {
    "expired": "This request was not executed before the completion window ended.",
    "cancelled": "This request was not executed, since the batch was cancelled.",
}
RECORD = "batch.json"
_WINDOW = re.compile(r"([1-9]\d{0,3})([hd])")

log = logging.getLogger("aobatch.serve")


class ErrorList(msgspec.Struct, frozen=True):
    """What is wrong with a file."""

    data: list[BatchError]
    object: str = "list"


class Counts(msgspec.Struct, frozen=True):
    """How many requests there are, and what became of them."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Used(msgspec.Struct, frozen=True):
    """Tokens of a batch, in the fields of OpenAI's."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


Metadata: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch, in the fields of OpenAI's batch object."""

    id: str
    object: str = "batch"
    endpoint: str
    model: str | None = None
    errors: ErrorList | None = None
    input_file_id: str
    completion_window: str
    status: str = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    usage: Used | None = None
    metadata: Metadata | None = None


class BatchBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client asks for."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Metadata | None = None


class Batches:
    """The batches there are; those that are not at their end go on when a server starts."""

    def __init__(self, folder: Path, files: Files, models: Models) -> None:
        """Read the records; OutputError or StorageError if the folder cannot be used."""
        self._folder, self._files, self._models = folder, files, models
        with storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = [
            msgspec.json.decode(path.read_bytes(), type=Batch)
            for path in folder.glob(f"*/{RECORD}")
        ]
        self._batches = {b.id: b for b in sorted(records, key=lambda b: b.created_at)}
        self._halts: dict[str, Halt] = {}
        self._queue: SimpleQueue[str] = SimpleQueue()
        self._lock = threading.Lock()
        self._is_stopping = threading.Event()
        self._workers = [
            threading.Thread(target=self._work, name=f"batches-{number}", daemon=True)
            for number in range(NUM_WORKERS)
        ]

    def start(self) -> None:
        """Go on with what is not at its end."""
        for batch in self._batches.values():
            if batch.status not in FINAL:
                self._begin(batch)
        for worker in self._workers:
            worker.start()

    def stop(self, seconds: float) -> None:
        """Let all of them stop at a result, to go on at the next start."""
        self._is_stopping.set()
        for halt in list(self._halts.values()):
            halt.set("stopping")
        for _ in self._workers:
            self._queue.put("")
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))

    def all(self) -> list[Batch]:
        """List them, the oldest first."""
        return list(self._batches.values())

    def find(self, name: str) -> Batch:
        """Find a batch by its id, with what is done by now; HttpError, 404, if there is none."""
        if name not in self._batches:
            message = f"There is no batch {name[:64]!r}."
            raise HttpError(404, "batch_not_found", message, param="batch_id")
        batch = self._batches[name]
        is_final = batch.status in FINAL
        return batch if is_final else replace(batch, request_counts=self._counts(batch))

    def create(self, fields: Mapping[str, object]) -> Batch:
        """Begin a batch; HttpError or RequestError says what is wrong with its body."""
        body = _body_of(fields)
        file = self._files.find(body.input_file_id)
        if file.purpose != "batch":
            reason = f"file {file.id} was not uploaded for a batch."
            raise errors.invalid_value(reason, "input_file_id")
        now = int(time.time())
        batch = Batch(
            id=new_id("batch_"),
            endpoint=body.endpoint,
            input_file_id=file.id,
            completion_window=body.completion_window,
            created_at=now,
            expires_at=now + _seconds_of(body.completion_window),
            metadata=body.metadata,
        )
        with storage_errors(self._folder):
            self._path(batch, "").mkdir(mode=0o700)
        self._keep(batch)
        self._begin(batch)
        return batch

    def cancel(self, name: str) -> Batch:
        """Stop a batch; what it has answered by then is its output."""
        with self._lock:
            batch = self.find(name)
            if batch.status in FINAL:
                message = f"Batch {name} is {batch.status} and cannot be cancelled."
                raise HttpError(409, "batch_not_cancellable", message)
            if batch.status != "cancelling":
                batch = self._keep(batch, status="cancelling", cancelling_at=int(time.time()))
        self._halts[batch.id].set("cancelled")
        return batch

    def uses(self, file_id: str) -> bool:
        """Say whether a batch that is not at its end reads a file."""
        return any(b.input_file_id == file_id and b.status not in FINAL for b in self.all())

    def _begin(self, batch: Batch) -> None:
        self._halts[batch.id] = Halt()
        if batch.status == "cancelling":
            self._halts[batch.id].set("cancelled")
        self._queue.put(batch.id)

    def _keep(self, batch: Batch, **changes: object) -> Batch:
        batch = replace(batch, **changes)
        write_whole(self._path(batch, RECORD), msgspec.json.encode(batch))
        self._batches[batch.id] = batch
        return batch

    def _advance(self, name: str, status: str, **changes: object) -> None:
        """Take a step, unless somebody has cancelled the batch."""
        with self._lock:
            batch = self._batches[name]
            if batch.status == "cancelling" and status not in FINAL:
                raise HaltedError("cancelled")  # noqa: EM101 - the reason is a name
            self._keep(batch, status=status, **{f"{status}_at": int(time.time())}, **changes)

    def _path(self, batch: Batch, name: str) -> Path:
        return self._folder / batch.id / name

    def _config(self, batch: Batch) -> JobConfig:
        source = self._files.path(self._files.find(batch.input_file_id))
        output, errors = self._path(batch, "output.jsonl"), self._path(batch, "errors.jsonl")
        return JobConfig(
            (source,), output, model=self._models.name, errors=errors, errors_apart=True
        )

    def _counts(self, batch: Batch) -> Counts:
        try:
            status = job_status(self._path(batch, "output.jsonl"))
        except JobError:  # its state is not there yet, or no longer
            return batch.request_counts
        total = max(status.lines, batch.request_counts.total)
        return Counts(total, status.answered - status.failed, status.failed)

    def _work(self) -> None:
        while name := self._queue.get():
            halt = self._halts[name]
            batch = self._batches[name]
            timer = threading.Timer(batch.expires_at - time.time(), halt.set, ["expired"])
            timer.daemon = True
            timer.start()
            try:
                self._attend(name, halt)
            except Exception:
                # A defect: the batch stays as it is, and a new start tries again.
                log.exception("batch %s stopped", name)
            finally:
                timer.cancel()

    def _attend(self, name: str, halt: Halt) -> None:
        """Bring a batch to its end, or to where it has to stop."""
        try:
            self._process(name, halt)
        except HaltedError as stop:
            if (reason := str(stop)) in GIVEN_UP:
                self._give_up(name, reason)
        except StorageError as error:
            log.warning("batch %s waits: %s", name, error)
            self._is_stopping.wait(RETRY_SECONDS)
            self._queue.put(name)
        except JobError as error:
            fault = BatchError("batch_failed", 0, str(error), None)
            self._advance(name, "failed", errors=ErrorList([fault]))

    def _process(self, name: str, halt: Halt) -> None:
        halt.check()
        batch = self._batches[name]
        config, backend = self._config(batch), SharedBackend(self._models, halt)
        if batch.status == "validating":
            total, bad = check_lines(config, batch.endpoint, halt)
            if bad:
                self._advance(name, "failed", errors=ErrorList(bad), request_counts=Counts(total))
                return
            self._advance(name, "in_progress", request_counts=Counts(total))
        outcome = run_job(config, backend, Watch(name, halt))
        if batch.status != "finalizing":
            self._advance(name, "finalizing")
        requests, usage = outcome.report.requests, outcome.report.usage
        counts = Counts(requests.total, requests.total - requests.failed, requests.failed)
        self._end(name, "completed", counts, (usage.prompt_tokens, usage.completion_tokens))

    def _give_up(self, name: str, reason: str) -> None:
        """Make outputs of what was answered; each other line gets an error that says why not."""
        batch = self._batches[name]
        counts, tokens = [0, 0], [0, 0]
        with ExitStack() as stack:
            if batch.in_progress_at is None:
                answers: Iterator[Answer] = iter(())
            else:
                backend = SharedBackend(self._models, Halt())
                answers = stack.enter_context(known_answers(self._config(batch), backend))
            output = stack.enter_context(replacing(self._path(batch, "output.jsonl")))
            failed = stack.enter_context(replacing(self._path(batch, "errors.jsonl")))
            for answer in answers:
                is_right = answer.status_code == 200
                counts[not is_right] += 1
                if is_right:
                    tokens[0] += answer.prompt_tokens
                    tokens[1] += answer.completion_tokens
                (output if is_right else failed).write(_line_of(answer, reason) + b"\n")
        self._end(name, reason, Counts(sum(counts), *counts), (tokens[0], tokens[1]))

    def _end(self, name: str, status: str, counts: Counts, tokens: tuple[int, int]) -> None:
        batch = self._batches[name]
        total = batch.request_counts.total
        outputs = {
            "output_file_id": ("output", counts.completed),
            "error_file_id": ("errors", counts.failed),
        }
        found: dict[str, object] = {}
        for field, (stem, count) in outputs.items():
            path = self._path(batch, f"{stem}.jsonl")
            if count and path.exists():
                # The same id after a death at this point.
                identity = f"file-{batch.id.removeprefix('batch_')[:-1]}{stem[0]}"
                self._files.adopt(path, f"{batch.id}_{stem}.jsonl", identity, "batch_output")
                found[field] = identity
        counts = replace(counts, total=max(total, counts.total))
        used = Used(
            input_tokens=tokens[0],
            input_tokens_details={"cached_tokens": 0},
            output_tokens=tokens[1],
            output_tokens_details={"reasoning_tokens": 0},
            total_tokens=sum(tokens),
        )
        self._advance(name, status, request_counts=counts, usage=used, **found)
        # Not before it is known to have ended: until then it could be done again.
        for remains in self._path(batch, "").iterdir():
            if remains.is_dir():
                shutil.rmtree(remains, ignore_errors=True)
            elif remains.name != RECORD:
                remains.unlink(missing_ok=True)


class Watch(Unwatched):
    """Stops a job between two results, where nothing else hears that it is to stop."""

    def __init__(self, name: str, halt: Halt) -> None:
        self._name, self._halt = name, halt

    def warn(self, *message: object) -> None:
        """Tell who runs the server."""
        log.warning("batch %s: %s", self._name, *message)

    def start(self, *_: object) -> None:
        """Look whether it is to stop."""
        self._halt.check()

    advance = start


def check_lines(config: JobConfig, endpoint: str, halt: Halt) -> tuple[int, list[BatchError]]:
    """Count the lines of a file, and give those that are no requests of a batch, in their order."""
    bad: list[BatchError] = []
    total = 0
    with TemporaryDirectory(prefix="aobatch-") as folder:
        source = open_source(config, StateFolder(Path(folder)), check_inputs(config))
        for line in source.lines():
            if total % CHECK_LINES == 0:
                halt.check()
            total += 1
            error = _form_error(line, endpoint)
            if error is not None and len(bad) < MAX_ERRORS:
                bad.append(BatchError(error.code, line.line, error.message, error.param))
    if not total:
        bad.append(BatchError("empty_file", 0, "The file has no lines.", None))
    return total, bad


def _form_error(line: Request | FailedLine, endpoint: str) -> ErrorObject | None:
    if isinstance(line, FailedLine):
        is_of_form = line.error.code in FORM_CODES or line.error.param in ENVELOPE_FIELDS
        return line.error if is_of_form or line.custom_id is None else None
    if not line.is_envelope:
        return error_object(errors.missing_parameter(ENVELOPE_FIELDS[-1]))
    own = CHAT_ENDPOINT if line.is_chat else ENDPOINT
    return None if own == endpoint else error_object(errors.invalid_url(own, endpoint))


def _line_of(answer: Answer, reason: str) -> bytes:
    """Write the line of an answer, or that there is none."""
    key = answer.key.hex() if answer.key else f"line {answer.number} {answer.custom_id}"
    if answer.status_code is None or answer.body is None:
        error = {"code": f"batch_{reason}", "message": GIVEN_UP[reason]}
        identity = {"id": batch_request_id(key), "custom_id": answer.custom_id}
        return msgspec.json.encode({**identity, "response": None, "error": error})
    if answer.status_code == 200:
        return render_success(key, answer.custom_id, True, answer.body)
    error = msgspec.json.decode(answer.body, type=ErrorObject)
    failed = FailedLine(answer.number, answer.custom_id, True, error, answer.status_code)
    return render_failure(failed)


def _body_of(fields: Mapping[str, object]) -> BatchBody:
    try:
        body = msgspec.convert(fields, BatchBody)
    except msgspec.ValidationError as error:
        reason = f"The body of a batch is wrong: {error}."
        raise HttpError(400, "invalid_value", reason) from error
    if body.endpoint not in (ENDPOINT, CHAT_ENDPOINT):
        reason = f"it has to be '{ENDPOINT}' or '{CHAT_ENDPOINT}'."
        raise errors.invalid_value(reason, "endpoint")
    return body


def _seconds_of(window: str) -> int:
    found = _WINDOW.fullmatch(window)
    if found is None:
        reason = "it has to be a time such as 24h or 7d."
        raise errors.invalid_value(reason, "completion_window")
    return int(found[1]) * {"h": 3600, "d": 86400}[found[2]]
