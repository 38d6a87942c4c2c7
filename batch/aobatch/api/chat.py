"""Chats: what the body of a chat request says, beside what it shares with completions."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec

from aobatch.api import errors
from aobatch.api.body import INT32_MAX, PARAMETERS, Parameter
from aobatch.api.kinds import Boolean, Chat, Integer, Kind, Message, Role, Text, check_length

MAX_MESSAGES = 2048

MAX_TOKENS_OF_CHATS = 1024
"""How long an answer may be that nothing else is said of; less, where the context holds less."""

_NO_TOOLS, _TEXT_ALONE = "models here call no tools", "models here read and write text alone"

ROLES: Final[dict[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
"""The roles that messages may have, and those that a chat format writes."""


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a chat, of text alone, kept as a tuple of one conversation."""

    maximum_length: int
    ignores_unknown: bool = False

    def __call__(self, name: str, value: object) -> tuple[Chat, ...]:
        """Check how many there are, and each."""
        if type(value) is not list:
            raise errors.invalid_type(value, "an array of messages", name)
        check_length(name, len(value), (1, self.maximum_length), "an array")
        return (Chat(tuple(self._message(f"{name}[{i}]", item) for i, item in enumerate(value))),)

    def _message(self, name: str, value: object) -> Message:
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object", name)
        for key in ("role", "content"):
            if value.get(key) is None and not (key == "content" and value.get("tool_calls")):
                missing = f"{name}.{key}"
                raise errors.missing_parameter(missing)
        for key, part in value.items():
            # Names tell people apart, which no chat format does.
            if key in ("role", "content", "name") or part in (None, []) or self.ignores_unknown:
                continue
            unknown = f"{name}.{key}"
            if key in ("tool_calls", "tool_call_id", "function_call", "audio", "refusal"):
                raise errors.unsupported_parameter(unknown, "messages are text alone")
            raise errors.unknown_parameter(unknown, ())
        role = Text()(f"{name}.role", value["role"])
        if role in ("tool", "function"):
            place = f"{name}.role"
            raise errors.unsupported_parameter(place, _NO_TOOLS)
        if role not in ROLES:
            reason = f"'{errors.shorten(role)}' is none of {', '.join(ROLES)}."
            raise errors.invalid_value(reason, f"{name}.role")
        return Message(ROLES[role], _content(f"{name}.content", value.get("content")))

    def __str__(self) -> str:
        return f'array of 1..{self.maximum_length} objects {{"role", "content"}}, text alone'


def _content(name: str, value: object) -> str:
    """Read a text, or the parts of one, which are joined."""
    if type(value) is not list:
        if type(value) is not str:
            raise errors.invalid_type(value, "a string or an array of text parts", name)
        return value
    check_length(name, len(value), (1, None), "an array")
    texts = []
    for index, part in enumerate(value):
        place = f"{name}[{index}]"
        if type(part) is not dict:
            raise errors.invalid_type(part, "an object", place)
        if part.get("type") != "text":
            kind = errors.shorten(str(part.get("type")))
            reason = f"models here read text alone, and this part is of type '{kind}'"
            place += ".type"
            raise errors.unsupported_parameter(place, reason)
        texts.append(Text()(f"{place}.text", part.get("text")))
    return "".join(texts)


COMPLETIONS_ONLY: Final = ("prompt", "suffix", "echo", "best_of")
"""What completions have, and chats do not."""

_OWN: dict[str, tuple[str, Kind, object, str]] = {
    "messages": (
        "prompts",
        Messages(MAX_MESSAGES),
        msgspec.NODEFAULT,
        "What is answered; roles are system (or developer), user and assistant.",
    ),
    "max_completion_tokens": (
        "max_tokens",
        Integer(0, INT32_MAX),
        MAX_TOKENS_OF_CHATS,
        "How many tokens an answer has at most; `max_tokens` is the same. Not given: as fits.",
    ),
    "logprobs": ("logprobs", Boolean(), False, "Report the logprob of each token."),
    "top_logprobs": (
        "top_logprobs",
        Integer(0, 20),
        None,
        "Report that many best tokens as well; only with logprobs.",
    ),
}

CHAT_PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {name: Parameter(name, *row) for name, row in _OWN.items()}
    | {
        name: parameter
        for name, parameter in PARAMETERS.items()
        if name not in (*COMPLETIONS_ONLY, *_OWN)
    }
)
"""Every parameter of a chat by its name: its own, and those of completions that mean the same."""

IGNORED_IN_CHATS: Final = frozenset(
    {"parallel_tool_calls", "prompt_cache_key", "safety_identifier"}
)
"""Parameters of chats that are accepted and change nothing."""

_UNSUPPORTED: dict[str, str] = {
    **dict.fromkeys(("tools", "tool_choice", "functions", "function_call"), _NO_TOOLS),
    **dict.fromkeys(("audio", "modalities"), _TEXT_ALONE),
    "web_search_options": "nothing is looked up in the network",
    "prediction": "answers are not predicted",
    "reasoning_effort": "how long a model thinks cannot be chosen",
    "verbosity": "how much a model says cannot be chosen; tell it in a message",
}
_HARMLESS: tuple[object, ...] = (None, [], {}, "none", ["text"])
"""Values by which clients say that they want nothing of it."""


def check_chat_names(fields: Mapping[str, object], ignored: frozenset[str]) -> None:
    """Raise RequestError for the first name that chats do not have, or that asks for too much."""
    for name, value in fields.items():
        if name in CHAT_PARAMETERS or name in ignored or name in IGNORED_IN_CHATS:
            continue
        if name in COMPLETIONS_ONLY:
            raise errors.unsupported_parameter(name, "chats do not have it, /v1/completions has")
        if name not in _UNSUPPORTED:
            raise errors.unknown_parameter(name, CHAT_PARAMETERS)
        if value not in _HARMLESS:
            raise errors.unsupported_parameter(name, _UNSUPPORTED[name])


def chat_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the checked values of a chat into fields of a body; RequestError if some do not fit."""
    fields = dict(values)
    asks, num_top = fields.pop("logprobs", False), fields.pop("top_logprobs", None)
    if num_top is not None and not asks:
        reason = "it is only allowed when 'logprobs' is true."
        raise errors.invalid_value(reason, "top_logprobs")
    return fields | ({"logprobs": num_top or 0} if asks else {})


def open_ended(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let an answer without a bound be as long as the context holds, within reason."""
    if "max_tokens" in values:
        return dict(values)
    (chat,) = values["prompts"]
    prompts = (Chat(chat.messages, fills_context=True),)
    # What has to be drawn at least bounds what may be drawn at most.
    max_tokens = max(MAX_TOKENS_OF_CHATS, values.get("min_tokens", 0))
    return {**values, "max_tokens": max_tokens, "prompts": prompts}
