"""Laws of jobs whose files are elsewhere: as those of local files, and nothing half appears."""

import gzip
import io
import json
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from stores import BUCKET, Store
from waiting import HANG_SECONDS

from aobatch.errors import BusyError, InputError, InputMissingError, OutputError
from aobatch.executors import Executor, ModelIdentity
from aobatch.formats import remote
from aobatch.formats.remote import parse_location
from aobatch.job.config import JobConfig, Selection
from aobatch.job.paths import Targets, expand_inputs, plan_jobs
from aobatch.job.runner import JobOutcome, run_job

LINES = b'{"prompt":"a"}\n{"prompt":"b"}\nnonsense\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    """Run a store."""
    store = Store()
    store.start()
    store.client.create_bucket(Bucket=BUCKET)
    yield store
    store.close()


@pytest.fixture
def store(server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Give the store, which holds nothing; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    yield server
    for key in server.names():
        server.client.delete_object(Bucket=BUCKET, Key=key)


def plan(inputs: list[str], output: str | None = None, errors: str | None = None) -> JobConfig:
    """Plan the one job of some inputs."""
    locations = expand_inputs([parse_location(name) for name in inputs], [])
    targets = Targets(output and parse_location(output), errors and parse_location(errors))  # type: ignore[arg-type]
    (job,) = plan_jobs(JobConfig(locations, Path()), targets)
    return job


def run(config: JobConfig, backend: FakeBackend | None = None) -> JobOutcome:
    """Run a job."""
    return run_job(config, backend or FakeBackend())


def test_remote_files_give_the_bytes_of_local_ones(store: Store, tmp_path: Path) -> None:
    """Lines, compressed lines and tables are read from a store, and answers written there."""
    table = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["c", "d"]}), table)
    contents = {"a.jsonl": LINES, "b.jsonl.gz": gzip.compress(LINES), "c.parquet": table.getvalue()}
    for name, content in contents.items():
        store.put(f"in/{name}", content)
        (tmp_path / name).write_bytes(content)
    local = JobConfig(tuple(tmp_path / name for name in contents), tmp_path / "local.jsonl")
    run(local)

    run(plan([store.uri("in/")], store.uri("out/x.jsonl"), store.uri("out/bad.jsonl")))

    expected = (tmp_path / "local.jsonl").read_bytes()
    assert store.get("out/x.jsonl") == expected
    failed = [line for line in expected.splitlines(keepends=True) if b'"error"' in line]
    assert store.get("out/bad.jsonl") == b"".join(failed)
    assert json.loads(store.get("out/x.jsonl.usage.json"))["requests"]["total"] == 8
    written = {"out/x.jsonl", "out/bad.jsonl", "out/x.jsonl.usage.json"}
    assert store.names() == written | {f"in/{name}" for name in contents}


def test_finished_remote_job_is_not_run_again(store: Store) -> None:
    """It asks the store whether input and output are what they were, and moves neither."""
    config = plan([store.put("in.jsonl", LINES)])
    assert str(config.published) == "s3://bucket/in.out.jsonl"
    run(config)
    store.requests.clear()

    assert run(config).was_finished

    assert {request.split()[0] for request in store.requests} == {"HEAD"}


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz"])
def test_remote_input_is_downloaded_once(store: Store, name: str) -> None:
    """A job that was stopped reads its input from afar once, in all of its runs."""
    content = gzip.compress(LINES) if name.endswith("gz") else LINES
    config = plan([store.put(name, content)], store.uri("x.jsonl"))
    store.requests.clear()
    with pytest.raises(KeyboardInterrupt):
        run(config, FakeBackend(explosion=KeyboardInterrupt(), explodes_at=1))

    run(config)

    assert store.requests.count(f"GET /{BUCKET}/{name}") == 1
    assert not list(config.output.parent.rglob("input-*"))


def test_first_lines_alone_are_not_copied(store: Store) -> None:
    """A limit on a large input that is far away reads no more of it than it needs."""
    config = plan([store.put("in.jsonl", LINES)], store.uri("x.jsonl"))
    config = replace(config, selection=Selection(limit=2))

    with pytest.raises(KeyboardInterrupt):
        run(config, FakeBackend(explosion=KeyboardInterrupt(), explodes_at=1))

    assert not list(config.output.parent.rglob("input-*"))
    assert run(config).report.requests.total == 2


def test_lost_output_is_uploaded_again(store: Store) -> None:
    """An output that was removed or changed in its store comes back without computing."""
    config = plan([store.put("in.jsonl", LINES)])
    run(config)
    whole = store.get("in.out.jsonl")

    for content in (None, b"other"):
        store.client.delete_object(Bucket=BUCKET, Key="in.out.jsonl")
        if content is not None:
            store.put("in.out.jsonl", content)
        assert run(config).was_finished
        assert store.get("in.out.jsonl") == whole


def test_changed_remote_input_is_noticed(store: Store) -> None:
    """An input of the same size that is another is read anew, and none is published under way."""
    config = plan([store.put("in.jsonl", LINES)], store.uri("x.jsonl"))
    run(config)
    store.put("in.jsonl", LINES.replace(b'"a"', b'"z"'))
    backend = FakeBackend()

    assert not run(config, backend).was_finished

    assert len(backend.computed) == 1
    before = store.get("x.jsonl")

    class Meddler(FakeBackend):
        def open(self, model: ModelIdentity) -> AbstractContextManager[Executor]:
            store.put("in.jsonl", LINES)
            return super().open(model)

    store.put("in.jsonl", LINES.replace(b'"a"', b'"y"'))
    with pytest.raises(InputError, match="changed while the job ran"):
        run(config, Meddler())
    assert store.get("x.jsonl") == before


def test_unreachable_store_is_to_be_tried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it goes away before the upload, the next run uploads and computes nothing."""
    config = plan([store.put("in.jsonl", LINES)], store.uri("x.jsonl"))
    finished: list[Path] = []
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def leave(path: Path, target: object) -> None:
        finished.append(path)
        store.stop()
        upload(path, target)

    upload = remote.upload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "upload", leave)
        with pytest.raises(
            BusyError, match=r"s3://bucket/x\.jsonl.* cannot be reached: .*run again"
        ):
            run(config)
    store.start()
    assert store.names() == {"in.jsonl"}
    backend = FakeBackend()

    run(config, backend)

    assert len(finished) == 1
    assert backend.opened == []
    assert len(store.get("x.jsonl").splitlines()) == 3


def test_upload_is_interrupted_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal ends a job that waits for a slow store, and the next run uploads."""
    config = plan([store.put("in.jsonl", LINES)], store.uri("x.jsonl"))
    upload, released = remote.upload, threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def upload_slowly(*_: object) -> None:
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        released.wait(HANG_SECONDS)

    monkeypatch.setattr(remote, "upload", upload_slowly)
    with pytest.raises(KeyboardInterrupt):
        run(config)  # which does not wait for what is released next
    released.set()
    monkeypatch.setattr(remote, "upload", upload)

    assert run(config).was_finished
    assert len(store.get("x.jsonl").splitlines()) == 3


def test_what_is_not_there_is_named_without_keys(store: Store) -> None:
    """Missing objects, buckets and kinds of stores have their errors, which hold no secret."""
    with pytest.raises(InputMissingError, match=r"^input s3://bucket/no\.jsonl does not exist$"):
        run(plan([store.uri("no.jsonl")]))
    source = store.put("in.jsonl", LINES)
    with pytest.raises(OutputError, match=r"bucket other of output .* does not exist; create it"):
        run(plan([source], store.uri("x.jsonl").replace(BUCKET, "other", 1)))
    with pytest.raises(InputError, match=r"^no://host/in\.jsonl cannot be opened"):
        run(plan(["no://key:secret@host/in.jsonl"]))


@pytest.mark.usefixtures("store")
def test_any_fsspec_store_will_do(tmp_path: Path) -> None:
    """Stores that only fsspec knows are read and written too, by patterns as well."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/aobatch/in/a.jsonl", LINES)
    memory.pipe("/aobatch/in/b.jsonl", b'{"prompt":"c"}\n')
    memory.pipe("/aobatch/in/b.out.jsonl", b"{}\n")
    try:
        run(plan(["fsspec+memory://aobatch/in/*.jsonl"], "fsspec+memory://aobatch/x.parquet"))

        table = pq.read_table(io.BytesIO(memory.cat("/aobatch/x.parquet")))
        assert table.column("text").to_pylist() == ["[a]", "[b]", None, "[c]"]
    finally:
        memory.rm("/aobatch", recursive=True)


@pytest.mark.usefixtures("store")
def test_damaged_remote_file_is_no_network_error(store: Store) -> None:
    """A compressed object that is cut is a bad input, which trying again does not mend."""
    source = store.put("in.jsonl.gz", gzip.compress(LINES)[:-9])

    with pytest.raises(InputError, match="cannot be read to its end"):
        run(plan([source], store.uri("x.jsonl")))
    with pytest.raises(InputError, match="it has no bytes"):
        run(plan([store.put("empty.jsonl.gz", b"")], store.uri("x.jsonl")))
    with pytest.raises(InputError, match="cannot be read to its end as Parquet"):
        run(plan([store.put("in.parquet", b"PAR1")], store.uri("x.jsonl")))
