"""Formats of chats, as data: how the turns of a conversation are written for a model.

The templates that come with models are programs, and none is ever executed. Which of these formats
a model was trained on is told by what its template says literally, and by its vocabulary.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from aobatch.api.errors import invalid_value
from aobatch.api.kinds import Message

Part: TypeAlias = tuple[str, bool]
"""A piece of a written conversation, and whether it is a content: in it no token has a name."""

Frame: TypeAlias = tuple[str, str]
"""What stands ahead of a content and behind it."""

UNKNOWN, NONE = "", "none"
"""In a manifest: the format was not looked for, and the model has none of those known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFormat:
    """One way to write a conversation; it ends where the model's answer begins."""

    name: str
    user: Frame
    assistant: Frame
    answer: str
    """What the answer stands behind."""
    system: Frame | None = None
    """Of a system message wherever it stands; None if it can only be the first message, or none."""
    start: str = ""
    """Ahead of everything."""
    opening: Frame | None = None
    """Of a system message that is the first one, if that is another frame."""
    default_system: str | None = None
    """The content of a system message for conversations that begin without one."""
    hoists_system: bool = False
    """Whether the last system message is the first one, wherever it stands."""
    merges_into: Literal["", "first", "last"] = ""
    """The user's turn that a first system message is written into, inside its frame."""
    strips: Literal["", "content", "turn", "answer"] = ""
    """What loses the white space around it: contents, turns inside their frames, or answers."""
    strips_system: bool = True
    """Whether a first system message that has a turn of its own is stripped as contents are."""
    alternates: bool = False
    """Whether users and the assistant have to take turns."""
    omits_blank: frozenset[str] = frozenset()
    """The roles whose messages without a character are left out."""
    drops_thoughts: str | None = None
    """What is stripped behind the thoughts that earlier answers lose; None if they stay."""
    tells: tuple[str, ...]
    """What a model's template has literally, if this is its format."""
    never: tuple[str, ...] = ()
    """What such a template does not have."""
    tokens: tuple[str, ...] = ()
    """The tokens that a vocabulary has to have for it."""
    ends: tuple[str, ...] = ()
    """The tokens that end an answer."""

    def write(self, messages: Sequence[Message]) -> list[Part]:
        """Write a conversation; RequestError if this format has no place for one of its roles."""
        first, rest = self._divided(messages)
        self._check(first, rest)
        parts: list[Part] = [(self.start, False)]
        if first is None and self.default_system is not None:
            first = Message("system", self.default_system)
        merged: list[Part] = []
        if first is not None:
            before, after = self.opening or self.system or ("", "")
            content = first.content.strip() if self._strips_opening else first.content
            written = [(before, False), (content, True), (after, False)]
            if self.merges_into:
                merged = written
            elif content or "system" not in self.omits_blank:
                parts += written
        target = len(rest) - 1 if self.merges_into == "last" else 0
        for index, message in enumerate(rest):
            is_merged = index == target and message.role == "user"
            parts += self._turn(message, merged if is_merged else [])
        return [part for part in [*parts, (self.answer, False)] if part[0]]

    def _divided(self, messages: Sequence[Message]) -> tuple[Message | None, Sequence[Message]]:
        """Take the first system message from the others."""
        if self.hoists_system:
            systems = [message for message in messages if message.role == "system"]
            others = [message for message in messages if message.role != "system"]
            return (systems[-1] if systems else None), others
        if messages[0].role == "system":
            return messages[0], messages[1:]
        return None, messages

    @property
    def _strips_opening(self) -> bool:
        return self.strips == "content" and self.strips_system and not self.merges_into

    def _check(self, first: Message | None, rest: Sequence[Message]) -> None:
        roles, reason = [message.role for message in rest], ""
        if first is not None and not (self.system or self.opening):
            reason = "has no place for a system message"
        elif self.system is None and "system" in roles:
            reason = "takes a system message ahead of all others, nowhere else"
        elif self.alternates and any((role == "user") == i % 2 for i, role in enumerate(roles)):
            reason = "needs messages of user and assistant in turn, the user's first"
        if reason:
            reason = f"the model's chat format {self.name} {reason}."
            raise invalid_value(reason, "messages")

    def _turn(self, message: Message, merged: list[Part]) -> list[Part]:
        content = message.content
        if not content and message.role in self.omits_blank:
            return []
        if message.role == "assistant" and self.drops_thoughts is not None:
            content = content.rpartition("</think>")[2] if "</think>" in content else content
            content = content.lstrip(self.drops_thoughts) if content != message.content else content
        frames = {"user": self.user, "assistant": self.assistant, "system": self.system}
        before, after = frames[message.role] or ("", "")
        is_answer = message.role == "assistant" and self.strips == "answer"
        if is_answer or self.strips == "content":
            content = content.strip()
        inner: list[Part] = [*merged, (content, True)]
        if self.strips == "turn":
            inner = _stripped(inner)
        return [(before, False), *inner, (after, False)]


def _stripped(parts: list[Part]) -> list[Part]:
    """Take white space off both ends of what parts are together."""
    while parts and not (text := parts[0][0].lstrip()):
        parts = parts[1:]
    if parts:
        parts = [(text, parts[0][1]), *parts[1:]]
    while parts and not (text := parts[-1][0].rstrip()):
        parts = parts[:-1]
    return [*parts[:-1], (text, parts[-1][1])] if parts else []


def _of_roles(pattern: str, end: str, answer: str | None = None, **fields: object) -> ChatFormat:
    """Make a format whose frames differ in the name of the role alone."""
    frames = {role: (pattern.format(role), end) for role in ("system", "user", "assistant")}
    start_of_answer = pattern.format("assistant") if answer is None else answer
    return ChatFormat(**{"answer": start_of_answer, **frames, **fields})  # type: ignore[arg-type]


_CHATML = _of_roles(
    "<|im_start|>{}\n",
    "<|im_end|>\n",
    name="chatml",
    tells=("<|im_start|>", "<|im_end|>"),
    tokens=("<|im_start|>", "<|im_end|>"),
    ends=("<|im_end|>",),
)
_LLAMA3 = _of_roles(
    "<|start_header_id|>{}<|end_header_id|>\n\n",
    "<|eot_id|>",
    name="llama3",
    start="<|begin_of_text|>",
    strips="content",
    tells=("<|start_header_id|>", "<|eot_id|>"),
    tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ends=("<|eot_id|>", "<|eom_id|>"),
)
_GEMMA = ChatFormat(
    name="gemma",
    start="<bos>",
    user=("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
    answer="<start_of_turn>model\n",
    strips="content",
    alternates=True,
    tells=("<start_of_turn>", "<end_of_turn>"),
    tokens=("<start_of_turn>", "<end_of_turn>"),
    ends=("<end_of_turn>",),
)
_MISTRAL = ChatFormat(
    name="mistral",
    start="<s>",
    user=("[INST] ", " [/INST]"),
    assistant=("", "</s>"),
    answer="",
    alternates=True,
    tells=("[INST]", "[/INST]"),
    ends=("</s>",),
)
_DEEPSEEK_V3 = ChatFormat(
    name="deepseek-v3",
    start="<｜begin▁of▁sentence｜>",
    opening=("", ""),
    hoists_system=True,
    user=("<｜User｜>", ""),
    assistant=("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    answer="<｜Assistant｜>",
    tells=("<｜User｜>", "<｜Assistant｜>"),
    tokens=("<｜User｜>", "<｜Assistant｜>"),
    ends=("<｜end▁of▁sentence｜>",),
)

_ALL = (
    replace(
        _CHATML,
        name="smollm2",
        default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        tells=("<|im_start|>", "named SmolLM, trained by Hugging Face"),
    ),
    replace(
        _CHATML,
        name="qwen2.5",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        tells=("<|im_start|>", "You are Qwen, created by Alibaba Cloud"),
    ),
    replace(
        _CHATML,
        name="qwen3",
        drops_thoughts="\n",
        tells=("<|im_start|>", "</think>", "enable_thinking", "last_query_index"),
    ),
    replace(
        _CHATML,
        name="qwen2",
        default_system="You are a helpful assistant",
        tells=("<|im_start|>", "You are a helpful assistant<|im_end|>"),
    ),
    ChatFormat(
        name="phi4",
        system=("<|im_start|>system<|im_sep|>", "<|im_end|>"),
        user=("<|im_start|>user<|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>"),
        assistant=("", "<|im_end|>"),
        answer="",
        tells=("<|im_start|>", "<|im_sep|>"),
        tokens=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
        ends=("<|im_end|>",),
    ),
    _CHATML,
    replace(
        _LLAMA3,
        name="llama3.1",
        opening=(
            "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
            "Today Date: 26 Jul 2024\n\n",
            "<|eot_id|>",
        ),
        default_system="",
        tells=("<|start_header_id|>", "Cutting Knowledge Date", "26 Jul 2024"),
    ),
    _LLAMA3,
    replace(
        _GEMMA,
        name="gemma3",
        opening=("", "\n\n"),
        merges_into="first",
        tells=("<start_of_turn>", "first_user_prefix"),
    ),
    _GEMMA,
    _of_roles(
        "<|start_of_role|>{}<|end_of_role|>",
        "<|end_of_text|>\n",
        name="granite",
        tells=("<|start_of_role|>", "<|end_of_role|>"),
        tokens=("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        ends=("<|end_of_text|>",),
    ),
    ChatFormat(
        name="command-r",
        start="<BOS_TOKEN>",
        opening=("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        user=("<|START_OF_TURN_TOKEN|><|USER_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        assistant=("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        answer="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        strips="content",
        strips_system=False,
        alternates=True,
        tells=("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
        never=("<|START_RESPONSE|>",),
        tokens=("<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ends=("<|END_OF_TURN_TOKEN|>",),
    ),
    replace(
        _DEEPSEEK_V3,
        name="deepseek-r1",
        answer="<｜Assistant｜><think>\n",
        drops_thoughts="",
        tells=("<｜User｜>", "<｜Assistant｜><think>"),
    ),
    _DEEPSEEK_V3,
    _of_roles(
        "<|{}|>\n",
        "",
        name="glm4",
        start="[gMASK]<sop>",
        omits_blank=frozenset(("system", "user", "assistant")),
        tells=("[gMASK]<sop>", "<|assistant|>"),
        never=("</think>",),
        tokens=("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"),
        ends=("<|user|>", "<|observation|>", "<|endoftext|>"),
    ),
    _of_roles(
        "<|{}|>\n",
        "<|end|>\n",
        name="phi3",
        omits_blank=frozenset(("system",)),
        tells=("<|user|>", "<|end|>", "<|assistant|>"),
        tokens=("<|user|>", "<|end|>", "<|assistant|>"),
        ends=("<|end|>",),
    ),
    _of_roles(
        "<|{}|>\n",
        "</s>\n",
        name="zephyr",
        answer="<|assistant|>\n",
        tells=("<|user|>", "<|assistant|>", "eos_token"),
        tokens=("</s>",),
        ends=("</s>",),
    ),
    replace(
        _MISTRAL,
        name="llama2",
        start="",
        opening=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        merges_into="first",
        user=("<s>[INST] ", " [/INST]"),
        assistant=(" ", " </s>"),
        strips="turn",
        tells=("[INST]", "<<SYS>>"),
    ),
    replace(
        _MISTRAL,
        name="mistral-v7",
        alternates=False,
        system=("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
        user=("[INST] ", "[/INST]"),
        assistant=(" ", "</s>"),
        tells=("[INST] ", "[SYSTEM_PROMPT] "),
    ),
    replace(
        _MISTRAL,
        name="mistral-nemo",
        opening=("", "\n\n"),
        merges_into="last",
        user=("[INST]", "[/INST]"),
        tells=('"[INST]" + system_message', "[/INST]"),
    ),
    replace(
        _MISTRAL,
        name="mistral-v3",
        opening=("", "\n\n"),
        merges_into="last",
        user=("[INST] ", "[/INST]"),
        assistant=(" ", "</s>"),
        strips="answer",
        tells=('"[INST] " + system_message', '"[/INST]"'),
    ),
    replace(
        _MISTRAL,
        name="mistral-v1",
        opening=("", "\n\n"),
        merges_into="first",
        user=(" [INST] ", " [/INST]"),
        assistant=(" ", "</s>"),
        tells=("' [INST] '", "' [/INST]'"),
    ),
    _MISTRAL,
    ChatFormat(
        name="deepseek",
        start="<｜begin▁of▁sentence｜>",
        system=("", "\n\n"),
        user=("User: ", "\n\n"),
        assistant=("Assistant: ", "<｜end▁of▁sentence｜>"),
        answer="Assistant:",
        tells=("'User: '", "'Assistant: '"),
        tokens=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        ends=("<｜end▁of▁sentence｜>",),
    ),
)

FORMATS: Final = MappingProxyType({chat.name: chat for chat in _ALL})
"""All formats by name; where a template could be of several, the first one it is."""

_TELLING = (
    *("phi4", "chatml", "llama3", "gemma3", "granite", "command-r", "deepseek-v3", "glm4", "phi3"),
)
"""The formats that a vocabulary alone may tell, in the order in which they are tried."""

MARKERS: Final = frozenset(
    marker
    for chat in _ALL
    for text in (
        *(chat.start, chat.answer, *chat.tokens, *chat.ends),
        *(part for frame in (chat.user, chat.assistant, chat.system) for part in frame or ()),
    )
    for marker in re.findall(r"<[^<>\s]+>|\[/?[A-Za-z_]+\]", text)
)
"""What may be a token of its own in the frame of some format, and is text in every content."""


def format_of_template(template: str, vocabulary: Collection[str]) -> str:
    """Tell the format of a model from its template, unexecuted, and its tokens' names."""
    for chat in _ALL:
        has_tells = all(text in template for text in chat.tells)
        if has_tells and not any(text in template for text in chat.never):
            return chat.name if all(token in vocabulary for token in chat.tokens) else NONE
    return NONE


def format_of_vocabulary(vocabulary: Collection[str]) -> str:
    """Tell the format from the names of tokens alone, where no template says it."""
    fitting = (name for name in _TELLING if vocabulary and _fits(FORMATS[name], vocabulary))
    return next(fitting, NONE)


def _fits(chat: ChatFormat, vocabulary: Collection[str]) -> bool:
    return all(token in vocabulary for token in chat.tokens)


def texts_of_template(value: object) -> Iterator[str]:
    """Yield the templates that a file gives as text, or as named ones, the default one first."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        named = [item for item in value if isinstance(item, dict)]
        for item in sorted(named, key=lambda item: item.get("name") != "default"):
            yield from texts_of_template(item.get("template"))
