"""Short ways to parse one body."""

import json
from collections.abc import Callable

import pytest

from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject
from aobatch.api.request import FailedLine, Limits, Parser, Request

Fields = dict[str, object]


@pytest.fixture
def parser() -> Parser:
    """Give a parser without defaults, for a job that has not had a line."""
    return Parser({}, Limits())


@pytest.fixture
def accept(parser: Parser) -> Callable[[Fields], CompletionBody]:
    """Give a function that parses fields which must be right."""

    def accept_fields(fields: Fields) -> CompletionBody:
        parsed = parser.parse(1, json.dumps(fields).encode())
        assert isinstance(parsed, Request), parsed
        return parsed.body

    return accept_fields


@pytest.fixture
def refuse(parser: Parser) -> Callable[[Fields | bytes], ErrorObject]:
    """Give a function that parses fields, or a raw line, which must be wrong."""

    def refuse_fields(line: Fields | bytes) -> ErrorObject:
        raw = line if isinstance(line, bytes) else json.dumps(line).encode()
        parsed = parser.parse(1, raw)
        assert isinstance(parsed, FailedLine), parsed
        assert (parsed.error.type, parsed.status_code) == ("invalid_request_error", 400)
        return parsed.error

    return refuse_fields
