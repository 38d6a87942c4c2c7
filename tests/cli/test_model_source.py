"""Laws of models that are named by the path of a file."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from fake_command import Invoke

from aobatch.models.store.catalogue import adopt
from aobatch.runners.scoring import score_texts

pytestmark = pytest.mark.usefixtures("little_text")
PROMPTS = ["Once upon a time", "def f(x):"]


@pytest.fixture
def folder(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a GGUF file and the lines of a job, and an empty folder for models."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    shutil.copy(tiny_gguf, tmp_path / "story.gguf")
    lines = [json.dumps({"prompt": prompt, "max_tokens": 4}) for prompt in PROMPTS]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture(scope="module")
def converted(little_text: None, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of models that has the one of the GGUF file."""
    folder = tmp_path_factory.mktemp("adopted")
    shutil.copy(tiny_gguf, folder / "story.gguf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AOBATCH_MODELS", str(folder / "models"))
        adopt(folder / "story.gguf", lambda *_: None, score_texts)
    return folder / "models"


@pytest.fixture
def with_model(folder: Path, converted: Path) -> Path:
    """Give the folder after a first run with the file."""
    shutil.copytree(converted, folder / "models")
    return folder


def run(invoke: Invoke, *arguments: str, code: int = 0) -> Result:
    """Run the job with the model of the file."""
    command = ["run", "in.jsonl", "-o", "out.jsonl", "--kv-cache-bytes", "16MiB", *arguments]
    return invoke(*command, code=code)


def test_a_job_runs_with_a_file(invoke: Invoke, folder: Path) -> None:
    """The first run converts it and says where it is; the answers are those of an import."""
    first = run(invoke, "-m", "story.gguf")
    answers = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    name = answers[0]["model"]
    invoke("models", "import", "story.gguf", "mine", "-q")

    invoke("run", "in.jsonl", "-o", "named.jsonl", "-m", "mine", "-q")

    assert f"story.gguf was converted to int8 once, in {folder / 'models' / name}; " in first.stderr
    assert "`aobatch models import story.gguf NAME`" in first.stderr
    texts = [json.loads(x)["choices"] for x in (folder / "named.jsonl").read_bytes().splitlines()]
    assert [answer["choices"] for answer in answers] == texts


def test_what_is_not_known_of_a_folder_is_said_once(
    invoke: Invoke, folder: Path, data: Path
) -> None:
    """The command that converts it warns; those that find it do not."""
    odd = Path(shutil.copytree(data / "tiny-llama", folder / "odd"))
    config = json.loads((odd / "config.json").read_text())
    (odd / "config.json").write_text(json.dumps(config | {"new_thing": 3}))

    first, second = (invoke("complete", "Once", "--model", "./odd") for _ in range(2))

    assert "'new_thing' is 3, which is not known here" in first.stderr
    assert "new_thing" not in second.stderr
    assert first.stdout == second.stdout


def test_the_second_run_finds_what_the_first_made(invoke: Invoke, with_model: Path) -> None:
    """It says nothing of a conversion, and a finished job is told as finished."""
    run(invoke, "-m", "./story.gguf", "-q")

    second = run(invoke, "-m", "./story.gguf")

    assert "converted" not in second.stderr
    assert "was finished already" in second.stderr


def test_a_variable_names_a_file_too(
    invoke: Invoke, with_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the job's model is named, it may be a path."""
    monkeypatch.setenv("AOBATCH_RUN_MODEL", "./story.gguf")

    run(invoke, "-q")


def test_one_prompt_is_completed_with_a_file(invoke: Invoke, folder: Path, data: Path) -> None:
    """A safetensors folder serves `complete` as well."""
    arguments = ["-m", str(data / "tiny-llama"), "--max-tokens", "3", "--json"]
    result = invoke("complete", PROMPTS[0], *arguments)

    assert json.loads(result.stdout)["usage"]["completion_tokens"] <= 3
    assert json.loads(result.stdout)["model"].startswith("tiny-llama-")


def test_lines_convert_nothing(invoke: Invoke, with_model: Path) -> None:
    """A line that names a file gets 404: an input from elsewhere has no say in what is made."""
    folder = with_model
    run(invoke, "-m", "story.gguf", "-q")
    models = sorted((folder / "models").iterdir())
    shutil.copy(folder / "story.gguf", folder / "other.gguf")
    line = {"prompt": "x", "model": str(folder / "other.gguf")}
    with (folder / "in.jsonl").open("a") as file:
        file.write("\n" + json.dumps(line))

    run(invoke, "-m", "story.gguf", "-q", code=1)

    answers = [json.loads(text) for text in (folder / "out.jsonl").read_bytes().splitlines()]
    assert answers[-1]["error"]["code"] == "model_not_found"
    assert sorted((folder / "models").iterdir()) == models


def test_validation_converts_nothing(invoke: Invoke, folder: Path, converted: Path) -> None:
    """Ahead of the first run tokens are not counted, behind it they are."""
    arguments = ["validate", "in.jsonl", "-m", "./story.gguf", "--json"]
    before = json.loads(invoke(*arguments).stdout)
    assert not (folder / "models").exists()
    shutil.copytree(converted, folder / "models")
    run(invoke, "-m", "./story.gguf", "-q")

    after = json.loads(invoke(*arguments).stdout)

    assert before["tokens"] is None
    assert "./story.gguf is not converted yet" in before["notes"][0]
    assert after["tokens"]["total"] > 0


def test_a_file_that_is_no_model_says_so(invoke: Invoke, folder: Path) -> None:
    """What begins as a GGUF file and is broken ends the run with 69."""
    (folder / "broken.gguf").write_bytes(b"GGUF" + bytes(20))

    result = run(invoke, "-m", "broken.gguf", code=69)

    assert "is not a readable GGUF file" in result.stderr
