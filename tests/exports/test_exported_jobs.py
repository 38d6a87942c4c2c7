"""Laws of jobs with exports: the bytes of a response hang on its request alone."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from export_files import exported, reference

from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import LocalBackend
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job
from aobatch.runners import RunnerConfig

NAMES = (
    *("llama-optimum", "llama-optimum-int8"),
    pytest.param("llama-optimum-q4", marks=pytest.mark.long),
    *("llama-genai", "llama-genai-int4", "gemma3-genai"),
)
COMMON = "the common beginning of several prompts, which is long enough to be computed once only, "


def requests() -> list[dict[str, object]]:
    """Give requests of all kinds, of many lengths, a third of which begin alike."""
    draw = random.Random(3)
    lines: list[dict[str, object]] = []
    for number in range(16):
        text = " ".join(draw.choice("abcdef") * draw.randint(1, 9) for _ in range(8))
        line: dict[str, object] = {
            "custom_id": str(number),
            "prompt": (COMMON if number % 3 == 0 else "") + text[: draw.randint(1, 60)],
            "max_tokens": draw.randint(1, 10),
        }
        if number % 4 == 0:
            line |= {"temperature": 0}
        if number % 5 == 0:
            line |= {"echo": True, "logprobs": 2}
        if number % 7 == 0:
            line |= {"n": 2, "best_of": 3, "suffix": " end"}
        lines.append(line)
    return lines


def backend(
    max_num_seqs: int = 8, threads: int = 1, *, shares_prefixes: bool = True
) -> LocalBackend:
    """Give a backend of such a size."""
    config = EngineConfig(max_num_seqs=max_num_seqs, shares_prefixes=shares_prefixes)
    return LocalBackend(config, RunnerConfig(threads))


@pytest.fixture(params=NAMES)
def job(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, str]]:
    """Give a function that runs requests with an export; it gives each output line by its id."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    model = str(exported(request.param, tmp_path / request.param))

    def run(
        name: str, place: LocalBackend, lines: list[dict[str, object]], **options: object
    ) -> dict[str, str]:
        source, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.out.jsonl"
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        report = run_job(JobConfig((source,), output, model=model, **options), place).report
        assert report.requests.failed_by_code == {}
        found = output.read_text().splitlines()
        return {json.loads(line)["custom_id"]: line for line in found}

    return run


def test_bytes_hang_on_no_neighbour(job: Callable[..., dict[str, str]]) -> None:
    """Batch size, threads, order of lines, shared beginnings and resumption change no byte."""
    lines = requests()
    expected = job("one", backend(1), lines)

    assert job("many", backend(64, threads=3, shares_prefixes=False), lines[::-1]) == expected
    part = job("parts", backend(3), lines[5:11])
    assert part == {line["custom_id"]: expected[line["custom_id"]] for line in lines[5:11]}
    assert job("parts", backend(8, threads=2), lines) == expected


@pytest.mark.parametrize("name", ["llama-optimum", "llama-genai", "gemma3-genai"])
def test_a_line_may_name_an_export(name: str, tmp_path: Path, tiny_fp32: object) -> None:
    """Beside lines of other models it gets the reference's greedy tokens, as ids."""
    folder, numbers = exported(name, tmp_path / name), reference(name)
    prompt, completion = numbers["greedy_prompt"].tolist(), numbers["greedy_completion"].tolist()
    line = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    other = {"prompt": "other", "max_tokens": 3, "model": str(tiny_fp32.path)}
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in (line | {"model": str(folder)}, other, line))
    )
    output = tmp_path / "out.jsonl"
    run_job(JobConfig((tmp_path / "in.jsonl",), output, model=f"{folder}/model.onnx"), backend())

    first, second, third = map(json.loads, output.read_text().splitlines())
    tokens = first["choices"][0]["logprobs"]["tokens"]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(tokens) == len(completion)
    assert first["choices"] == third["choices"]
    assert first["system_fingerprint"] == third["system_fingerprint"]
    assert second["system_fingerprint"] != first["system_fingerprint"]
    ascii_ids = {i: t for t, i in vocabulary.items() if t.isascii() and t.isalpha()}
    wanted = [(at, ascii_ids[i]) for at, i in enumerate(completion) if i in ascii_ids]
    assert [(at, tokens[at]) for at, _ in wanted] == wanted


def test_an_int8_cache_is_refused(tmp_path: Path) -> None:
    """An export has the cache that it was exported with."""
    folder = exported("llama-genai", tmp_path / "tiny")
    place = LocalBackend(EngineConfig(), RunnerConfig(1, kv_cache_dtype="int8"))

    with pytest.raises(ModelError, match="use --kv-cache-dtype fp32"):
        place.resolve(str(folder))
