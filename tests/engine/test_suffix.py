"""Laws of suffixes: infill tokens where a model has them, resampling where it has none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.sequence import Result
from aobatch.testing import LIMITS, ByteTokenizer, ScriptedRunner, random_script


def suffix_logprob(prompt: bytes, middle: bytes, suffix: bytes) -> float:
    """Give the mean logprob of the suffix behind prompt and middle, one token at a time."""
    tokens, total = [*prompt, *middle], 0.0
    for token in suffix:
        scores = random_script(tuple(tokens)).astype(np.float64)
        total += scores[token] - np.log(np.exp(scores).sum())
        tokens.append(token)
    return total / len(suffix)


def test_the_kept_candidates_are_those_that_fit_the_suffix(
    complete: Callable[..., list[Result]],
) -> None:
    """Of eight candidates the two under which the suffix is most probable are returned."""
    body = {"prompt": "pre", "max_tokens": 6, "seed": 5, "logit_bias": {"256": -100}}
    ascii_only = {"logit_bias": {str(t): -100 for t in range(128, 257)}}
    (every,) = complete(body | ascii_only | {"n": 8})
    (kept,) = complete(body | ascii_only | {"n": 2, "suffix": " end"})
    texts = [choice.text for choice in every.choices]
    ranked = sorted(texts, key=lambda t: -suffix_logprob(b"pre", t.encode(), b" end"))

    assert ranked[:2] == [choice.text for choice in kept.choices]
    assert kept.usage.completion_tokens == every.usage.completion_tokens


def test_infill_tokens_are_laid_out_as_prefix_suffix_middle(
    parse: Callable[..., list[Request]],
) -> None:
    """A model with infill tokens reads them around prefix and suffix, and echoes the prompt."""
    seen: list[tuple[int, ...]] = []

    def script(token_ids: tuple[int, ...]) -> np.ndarray:
        seen.append(token_ids)
        return random_script(token_ids)

    limits = replace(LIMITS, infill_token_ids=(1, 2, 3))
    engine = Engine(ScriptedRunner(script), ByteTokenizer(), limits, EngineConfig())
    body = {"prompt": "ab", "suffix": "yz", "max_tokens": 2, "echo": True, "logprobs": 0}
    (result,) = engine.run(parse(body))

    assert (1, *b"ab", 2, *b"yz", 3) in seen
    assert result.usage.prompt_tokens == 7
    assert result.choices[0].text.startswith("ab")
    assert result.choices[0].logprobs.tokens[:2] == ["a", "b"]
