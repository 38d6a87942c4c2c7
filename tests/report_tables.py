"""Tables of docs/usage-report.md that come from the code."""

import ast
import inspect
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from aobatch.engine.config import EngineStatistics
from aobatch.job.report.summary import Summary
from aobatch.job.report.usage import UsageReport

NAMES = {int: "integer", float: "number", str: "string", types.NoneType: "null"}


def report_table() -> str:
    """Write the table of the parts of a usage report."""
    return _table(_fields(UsageReport, "", {}))


def summary_table() -> str:
    """Write the table of the parts of a summary."""
    return _table(_fields(Summary, "", {}))


def statistics_table() -> str:
    """Write the table of what an engine counts."""
    docs = _docs(EngineStatistics)
    return _table((name, "number", docs.get(name, "")) for name in get_type_hints(EngineStatistics))


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = [f"| `{name}` | {kind} | {doc} |" for name, kind, doc in rows]
    return "\n".join(["| name | type | meaning |", "|---|---|---|", *lines])


def _fields(struct: type, start: str, seen: dict[type, str]) -> Iterator[tuple[str, str, str]]:
    """Yield names, types and sentences; the fields of a part follow it, once."""
    docs = _docs(struct)
    for name, hint in get_type_hints(struct).items():
        part, suffix = _part(hint)
        path = f"{start}{name}"
        doc = docs.get(name) or (inspect.getdoc(part) or "" if part else "")
        again = f" Fields as of `{seen[part]}`." if part in seen else ""
        yield path, _kind(hint), doc.split("\n\n")[0].replace("\n", " ") + again
        if part is not None and part not in seen:
            seen[part] = path
            yield from _fields(part, f"{path}{suffix}.", seen)


def _part(hint: Any) -> tuple[type | None, str]:  # noqa: ANN401 - any annotation
    """Give the struct in an annotation, and how its fields are reached."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, ""
    for inner in get_args(hint):
        if (found := _part(inner))[0] is not None:
            return found[0], "[]" if get_origin(hint) is list else found[1]
    return None, ""


def _kind(hint: Any) -> str:  # noqa: ANN401 - any annotation
    origin, inner = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        kinds = [_kind(part) for part in inner]
        return " or ".join(k for k in kinds if k != "integer" or "number" not in kinds)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is list:
        return f"array of {_kind(inner[0])}"
    if origin is dict:
        return f"object of {_kind(inner[1])}"
    return NAMES.get(hint, "object")


def _docs(owner: type) -> dict[str, str]:
    """Read the sentences under the fields of a class."""
    (body,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(body, ast.ClassDef)
    pairs = zip(body.body, body.body[1:], strict=False)
    return {
        field.target.id: " ".join(str(doc.value.value).split())
        for field, doc in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
    }
