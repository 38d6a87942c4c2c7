"""Laws of `aobatch validate`: it finds what a run finds, without running."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_command import Invoke

from aobatch.models.store.folder import ModelFolder
from aobatch.runners import session

LINES = [
    {"prompt": "Hello there", "max_tokens": 5},
    {"prompt": ["one", "two three"], "n": 2, "max_tokens": 3, "temperature": 1},
    {"prompt": "x" * 700, "max_tokens": 1},
    {"prompt": "x", "max_tokens": 512},
    {"prompt": [5, 6, 70_000]},
    {"custom_id": "a", "prompt": "scored", "echo": True, "logprobs": 0, "max_tokens": 0},
    {"custom_id": "a", "prompt": "again"},
    {"prompt": "b", "temperature": 3},
    {"prompt": "c", "model": "gone"},
    {"prompt": "d", "suffix": "end", "max_tokens": 2},
    {"prompt": "seven", "temperature": 0, "best_of": 3, "max_tokens": 4},
]


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a file with right lines and wrong ones of every origin."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in LINES) + "\nnonsense\n")
    return path


def validated(invoke: Invoke, *arguments: object, code: int = 1) -> dict[str, Any]:
    """Give the JSON, for lines of which some are bad unless the code says otherwise."""
    return json.loads(invoke("validate", *arguments, "--json", code=code).stdout)


def test_bad_lines_are_those_of_a_run(invoke: Invoke, job: Path, tiny_fp32: ModelFolder) -> None:
    """Each error object of the run's output is a batch error here, with its line and no others."""
    arguments = [str(job), "-m", str(tiny_fp32.path)]
    invoke("run", "-q", *arguments, code=1)
    output = (job.parent / "in.out.jsonl").read_text().splitlines()
    failed = [json.loads(line) for line in output if "error" in json.loads(line)]

    found = validated(invoke, *arguments)

    errors = found["errors"]["data"]
    expected = [
        {"line": line["line"], **{k: line["error"][k] for k in ("code", "message", "param")}}
        for line in failed
    ]
    assert found["errors"]["object"] == "list"
    assert errors == expected
    assert [error["line"] for error in errors] == [3, 4, 5, 7, 8, 9, 13]
    assert found["lines"]["bad"] == sum(found["lines"]["bad_by_code"].values()) == len(errors)
    assert found["lines"]["duplicate_custom_ids"] == 1
    assert found["tokens"]["context_length_exceeded"] == 2


def test_tokens_are_those_of_a_run(invoke: Invoke, job: Path, tiny_fp32: ModelFolder) -> None:
    """Prompt tokens add up to the report's; no completion is longer than the bound."""
    arguments = [str(job), "-m", str(tiny_fp32.path), "--default", "ignore_eos=true"]
    invoke("run", "-q", *arguments, code=1)
    report = json.loads((job.parent / "in.out.jsonl.usage.json").read_text())

    found = validated(invoke, *arguments)

    tokens = found["tokens"]
    assert tokens["total"] == report["usage"]["prompt_tokens"]
    assert tokens["min"] <= tokens["p50"] <= tokens["p90"] <= tokens["max"] <= tokens["total"]
    assert tokens["mean"] == pytest.approx(tokens["total"] / found["lines"]["prompts"], abs=0.05)
    assert found["lines"]["prompts"] == 6
    # By hand: 5, 2 prompts of 2 candidates of 3, none, 2 ahead of a suffix, 3 candidates of 4.
    assert tokens["new_tokens_at_most"] == 5 + 12 + 0 + 2 + 12
    assert tokens["new_tokens_at_most"] == report["usage"]["completion_tokens"]


def test_nothing_is_opened_or_written(
    invoke: Invoke, job: Path, tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No session is opened, and the folder of the input stays as it was."""
    monkeypatch.setattr(session, "open_session", None)
    before = sorted(job.parent.iterdir())

    validated(invoke, job, "-m", tiny_fp32.path)
    assert sorted(job.parent.iterdir()) == before


def test_plan_fits_the_memory(invoke: Invoke, tmp_path: Path, tiny_fp32: ModelFolder) -> None:
    """Slots times capacity is what the cache holds; time follows from tokens, steps and speed."""
    path = tmp_path / "right.jsonl"
    line = '{"prompt": [1, 2, 3], "max_tokens": 100, "ignore_eos": true}\n'
    path.write_text(line * 9)
    size = 6 * 128 * tiny_fp32.kv_bytes_per_token()

    arguments = path, "-m", tiny_fp32.path
    found = validated(invoke, *arguments, "--kv-cache-bytes", size, code=0)

    (plan,) = found["plans"]
    assert (plan["slots"], plan["capacity"], plan["kv_cache_bytes"]) == (6, 128, size)
    speed = plan["speed"]
    rows = 9 * 99
    lanes = speed["step"] * 2 * rows / 6 + speed["row"] * rows + speed["prompt_token"] * 27
    lanes += speed["cached_token"] * rows * (3 + 50)
    assert plan["seconds"] == pytest.approx(speed["start"] + lanes / 2, abs=0.11)
    assert plan["seconds"] == pytest.approx(sum(plan["time"].values()), abs=0.06)
    assert speed["source"] == "default"
    unbounded = validated(invoke, *arguments, code=0)["plans"][0]
    assert unbounded["slots"] == 9


def test_without_a_model_all_else_is_checked(
    invoke: Invoke, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was not pulled is not fetched; the note says what was left out."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "none"))

    found = validated(invoke, job)
    shown = invoke("validate", job, code=1)

    assert (found["tokens"], found["plans"]) == (None, [])
    assert [error["line"] for error in found["errors"]["data"]] == [7, 8, 9, 13]
    (note,) = found["notes"]
    assert "aobatch models pull smollm2-135m-instruct" in note
    assert note in shown.stdout


def test_terminal_shows_the_first_bad_lines(invoke: Invoke, tmp_path: Path) -> None:
    """Twenty lines are named, the others counted; the JSON has all of them."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "n": 0}\n' * 1_000)

    shown = invoke("validate", path, code=1).stdout.splitlines()
    found = validated(invoke, path)

    assert shown[0].startswith("line 1: integer_below_min_value (n): Invalid 'n'")
    assert shown[20] == "and 980 bad lines more; --json lists all"
    assert "1,000 lines: 0 right with 0 prompts, 1,000 bad" in shown[21]
    assert [error["line"] for error in found["errors"]["data"]] == list(range(1, 1_001))


@pytest.mark.parametrize(
    ("arguments", "code"), [(["no.jsonl"], 66), (["-m", "gone"], 69), (["--override", "n=0"], 2)]
)
def test_other_errors_have_their_codes(
    invoke: Invoke, job: Path, arguments: list[str], code: int
) -> None:
    """A missing input, a wrong model and a wrong setting end as they end a run."""
    named = [] if arguments[0].endswith(".jsonl") else [str(job)]

    assert invoke("validate", *named, *arguments, code=code).stdout == ""


def test_standard_input_is_validated(invoke: Invoke, tiny_fp32: ModelFolder) -> None:
    """Requests may come by a pipe, and choices and overrides hold as in a run."""
    text = '{"prompt": "a"}\n{"prompt": "b", "n": 0}\n{'
    arguments = ["validate", "-", "-m", str(tiny_fp32.path), "--limit", "2", "--override", "n=1"]

    result = invoke(*arguments, input=text)

    assert "2 lines: 2 right with 2 prompts, 0 bad" in result.stdout


def test_the_cost_is_told_ahead(invoke: Invoke, tiny_home: Path, tmp_path: Path) -> None:
    """Tokens that are read and that may be drawn at most, at the prices of a file."""
    (tmp_path / "in.jsonl").write_text('{"prompt": [5, 6, 7], "max_tokens": 10, "n": 2}\n')
    (tmp_path / "prices.toml").write_text(
        'currency = "EUR"\n[models."*"]\nprompt = 1000000\ncompletion = 2000000\n'
    )
    model = tiny_home / "smollm2-135m-instruct"
    arguments = ["validate", "in.jsonl", "--prices", "prices.toml", "-m", model]

    assert "cost: 43.0000 EUR at most" in invoke(*arguments).stdout
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert found["cost"]["total"] == 43.0
