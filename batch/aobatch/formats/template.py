"""Prompts that a template writes of the columns of a table or the fields of JSON lines.

A template is a text with names in braces, `{text}`; `{{` and `}}` are braces. Nothing but names
stands in braces: no attributes, no indexes, no formats.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aobatch.api import errors
from aobatch.errors import InputError, RequestError, UsageError
from aobatch.text import counted, nearest, printable

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; see `parse_template`."""

    text: str
    literals: tuple[str, ...]
    """What stands ahead of each name, and behind the last one."""
    names: tuple[str, ...]
    is_chat: bool = False
    """Whether the result is what a user says, and not a prompt."""
    system: str | None = None
    """The system message ahead of it."""

    @property
    def field(self) -> str:
        """The field of a request that it gives."""
        return "messages" if self.is_chat else "prompt"

    def check(self, known: Sequence[str], where: str) -> None:
        """Refuse a template that names what is not there; InputError with what is."""
        for name in self.names:
            if name not in known:
                meant = nearest(name, tuple(known))
                hint = f" (did you mean '{printable(meant)}'?)" if meant else ""
                listed = ", ".join(map(printable, known)) or "none"
                message = f"{where} has no '{name}' for the template{hint}; it has {listed}"
                raise InputError(message)

    def write(self, values: Mapping[str, Any]) -> object:
        """Write the prompt, or the messages, of one row; RequestError if a value is missing."""
        text = self.literals[0]
        for name, literal in zip(self.names, self.literals[1:], strict=True):
            if name not in values or values[name] is None:
                what = "is null" if name in values else "is missing"
                reason = f"'{printable(name)}', which the template needs, {what}."
                raise errors.invalid_value(reason, self.field)
            text += text_of(values[name]) + literal
        if not self.is_chat:
            return text
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*messages, {"role": "user", "content": text}]

    def fill(self, values: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
        """Make the fields of a request of a whole line; `fields` says what gives others of them."""
        taken = {name: values.get(source) for name, source in fields.items()}
        identifier = taken.get("custom_id", values.get("custom_id"))
        if type(identifier) is int:
            identifier = str(identifier)
        found = {**taken, self.field: self.write(values)}
        return found if identifier is None else {"custom_id": identifier, **found}


def parse_template(text: str, *, is_chat: bool = False, system: str | None = None) -> Template:
    """Parse a template; UsageError says what is wrong with it."""
    literals, names, start = [""], list[str](), 0
    for found in _TOKEN.finditer(text):
        literals[-1] += text[start : found.start()]
        start = found.end()
        if found[0] in ("{{", "}}"):
            literals[-1] += found[0][0]
        elif found[1]:
            names.append(found[1])
            literals.append("")
        else:
            line = counted(text.count("\n", 0, found.start()) + 1, "line").split()[0]
            message = (
                f"the template has '{found[0]}' in its line {line}; write {{name}} for a column, "
                "and {{ or }} for a brace"
            )
            raise UsageError(message)
    literals[-1] += text[start:]
    if not names:
        message = "the template names no column, so that every row would ask the same; write {name}"
        raise UsageError(message)
    return Template(text, tuple(literals), tuple(names), is_chat, system)


def text_of(value: object) -> str:
    """Write a value as people do: text as it is, what JSON knows as JSON, dates as ISO 8601."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise errors.invalid_utf8(error.start + 1) from error
    return str(value)


def or_error(template: Template, values: Mapping[str, Any]) -> object:
    """Write a row, or give what is wrong with it."""
    try:
        return template.write(values)
    except RequestError as error:
        return error
