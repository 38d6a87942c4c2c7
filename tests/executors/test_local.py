"""Laws of executors on this machine: in this process, in one of their own, within its memory."""

import json
import os
import signal
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from aobatch.api.request import Limits, Parser, Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import Result
from aobatch.errors import ModelError, ModelNotFoundError
from aobatch.executors import ModelIdentity, local
from aobatch.executors.isolated import IsolatedExecutor
from aobatch.executors.local import LocalBackend, fingerprint, num_lanes
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job
from aobatch.kernels import CacheDtype, Kernels
from aobatch.models.store.folder import DATA, ModelFolder, StoredFile
from aobatch.runners import RunnerConfig
from aobatch.runners.choice import KernelChoice

BODIES = [
    {"prompt": "the", "max_tokens": 5, "logprobs": 2},
    {"prompt": ["a", "b c"], "max_tokens": 3, "n": 2, "temperature": 0},
    {"prompt": "score me", "max_tokens": 0, "echo": True, "logprobs": 1},
    {"prompt": "x", "max_tokens": 1_000_000},
    {"prompt": [1, 2, 3], "best_of": 3, "max_tokens": 4, "seed": 9},
    {"prompt": ["a", "the"], "n": 3, "max_tokens": 12, "seed": 4, "stream": True},
]


class Sinking(LocalBackend):
    """A backend whose process does not survive opening a model."""

    def open(self, model: ModelIdentity) -> None:  # type: ignore[override] # noqa: ARG002
        """End the process."""
        raise SystemExit

    def __reduce__(self) -> tuple[object, ...]:
        return Sinking, ()


def backend(
    max_num_seqs: int = 8, kernels: Kernels = "stock", cache: CacheDtype | None = None
) -> LocalBackend:
    """Give a backend of one thread."""
    runner = RunnerConfig(1, kernels, cache)
    return LocalBackend(EngineConfig(max_num_seqs=max_num_seqs), runner)


def parsed(*bodies: dict[str, object]) -> list[Request]:
    """Give the requests of bodies."""
    parser = Parser({}, Limits())
    requests = [parser.parse(i, json.dumps(body).encode()) for i, body in enumerate(bodies, 1)]
    assert all(isinstance(request, Request) for request in requests)
    return requests  # type: ignore[return-value]


def by_line(results: object) -> list[Result]:
    """Order results, without the time that they took."""
    timeless = {"seconds": 0.0, "waited": 0.0}
    found = [replace(r, **timeless, error=str(r.error)) for r in results]  # type: ignore[attr-defined]
    return sorted(found, key=lambda result: result.request.line)


def test_model_is_found_by_its_folder(tiny_fp32: ModelFolder, tiny_int8: ModelFolder) -> None:
    """A path names a model; results of two precisions, kernels or caches are never the same."""
    identity = backend().resolve(str(tiny_fp32.path))
    ways = [backend(), *(backend(8, "fused", t) for t in (None, "bf16", "fp32"))]
    others = [way.resolve(str(tiny_int8.path)) for way in ways]

    name, named = tiny_fp32.manifest.name, fingerprint(tiny_fp32, KernelChoice("stock", "fp32"))
    assert identity == ModelIdentity(name, named, tiny_fp32.path, "fp32")
    assert [other.kv_cache_dtype for other in others] == ["fp32", "int8", "bf16", "fp32"]
    assert len({named, *(other.fingerprint for other in others)}) == 5
    with pytest.raises(ModelNotFoundError):
        backend().resolve("no-such-model")


def test_model_folder_that_a_line_names_is_only_read(
    tmp_path: Path, tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line can lead to any model folder; nothing is written there, and no other file is made."""
    monkeypatch.chdir(tmp_path)
    path = tiny_fp32.path
    before = {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")}
    line = {"prompt": "a", "max_tokens": 1, "model": f"{path}/../{path.name}/"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))

    report = run_job(JobConfig((tmp_path / "in.jsonl",), tmp_path / "out.jsonl"), backend()).report

    assert report.requests.completed == 1
    assert {file: file.stat().st_mtime_ns for file in path.parent.rglob("*")} == before


def test_settings_name_what_shapes_results() -> None:
    """Neither the batch size nor the threads are among the settings."""
    config = EngineConfig(max_num_seqs=3, seed=4)

    assert LocalBackend(config, RunnerConfig(7, "fused", "int8")).settings == {
        "seed": 4,
        "clamp_max_tokens": False,
        "logprobs_mode": "raw",
    }


@pytest.mark.parametrize("kernels", ["stock", "fused"])
def test_job_does_not_depend_on_the_batch_size(
    tmp_path: Path, tiny_int8: ModelFolder, monkeypatch: pytest.MonkeyPatch, kernels: Kernels
) -> None:
    """A job gives the same bytes, events included, one sequence at a time, two and eight."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in BODIES))
    contents = []
    for max_num_seqs in (1, 2, 8):
        output = tmp_path / f"{max_num_seqs}.jsonl"
        config = JobConfig((source,), output, model=str(tiny_int8.path))
        report = run_job(config, backend(max_num_seqs, kernels)).report
        events = (tmp_path / f"{output.name}.stream/000006.sse").read_bytes()
        contents.append((output.read_bytes(), events))

    assert contents[0] == contents[1] == contents[2]
    assert events.count(b'"index":5') > 1
    assert report.requests.failed_by_code == {"context_length_exceeded": 1}
    assert report.statistics["decode_steps"] > 0
    lines = [json.loads(line) for line in contents[0][0].splitlines()]
    assert [len(line.get("choices", ())) for line in lines] == [1, 4, 1, 0, 1, 6]
    assert {line["model"] for line in lines if "model" in line} == {str(tiny_int8.path)}


def test_results_of_another_process_are_those_of_this_one(tiny_fp32: ModelFolder) -> None:
    """Where a request is computed changes nothing in its result, errors and streams included."""
    model, requests = backend().resolve(str(tiny_fp32.path)), parsed(*BODIES)
    pieces: list[list[object]] = [[], []]
    with backend().open(model) as executor:
        expected = by_line(executor.run(requests, pieces[0].append))
    isolated = IsolatedExecutor(backend(), model)

    assert by_line(isolated.run(requests, pieces[1].append)) == expected
    assert pieces[0] == pieces[1] != []
    assert isolated.statistics.engine.decode_steps > 0


def test_signals_that_stop_a_run_convict_no_request(tiny_fp32: ModelFolder) -> None:
    """What a whole process group is sent leaves it to the parent to stop, and no process dies."""
    requests = parsed({"prompt": "a", "max_tokens": 1}, {"prompt": "b", "max_tokens": 400})
    model = backend().resolve(str(tiny_fp32.path))
    results = IsolatedExecutor(backend(), model).run(requests)
    found = [next(results)]

    (child,) = active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child.pid, number)
    child.join(0.2)
    assert child.exitcode in {None, 0}

    found += results
    assert [result.error for result in found] == [None, None]


@pytest.mark.parametrize(
    ("opener", "message"), [(backend(), "is missing"), (Sinking(), "cannot be opened")]
)
def test_model_that_cannot_be_opened_is_no_fault_of_a_request(
    tmp_path: Path, opener: LocalBackend, message: str
) -> None:
    """A process that fails before it has its model ends the job, and convicts no request."""
    isolated = IsolatedExecutor(opener, ModelIdentity("gone", "fp", tmp_path))

    with pytest.raises(ModelError, match=message):
        list(isolated.run(parsed(*BODIES)))


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: str) -> None:
    """Let the system's files say what is given; those left out do not exist."""
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(local, "MEMINFO", folder / "meminfo")
    monkeypatch.setattr(local, "GROUP_LIMITS", ((folder / "limit", folder / "used"),))


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5000", 1024_000), ("9000000", "8500000", 500_000), ("100", "200", 0)],
)
def test_the_smaller_of_system_and_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, used: str, expected: int
) -> None:
    """Within a container, what its limit leaves is all there is."""
    meminfo = "MemTotal: 9999 kB\nMemAvailable:   1000 kB\n"
    pretend(monkeypatch, tmp_path, meminfo=meminfo, limit=limit, used=used)

    assert local.available_memory() == expected


def test_memory_is_known_where_the_system_does_not_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the system's files it is half of what the machine has."""
    pretend(monkeypatch, tmp_path)

    assert local.available_memory() > 100_000_000


@pytest.mark.parametrize(
    ("num_bytes", "threads", "expected"),
    [(2**29 - 1, 2, 2), (2**29 - 1, 1, 1), (2**29 - 1, 8, 2), (2**29, 8, 1), (2**29, 1, 1)],
)
def test_large_weights_are_read_once_a_step(num_bytes: int, threads: int, expected: int) -> None:
    """All threads share one lane of a large model, and each has one of a small model, up to two."""
    manifest = SimpleNamespace(files={DATA: StoredFile(num_bytes, "")})
    folder = cast("ModelFolder", SimpleNamespace(manifest=manifest))

    assert num_lanes(folder, EngineConfig(), RunnerConfig(threads)) == expected
