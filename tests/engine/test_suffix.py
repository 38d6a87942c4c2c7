"""Laws of suffixes: infill tokens where a model has them, resampling where it has none."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from aobatch.api.request import Request
from aobatch.arrays import TokenIds
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.preparation import Preparation
from aobatch.engine.sequence import Result
from aobatch.testing import END_TOKEN, LIMITS, ByteTokenizer, ScriptedRunner, random_script


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


class SpacedTokenizer(ByteTokenizer):
    """Bytes, with a space ahead of each text as vocabularies of pieces put it."""

    def encode(self, text: str) -> TokenIds:
        """Split a text behind a space."""
        return super().encode(f" {text}" if text else "")


START = END_TOKEN


@pytest.mark.parametrize(
    ("tokenizer", "starts", "prompt", "expected"),
    [
        (ByteTokenizer(), False, "ab", (1, *b"ab", 2, *b"yz", 3)),
        (ByteTokenizer(), True, "ab", (START, 1, *b"ab", 2, *b"yz", 3)),
        (SpacedTokenizer(), True, "ab", (START, 1, *b" ab", 2, *b"yz", 3)),
        (SpacedTokenizer(), False, "ab", (1, *b" ab", 2, *b"yz", 3)),
        (SpacedTokenizer(), True, "", (START, 1, 2, *b"yz", 3)),
        (ByteTokenizer(), False, "", (1, 2, *b"yz", 3)),
        (SpacedTokenizer(), True, [97, 98], (1, *b"ab", 2, *b"yz", 3)),
    ],
)
def test_prompts_to_fill_in_are_laid_out_as_in_training(
    parse: Callable[..., list[Request]],
    tokenizer: ByteTokenizer,
    starts: bool,
    prompt: str | list[int],
    expected: tuple[int, ...],
) -> None:
    """The document start ahead of all, the suffix without a space that is none of its own."""
    limits = replace(LIMITS, adds_document_start=starts, infill_token_ids=(1, 2, 3))
    (request,) = parse({"prompt": prompt, "suffix": "yz", "echo": True, "logprobs": 0})

    (group,) = Preparation(tokenizer, limits, clamp_max_tokens=False).prepare(request).groups

    assert tuple(group.prompt_token_ids) == expected
    echoed = {"ab": b"ab", "": b""}.get(str(prompt), b"ab")
    assert bytes(group.echoed_token_ids.tolist()).strip() == echoed


@pytest.mark.parametrize("suffix", ["yz", " yz", "\nyz", "é"])
def test_a_suffix_is_ranked_as_it_is(parse: Callable[..., list[Request]], suffix: str) -> None:
    """Where candidates are resampled, no space is scored that the request does not have."""
    (request,) = parse({"prompt": "ab", "suffix": suffix})
    prepared = Preparation(SpacedTokenizer(), LIMITS, clamp_max_tokens=False).prepare(request)

    assert bytes(prepared.groups[0].suffix_token_ids.tolist()) == suffix.encode()


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
