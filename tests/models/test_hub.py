"""Laws of models out of repositories of Hugging Face, with a hub on this machine."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result
from fake_hub import COMMIT, MEMBER_TOKEN, Hub, serving
from family_files import change_config, published

from aobatch.cli.main import aobatch
from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import load_engine
from aobatch.models.store.folder import open_folder
from aobatch.models.store.hub import Repository
from aobatch.runners import RunnerConfig

Pull = Callable[..., "subprocess.CompletedProcess[str]"]
PullHere = Callable[..., Result]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_gguf: Path, data: Path) -> Iterator[Hub]:
    """Serve a safetensors repository with all that others leave there, and one of GGUF files."""
    root = tmp_path_factory.mktemp("hub")
    tiny = published("llama", root / "tiny")
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    for name in ("pytorch_model.bin", "modeling_tiny.py", "onnx/model.onnx", "training_args.bin"):
        (tiny / name).parent.mkdir(exist_ok=True)
        (tiny / name).write_bytes(b"never fetched")
    files = root / "files"
    files.mkdir()
    for name in ("tiny-Q8_0.gguf", "tiny-F32.gguf"):
        shutil.copy(tiny_gguf, files / name)
    pickles = root / "pickles"
    pickles.mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        shutil.copy(tiny / name, pickles)
    exported = root / "exported"
    shutil.copytree(tiny, exported, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    shutil.copy(data / "exported/llama-optimum/model.onnx", exported / "onnx")
    (exported / "onnx/model.onnx_data").write_bytes(b"weights")
    (exported / "onnx/model_fp16.onnx").write_bytes(b"another one")
    long = root / "long"
    long.mkdir()
    shutil.copy(tiny_gguf, long)
    other = change_config(Path(shutil.copytree(tiny, root / "other")), model_type="mpt")
    names = {"tiny": tiny, "files": files, "pickles": pickles, "export": exported, "long": long}
    names["other"] = other
    with serving(Hub({f"org/{name}": folder for name, folder in names.items()})) as hub:
        yield hub


@pytest.fixture
def hub(served: Hub) -> Hub:
    """Give the hub, of which nothing was asked."""
    served.requests.clear()
    served.gated.clear()
    return served


@pytest.fixture
def pull(hub: Hub, tmp_path: Path) -> Pull:
    """Give the command as a process, which knows this hub and an empty cache."""
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


@pytest.fixture(scope="module")
def library(served: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Give the library as it is where its variables name this hub: it reads them when imported."""
    others = {name: sys.modules.pop(name) for name in [*sys.modules] if is_of_library(name)}
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("HF_")]:
            patch.delenv(name)
        patch.setenv("HF_ENDPOINT", served.endpoint)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        library = import_module("huggingface_hub")
        import_module("huggingface_hub.constants")
        yield library
        library.close_session()
    for name in filter(is_of_library, [*sys.modules]):
        del sys.modules[name]
    sys.modules.update(others)


def is_of_library(module: str) -> bool:
    """Whether a module is one of the library's."""
    return module.partition(".")[0] == "huggingface_hub"


@pytest.fixture
def pull_here(
    hub: Hub, library: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PullHere:
    """Give the command in this process, with an empty cache."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(library.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: CliRunner().invoke(aobatch, ["models", "pull", *arguments])


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


def test_a_family_that_is_not_known_costs_no_download(hub: Hub, pull_here: PullHere) -> None:
    """The description is looked at ahead of the weights, which are many bytes."""
    result = pull_here("org/other")

    assert result.exit_code == 69
    assert "'mpt' is not supported" in result.stderr
    assert hub.fetched() == ["config.json"]


def test_a_named_file_becomes_a_model(hub: Hub, pull_here: PullHere, tmp_path: Path) -> None:
    """Of a repository of GGUF files the one that was asked for is taken, and no other."""
    name = "tiny-F32.gguf"
    result = pull_here("org/files", "--file", name, "--precision", "fp32", "--name", "mine")

    assert result.exit_code == 0, result.stderr
    assert open_folder(tmp_path / "models/mine").manifest.licence == "apache-2.0"
    assert hub.fetched() == [name]


def test_a_download_that_breaks_off_goes_on(
    hub: Hub,
    pull_here: PullHere,
    library: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind an answer that ends in the middle the rest alone is asked for."""
    (path,) = hub.repositories["org/long"].iterdir()
    piece = path.stat().st_size // 4 + 1  # the library keeps what it got in pieces of this size
    monkeypatch.setattr(library.constants, "DOWNLOAD_CHUNK_SIZE", piece)
    hub.breaks_off.add(path.name)

    result = pull_here("org/long", "--precision", "fp32", "-q")

    assert (result.exit_code, result.stderr) == (0, "")
    asked = [r for m, name, r in hub.requests if m == "GET" and name.endswith(path.name)]
    assert asked == ["", f"bytes={piece}-"]
    assert (tmp_path / "models/long").is_dir()


def test_a_gated_repository_needs_its_token(
    hub: Hub, pull_here: PullHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token, and with that of a stranger, one sentence says what to do."""
    hub.gated.add("org/tiny")

    refused = [pull_here("org/tiny")]
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    refused.append(pull_here("org/tiny"))

    for result in refused:
        assert result.exit_code == 69
        assert "org/tiny is gated: accept its terms" in result.stderr
        assert len(result.stderr.splitlines()) == 1
    monkeypatch.setenv("HF_TOKEN", MEMBER_TOKEN)
    allowed = pull_here("org/tiny", "--precision", "fp32", "-q")
    assert (allowed.exit_code, allowed.stderr) == (0, "")


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
    hub: Hub, pull_here: PullHere, tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    """A wrong name, revision, file or kind of weights has its exit code and says what to do."""
    result = pull_here(*arguments)

    assert (result.exit_code, len(result.stderr.splitlines())) == (code, 1), result.stderr
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


def test_an_exported_graph_is_fetched_as_it_is(hub: Hub, pull_here: PullHere) -> None:
    """Where no safetensors are, the graph comes with its data, and the path to use it by."""
    result = pull_here("org/export")

    assert result.exit_code == 0, result.stderr
    assert {"onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"} <= {*hub.fetched()}
    assert "onnx/model_fp16.onnx" not in hub.fetched()
    path = result.stderr.splitlines()[-1].rpartition("--model ")[2]
    engine = load_engine(path, EngineConfig(), RunnerConfig(1))
    (completion,) = engine.complete(["Once"], max_tokens=2)
    assert completion.usage.completion_tokens <= 2


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the command names it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)

    with pytest.raises(ModelError, match=r"the extra \[remote\]: `pip install huggingface_hub`"):
        Repository("org/tiny", None, lambda *_: None)
