"""The signature law on the real model: the same bytes, however a job is computed."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from aobatch.engine.config import EngineConfig
from aobatch.executors.local import LocalBackend
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job
from aobatch.runners import RunnerConfig

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]

LINES: list[dict[str, Any]] = [
    {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 6},
    {"prompt": "Once upon a time", "max_tokens": 6},
    {"prompt": "The sea", "max_tokens": 4, "n": 2, "best_of": 3, "top_p": 0.9, "seed": 5},
    {"prompt": "春天", "max_tokens": 5, "logprobs": 3, "echo": True, "top_k": 20},
    {"prompt": "One, two,", "stop": ["five", "7"], "max_tokens": 16, "temperature": 0.3},
    {"prompt": "A list:\n-", "max_tokens": 6, "presence_penalty": 1, "frequency_penalty": 0.5},
    {"prompt": "I went to the", "suffix": " and came home.", "max_tokens": 5},
    {"prompt": [504, 2240], "max_tokens": 6, "min_p": 0.05, "logit_bias": {"28": -5}},
    {"prompt": "word " * 270, "max_tokens": 3, "repetition_penalty": 1.3},
    {"prompt": ["", "Yes"], "max_tokens": 4, "min_tokens": 2, "stream": True},
    {"prompt": "tell me " * 40 + "one", "max_tokens": 4},
    {"prompt": "tell me " * 40 + "two", "max_tokens": 4, "temperature": 0},
    {"prompt": "tell me " * 40 + "yes", "max_tokens": 2, "logprobs": 2, "echo": True},
    {"prompt": "tell me " * 40 + "no, no", "max_tokens": 2, "logprobs": 2, "echo": True},
    {"prompt": "Scored by echo", "max_tokens": 0, "logprobs": 1, "echo": True},
    {"prompt": "As JSON:", "response_format": {"type": "json_object"}, "max_tokens": 8},
    {
        "prompt": "Yes, no?",
        "guided_choice": [" yes", " no"],
        "max_tokens": 4,
        "n": 2,
        "logprobs": 2,
    },
]


def computed(folder: Path, lines: list[bytes], max_num_seqs: int, threads: int) -> list[bytes]:
    """Run lines as a job; give the output's lines."""
    folder.mkdir()
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    source.write_bytes(b"".join(line + b"\n" for line in lines))
    config = EngineConfig(max_num_seqs=max_num_seqs)
    backend = LocalBackend(config, RunnerConfig(threads))
    assert run_job(JobConfig((source,), output), backend).report.requests.failed == 0
    return output.read_bytes().splitlines()


EVERY = [*itertools.product((1, 4, 16, 64), (1, 2, 3))]


@pytest.mark.parametrize(
    ("sizes", "times"),
    [
        pytest.param([(1, 2)], 1, id="one"),
        pytest.param(EVERY, 2, id="all", marks=pytest.mark.long),
    ],
)
def test_batch_threads_order_and_neighbours_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[tuple[int, int]], times: int
) -> None:
    """Batches of 1 to 64, any number of threads, shuffled or alone: each line's bytes stay."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1704067200")
    bodies = [body | {"max_tokens": times * body["max_tokens"]} for body in LINES]
    lines = [json.dumps({"custom_id": f"r{i}", **body}).encode() for i, body in enumerate(bodies)]
    reference = computed(tmp_path / "reference", lines, 64, 2)

    for max_num_seqs, threads in sizes:
        folder = tmp_path / f"{max_num_seqs}-{threads}"
        assert reference == computed(folder, lines, max_num_seqs, threads)
    order = random.Random(3).sample(range(len(lines)), len(lines))
    shuffled = computed(tmp_path / "shuffled", [lines[i] for i in order], 4, 1)
    assert [reference[i] for i in order] == shuffled
    assert reference[:2] == computed(tmp_path / "plain", lines[:2], 64, 2)
