"""Chats for tests: 20 conversations, and a vocabulary of the right kind for each format."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "chat"
GOLDENS = FOLDER / "goldens.json"

_SYSTEM = {"role": "system", "content": "You are terse."}


def _chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return turns if system is None else [{"role": "system", "content": system}, *turns]


CONVERSATIONS: list[list[dict[str, str]]] = [
    _chat("What is the capital of France?"),
    _chat("What is the capital of France?", system="You are terse."),
    _chat("Hi", "Hello!", "Who are you?"),
    _chat("Hi", "Hello!", "Who are you?", system="You are a pirate."),
    _chat("a", "b", "c", "d", "e", system="Count on."),
    _chat("  spaces around  ", "  and here ", "\n\nbreaks\n"),
    _chat("  spaces around  ", " and here", "x", system="  and in the system message \n"),
    _chat("one line\nanother line\n\nand a third\n"),
    _chat("tabs\tand\r\nreturns", system="several\nlines\n\nhere"),
    _chat(""),
    _chat("", system=""),
    _chat("Hi", "", "And now?"),
    _chat("Hi", system=""),
    _chat(" "),
    _chat("春风拂面，请翻译。", "Spring breeze.", "再来一句：你好", system="你是翻译。"),
    _chat("emoji 🎉👩‍👩‍👧 and café ñ"),
    _chat("Think!", "<think>\nhm, 2\n</think>\n\nIt is 2.", "Sure?"),
    _chat("{{ braces }} {% raw %} \\ 'quotes' \"double\""),
    [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Are you there?"}],
    [*_chat("Hi", "Hello!"), _SYSTEM, {"role": "user", "content": "Go on."}],
]
"""With and without system messages, odd roles, blank contents and many lines."""

_WORDS = (
    *("the", "is", "of", "and", "to", "in", "you", "are", "Hello", "What", "capital", "France"),
    *("user", "assistant", "system", "model"),
)

KINDS: dict[str, str] = {
    "llama2": "prepending",
    "mistral": "prepending",
    "zephyr": "prepending",
    "phi3": "eating",
    "mistral-v1": "first",
    "mistral-v3": "first",
    "mistral-v7": "first",
    "gemma": "pieces",
    "gemma3": "pieces",
}
"""The vocabularies that formats are used with, where they are not byte-level."""

SPECIAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("chatml", "qwen2", "qwen2.5", "qwen3", "smollm2"),
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    ),
    "phi4": ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    **dict.fromkeys(
        ("llama3", "llama3.1"),
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    **dict.fromkeys(("gemma", "gemma3"), ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")),
    "granite": ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    "command-r": (
        *("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        *("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
    ),
    **dict.fromkeys(
        ("deepseek", "deepseek-v3", "deepseek-r1"),
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    ),
    "glm4": ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
    "phi3": ("<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"),
    **dict.fromkeys(("llama2", "mistral", "zephyr"), ("<s>", "</s>")),
    **dict.fromkeys(
        ("mistral-v1", "mistral-v3", "mistral-nemo"), ("<s>", "</s>", "[INST]", "[/INST]")
    ),
    "mistral-v7": (*("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),),
}
"""The tokens that stand for themselves, as in the vocabularies of real models."""

BOS = {
    "llama3": "<|begin_of_text|>",
    "llama3.1": "<|begin_of_text|>",
    "gemma": "<bos>",
    "gemma3": "<bos>",
    "command-r": "<BOS_TOKEN>",
    "deepseek": "<｜begin▁of▁sentence｜>",
    "deepseek-v3": "<｜begin▁of▁sentence｜>",
    "deepseek-r1": "<｜begin▁of▁sentence｜>",
}
EOS = dict.fromkeys(("deepseek", "deepseek-v3", "deepseek-r1"), "<｜end▁of▁sentence｜>")
NAMES = sorted(SPECIAL)


def tokenizer_file(name: str) -> dict[str, Any]:
    """Lay out a small tokenizer.json of the kind that models with this format have."""
    kind = KINDS.get(name, "bytes")
    is_bytes = kind == "bytes"
    letters = _byte_letters() if is_bytes else [f"<0x{value:02X}>" for value in range(256)]
    if not is_bytes:
        letters += ["▁", "\n", *map(chr, range(33, 127))]
    merges = _merges(letters, "Ġ" if is_bytes else "▁")
    tokens = [*letters, *(left + right for left, right in merges)]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    added = [
        {
            "id": len(vocab) + index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": kind == "eating" and token != "<s>",
            "normalized": False,
            # In real vocabularies some of these are marked as if they were words.
            "special": token not in ("<｜User｜>", "<｜Assistant｜>", "<|user|>"),
        }
        for index, token in enumerate(SPECIAL[name])
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    normalizers = {
        "prepending": {"type": "Sequence", "normalizers": [prepend, spaces]},
        "eating": {"type": "Sequence", "normalizers": [prepend, spaces]},
        "pieces": spaces,
    }
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    rules = {"bytes": byte_level, "first": metaspace}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": normalizers.get(kind),
        "pre_tokenizer": rules.get(kind),
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "byte_fallback": not is_bytes,
            "fuse_unk": False,
        },
    }


def write_tokenizer(name: str, path: Path) -> Path:
    """Write such a file."""
    path.write_text(json.dumps(tokenizer_file(name)), encoding="utf-8")
    return path


def _byte_letters() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [*map(chr, printable), *(chr(256 + index) for index in range(len(others)))]


def _merges(letters: list[str], space: str) -> list[tuple[str, str]]:
    """Make merges that lead to some words, with and without a space ahead."""
    known, merges = set(letters), list[tuple[str, str]]()
    for word in (text for base in _WORDS for text in (base, space + base)):
        left = word[0]
        for letter in word[1:]:
            if left + letter not in known:
                known.add(left + letter)
                merges.append((left, letter))
            left += letter
    return merges
