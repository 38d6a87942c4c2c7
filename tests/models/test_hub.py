"""Laws of models out of repositories of Hugging Face, with a hub on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, MEMBER_TOKEN, Hub, serving
from family_files import published

from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import load_engine
from aobatch.models.store.folder import open_folder
from aobatch.models.store.hub import Repository
from aobatch.runners import RunnerConfig

Pull = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tmp_path: Path, tiny_gguf: Path, data: Path) -> Iterator[Hub]:
    """Serve a safetensors repository with all that others leave there, and one of GGUF files."""
    tiny = published("llama", tmp_path / "hub/tiny")
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    for name in ("pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "training_args.bin"):
        (tiny / name).parent.mkdir(exist_ok=True)
        (tiny / name).write_bytes(b"never fetched")
    files = tmp_path / "hub/files"
    files.mkdir()
    for name in ("tiny-Q8_0.gguf", "tiny-F32.gguf"):
        shutil.copy(tiny_gguf, files / name)
    pickles = tmp_path / "hub/pickles"
    pickles.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(tiny / name, pickles)
    exported = tmp_path / "hub/exported"
    shutil.copytree(tiny, exported, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    shutil.copy(data / "exported/llama-optimum/model.onnx", exported / "onnx")
    (exported / "onnx/model.onnx_data").write_bytes(b"weights")
    (exported / "onnx/model_fp16.onnx").write_bytes(b"another one")
    names = {"org/tiny": tiny, "org/files": files, "org/pickles": pickles, "org/export": exported}
    with serving(Hub(names)) as served:
        yield served


@pytest.fixture
def pull(hub: Hub, tmp_path: Path) -> Pull:
    """Give the command, which knows this hub and an empty cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "AOBATCH_MODELS": str(tmp_path / "models"),
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }

    def pulled(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "aobatch", "models", "pull", *arguments],
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return pulled


def test_a_repository_becomes_a_model(hub: Hub, pull: Pull, tmp_path: Path) -> None:
    """Only what a model needs is fetched; its licence and revision stand in the description."""
    result = pull("org/tiny", "--precision", "fp32")

    assert result.returncode == 0, result.stderr
    manifest = open_folder(tmp_path / "models/tiny").manifest
    assert (manifest.licence, manifest.source) == ("mit", f"org/tiny {COMMIT}")
    assert hub.fetched() == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert result.stderr.splitlines()[-1] == f"tiny is ready in {tmp_path / 'models/tiny'}"
    assert "downloading model.safetensors" in result.stderr
    assert all("telemetry" not in path for _, path, _ in hub.requests)

    hub.requests.clear()
    offline = pull("org/tiny", "--name", "again", "--precision", "fp32", "-q", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr, hub.requests) == (0, "", [])
    assert open_folder(tmp_path / "models/again").manifest.digest == manifest.digest


def test_a_named_file_becomes_a_model(hub: Hub, pull: Pull, tmp_path: Path) -> None:
    """Of a repository of GGUF files the one that was asked for is taken, and no other."""
    result = pull("org/files", "--file", "tiny-F32.gguf", "--precision", "fp32", "--name", "mine")

    assert result.returncode == 0, result.stderr
    assert open_folder(tmp_path / "models/mine").manifest.licence == "apache-2.0"
    assert hub.fetched() == ["tiny-F32.gguf"]


def test_a_download_that_breaks_off_goes_on(hub: Hub, pull: Pull, tmp_path: Path) -> None:
    """Behind an answer that ends in the middle the rest alone is asked for."""
    name = "tiny-F32.gguf"
    with (hub.repositories["org/files"] / name).open("ab") as file:
        file.write(bytes(24 * 2**20))  # the library keeps what it got in pieces of ten megabytes
    hub.breaks_off.add(name)

    result = pull("org/files", "--file", name, "--precision", "fp32", "-q", "--name", "tiny")

    assert (result.returncode, result.stderr) == (0, "")
    asked = [r for m, path, r in hub.requests if m == "GET" and path.endswith(name)]
    assert asked == ["", f"bytes={10 * 2**20}-"]
    assert (tmp_path / "models/tiny").is_dir()


def test_a_gated_repository_needs_its_token(hub: Hub, pull: Pull, tmp_path: Path) -> None:
    """Without a token, and with that of a stranger, one sentence says what to do."""
    hub.gated.add("org/tiny")

    refused = [pull("org/tiny"), pull("org/tiny", HF_TOKEN="hf_stranger")]

    for result in refused:
        assert result.returncode == 69
        assert "org/tiny is gated: accept its terms" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    allowed = pull("org/tiny", "--precision", "fp32", "-q", HF_TOKEN=MEMBER_TOKEN)
    assert (allowed.returncode, allowed.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["org/gone"], 69, "there is no repository org/gone, or it is private"),
        (["org/tiny", "--revision", "v9"], 69, "org/tiny has no revision 'v9'"),
        (["org/files", "--file", "no.gguf"], 69, "has no file 'no.gguf'; it has tiny-F32.gguf"),
        (["org/files"], 2, "name one with --file: tiny-F32.gguf, tiny-Q8_0.gguf"),
        (["org/pickles"], 69, "pickles alone (pytorch_model.bin), which can run code"),
        (["org/tiny", "--file", "pytorch_model.bin"], 2, "takes a .gguf or .onnx file"),
        (["org/tiny", "--name", "a/b"], 69, "'a/b' cannot name an imported model"),
        (["a/b/c"], 2, "'a/b/c' is no repository"),
        (["../etc"], 2, "'../etc' is no repository"),
        (["smollm2", "--revision", "v1"], 2, "are for repositories"),
    ],
    ids=str,
)
def test_what_cannot_be_fetched_is_one_sentence(
    hub: Hub, pull: Pull, tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    """A wrong name, revision, file or kind of weights has its exit code and says what to do."""
    result = pull(*arguments)

    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert expected in result.stderr
    assert [name for name in hub.fetched() if not name.endswith(".json")] == []
    assert not (tmp_path / "models").exists()


def test_an_empty_cache_offline_is_one_sentence(hub: Hub, pull: Pull) -> None:
    """Nothing is asked of the network where it is forbidden."""
    result = pull("org/tiny", HF_HUB_OFFLINE="1")

    assert result.returncode == 69
    assert "org/tiny is not in the cache of Hugging Face" in result.stderr
    assert hub.requests == []


def test_a_hub_that_is_away_is_one_sentence(hub: Hub, pull: Pull) -> None:
    """Nobody answers at that address."""
    result = pull("org/tiny", HF_ENDPOINT="http://127.0.0.1:9")

    assert result.returncode == 69
    assert "org/tiny could not be fetched: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_exported_graph_is_fetched_as_it_is(hub: Hub, pull: Pull, tmp_path: Path) -> None:
    """Where no safetensors are, the graph comes with its data, and the path to use it by."""
    result = pull("org/export")

    assert result.returncode == 0, result.stderr
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"} <= {*hub.fetched()}
    assert "onnx/model_fp16.onnx" not in hub.fetched()
    path = result.stderr.splitlines()[-1].rpartition("--model ")[2]
    engine = load_engine(path, EngineConfig(), RunnerConfig(1))
    (completion,) = engine.complete(["Once"], max_tokens=2)
    assert completion.usage.completion_tokens <= 2


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command names it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(ModelError, match=r"pip install 'aobatch\[remote\]'"):
        Repository("org/tiny", None, lambda *_: None)
