"""How many answers are what their lines expect: accuracy.py REQUESTS ANSWERS.

A line says in its metadata, which the API ignores, what is expected: a text, or what JSON says.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(requests: str, answers: str) -> None:
    """Print the two numbers."""
    num_read = num_right = total = 0
    for request, answer in zip(_rows(requests), _rows(answers), strict=True):
        found = _read(request, answer["choices"][0]["text"])
        total += 1
        num_read += found is not None
        num_right += found == request["metadata"]["expected"]
    sys.stdout.write(f"{num_read} of {total} can be read, {num_right} are right\n")


def _read(request: dict[str, Any], text: str) -> object:
    """Give the choice or the object that a text is, None if it is none."""
    if "structured_outputs" in request:
        return text if text in request["structured_outputs"]["choice"] else None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main(*sys.argv[1:])
