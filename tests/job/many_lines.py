"""Jobs of many lines of all kinds, for tests of memory."""

import json
from pathlib import Path


def write_many_lines(path: Path, count: int) -> Path:
    """Write requests with and without a name, equal ones, failing ones and bad lines."""
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            stream.write(f"{_line(number)}\n")
    return path


def _line(number: int) -> str:
    kind = number % 20
    prompt = f"Write a poem about the number {number}, in which the number itself does not stand."
    if kind == 0:
        return f'{{"prompt": "{prompt}'  # no JSON
    special: dict[int, dict[str, object]] = {
        1: {"prompt": f"fail {prompt}", "temperature": 0},
        2: {"prompt": "the same", "n": 1 + number // 20 % 100},
        3: {"prompt": prompt, "model": f"gone {number}"},
    }
    named = {"custom_id": f"request-{number}"}
    body = {"prompt": prompt, "max_tokens": 64, "temperature": 0.7}
    if kind < 8:
        return json.dumps(special.get(kind, {"prompt": prompt, "user": f"user {number % 1000}"}))
    if kind < 12:
        return json.dumps({**named, "method": "POST", "url": "/v1/completions", "body": body})
    return json.dumps({**named, **body})
