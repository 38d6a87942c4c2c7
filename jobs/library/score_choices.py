"""Let a model choose among answers: the one whose tokens it finds most probable.

    python jobs/library/score_choices.py

The prompts, question and answer together, stay in memory; the model reads what the answers of a
question have in common once.
"""

import sys
from collections.abc import Sequence

import aobatch

QUESTIONS = {
    "The capital of France is": (" Paris", " Berlin", " Madrid", " Rome"),
    "Two plus three is": (" five", " four", " six", " nine"),
    "The opposite of hot is": (" cold", " warm", " red", " loud"),
}


def score_choices(
    engine: aobatch.Engine, question: str, choices: Sequence[str]
) -> dict[str, float]:
    """Give the log probability of each choice behind the question."""
    prompts = [question + choice for choice in choices]
    results = engine.complete(prompts, max_tokens=0, echo=True, logprobs=0)
    scores = {}
    for choice, result in zip(choices, results, strict=True):
        if result.error is not None:
            raise result.error
        logprobs = result.choices[0].logprobs
        assert logprobs is not None, "logprobs were asked for"
        scores[choice] = sum(
            logprob
            for offset, logprob in zip(logprobs.text_offset, logprobs.token_logprobs, strict=True)
            if offset >= len(question) and logprob is not None
        )
    return scores


def main() -> None:
    """Print the choice of the model for each question."""
    engine = aobatch.load_engine()
    for question, choices in QUESTIONS.items():
        scores = score_choices(engine, question, choices)
        best = max(scores, key=scores.__getitem__)
        sys.stdout.write(f"{question}{best} ({scores[best]:.2f})\n")


if __name__ == "__main__":
    main()
