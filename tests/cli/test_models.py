"""Laws of `aobatch models`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_command import Invoke

from aobatch.errors import ModelError
from aobatch.models.store import catalogue
from aobatch.models.store.card import needs_acceptance
from aobatch.models.store.folder import ModelFolder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep models in a folder that is empty at first, and fail where one would be fetched."""

    def fail(*_: object) -> None:
        message = "fetched"
        raise ModelError(message)

    monkeypatch.setattr(catalogue, "download", fail)
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def folder(tiny_fp32: ModelFolder, home: Path) -> Path:
    """Give a model of the models' folder that may be damaged."""
    return Path(shutil.copytree(tiny_fp32.path, home / "tiny"))


def test_list_shows_the_default_model_first(invoke: Invoke) -> None:
    """The table has a line for each model, and says which are not here."""
    result = invoke("models", "list")

    header, first, *_ = result.stdout.splitlines()
    assert header.split() == ["name", "state", "precision", "size", "licence", "aliases"]
    assert first.startswith("smollm2-135m-instruct  not pulled")
    assert "gpt-3.5-turbo-instruct" in first


def test_list_is_there_for_programs(invoke: Invoke) -> None:
    """As JSON it has the models of the table, in their order, and which of them are here."""
    _, *lines = invoke("models", "list").stdout.splitlines()

    rows = json.loads(invoke("models", "list", "--json").stdout)["models"]

    assert [row["name"] for row in rows] == [line.split()[0] for line in lines]
    assert [row["is_ready"] for row in rows] == ["not pulled" not in line for line in lines]


def test_imported_model_is_listed_and_inspected(invoke: Invoke, tiny_gguf: Path) -> None:
    """A GGUF file becomes a model under its new name."""
    arguments = ["models", "import", str(tiny_gguf), "mine", "--precision", "fp32"]
    imported = invoke(*arguments)
    assert imported.stdout == ""
    assert "mine is ready in" in imported.stderr

    facts = json.loads(invoke("models", "inspect", "mine", "--json").stdout)

    assert (facts["name"], facts["precision"]) == ("mine", "fp32")
    *_, line = invoke("models", "list").stdout.splitlines()
    size = re.fullmatch(r"mine +ready +fp32 +(\d\.\d\d) MiB +\S+", line)
    assert size is not None, line
    assert float(size[1]) == pytest.approx(facts["size_bytes"] / 2**20, abs=0.005)


def test_adapters_are_merged_and_named(invoke: Invoke, tiny_gguf: Path) -> None:
    """Each `--lora` stands in what is known of the model, in its order."""
    adapters = Path(__file__).parents[1] / "data/adapters"
    options = [part for name in ("plain", "patterns") for part in ("--lora", str(adapters / name))]

    invoke("models", "import", tiny_gguf, "tuned", "--precision", "fp32", *options)

    rows = invoke("models", "inspect", "tuned").stdout.splitlines()
    assert [row.split()[1] for row in rows if row.startswith("adapter")] == ["plain", "patterns"]


def test_model_is_listed_by_the_name_that_finds_it(
    invoke: Invoke, tiny_fp32: ModelFolder, tmp_path: Path
) -> None:
    """A folder of models that was renamed is a model of its new name."""
    shutil.copytree(tiny_fp32.path, tmp_path / "models/renamed")

    *_, line = invoke("models", "list").stdout.splitlines()
    name, *_ = line.split()

    assert name == "renamed"
    invoke("models", "inspect", name)


@pytest.mark.parametrize("is_quiet", [False, True])
def test_pull_shows_its_stages(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tiny_fp32: ModelFolder, is_quiet: bool
) -> None:
    """A log has a line a stage and the place of the model; --quiet has nothing."""

    def ensure(_name: str, progress: Callable[[str, int, int], None], *_: object) -> ModelFolder:
        progress("downloading", 1, 2)
        progress("downloading", 2, 2)
        return tiny_fp32

    monkeypatch.setattr("aobatch.executors.local.ensure", ensure)
    result = invoke("models", "pull", "any", *(["-q"] if is_quiet else []))

    expected = "" if is_quiet else f"downloading\ntiny-fp32 is ready in {tiny_fp32.path}\n"
    assert result.output == expected


def facts(invoke: Invoke, name: object) -> dict[str, object]:
    """Inspect a model as a program does."""
    result = invoke("models", "inspect", str(name), "--json")
    return json.loads(result.stdout)


def shown(invoke: Invoke, name: object) -> dict[str, str]:
    """Inspect a model as a person does: the table by its labels."""
    result = invoke("models", "inspect", str(name))
    rows = [line.split("  ", 1) for line in result.stdout.splitlines()]
    return {label.strip(): text.strip() for label, text in rows}


def test_table_and_json_say_the_same(invoke: Invoke, tiny_int8: ModelFolder) -> None:
    """The table has for people what the JSON has for programs."""
    values, rows = facts(invoke, tiny_int8.path), shown(invoke, tiny_int8.path)

    assert rows["path"] == values["path"] == str(tiny_int8.path)
    assert rows["digest"] == values["digest"] == tiny_int8.manifest.digest
    assert rows["layout"] == values["layout"] == "aobatch 3"
    assert rows["ends a text"] == "0 <|endoftext|>"
    assert rows["infill"] == "1 <|fim_prefix|>, 2 <|fim_suffix|>, 3 <|fim_middle|>"
    assert rows["context"] == f"{values['context_length']:,} tokens"
    assert f"{values['vocab_size']}" in rows["sizes"]
    assert [*values["kv_cache"]] == ["int8", "bf16", "fp32"]  # type: ignore[misc]
    assert {"cache fp32", "cache int8", "quality", "fused operators", "licence"} <= rows.keys()


def test_file_is_inspected_without_conversion(invoke: Invoke, tiny_gguf: Path) -> None:
    """A GGUF file says that it can be imported and how large it will be; nothing is written."""
    before = sorted(tiny_gguf.parent.iterdir())

    rows = shown(invoke, tiny_gguf)

    assert rows["usable"] == "yes, once it is imported"
    assert {"int8", "nbits8", "fp32"} <= set(rows["once converted"].split())
    assert rows["licence"] == "apache-2.0"
    assert sorted(tiny_gguf.parent.iterdir()) == before


def test_folder_of_another_kind_says_why(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    """What cannot be imported is no failure of the command: its facts are what was asked for."""
    shutil.copytree(data / "tiny-llama", tmp_path / "odd")
    config = json.loads((tmp_path / "odd/config.json").read_text())
    (tmp_path / "odd/config.json").write_text(json.dumps(config | {"model_type": "mamba"}))

    assert "'mamba' is not supported" in shown(invoke, "./odd")["usable"]
    assert facts(invoke, "./odd")["is_usable"] is False


def test_sound_model_is_told_so(invoke: Invoke, folder: Path) -> None:
    """Each check has a line that says ok, on standard output."""
    result = invoke("models", "verify", "tiny")

    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}


def test_damaged_model_ends_with_69(invoke: Invoke, folder: Path) -> None:
    """The line of the file says FAILED and what to do; the JSON says the same."""
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")

    shown = invoke("models", "verify", str(folder), code=69)
    told = invoke("models", "verify", "tiny", "--json", code=69)

    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("FAILED")]
    assert "tokenizer.json" in line
    assert "convert or import the model again" in line
    result = json.loads(told.stdout)
    assert result["is_right"] is False
    assert [c["name"] for c in result["checks"] if c["state"] == "failed"] == ["tokenizer.json"]
    assert told.stderr == ""


def test_a_change_of_no_byte_count_is_told_as_one(invoke: Invoke, folder: Path) -> None:
    """Two equal sizes are not said to differ."""
    path = folder / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)

    shown = invoke("models", "verify", "tiny", code=69).stdout

    (line,) = [line for line in shown.splitlines() if line.startswith("FAILED  model.onnx.data")]
    assert f"as many bytes as conversion wrote, {len(content):,}, and others" in line


def test_export_is_tried(invoke: Invoke, data: Path, tmp_path: Path) -> None:
    """Of a graph that another tool wrote there is no record; whether it runs rightly is seen."""
    folder = Path(shutil.copytree(data / "exported/llama-optimum", tmp_path / "export"))
    shutil.copy(data / "tiny-llama/tokenizer.json", folder)

    verified = invoke("models", "verify", str(folder))
    inspected = invoke("models", "inspect", str(folder))

    assert [line.split()[0] for line in verified.stdout.splitlines()] == ["-", "ok"]
    assert "exported ONNX graph" in inspected.stdout
    assert "with int8 cache" not in inspected.stdout


def test_what_is_not_known_warns_unless_it_is_refused(
    invoke: Invoke, data: Path, tmp_path: Path
) -> None:
    """The warning is seen when a folder is converted, kept with the model, and strict refuses."""
    folder = Path(shutil.copytree(data / "tiny-llama", tmp_path / "odd"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"new_thing": 3}))
    arguments = ["models", "import", str(folder), "odd", "--precision", "fp32"]
    warning = "config.json says that 'new_thing' is 3, which is not known here"

    refused = invoke(*arguments, "--strict", code=69)
    imported = invoke(*arguments, "--quiet")
    facts = json.loads(invoke("models", "inspect", "odd", "--json").stdout)

    assert warning in refused.stderr
    assert "or import it without --strict" in refused.stderr
    assert [warning in note for note in facts["notes"]] == [True]
    assert imported.stderr == f"aobatch: {facts['notes'][0]}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "nothing"], "'nothing' does not exist"),
        (["import", "text.gguf", "mine"], "text.gguf"),
        *[(["inspect", name], f"'{name}'") for name in ("gone", "./gone", "no.gguf")],
        *[
            (["verify", name], f"'{name}' does not exist")
            for name in ("gone", "./gone", "smollm2-135m-instruct")
        ],
        (["verify", "./folder"], "./folder is no model: it has no weights"),
    ],
    ids=str,
)
def test_what_is_no_model_ends_with_69(
    invoke: Invoke, home: Path, folder: Path, arguments: list[str], words: str
) -> None:
    """A wrong name, a text file, a folder without weights: one sentence, and no defect of ours."""
    Path("text.gguf").write_text("not a model")
    for path in Path(shutil.copytree(folder, "folder")).glob("model.*"):
        path.unlink()

    result = invoke("models", *arguments, code=69)

    assert "aobatch: error: " in result.stderr
    assert words in result.stderr
    assert not (home / "mine").exists()


def test_terms_are_shown_and_wait_for_an_answer(invoke: Invoke, home: Path) -> None:
    """Without a terminal nobody can be asked: the notice and one sentence, and nothing fetched."""
    result = invoke("models", "pull", "gemma-3-270m", code=69)

    assert "ai.google.dev/gemma/terms" in result.stderr
    assert "--accept-licence where nobody can be asked" in result.stderr
    assert not home.exists()


def test_accepted_terms_are_remembered(invoke: Invoke, home: Path) -> None:
    """With the option the model is fetched; the second time nothing is shown or asked."""
    first = invoke("models", "pull", "gemma-3-270m", "--accept-licence", code=69)
    second = invoke("models", "pull", "gemma-3-270m", code=69)

    assert ["fetched" in result.stderr for result in (first, second)] == [True, True]
    assert ["Prohibited Use" in result.stderr for result in (first, second)] == [True, False]
    card = catalogue.find_card("gemma-3-270m")
    assert card is not None
    assert not needs_acceptance(card, home)


def test_a_job_on_a_model_with_terms_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    """`run` says which terms are to be accepted, and how."""
    job = tmp_path / "job.jsonl"
    job.write_text('{"prompt": "x"}\n')
    result = invoke("run", str(job), "--model", "gemma-3-270m", code=69)

    assert "comes under the Gemma Terms of Use" in result.stderr
    assert not (tmp_path / "job.out.jsonl").exists()
