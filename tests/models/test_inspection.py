"""Laws of inspection: what is said of a model is what its files and its conversion show."""

from pathlib import Path

import pytest
from family_files import FAMILIES, change_config, converted, published, write_gguf

from aobatch.errors import ModelError
from aobatch.models.inspection import converted_bytes, inspect_folder, inspect_source
from aobatch.models.source.safetensors import read_safetensors
from aobatch.models.store.folder import ModelFolder

SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")


def test_tokens_have_their_texts(tiny_fp32: ModelFolder) -> None:
    """Ids that mean something stand beside the names that tokenizer.json gives them."""
    facts = inspect_folder(tiny_fp32)

    assert facts.token_texts == {
        0: "<|endoftext|>",
        1: "<|fim_prefix|>",
        2: "<|fim_suffix|>",
        3: "<|fim_middle|>",
    }


def test_weights_are_counted_by_type(tiny_fp32: ModelFolder, tiny_int8: ModelFolder) -> None:
    """A float graph has all its bytes in fp32; int8 keeps embeddings in half precision."""
    floats, integers = inspect_folder(tiny_fp32).dtypes, inspect_folder(tiny_int8).dtypes

    data_bytes = (tiny_fp32.path / "model.onnx.data").stat().st_size
    assert next(iter(floats)) == "fp32"
    assert floats["fp32"] == pytest.approx(data_bytes, rel=0.2)  # the file is aligned to pages
    assert integers["fp16"] == 2 * 512 * tiny_int8.manifest.hidden_size
    assert integers["int8"] > integers["fp16"]


@pytest.mark.parametrize("family", FAMILIES)
def test_files_say_what_conversion_finds(family: str, tmp_path: Path) -> None:
    """A GGUF file and a folder of one model have the sizes of the converted one, family by family.

    The file may name the family from which it came.
    """
    folder = published(family, tmp_path / "tiny")
    found = inspect_source(folder)
    stored = inspect_source(write_gguf(family, tmp_path / "tiny.gguf"))
    spec = read_safetensors(folder).spec

    assert found.is_usable, found.reason
    assert stored.is_usable, stored.reason
    for name in (*SIZES, "context_length"):
        assert getattr(found, name) == getattr(stored, name) == getattr(spec, name), name
    assert (found.eos_token_ids, found.token_texts[0]) == ((0,), "<|endoftext|>")
    assert (found.layout, stored.layout) == ("safetensors folder", "GGUF file")
    assert sum(found.dtypes.values()) < found.size_bytes


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        ("llama", "int8"),
        ("llama", "nbits8"),
        ("llama", "fp32"),
        ("gemma3", "int8"),
        ("gptoss", "int8"),
    ],
)
def test_size_after_conversion_is_foretold(family: str, precision: str, tmp_path: Path) -> None:
    """The estimate is within a tenth of what the tensors of the converted graph take."""
    checkpoint = read_safetensors(published(family, tmp_path / "tiny"))
    folder = converted(checkpoint, tmp_path / "model", precision)

    taken = sum(inspect_folder(folder).dtypes.values())
    way = "nbits8" if folder.manifest.recipe == "blocks of 32" else precision
    assert converted_bytes(checkpoint.spec)[way] == pytest.approx(taken, rel=0.1)


def test_unsupported_files_say_why(tmp_path: Path) -> None:
    """What cannot be imported has its sizes and the sentence with which import would refuse it."""
    folder = change_config(published("llama", tmp_path / "tiny"), model_type="mpt")

    facts = inspect_source(folder)

    assert not facts.is_usable
    assert "model family 'mpt' is not supported" in facts.reason
    assert (facts.hidden_size, facts.num_layers, facts.vocab_size) == (64, 3, 512)
    assert facts.converted_bytes == {}
    assert facts.dtypes


def test_what_has_no_header_is_refused(tmp_path: Path) -> None:
    """A file that is no GGUF has no facts."""
    (tmp_path / "text.gguf").write_text("not a model")

    with pytest.raises(ModelError, match="is not a readable GGUF file"):
        inspect_source(tmp_path / "text.gguf")
