"""Fixtures for the whole suite: a clean environment, tiny models, and figures that tests found."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

import aobatch
from aobatch.models.convert import quality
from aobatch.models.convert.convert import convert
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.store.folder import ModelFolder
from aobatch.runners.scoring import score_texts

sys.path.extend(str(path) for path in sorted(Path(__file__).parent.iterdir()) if path.is_dir())

from forking import FORKS, ForkServer

DATA = Path(__file__).parent / "data"
_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
FIGURES = pytest.StashKey[list[str]]()
CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let commands of tests run with operators of a kind: `--kernels stock`."""
    parser.addoption("--kernels", choices=("auto", "fused", "stock"), default="auto")


def pytest_configure(config: pytest.Config) -> None:
    """Let coverage.py say nothing in the processes of tests, which look at all that is said.

    Keep speeds and operators out of the user's cache, in a folder that all workers share: from now
    on, since modules of tests ask for operators when they are collected.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="aobatch-cache-")
        os.environ["XDG_CACHE_HOME"] = config.stash[CACHE].name
    if any(name.startswith(("COVERAGE_", "COV_CORE_")) for name in os.environ):
        modules = ("core", "control", "collector", "inorout", "sqldata")
        quiet = ",".join(f"ignore:::coverage.{module}" for module in modules)
        os.environ["PYTHONWARNINGS"] = quiet


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache."""
    if CACHE in config.stash:
        config.stash[CACHE].cleanup()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each group run in one process of pytest-xdist, as `--dist loadgroup` asks.

    pytest-xdist 3.8 writes the group where pytest 9.2 no longer reads it.
    """
    if config.getoption("loadgroup", default=False):
        for item in items:
            mark = item.get_closest_marker("xdist_group")
            if mark and not item.nodeid.endswith(group := f"@{mark.args[0]}"):
                item._id = type(item.id).parse(item.nodeid + group)


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Give a function that adds a line to what is shown when all tests have ended."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the figures."""
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.write_line(figure)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Keep the user's own settings out of the tests."""
    for name in os.environ:
        if name.startswith("AOBATCH_") and name != "AOBATCH_MODELS":
            monkeypatch.delenv(name)
    if (kernels := request.config.getoption("kernels")) != "auto":
        monkeypatch.setenv("AOBATCH_RUN_KERNELS", kernels)


@pytest.fixture(scope="session", autouse=True)
def _heard_signals() -> None:
    """Hear signals even where the suite itself runs in the background of a shell or under nohup."""
    for number, action in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            # Processes that tests start inherit what is ignored, and would rightly ignore it too.
            signal.signal(number, action)


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder of reference data."""
    return DATA


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random llama of three layers as a GGUF file; its logits are in expected.npz."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config = json.loads((DATA / "tiny-llama/config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    _write_metadata(writer, config)
    for name, weight in load_file(DATA / "tiny-llama/model.safetensors").items():
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
        interleaved = heads.get(name.split(".")[-2])
        writer.add_tensor(_gguf_name(name), _interleave(weight, interleaved))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="session")
def tiny_fp32(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """Convert the tiny model to fp32."""
    return _converted(tiny_gguf, tmp_path_factory.mktemp("models") / "tiny-fp32", "fp32")


@pytest.fixture(scope="session")
def tiny_int8(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelFolder]:
    """Convert the tiny model to int8."""
    return _converted(tiny_gguf, tmp_path_factory.mktemp("models") / "tiny-int8", "int8")


_WHOLE_TEXT = quality.quality_text


@pytest.fixture(scope="module")
def little_text() -> Iterator[None]:
    """Measure conversions here by 2,000 characters of the shipped text: two pieces or three."""
    text = quality.quality_text()[:2000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "quality_text", lambda: text)
        yield


@pytest.fixture(scope="session")
def tiny_home(tiny_int8: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of models in which the tiny one has the name of the default model."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_int8.path, home / "smollm2-135m-instruct")
    return home


@pytest.fixture(scope="session", autouse=True)
def fork_server(_heard_signals: None) -> Iterator[ForkServer]:
    """Fork the commands of tests; the process that does it starts when it is needed."""
    with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
        server = ForkServer(Path(folder))
        with server.installed() if FORKS else nullcontext():
            yield server
        server.close()


@pytest.fixture(scope="session")
def command(fork_server: ForkServer, real_command: Path) -> Path:
    """Give the command `aobatch` as shells start it: a file that needs nothing of the caller."""
    if not FORKS:
        return real_command
    fork_server.start()
    return fork_server.command


@pytest.fixture(scope="session")
def real_command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the command as it is installed: each start of it is one of Python."""
    path = tmp_path_factory.mktemp("bin") / "aobatch"
    source = Path(aobatch.__file__).parents[1]
    path.write_text(f'#!/bin/sh\nPYTHONPATH={source} exec {sys.executable} -m aobatch "$@"\n')
    path.chmod(0o755)
    return path


def _converted(path: Path, target: Path, precision: str) -> ModelFolder:
    """Convert by the whole text, whichever test is the first to ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "quality_text", _WHOLE_TEXT)
        return convert(
            read_gguf(path),
            target,
            precision=precision,
            scorer=score_texts,
            progress=lambda *_: None,
        )


def _write_metadata(writer: gguf.GGUFWriter, config: dict[str, object]) -> None:
    tokenizer = json.loads((DATA / "tiny-llama/tokenizer.json").read_text())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].get)
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    # Of all formats of chats the one that needs no tokens of its own.
    writer.add_chat_template((DATA / "chat/mistral-v7.jinja").read_text(encoding="utf-8"))


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _GGUF_NAMES:
        return f"{_GGUF_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight"


def _interleave(weight: np.ndarray, heads: int | None) -> np.ndarray:
    """Order rows for a rotation of neighbouring pairs, as GGUF files of this family do."""
    if heads is None:
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
