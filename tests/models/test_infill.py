"""Laws of infill tokens: a model that has them says so, and reads a suffix by them."""

import json
from pathlib import Path

import numpy as np

from aobatch.api.request import Limits, Parser
from aobatch.engine.config import EngineConfig
from aobatch.executors.local import open_engine
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
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
