"""Laws of shapes that are wrong or cost too much: an error of their line each, within bounds."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import hostile_shapes
import pytest
from hostile_shapes import COSTLY, REFUSED

from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.shapes import matching
from aobatch.testing import scripted_engine

TOKENIZER = Path(__file__).parents[1] / "data/tiny-llama/tokenizer.json"
VOCAB_SIZE = len(json.loads(TOKENIZER.read_text())["model"]["vocab"])


def test_wrong_shapes_are_told_and_disturb_no_other_line() -> None:
    """Each is refused with its reason by its name, and all other lines are answered."""
    parser, requests, told = Parser({}, Limits()), list[Request](), dict[int, str]()
    for number, (body, _) in enumerate(REFUSED.values(), 1):
        fields = {"prompt": "x", "max_tokens": 3, "temperature": 0, **body}
        line = parser.parse_fields(number, fields)
        if isinstance(line, FailedLine):
            told[number] = line.error.message
        else:
            requests.append(line)
    good = {"prompt": "x", "max_tokens": 3, "guided_regex": "[0-9]{3}"}
    for number in range(1000, 1010):
        line = parser.parse_fields(number, dict(good))
        assert isinstance(line, Request)
        requests.insert(3 * (number - 1000), line)
    answered = 0
    for result in scripted_engine().run(requests):
        if result.error is not None:
            assert (result.error.status_code, result.error.code) == (400, "invalid_value")
            assert (result.error.param or "").startswith("guided_")
            told[result.request.line] = result.error.message
        else:
            answered += 1
            assert result.request.line >= 1000

    assert answered == 10
    for number, (_, part) in enumerate(REFUSED.values(), 1):
        assert part in told[number], told[number]
        assert len(told[number]) < 400


def test_compiling_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape of which nobody knew that it takes for ever is its line's error."""
    is_over = threading.Event()

    def spin(*_: object) -> str:
        while not is_over.is_set():
            sum(range(1000))
        return ""

    monkeypatch.setattr(matching, "MAX_SECONDS", 0.05)
    monkeypatch.setattr(matching, "_compile", spin)
    (result,) = scripted_engine().complete(["x"], guided_regex="a")
    is_over.set()

    assert result.error is not None
    assert "it takes too long to compile" in result.error.message


@pytest.mark.long
@pytest.mark.parametrize("name", [*REFUSED, *COSTLY])
def test_hostile_shapes_cost_little(name: str) -> None:
    """Compiling takes at most a second of processor time, and 100 MB; 20 steps two seconds."""
    command = [sys.executable, hostile_shapes.__file__, name, str(TOKENIZER), str(VOCAB_SIZE)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(outcome.stdout)

    assert figures["compile"] <= 1, figures
    assert figures["steps"] <= 2, figures
    assert figures["mb"] <= 100, figures
