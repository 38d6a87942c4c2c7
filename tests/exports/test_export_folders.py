"""Laws of exported folders: which graph is meant, what its files say, and what is remembered."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from export_files import exported, greedy, reference, runner_of

from aobatch.errors import ModelError, ModelNotFoundError
from aobatch.models import foreign as describing
from aobatch.models.foreign import open_export
from aobatch.models.store import catalogue

REVISION = "0123abc"


def hub_cache(name: str, folder: Path) -> Path:
    """Lay out an export as a hub's cache does: contents in blobs, names as links to them."""
    cache = folder / "models--someone--tiny-export"
    snapshot, blobs = cache / "snapshots" / REVISION, cache / "blobs"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text(REVISION)
    blobs.mkdir()
    source = exported(name, folder / "source")
    for number, path in enumerate(sorted(source.iterdir())):
        is_inner = name.endswith("optimum") and ".onnx" in path.name
        link = snapshot / ("onnx" if is_inner else "") / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / f"{number:040x}")
        link.symlink_to(os.path.relpath(blobs / f"{number:040x}", link.parent))
    return cache


def write_json(path: Path, **values: object) -> None:
    """Change fields of a JSON file."""
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(old | values))


def test_the_facts_are_those_of_the_files(tmp_path: Path) -> None:
    """Sizes, context and special tokens are as the files beside the graph say."""
    folder = exported("llama-optimum", tmp_path / "tiny")
    manifest = open_export(folder).manifest

    assert (manifest.name, manifest.family, manifest.precision) == ("tiny", "export", "fp32")
    assert (manifest.num_layers, manifest.num_heads, manifest.num_kv_heads) == (3, 4, 2)
    assert (manifest.head_dim, manifest.hidden_size, manifest.vocab_size) == (16, 64, 512)
    assert (manifest.context_length, manifest.eos_token_ids) == (512, (0,))
    assert (manifest.source, manifest.infill_token_ids) == ("model.onnx", (1, 2, 3))


def test_the_facts_of_both_tools_are_the_same(tmp_path: Path) -> None:
    """One model has the same sizes, limits and ends, whoever exported it."""
    pair = [
        open_export(exported(f"llama-{tool}", tmp_path / tool)) for tool in ("optimum", "genai")
    ]

    for field in ("vocab_size", "num_layers", "num_kv_heads", "head_dim", "context_length"):
        assert len({getattr(folder.manifest, field) for folder in pair}) == 1
    assert pair[0].manifest.eos_token_ids == pair[1].manifest.eos_token_ids
    assert [folder.manifest.family for folder in pair] == ["export", "export-gqa"]


def test_precisions_are_read_off_the_graph(tmp_path: Path) -> None:
    """Products of four bits are int4, whatever the folder is called."""
    assert open_export(exported("llama-genai-int4", tmp_path / "fp32")).manifest.precision == "int4"


def test_ends_are_joined_and_the_smallest_context_holds(tmp_path: Path) -> None:
    """Every file that names an end counts, and the shortest limit that makes sense."""
    folder = exported("llama-genai", tmp_path / "tiny")
    write_json(folder / "config.json", eos_token_id=[5, 6], max_position_embeddings=300)
    write_json(folder / "generation_config.json", eos_token_id=7)
    write_json(folder / "tokenizer_config.json", model_max_length=10**30)
    manifest = open_export(folder).manifest

    assert manifest.eos_token_ids == (0, 5, 6, 7)
    assert manifest.context_length == 300


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model_q4.onnx", "model.onnx", "model_fp16.onnx"], "model.onnx"),
        (["model_fp16.onnx", "model_quantized.onnx", "model_q4f16.onnx"], "model_quantized.onnx"),
        (["model_int8.onnx", "model_q4.onnx"], "model_q4.onnx"),
        (["decoder_model.onnx", "decoder_with_past_model.onnx"], "decoder_with_past_model.onnx"),
        (
            ["decoder_with_past_model.onnx", "decoder_model_merged.onnx"],
            "decoder_model_merged.onnx",
        ),
        (["odd.onnx"], "odd.onnx"),
    ],
)
def test_one_graph_of_several_is_taken(names: list[str], chosen: str, tmp_path: Path) -> None:
    """By the order of the manual; each of the others is taken if its path is given."""
    folder = exported("llama-optimum", tmp_path / "tiny")
    (folder / "onnx").mkdir()
    for name in names:
        shutil.copy(folder / "model.onnx", folder / "onnx" / name)
    (folder / "model.onnx").unlink()

    assert open_export(folder).graph == folder / "onnx" / chosen
    for name in names:
        found = open_export(folder / "onnx" / name)
        assert (found.graph, found.path) == (folder / "onnx" / name, folder / "onnx" / name)
        assert found.manifest.source == f"onnx/{name}"


def test_graphs_of_unknown_names_are_not_guessed_at(tmp_path: Path) -> None:
    """Of several, one has to be named by its path."""
    folder = exported("llama-optimum", tmp_path / "tiny")
    (folder / "model.onnx").rename(folder / "a.onnx")
    shutil.copy(folder / "a.onnx", folder / "b.onnx")

    with pytest.raises(ModelError, match=r"2 graphs of unknown names.* such as a\.onnx"):
        open_export(folder)


@pytest.mark.parametrize("name", ["llama-optimum", "llama-genai"])
def test_a_hubs_cache_is_a_folder(name: str, tmp_path: Path) -> None:
    """The cache of a model, and its snapshot, are the export that they hold."""
    cache = hub_cache(name, tmp_path)
    folder = open_export(cache)
    prompt, completion = (reference(name)[f"greedy_{part}"] for part in ("prompt", "completion"))

    assert folder.manifest.name == "someone/tiny-export"
    assert folder.path == cache / "snapshots" / REVISION
    assert folder == open_export(folder.path)
    assert folder.size_bytes > 600_000
    assert greedy(runner_of(cache), [prompt], 40) == [completion.tolist()]


@pytest.mark.parametrize("part", ["model.onnx", "model.onnx.data", "tokenizer.json"])
def test_links_that_leave_a_hubs_cache_are_refused(part: str, tmp_path: Path) -> None:
    """A link is followed to the model's own blobs alone, and a blob may be no link itself."""
    secret = tmp_path / "secret"
    for place in ("elsewhere", "blob"):
        cache = hub_cache("llama-genai", tmp_path / place)
        link = next((cache / "snapshots").rglob(part))
        blob = link.resolve()
        shutil.move(blob, secret)
        if place == "blob":
            blob.symlink_to(secret)
        else:
            link.unlink()
            link.symlink_to(secret)
        # The graph by its path, so that nothing is chosen.
        path = next((cache / "snapshots").rglob("model.onnx"))
        with pytest.raises(ModelError, match=r"it is a link|not a regular file"):
            open_export(path)


def test_what_is_known_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is read through once; any file that changes, comes or goes has it read again."""
    folder = exported("llama-genai", tmp_path / "tiny")
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    read: list[Path] = []
    whole = describing.describe
    monkeypatch.setattr(
        describing, "describe", lambda *paths: (read.append(paths[1]), whole(*paths))[1]
    )

    first = open_export(folder)
    assert open_export(folder) == first
    assert len(read) == 1
    content = bytearray((folder / "model.onnx.data").read_bytes())
    content[1000] ^= 1
    (folder / "model.onnx.data").write_bytes(content)
    assert open_export(folder).manifest.digest != first.manifest.digest
    write_json(folder / "generation_config.json", eos_token_id=9)
    assert open_export(folder).manifest.eos_token_ids == (0, 9)
    assert len(read) == 3


def test_files_that_just_changed_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the clock's grain a file could change again and look the same."""
    folder = exported("llama-genai", tmp_path / "tiny")
    changed = (folder / "model.onnx").stat().st_ctime_ns
    monkeypatch.setattr(time, "time_ns", lambda: changed + 10**9)
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    open_export(folder)
    assert not list(cache.rglob("*.json"))


def test_exports_are_found_by_their_paths(tmp_path: Path) -> None:
    """As --model and as the model of a line; what is wrong with one is a line's error."""
    folder = exported("llama-optimum", tmp_path / "tiny")
    assert catalogue.resolve(f"{folder}/").path == folder
    assert catalogue.resolve(str(folder / "model.onnx")).path == folder / "model.onnx"

    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no tokenizer\.json"):
        catalogue.resolve(str(folder))
