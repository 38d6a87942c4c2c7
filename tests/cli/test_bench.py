"""Laws of the measurements: every figure is there, and parts add up to the whole."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_command import Invoke

from aobatch.bench import jobs as file_benchmark
from aobatch.bench.parts import Product, products_of, stretched
from aobatch.formats import COMPRESSIONS, FORMATS
from aobatch.models.store.folder import ModelFolder


def measured(invoke: Invoke, folder: ModelFolder, *options: str) -> dict[str, list[dict]]:
    """Measure the tiny model once; give the figures."""
    args = ["bench", "-m", str(folder.path), "--rounds", "1", "--json", *options]
    result = invoke(*args)
    return json.loads(result.stdout)


@pytest.mark.parametrize("threads", ["1", pytest.param("2", marks=pytest.mark.long)])
def test_bench_measures_jobs_and_their_parts(
    invoke: Invoke, tiny_int8: ModelFolder, threads: str
) -> None:
    """The shares of a job's time add up, and each phase has its speeds."""
    figures = measured(invoke, tiny_int8, "--threads", threads)

    for job in figures["jobs"]:
        assert job["new_tokens"] == 256 * 64
        assert job["occupancy"] > 0
        check_shares(job)
    phases = [speed["phase"] for speed in figures["speeds"]]
    assert (phases.count("decode"), phases.count("prefill")) == (10, 6)
    assert [job["kernels"] for job in figures["jobs"]] == ["fused", "stock"] * 2
    assert all(ceiling["tokens_per_second"] > 0 for ceiling in figures["ceilings"])
    sizes = [sampler["vocab_size"] for sampler in figures["samplers"]]
    assert {size: sizes.count(size) for size in sizes} == {49_152: 6, 151_936: 6, 262_144: 6}


def check_shares(job: dict[str, float]) -> None:
    """Hold the parts of a job's time to the whole."""
    names = ("model_share", "sampling_share", "bookkeeping_share", "idle_share")
    assert sum(job[name] for name in names) == pytest.approx(1)
    assert all(job[name] >= 0 for name in names)
    assert 0 <= job["occupancy"] <= 1


def test_bench_takes_a_job_of_the_user(
    invoke: Invoke, tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of requests is measured in place of the built-in ones, here by two threads."""
    monkeypatch.setattr("aobatch.bench.parts.VOCAB_SIZES", (1000,))  # numpy alone takes long
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "max_tokens": 3, "ignore_eos": true}\n' * 5)
    options = ("--job", str(path), "--threads", "2", "--kernels", "stock")
    (job,) = measured(invoke, tiny_int8, *options)["jobs"]

    assert (job["kind"], job["num_requests"], job["new_tokens"]) == ("mine.jsonl", 5, 15)
    check_shares(job)


def test_bench_measures_each_kind_of_file(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every suffix that a job reads and writes has its two rates."""
    few = partial(file_benchmark.benchmark_files, num_rows=50)
    monkeypatch.setattr(file_benchmark, "benchmark_files", few)
    result = invoke("bench", "--files", "--json")

    speeds = json.loads(result.stdout)["files"]
    suffixes = FORMATS.keys() - {".ndjson"}
    assert {speed["suffix"] for speed in speeds} == suffixes | {f".jsonl{c}" for c in COMPRESSIONS}
    assert all(s["requests_per_second"] > 0 < s["results_per_second"] for s in speeds)


@pytest.mark.parametrize("vocab_size", [40, 100, 250])
def test_stretched_rows_keep_what_they_have(vocab_size: int) -> None:
    """A vocabulary is cut, or gets further tokens that are three nats less probable than others."""
    logits = np.random.default_rng(0).normal(size=(3, 100)).astype(np.float32)
    rows = stretched(logits, vocab_size)

    assert rows.shape == (3, vocab_size)
    np.testing.assert_array_equal(rows[:, :100], logits[:, :vocab_size])
    assert np.isin(rows[:, 100:], logits - np.float32(3)).all()


def test_products_are_those_of_the_layers(tiny_int8: ModelFolder) -> None:
    """Each layer has qkv, o, gate, up and down; the head comes once."""
    manifest = tiny_int8.manifest
    products = products_of(tiny_int8.path / "model.onnx")
    integers = {p: n for p, n in products.items() if p.operator == "MatMulIntegerToFloat"}

    assert sum(integers.values()) == 5 * manifest.num_layers + 1
    head = Product("MatMulIntegerToFloat", manifest.hidden_size, manifest.vocab_size)
    assert integers[head] == 1
