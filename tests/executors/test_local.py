"""Laws of the executor in this process, with a tiny model."""

import json
from pathlib import Path

import pytest

from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelNotFoundError
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend, fingerprint
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job
from aobatch.models.store.folder import CacheDtype, ModelFolder
from aobatch.runners import RunnerConfig

LINES = [
    {"prompt": "the", "max_tokens": 5},
    {"prompt": ["a", "b c"], "max_tokens": 3, "n": 2, "temperature": 0},
    {"prompt": "score me", "max_tokens": 0, "echo": True, "logprobs": 1},
    {"prompt": "x", "max_tokens": 1_000_000},
    {"prompt": [1, 2, 3], "best_of": 3, "max_tokens": 4, "seed": 9},
]


def backend(max_num_seqs: int = 8, cache_dtype: CacheDtype = "fp32") -> LocalBackend:
    """Give a backend of one thread."""
    return LocalBackend(EngineConfig(max_num_seqs=max_num_seqs), RunnerConfig(1, cache_dtype))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a job of five requests, of which one is too long."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def test_model_is_found_by_its_folder(tiny_fp32: ModelFolder) -> None:
    """A path names a model; its fingerprint hangs on weights, precision and runtime."""
    identity = backend().resolve(str(tiny_fp32.path))

    assert identity == ModelIdentity(
        tiny_fp32.manifest.name, fingerprint(tiny_fp32), tiny_fp32.path, "fp32"
    )


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


def test_precisions_have_different_fingerprints(
    tiny_fp32: ModelFolder, tiny_int8: ModelFolder
) -> None:
    """Results of two precisions are never taken for one another's."""
    assert fingerprint(tiny_fp32) != fingerprint(tiny_int8)


def test_types_of_the_cache_have_different_fingerprints(tiny_fp32: ModelFolder) -> None:
    """Results over an int8 cache are never taken for those over a float32 one."""
    found = {
        backend(cache_dtype=dtype).resolve(str(tiny_fp32.path)).fingerprint
        for dtype in ("fp32", "int8")
    }

    assert len(found) == 2
    assert fingerprint(tiny_fp32) in found


def test_unknown_model_is_not_found() -> None:
    """A name that nobody has fails the line that gives it."""
    with pytest.raises(ModelNotFoundError):
        backend().resolve("no-such-model")


def test_settings_name_what_shapes_results() -> None:
    """Neither the batch size nor the threads are among the settings."""
    config = EngineConfig(max_num_seqs=3, seed=4)

    assert LocalBackend(config, RunnerConfig(7, "int8")).settings == {
        "seed": 4,
        "clamp_max_tokens": False,
        "logprobs_mode": "raw",
        "kv_cache_dtype": "int8",
    }


def test_events_do_not_depend_on_the_batch_size(
    tmp_path: Path, tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event file of six choices has the same bytes however many are computed at once."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    line = {"prompt": ["a", "the"], "n": 3, "max_tokens": 12, "seed": 4, "stream": True}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    contents = []
    for max_num_seqs in (1, 2, 8):
        output = tmp_path / f"{max_num_seqs}.jsonl"
        config = JobConfig((tmp_path / "in.jsonl",), output, model=str(tiny_fp32.path))
        run_job(config, backend(max_num_seqs))
        contents.append((tmp_path / f"{output.name}.stream/000001.sse").read_bytes())

    assert contents[0].count(b'"index":5') > 1
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("cache_dtype", ["fp32", "int8"])
def test_job_does_not_depend_on_the_batch_size(
    tmp_path: Path,
    source: Path,
    tiny_fp32: ModelFolder,
    monkeypatch: pytest.MonkeyPatch,
    cache_dtype: CacheDtype,
) -> None:
    """A whole job gives the same bytes one sequence at a time and eight at a time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contents = []
    for max_num_seqs in (1, 8):
        output = tmp_path / f"{max_num_seqs}.jsonl"
        config = JobConfig((source,), output, model=str(tiny_fp32.path))
        report = run_job(config, backend(max_num_seqs, cache_dtype)).report
        contents.append(output.read_bytes())

    assert contents[0] == contents[1]
    assert report.requests.failed_by_code == {"context_length_exceeded": 1}
    assert report.statistics["decode_steps"] > 0
    lines = [json.loads(line) for line in contents[0].splitlines()]
    assert [len(line.get("choices", ())) for line in lines] == [1, 4, 1, 0, 1]
    assert {line["model"] for line in lines if "model" in line} == {str(tiny_fp32.path)}
