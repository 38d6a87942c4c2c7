"""Laws of `aobatch merge`, on the tiny model."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder

LINES = [
    {"prompt": "Once", "max_tokens": 6},
    {"prompt": "Once", "max_tokens": 6},
    {"prompt": ["a", "b"], "n": 2, "max_tokens": 4},
    {"prompt": "Once", "max_tokens": 6, "user": "ada", "stream": True},
    {"prompt": "c", "n": 0},
    {"prompt": "greedy", "temperature": 0, "max_tokens": 5, "logprobs": 2},
    {"prompt": "last", "max_tokens": 3, "best_of": 3},
]


def test_shards_of_a_model_merge_into_its_bytes(
    runner: CliRunner, tiny_int8: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws, equal requests, streams and failures come out as from the undivided job."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    command = ["run", "-q", "in.jsonl", "-m", str(tiny_int8.path), "--max-failures", "1"]
    for part in ((), ("--shard", "0/3"), ("--shard", "1/3"), ("--shard", "2/3")):
        result = runner.invoke(aobatch, [*command, *part])
        assert result.exit_code == 0, result.output
    shards = sorted(path.name for path in tmp_path.glob("in.out-*.jsonl"))

    merged = runner.invoke(aobatch, ["merge", *shards, "-o", "merged.jsonl"])

    assert merged.exit_code == 0, merged.output
    assert "answers in merged.jsonl" in merged.stderr
    assert merged.stdout == ""
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "in.out.jsonl").read_bytes()
    events = [
        (tmp_path / f"{name}.stream/000004.sse").read_bytes()
        for name in ("in.out.jsonl", "merged.jsonl")
    ]
    assert events[0] == events[1] != b""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone.jsonl", "-o", "out.jsonl"], 66, "shard gone.jsonl does not exist"),
        (["plain.jsonl", "-o", "out.jsonl"], 65, "is not the output of a finished shard"),
        (["plain.jsonl"], 2, "Missing option '-o'"),
    ],
)
def test_what_is_no_shard_is_refused(
    runner: CliRunner, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    """Each mistake has its sentence and exit code, and nothing is written."""
    (tmp_path / "plain.jsonl").write_text("{}\n")

    result = runner.invoke(aobatch, ["merge", *arguments])

    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert not (tmp_path / "out.jsonl").exists()
