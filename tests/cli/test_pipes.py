"""Laws of commands whose streams are pipes: lines of text, and nothing that drives a terminal."""

import os
import subprocess
from pathlib import Path

import pytest

REQUESTS = '{"prompt": "a", "max_tokens": 3, "user": "ada"}\n{"prompt": "b", "n": 0}\n'
COMMANDS = (
    (1, "run", "in.jsonl"),
    (0, "run", "in.jsonl", "-o", "-", "--max-failures", "1"),
    (1, "validate", "in.jsonl"),
    (0, "status", "in.out.jsonl"),
    (0, "report", "in.out.jsonl"),
    (0, "report", "in.out.jsonl", "--markdown", "-"),
    (0, "models", "list"),
    (0, "models", "inspect", "smollm2-135m-instruct"),
    (0, "complete", "a", "--max-tokens", "3", "--stream"),
    (0, "bench", "--job", "in.jsonl", "--rounds", "1"),
    (0, "config", "show"),
    (0, "doctor"),
    (0, "--version"),
    (2, "run", "in.jsonl", "--no-such-option"),
    (66, "run", "gone.jsonl"),
)
"""Exit codes and arguments, one after another in one folder."""


def run_all(
    folder: Path, command: Path, models: Path, count: int = len(COMMANDS), **variables: str
) -> dict[tuple[str, ...], bytes]:
    """Run the first commands; give all that each has written."""
    environment = {**os.environ, "AOBATCH_MODELS": str(models), "TERM": "xterm-256color"}
    environment = {k: v for k, v in environment.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    (folder / "in.jsonl").write_text(REQUESTS)
    said = {}
    for code, *arguments in COMMANDS[:count]:
        result = subprocess.run(
            [command, *map(str, arguments)],
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == code, (arguments, result.stderr)
        said[tuple(map(str, arguments))] = result.stdout + result.stderr
    return said


def test_pipes_get_no_control_characters(tmp_path: Path, command: Path, tiny_home: Path) -> None:
    """Every command writes whole lines of printable text, whatever the terminal could do."""
    for arguments, text in run_all(tmp_path, command, tiny_home).items():
        assert text.replace(b"\n", b"").decode().isprintable(), arguments
        assert text.endswith(b"\n"), arguments


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
    ids=str,
)
def test_colours_can_be_forced(
    tmp_path: Path, command: Path, variables: dict[str, str], is_coloured: bool, tiny_home: Path
) -> None:
    """FORCE_COLOR colours reports in a pipe, and draws no bar there; NO_COLOR is the stronger."""
    said = run_all(tmp_path, command, tiny_home, 5, **variables)
    report = said["report", "in.out.jsonl"]

    assert (b"\x1b[2m" in report) == is_coloured
    assert all(b"\r" not in text for text in said.values())
    for text in said.values():
        plain = text.replace(b"\x1b[", b"")
        assert plain.replace(b"\n", b"").decode().isprintable()
