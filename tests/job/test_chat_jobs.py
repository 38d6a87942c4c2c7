"""Laws of jobs of chats: every answer is one for the openai package, in files of any mixture."""

import json
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.chat_completion import Choice

from aobatch.engine.config import EngineConfig
from aobatch.executors.local import LocalBackend
from aobatch.job.config import JobConfig
from aobatch.job.report.usage import UsageReport
from aobatch.job.runner import run_job
from aobatch.models.store.folder import ModelFolder

CONTENTS = ("Name three fruits.", "Why is the sky blue?", "春天", "<|im_end|>\n[/INST]</s>", "")
SCHEMA = {"enum": ["good", "bad"]}
VARIATIONS: list[dict[str, Any]] = [
    {},
    {"n": 3, "temperature": 1},
    {"logprobs": True, "top_logprobs": 2, "temperature": 0},
    {"logprobs": True, "n": 2},
    {"stop": [".", "e"], "temperature": 0},
    {"seed": 7, "top_p": 0.5, "presence_penalty": 1, "logit_bias": {"5": -100}},
    {"stream": True, "stream_options": {"include_usage": True}, "n": 2},
    {"max_completion_tokens": 3, "max_tokens": None, "user": "ann"},
    {"store": False, "metadata": {"a": "b"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
]


def line(index: int, content: str, variation: dict[str, Any]) -> dict[str, Any]:
    """Write a line as the batch API's documentation does."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": content}]},
    ]
    body = {"model": "tiny", "messages": messages[index % 2 :], "max_tokens": 6} | variation
    return {
        "custom_id": f"request-{index}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }


def batch(number: int) -> list[dict[str, Any]]:
    """Write so many lines, all variations over all contents."""
    both = zip(cycle(CONTENTS), cycle(VARIATIONS), strict=False)
    return [line(i, *pair) for i, pair in enumerate(islice(both, number))]


def run(
    folder: ModelFolder, lines: list[dict[str, Any]], path: Path, chat_format: str | None = None
) -> tuple[list[dict[str, Any]], UsageReport]:
    """Answer lines on the tiny model."""
    source, output = path / "in.jsonl", path / "out.jsonl"
    source.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    backend = LocalBackend(EngineConfig(kv_cache_bytes=2**27, chat_format=chat_format))
    overrides = {"model": str(folder.path)}
    report = run_job(JobConfig((source,), output, overrides=overrides), backend).report
    return [
        json.loads(text) for text in output.read_text(encoding="utf-8").split("\n")[:-1]
    ], report


def test_a_batch_file_of_chats_runs_unchanged(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """Of 50 lines, with n, logprobs, stops and streams, each answer is a ChatCompletion."""
    lines = batch(50)
    answers, report = run(tiny_fp32, lines, tmp_path)

    assert report.requests.failed == 0
    for asked, answer in zip(lines, answers, strict=True):
        assert (answer["custom_id"], answer["error"]) == (asked["custom_id"], None)
        body = answer["response"]["body"]
        chat = ChatCompletion.model_validate(body, strict=True)
        assert chat.id.startswith("chatcmpl-")
        assert len(chat.choices) == asked["body"].get("n", 1)
        assert all(choice.message.role == "assistant" for choice in chat.choices)
        assert [choice.index for choice in chat.choices] == [*range(len(chat.choices))]
        assert chat.usage is not None
        for choice in chat.choices:
            _check_logprobs(choice, asked["body"])
            if "response_format" in asked["body"] and choice.finish_reason == "stop":
                assert json.loads(choice.message.content or "") in SCHEMA["enum"]


def _check_logprobs(choice: Choice, body: dict[str, Any]) -> None:
    """Logprobs are there if they were asked for, and their bytes joined are the answer."""
    if not body.get("logprobs"):
        assert choice.logprobs is None
        return
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    joined = b"".join(bytes(token.bytes or []) for token in tokens).decode("utf-8", "replace")
    assert joined.startswith(choice.message.content or "")
    for token in tokens:
        numbers = [top.logprob for top in token.top_logprobs]
        assert len(numbers) == body.get("top_logprobs", 0)
        assert numbers == sorted(numbers, reverse=True)


def test_streams_of_chats_are_chunks(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """Each choice begins with its role, and its pieces joined are the message."""
    asked = line(0, "Hello", {"stream": True, "stream_options": {"include_usage": True}, "n": 2})
    (answer,), _ = run(tiny_fp32, [asked], tmp_path)

    blocks = (tmp_path / "out.jsonl.stream/000001.sse").read_text().strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    chunks = [
        ChatCompletionChunk.model_validate(json.loads(block.removeprefix("data: ")), strict=True)
        for block in blocks
    ]
    last = chunks.pop()
    assert (last.choices, last.usage and last.usage.total_tokens) == (
        [],
        answer["response"]["body"]["usage"]["total_tokens"],
    )
    for whole in answer["response"]["body"]["choices"]:
        pieces = [c for chunk in chunks for c in chunk.choices if c.index == whole["index"]]
        assert [piece.delta.role for piece in pieces] == ["assistant", *[None] * (len(pieces) - 1)]
        text = "".join(piece.delta.content or "" for piece in pieces)
        assert text == whole["message"]["content"]
        assert pieces[-1].finish_reason == whole["finish_reason"]


def test_both_endpoints_stand_in_one_file(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """Envelopes and bare lines of either kind are answered in their own way, in their order."""
    chat = line(0, "Hello", {})
    lines = [
        chat,
        {**chat, "custom_id": "c", "url": "/v1/completions", "body": {"prompt": "Hello"}},
        {"custom_id": "bare", **chat["body"]},
        {"prompt": "Hello"},
        {**chat, "custom_id": "bad", "body": {"messages": [], "max_tokens": 1}},
    ]
    answers, report = run(tiny_fp32, lines, tmp_path)

    ChatCompletion.model_validate(answers[0]["response"]["body"], strict=True)
    Completion.model_validate(answers[1]["response"]["body"], strict=True)
    ChatCompletion.model_validate({k: v for k, v in answers[2].items() if k != "custom_id"})
    Completion.model_validate(answers[3], strict=True)
    assert answers[4]["response"]["body"]["error"]["code"] == "empty_array"
    assert report.requests.failed == 1


@pytest.mark.parametrize("name", ["chatml", "llama2"])
def test_the_format_of_a_model_can_be_named(
    name: str, tiny_fp32: ModelFolder, tmp_path: Path
) -> None:
    """Another format gives another prompt, and is a setting of the job."""
    asked = line(1, "Hello", {"temperature": 0})
    (own,), plain = run(tiny_fp32, [asked], tmp_path)
    (other,), report = run(tiny_fp32, [asked], tmp_path, chat_format=name)

    numbers = [x["response"]["body"]["usage"]["prompt_tokens"] for x in (own, other)]
    assert numbers[0] != numbers[1]
    assert report.job.settings["chat_format"] == name
    assert "chat_format" not in plain.job.settings


def test_a_model_without_a_format_says_so(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """Chats of a base model fail one by one, with what to do; its prompts are answered."""
    lines = [line(0, "Hello", {}), {"prompt": "Hello"}]
    answers, report = run(tiny_fp32, lines, tmp_path, chat_format="none")

    error = answers[0]["response"]["body"]["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "messages")
    assert "--chat-format" in error["message"]
    assert report.requests.failed == 1


def test_an_open_answer_is_no_longer_than_the_context(
    tiny_fp32: ModelFolder, tmp_path: Path
) -> None:
    """Without max_tokens a chat may fill what the prompt leaves, and no error comes of it."""
    asked = line(0, "Hello", {"ignore_eos": True, "max_tokens": None, "temperature": 0})
    (answer,), _ = run(tiny_fp32, [asked], tmp_path)

    usage = answer["response"]["body"]["usage"]
    assert usage["total_tokens"] == tiny_fp32.manifest.context_length
