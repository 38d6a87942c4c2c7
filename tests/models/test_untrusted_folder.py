"""Laws of a folder from elsewhere: it may lie behind links, and nothing in it is ever executed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numpy.random import _pcg64  # some library that can be loaded

import aobatch
from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors.local import open_engine
from aobatch.models.store.catalogue import resolve
from aobatch.models.store.folder import ModelFolder, open_folder
from aobatch.runners import RunnerConfig

BAIT = {
    "genai_config.json": '{"model": {"decoder": {"session_options": {"custom_ops_library": "FOLDER/'
    'bait.so", "provider_options": [{"bait": {"library": "FOLDER/bait.so"}}]}}}}',
    "config.json": '{"auto_map": {"AutoModelForCausalLM": "modeling_bait.BaitModel"}}',
    "tokenizer_config.json": '{"chat_template": "{{ cycler.__init__.__globals__ }}"}',
    "chat_template.jinja": "{{ cycler.__init__.__globals__ }}",
    "pytorch_model.bin": "cos\nsystem\n(S'touch FOLDER/executed'\ntR.",
    **{
        f"{name}.py": "import pathlib; pathlib.Path('FOLDER/executed').touch()"
        for name in ("modeling_bait", "sitecustomize", "conftest", "numpy", "__init__", "setup")
    },
}
# Notes what the interpreter opens, imports and loads of the folder, and what is mapped in the end.
WATCHED = """
import sys
from pathlib import Path
folder, notes = sys.argv[1], []
sys.addaudithook(lambda event, arguments: notes.append((event, str(arguments[0])))
                 if arguments and folder in str(arguments[0]) else None)
from aobatch.cli.main import main
sys.argv = ["aobatch", "complete", "Hi", "--max-tokens", "2", "--model", folder]
try:
    main()
finally:
    kinds = ("open", "import", "exec", "compile", "ctypes.dlopen", "subprocess.Popen")
    touched = {Path(path).name for event, path in notes if event in kinds}
    mapped = {line.split("/")[-1].strip() for line in open("/proc/self/maps") if folder in line}
    print(repr(sorted(touched | mapped)), file=sys.stderr)
"""


@pytest.fixture
def bait(tiny_int8: ModelFolder, tmp_path: Path) -> Path:
    """Give a model's folder with all kinds of things that other tools would execute."""
    folder = tmp_path / "bait"
    shutil.copytree(tiny_int8.path, folder)
    for name, content in BAIT.items():
        (folder / name).write_text(content.replace("FOLDER", str(folder)))
    shutil.copy(str(_pcg64.__file__), folder / "bait.so")
    return folder


def test_nothing_in_a_folder_is_executed(bait: Path) -> None:
    """Only its description, graph, weights and tokenizer are touched while a model is used."""
    finished = subprocess.run(
        [sys.executable, "-c", WATCHED, str(bait)], capture_output=True, text=True, check=False
    )
    touched = set(json.loads(finished.stderr.splitlines()[-1].replace("'", '"')))

    assert (finished.returncode, finished.stdout.count("\n") > 0) == (0, True)
    assert {"model.toml", "model.fused.onnx", "tokenizer.json"} <= touched
    files = {"model.toml", "model.onnx", "model.onnx.data", "model.fused.onnx", "tokenizer.json"}
    assert touched <= files | {"bait"}
    assert not (bait / "executed").exists()


def test_no_line_of_the_package_loads_libraries_or_runs_text() -> None:
    """None of the ways by which a file's content becomes code stands in the package.

    But for two: sessions and the sampler load a `Library`, which `aobatch.kernels` built of our own
    sources.
    """
    sources = {path: path.read_text() for path in Path(aobatch.__file__).parent.rglob("*.py")}
    ways = (
        "register_custom_ops_library",
        "register_execution_provider_library",
        "ctypes.CDLL",
        "import pickle",
        "import jinja2",
        "exec(",
        "eval(",
        "allow_pickle=True",
        "trust_remote_code",
    )
    found = {(path.name, way) for path, text in sources.items() for way in ways if way in text}

    assert found == {
        ("session.py", "register_custom_ops_library"),
        ("blocks.py", "ctypes.CDLL"),
    }


def test_a_folder_behind_a_link_is_resolved_once(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """A linked folder works, and stays the one that it was when it was opened."""
    (tmp_path / "linked").symlink_to(tiny_fp32.path)
    folder = resolve(str(tmp_path / "linked"))
    (tmp_path / "linked").unlink()

    assert folder == tiny_fp32
    assert open_engine(folder, EngineConfig(), RunnerConfig(1))


@pytest.mark.parametrize("name", ["model.toml", "tokenizer.json", "model.onnx", "model.onnx.data"])
@pytest.mark.parametrize("kind", ["symbolic", "hard", "missing"])
def test_links_within_a_folder_are_told(
    tiny_fp32: ModelFolder, tmp_path: Path, name: str, kind: str
) -> None:
    """A file of a model is a file of its own; a hard link matters only for what is mapped."""
    folder, away = tmp_path / "model", tmp_path / name
    shutil.copytree(tiny_fp32.path, folder)
    (folder / name).rename(away)
    if kind == "symbolic":
        (folder / name).symlink_to(away)
    elif kind == "hard":
        (folder / name).hardlink_to(away)
    if kind == "hard" and name != "model.onnx.data":
        assert open_engine(open_folder(folder), EngineConfig(), RunnerConfig(1))
        return

    with pytest.raises(ModelError, match=rf"{name} is (refused|missing)"):
        open_engine(open_folder(folder), EngineConfig(), RunnerConfig(1))
