"""Laws of real clients against a real server: `make clients-test` runs them, `make test` does not.

The clients have environments of their own, .venv/clients and .venv/clients-node.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests/serve"))
from documented import examples  # noqa: E402

CLIENTS, NODE = ROOT / ".venv/clients/bin/python", ROOT / ".venv/clients-node"
TASKS = Path(__file__).parent / "tasks"
MODEL, KEY = "smollm2-135m-instruct", "sk-of-the-clients-1"
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_API_KEY": KEY,
}
GREEDY = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server on the default model, with a key."""
    folder = tmp_path_factory.mktemp("clients")
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "aobatch", "serve", "--port", str(port), "--api-keys", "keys"]
    with subprocess.Popen(command, cwd=folder) as process:
        address = f"http://127.0.0.1:{port}"
        while not is_ready(address):
            assert process.poll() is None
            time.sleep(0.2)
        yield address
        process.terminate()
        assert process.wait() == 0


def is_ready(url: str) -> bool:
    """Say whether a server answers."""
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def text(url: str) -> str:
    """Give the answer that clients are to get."""
    bearer = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"{url}/v1/completions", json=GREEDY, headers=bearer, timeout=600)
    return str(answer.json()["choices"][0]["text"])


def python(program: str, *arguments: str, folder: Path = TASKS) -> str:
    """Run a program in the environment of the clients; give what it prints."""
    command = [str(CLIENTS), "-c", program, *arguments]
    return subprocess.run(
        command, env=ENVIRONMENT, cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def test_documented_programs(url: str, tmp_path: Path) -> None:
    """Three curl commands, the Python programs and the Node program run as they stand."""
    found = examples(url, KEY)
    for command in found.curl:
        answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
        assert b'"object":"text_completion"' in answer
    program = f"long_text = 'text ' * 50\n{found.python}\n{found.scenarios}"
    assert len(python(program, folder=tmp_path).splitlines()) >= 5
    script = NODE / "documented.mjs"
    script.write_text(found.node)
    told = subprocess.run(["node", str(script)], capture_output=True, check=True, text=True)
    assert told.stdout.strip()


def test_litellm(url: str, text: str) -> None:
    """Its text completion, whole and as a stream, says what the server does."""
    program = """
import json, sys, litellm
ask = {**json.loads(sys.argv[2]), "api_base": sys.argv[1] + "/v1"}
ask["model"] = "text-completion-openai/" + ask["model"]
whole = litellm.text_completion(**ask).choices[0].text
pieces = [piece.choices[0].text or "" for piece in litellm.text_completion(**ask, stream=True)]
print(json.dumps([whole, "".join(pieces)]))
"""
    assert json.loads(python(program, url, json.dumps(GREEDY)).splitlines()[-1]) == [text, text]


def test_langchain(url: str, text: str) -> None:
    """Its completion class, whole and as a stream, says what the server does."""
    program = """
import json, sys
from langchain_openai import OpenAI
ask = json.loads(sys.argv[2])
prompt = ask.pop("prompt")
model = OpenAI(base_url=sys.argv[1] + "/v1", **ask)
print(json.dumps([model.invoke(prompt), "".join(model.stream(prompt))]))
"""
    assert json.loads(python(program, url, json.dumps(GREEDY)).splitlines()[-1]) == [text, text]


@pytest.fixture(scope="module")
def samples(url: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[dict]]:  # type: ignore[type-arg]
    """Run lm-evaluation-harness on both tasks; give a function to its samples of one."""
    folder = tmp_path_factory.mktemp("harness")
    source = subprocess.run(
        [sys.executable, "-m", "aobatch", "models", "inspect", MODEL, "--json"],
        capture_output=True,
        check=True,
    ).stdout
    tokenizer = Path(json.loads(source)["path"]) / "tokenizer.json"
    save = """
import sys
from transformers import PreTrainedTokenizerFast
end = "<|endoftext|>"
made = PreTrainedTokenizerFast(tokenizer_file=sys.argv[1], eos_token=end, bos_token=end)
made.save_pretrained(sys.argv[2])
"""
    python(save, str(tokenizer), str(folder / "tokenizer"))
    options = f"model={MODEL},base_url={url}/v1/completions,tokenizer={folder / 'tokenizer'}"
    command = [str(CLIENTS), "-m", "lm_eval", "--model", "local-completions"]
    command += ["--model_args", f"{options},num_concurrent=2,max_length=2048"]
    command += ["--tasks", "capitals,counting", "--include_path", str(TASKS), "--batch_size", "1"]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    subprocess.run(command, env=ENVIRONMENT, cwd=TASKS, check=True)

    def of(task: str) -> list[dict]:  # type: ignore[type-arg]
        (path,) = (folder / "out").rglob(f"samples_{task}_*.jsonl")
        return sorted(map(json.loads, path.read_text().splitlines()), key=lambda s: s["doc_id"])

    return of


def run_job(folder: Path, bodies: list[dict[str, object]]) -> list[dict[str, object]]:
    """Answer requests by `aobatch run`."""
    source, output = folder / "in.jsonl", folder / "out.jsonl"
    source.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    command = [sys.executable, "-m", "aobatch", "run", str(source), "-q", "-o", str(output)]
    subprocess.run(command, check=True)
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_scores_of_choices_are_those_of_a_job(
    samples: Callable[[str], list[dict]],  # type: ignore[type-arg]
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each choice has the logprob that the job file gives it, and so the accuracy is the same."""
    docs = [json.loads(line) for line in (TASKS / "capitals.jsonl").read_text().splitlines()]
    pairs = [(doc["question"], f" {choice}") for doc in docs for choice in doc["choices"]]
    fields = {"model": MODEL, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    answers = run_job(tmp_path, [{"prompt": q + c, **fields} for q, c in pairs])
    expected = []
    for (question, _), answer in zip(pairs, answers, strict=True):
        listed = answer["choices"][0]["logprobs"]  # type: ignore[index]
        scored = zip(listed["text_offset"], listed["token_logprobs"], strict=True)
        expected.append(sum(score for place, score in list(scored)[:-1] if place >= len(question)))

    found = [float(score) for sample in samples("capitals") for (score, _) in scores_of(sample)]

    assert found == pytest.approx(expected, abs=1e-4)
    best = [max(range(4), key=lambda n: expected[4 * d + n]) for d in range(len(docs))]
    accuracy = sum(b == doc["answer"] for b, doc in zip(best, docs, strict=True)) / len(docs)
    assert sum(sample["acc"] for sample in samples("capitals")) / len(docs) == accuracy
    with capsys.disabled():
        sys.stdout.write(f"\naccuracy of both: {accuracy:.3f} ({len(pairs)} choices)\n")


def scores_of(sample: dict[str, object]) -> list[tuple[float, object]]:
    """Read the score of each choice."""
    responses = sample["filtered_resps"]
    return [tuple(r) for r in responses]  # type: ignore[attr-defined, misc]


def test_generated_texts_are_those_of_a_job(
    samples: Callable[[str], list[dict]],  # type: ignore[type-arg]
    tmp_path: Path,
) -> None:
    """What the harness has generated is what the job file generates."""
    docs = [json.loads(line) for line in (TASKS / "counting.jsonl").read_text().splitlines()]
    fields = {"model": MODEL, "max_tokens": 8, "temperature": 0, "stop": ["\n"]}
    answers = run_job(tmp_path, [{"prompt": doc["question"], **fields} for doc in docs])
    expected = [answer["choices"][0]["text"] for answer in answers]  # type: ignore[index]

    assert [sample["resps"][0][0] for sample in samples("counting")] == expected
