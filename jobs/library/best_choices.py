"""Say which answer of each question in jobs/score.jsonl is the most probable one.

    python3 jobs/library/best_choices.py REQUESTS ANSWERS

A line is a question with one of its answers; the question alone stands in `user`.
"""

import json
import sys
from pathlib import Path
from typing import Any


def score(question: str, choice: dict[str, Any]) -> float:
    """Add up the logprobs of the tokens behind the question, without the one that was generated."""
    logprobs = choice["logprobs"]
    tokens = zip(logprobs["text_offset"], logprobs["token_logprobs"], strict=True)
    return sum(float(logprob) for offset, logprob in [*tokens][:-1] if offset >= len(question))


def main(requests: Path, answers: Path) -> None:
    """Print a line a question."""
    best: dict[str, tuple[float, str]] = {}
    with requests.open(encoding="utf-8") as asked, answers.open(encoding="utf-8") as answered:
        for request, answer in zip(map(json.loads, asked), map(json.loads, answered), strict=True):
            question = request["user"]
            found = score(question, answer["choices"][0]), request["prompt"]
            best[question] = max(best.get(question, found), found)
    for _, prompt in best.values():
        sys.stdout.write(f"{prompt}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
