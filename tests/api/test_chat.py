"""Laws of chat requests: the documented body, in envelopes and bare, and what is refused."""

import json
from collections.abc import Callable

import msgspec
import pytest

from aobatch.api.body import PARAMETERS, CompletionBody
from aobatch.api.chat import CHAT_PARAMETERS, COMPLETIONS_ONLY, MAX_TOKENS_OF_CHATS
from aobatch.api.errors import ErrorObject
from aobatch.api.kinds import Chat, Message
from aobatch.api.request import FailedLine, Limits, Parser, Request

Fields = dict[str, object]
Accept = Callable[[Fields], CompletionBody]
Refuse = Callable[[Fields], ErrorObject]

HELLO: list[object] = [{"role": "user", "content": "Hello"}]


def envelope(body: Fields, url: str = "/v1/chat/completions") -> Fields:
    """Wrap a body as the batch API does."""
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def test_every_parameter_of_completions_is_one_of_chats_or_named() -> None:
    """What is added to completions is there for chats too, but for what chats do not have."""
    assert {*PARAMETERS} - {*COMPLETIONS_ONLY} <= {*CHAT_PARAMETERS}


@pytest.mark.parametrize("wrap", [dict, envelope], ids=["bare", "envelope"])
def test_messages_become_a_conversation(accept: Accept, wrap: Callable[[Fields], Fields]) -> None:
    """Text parts are joined, developers speak as the system, names are of no account."""
    messages: list[object] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": t} for t in "ab"]},
        {"role": "assistant", "content": "c", "tool_calls": None, "refusal": None},
        {"role": "user", "content": ""},
    ]
    body = accept(wrap({"messages": messages, "max_tokens": 5}))

    said = [("system", "Be brief."), ("user", "ab"), ("assistant", "c"), ("user", "")]
    assert body.prompts == (Chat(tuple(Message(r, t) for r, t in said)),)  # type: ignore[arg-type]
    assert (body.max_tokens, body.logprobs, body.n) == (5, None, 1)


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"max_completion_tokens": 7}, "max_tokens", 7),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": 3}, "logprobs", 3),
        ({"logprobs": False}, "logprobs", None),
        ({"n": 3, "stop": "x", "seed": 1, "user": "u"}, "n", 3),
        ({"n": 3}, "best_of", 3),
        ({"top_k": 5, "min_p": 0.1}, "top_k", 5),
        ({"tools": [], "tool_choice": "none", "modalities": ["text"], "store": True}, "n", 1),
        ({"parallel_tool_calls": True, "metadata": {"a": "b"}}, "n", 1),
        ({"stream": True, "stream_options": {"include_usage": True}}, "include_usage", True),
    ],
)
def test_parameters_mean_what_they_mean(
    accept: Accept, fields: Fields, field: str, value: object
) -> None:
    """Chats have names of their own for some, and the table of completions for all others."""
    assert getattr(accept({"messages": HELLO, **fields}), field) == value


def test_an_answer_without_a_bound_fills_the_context(accept: Accept) -> None:
    """A chat is not cut after 16 tokens; a bound of the job's is one of chats too."""
    body = accept({"messages": HELLO})
    (chat,) = body.prompts
    parsed = Parser({"max_tokens": 9, "best_of": 4, "echo": True}, Limits()).parse(
        1, json.dumps({"messages": HELLO}).encode()
    )

    assert body.max_tokens == MAX_TOKENS_OF_CHATS
    assert isinstance(chat, Chat)
    assert chat.fills_context
    assert isinstance(parsed, Request)
    assert (parsed.body.max_tokens, parsed.body.best_of, parsed.body.echo) == (9, 1, False)


def test_overrides_replace_the_names_of_chats_too() -> None:
    """--override max_tokens holds whatever a chat calls it."""
    line = {"messages": HELLO, "max_completion_tokens": 50, "logprobs": True}
    parsed = Parser({}, Limits(), overrides={"max_tokens": 4, "logprobs": 2}).parse(
        1, json.dumps(line).encode()
    )

    assert isinstance(parsed, Request)
    assert (parsed.body.max_tokens, parsed.body.logprobs) == (4, 2)


@pytest.mark.parametrize(
    ("fields", "code", "param", "message"),
    [
        ({}, "missing_required_parameter", "messages", "Missing required parameter: 'messages'."),
        ({"messages": []}, "empty_array", "messages", "Invalid 'messages': empty array."),
        ({"messages": "Hi"}, "invalid_type", "messages", "expected an array of messages"),
        ({"messages": ["Hi"]}, "invalid_type", "messages", "'messages[0]': expected an object"),
        (
            {"messages": [{"role": "user"}]},
            "missing_required_parameter",
            "messages[0].content",
            "'messages[0].content'",
        ),
        ({"messages": [{"role": "bot", "content": ""}]}, "invalid_value", "messages", "'bot'"),
        (
            {"messages": [{"role": "tool", "content": "4"}]},
            "unsupported_parameter",
            "messages",
            "models here call no tools",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "unsupported_parameter",
            "messages",
            "'messages[0].content[0].type': models here read text alone",
        ),
        (
            {"messages": HELLO, "tools": [{"type": "function"}]},
            "unsupported_parameter",
            "tools",
            "Unsupported parameter: 'tools': models here call no tools.",
        ),
        ({"messages": HELLO, "audio": {"voice": "x"}}, "unsupported_parameter", "audio", "text"),
        ({"messages": HELLO, "echo": True}, "unsupported_parameter", "echo", "/v1/completions has"),
        ({"messages": HELLO, "tempreature": 1}, "unknown_parameter", "tempreature", "temperature"),
        ({"messages": HELLO, "logprobs": 2}, "invalid_type", "logprobs", "expected a boolean"),
        ({"messages": HELLO, "top_logprobs": 2}, "invalid_value", "top_logprobs", "'logprobs'"),
        (
            {"messages": HELLO, "logprobs": True, "top_logprobs": 21},
            "integer_above_max_value",
            "top_logprobs",
            "<= 20",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(
    refuse: Refuse, fields: Fields, code: str, param: str, message: str
) -> None:
    """The error names the parameter, or the message, and says what was expected."""
    error = refuse(envelope(fields))

    assert (error.code, error.param) == (code, param)
    assert message in error.message


def test_each_endpoint_has_its_own_body(refuse: Refuse) -> None:
    """A chat that asks for completions is an error, and the other way round."""
    assert refuse(envelope({"messages": HELLO}, "/v1/completions")).code != "invalid_url"
    assert refuse(envelope({"prompt": "Hello"}) | {"custom_id": "b"}).param == "prompt"


def test_chats_travel_between_processes(parser: Parser) -> None:
    """A request of a chat is the same once it was encoded and decoded."""
    parsed = parser.parse(1, json.dumps({"messages": HELLO}).encode())
    assert isinstance(parsed, Request)

    encoded = msgspec.msgpack.encode(parsed)
    assert msgspec.msgpack.Decoder(Request).decode(encoded) == parsed


def test_repeated_chats_have_keys_of_their_own(parser: Parser) -> None:
    """Equal chats are told apart as equal prompts are, and a prompt is no chat of that text."""
    lines = [{"messages": HELLO}, {"messages": HELLO}, {"prompt": "Hello"}]
    parsed = [parser.parse(i, json.dumps(line).encode()) for i, line in enumerate(lines, 1)]

    assert not any(isinstance(line, FailedLine) for line in parsed)
    assert len({line.key for line in parsed if isinstance(line, Request)}) == 3
