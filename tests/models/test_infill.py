"""Laws of infill tokens: a model that has them says so, and reads a suffix by them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from gguf_writing import i32s, texts
from piece_files import BYTES, CONTROL, NORMAL, SPECIAL, WORDS, small_pieces
from tokenizer_files import KINDS, document

from aobatch.api.request import Limits, Parser, Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.preparation import ModelLimits, Preparation
from aobatch.executors.local import open_engine
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.source.tokenizer_json import read_tokenizer
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import VocabularyTokenizer, load_tokenizer
from aobatch.runners import Chunk, RunnerConfig
from aobatch.runners.onnx import OnnxRunner


def test_the_description_names_the_infill_tokens(tiny_fp32: ModelFolder) -> None:
    """The ids ahead of prefix, suffix and middle come out of the vocabulary."""
    assert tiny_fp32.manifest.infill_token_ids == (1, 2, 3)


def test_a_suffix_is_read_by_infill_tokens(tiny_fp32: ModelFolder) -> None:
    """The completion is the greedy continuation of prefix, suffix, middle laid out by hand."""
    tokenizer = load_tokenizer(tiny_fp32)
    tokens = np.array([1, *tokenizer.encode("def f(x):"), 2, *tokenizer.encode("return y"), 3])
    runner, expected = OnnxRunner(tiny_fp32.path / "model.onnx", 1), []
    runner.reserve(1, 256, [])
    for length in range(len(tokens), len(tokens) + 5):
        logits = runner.prefill([Chunk(0, 0, tokens, 1)])
        tokens = np.append(tokens, logits[0].argmax())
        expected.append(tokenizer.token_bytes[tokens[length]])
    body = {"prompt": "def f(x):", "suffix": "return y", "max_tokens": 5, "temperature": 0}
    request = Parser({}, Limits()).parse(1, json.dumps(body | {"ignore_eos": True}).encode())
    engine = open_engine(tiny_fp32, EngineConfig(), RunnerConfig(1))
    (result,) = engine.run([request])

    assert b"".join(expected).decode("utf-8", "replace") == result.choices[0].text
    assert (engine.statistics.suffixes_infilled, engine.statistics.suffixes_resampled) == (1, 0)


def test_graphs_hold_no_absolute_path(tiny_int8: ModelFolder) -> None:
    """The weights' file is named beside the graph, so that a folder can be moved."""
    graph = (tiny_int8.path / "model.onnx").read_bytes()

    assert b"model.onnx.data" in graph
    assert str(Path(tiny_int8.path).parent).encode() not in graph


class Published(NamedTuple):
    """A layout as it is published, and the vocabulary that has it."""

    kind: str
    """Of `tokenizer_files.KINDS`."""
    layout: str
    start: str = ""
    """What the vocabulary puts ahead of a text."""
    others: str = ""
    """Tokens that it has besides."""


STARCODER = "<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
FIM = "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
DEEPSEEK = "<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>"
SEED = "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>"
TAGS = "<filename> <reponame> <system> </system> <assistant> </assistant>"
LAYOUTS = {
    "starcoder2": Published("gpt-2", STARCODER, others="<fim_pad> <file_sep> <repo_name>"),
    "stable-code": Published("gpt-2", STARCODER, others="<fim_pad> <filename> <|im_start|>"),
    "granite-code": Published("gpt-2", STARCODER, others="<fim_pad> <filename> <reponame>"),
    "mellum": Published(
        "gpt-2", "<fim_suffix>{suffix}<fim_prefix>{prefix}<fim_middle>", others=TAGS
    ),
    "codegemma": Published("gemma", FIM, "<bos>", "<|file_separator|>"),
    "qwen2.5-coder": Published("qwen2", FIM, others="<|fim_pad|> <|file_sep|> <|repo_name|>"),
    "deepseek-coder": Published("gpt-2", DEEPSEEK, "<｜begin▁of▁sentence｜>"),
    "seed-coder": Published("llama-3", SEED, "<[begin▁of▁sentence]>"),
    "codellama": Published("llama-2", "▁<PRE>{prefix}▁<SUF>{suffix}▁<MID>", "<s>", "▁<EOT>"),
    "codestral": Published("mistral", "[SUFFIX]{suffix}[PREFIX]{prefix}", "<s>", "[MIDDLE]"),
}


def special_names(published: Published) -> list[str]:
    """List the tokens of a layout, and those that its vocabulary has besides."""
    pieces = published.layout.replace("{prefix}", " ").replace("{suffix}", " ").split()
    return [*pieces, *filter(None, [published.start]), *published.others.split()]


def vocabulary(published: Published) -> dict[str, object]:
    """Write a small tokenizer.json that has the tokens of a layout, and no others of its like."""
    content = document(KINDS[published.kind])
    plain = [token for token in content["added_tokens"] if token["content"] == "<|end|>"]
    content["model"]["vocab"] = {
        (token if "fim_" not in token else f"unused{index}"): index
        for token, index in content["model"]["vocab"].items()
    }
    names = special_names(published)
    first = max(plain[0]["id"] + 1, len(content["model"]["vocab"]))
    added = [plain[0] | {"content": name, "id": first + i} for i, name in enumerate(names)]
    content["added_tokens"] = [*plain, *added]
    content["post_processor"] = None
    if published.start:
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": published.start, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {},
        }
    return content


def prompt_of(folder: Path, prefix: str, suffix: str) -> tuple[list[int], bytes]:
    """Lay out a prompt by the tokenizer of a folder; give its ids, and what is echoed of it."""
    fields = Fields({"eos_token_id": 0}, "config.json")
    _, special, _ = read_tokenizer(folder, fields, 600)
    limits = ModelLimits(
        vocab_size=600,
        context_length=64,
        eos_token_ids=special.eos_token_ids,
        document_start_token_id=special.document_start_token_id,
        adds_document_start=special.adds_document_start,
        infill_token_ids=special.infill_token_ids,
        infill_order=special.infill_order,
    )
    tokenizer = VocabularyTokenizer(folder / "tokenizer.json", 600)
    body = {"prompt": prefix, "suffix": suffix, "max_tokens": 1, "echo": True}
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    assert isinstance(request, Request)
    (group,) = Preparation(tokenizer, limits, clamp_max_tokens=False).prepare(request).groups
    echoed = b"".join(tokenizer.token_bytes[i] for i in group.echoed_token_ids)
    return group.prompt_token_ids.tolist(), echoed


@pytest.mark.parametrize("suffix", ["row", " row", "\nrow,"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_prompts_follow_the_published_layout(name: str, suffix: str, tmp_path: Path) -> None:
    """Start, prefix and suffix stand where the authors put them, the suffix without a space.

    What stands behind a character is encoded without the space that pieces have ahead of a text.
    """
    published = LAYOUTS[name]
    content = vocabulary(published)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    encode = VocabularyTokenizer(tmp_path / "tokenizer.json", 600).encode
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}
    behind = [*encode(f"☺{suffix}")[len(encode("☺")) :]]
    parts = {"{prefix}": [*encode("It")], "{suffix}": behind}
    layout = published.layout
    for token in (*special_names(published)[:3], "{prefix}", "{suffix}"):
        layout = layout.replace(token, f" {token} ")
    expected = [ids[published.start]] if published.start else []
    for token in layout.split():
        expected += parts[token] if token in parts else [ids[token]]

    found, echoed = prompt_of(tmp_path, "It", suffix)

    assert found == expected
    assert echoed.strip() == b"It"


def test_names_of_infill_in_another_vocabulary_are_none(tmp_path: Path) -> None:
    """Codestral's names in a vocabulary of bytes, as later models have them, lay out nothing."""
    published = Published("mistral-nemo", LAYOUTS["codestral"].layout, "<s>", "[MIDDLE]")
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary(published)))
    _, special, _ = read_tokenizer(tmp_path, Fields({"eos_token_id": 0}, "config.json"), 600)

    assert special.infill_token_ids == ()


def test_a_layout_is_the_same_out_of_a_gguf_file(tmp_path: Path) -> None:
    """Two tokens and the suffix first, by the names that the vocabulary has."""
    file = small_pieces()
    added = [("[SUFFIX]", CONTROL), ("[PREFIX]", CONTROL)]
    listed = [*SPECIAL, *BYTES, *((word, NORMAL) for word in WORDS[: -len(added)]), *added]
    kinds = [dict((*SPECIAL, *BYTES, *added)).get(n, NORMAL) for n, _ in listed]
    file.fields["tokenizer.ggml.tokens"] = texts([token for token, _ in listed])
    file.fields["tokenizer.ggml.token_type"] = i32s(kinds)
    names = [token for token, _ in listed]

    found = read_gguf(file.write(tmp_path / "file.gguf"))

    assert found.infill_token_ids == (names.index("[PREFIX]"), names.index("[SUFFIX]"))
    assert found.infill_order == "SPM"
