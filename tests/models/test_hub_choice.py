"""Laws of the files that are taken out of a repository."""

import pytest

from aobatch.errors import ModelError, UsageError
from aobatch.models.store.hub import choose

TEXTS = ["config.json", "tokenizer.json"]
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"


PARTS = ["q/b-00001-of-00002.gguf", "q/b-00002-of-00002.gguf"]


@pytest.mark.parametrize(
    ("names", "file", "expected"),
    [
        ([*TEXTS, "model.safetensors", "x.gguf"], None, [*TEXTS, "model.safetensors"]),
        ([*TEXTS, INDEX, *SHARDS, "original/a.safetensors"], None, [*TEXTS, INDEX, *SHARDS]),
        ([*TEXTS, INDEX, *SHARDS, "consolidated.safetensors"], None, [*TEXTS, INDEX, *SHARDS]),
        ([*TEXTS, "model.safetensors", "x.gguf"], "x.gguf", [*TEXTS, "x.gguf"]),
        (["README.md", "only.gguf", "mmproj.bin"], None, ["README.md", "only.gguf"]),
        (["only.gguf", "mmproj-F16.gguf"], None, ["only.gguf"]),
        ([PARTS[1], PARTS[0]], None, PARTS),
        (["a.gguf", *PARTS], PARTS[1], PARTS),
        (
            [*TEXTS, "onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_q4.onnx"],
            None,
            [*TEXTS, "onnx/model.onnx", "onnx/model.onnx_data"],
        ),
        (
            ["genai_config.json", "model.onnx", "model.onnx.data"],
            None,
            ["genai_config.json", "model.onnx", "model.onnx.data"],
        ),
        ([*TEXTS, "onnx/a.onnx", "onnx/b.onnx"], "onnx/b.onnx", [*TEXTS, "onnx/b.onnx"]),
        ([*TEXTS, "tokenizer.model", "model.safetensors"], None, [*TEXTS, "model.safetensors"]),
        (
            ["tokenizer.model", "config.json", "model.safetensors"],
            None,
            ["config.json", "tokenizer.model", "model.safetensors"],
        ),
    ],
)
def test_weights_come_with_their_descriptions(
    names: list[str], file: str | None, expected: list[str]
) -> None:
    """Safetensors ahead of all else, a single GGUF file, then a graph with its data."""
    assert choose("org/x", names, file) == expected


@pytest.mark.parametrize(
    ("names", "file", "error", "message"),
    [
        (["a.gguf", "b.gguf"], None, UsageError, "--file: a.gguf, b.gguf"),
        ([f"{i:02}.gguf" for i in range(20)], None, UsageError, "11.gguf and 8 more"),
        (["onnx/a.onnx", "onnx/b.onnx"], None, UsageError, "--file: onnx/a.onnx, onnx/b.onnx"),
        (["model.bin"], None, ModelError, "pickles alone"),
        (["consolidated.00.pth"], None, ModelError, "pickles alone"),
        (["adapter_config.json", "a.safetensors"], None, ModelError, "is an adapter .* nothing"),
        (["README.md"], None, ModelError, "neither safetensors nor GGUF nor ONNX"),
        (["a.gguf"], "a.py", UsageError, "takes a .gguf or .onnx file"),
        (["a.gguf"], "../a.gguf", ModelError, "has no file '../a.gguf'"),
    ],
)
def test_what_is_unclear_or_unsafe_is_refused(
    names: list[str], file: str | None, error: type[Exception], message: str
) -> None:
    """Nothing is fetched on a guess, and no pickle at all."""
    with pytest.raises(error, match=message):
        choose("org/x", names, file)


def test_an_adapter_beside_weights_is_not_passed_over() -> None:
    """A repository whose model would be another without it is refused ahead of any download."""
    with pytest.raises(ModelError, match="which is not applied"):
        choose("org/x", [*TEXTS, "adapter_config.json", "model.safetensors"], None)
    assert choose("org/x", ["adapter_config.json", "x.gguf"], None) == ["x.gguf"]
