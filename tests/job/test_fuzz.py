"""Laws of jobs of thousands of lines that are wrong in many ways at once."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from bad_lines import ScriptedBackend
from job_files import measure, output, run
from mutations import mutated_lines

from aobatch.errors import ErrorCode

CODES = frozenset(get_args(ErrorCode))


def check_answers(raws: list[bytes], lines: list[dict]) -> Counter[str]:  # type: ignore[type-arg]
    """Hold every output line against its input line; count the codes, "" for an answer."""
    codes = Counter[str]()
    for number, (raw, line) in enumerate(zip(raws, lines, strict=True), start=1):
        body = line["response"]["body"] if "response" in line else line
        if re.fullmatch("id-[0-9]+", custom_id := line.get("custom_id") or ""):
            assert custom_id.encode() in raw
        assert line.get("line", number) == number
        code = body["error"]["code"] if "error" in body else ""
        assert (code in CODES) if code else body["object"] == "text_completion"
        codes[code] += 1
    return codes


@pytest.mark.parametrize("count", [3_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutated_lines_have_an_answer_each(tmp_path: Path, count: int) -> None:
    """Nothing breaks the job; each line has one output line, in order, with a documented code."""
    lines = list(mutated_lines(1, count))
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))

    taken = measure(tmp_path / "in.jsonl")

    *answers, end = (tmp_path / "in.out.jsonl").read_bytes().split(b"\n")
    assert end == b""
    codes = check_answers(lines, [json.loads(answer) for answer in answers])
    assert (taken["total"], taken["by_code"]) == (count, {k: n for k, n in codes.items() if k})
    assert taken["growth"] <= count / 10_000 * 64 * 2**20
    # What a generator that is not one would give.
    assert codes[""] > count // 10
    assert len(codes) >= 18


def test_mutated_lines_break_no_engine(tmp_path: Path) -> None:
    """What the parser lets through, the engine answers or refuses."""
    lines = list(mutated_lines(2, 400))
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))

    run(tmp_path, ScriptedBackend())

    codes = check_answers(lines, output(tmp_path))
    assert codes[""] > 40
    assert "numerical_error" not in codes
