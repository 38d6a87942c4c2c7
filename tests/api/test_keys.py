"""The laws of request keys: what they depend on, and what not."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_strategies import BODIES, SAME, STEADY, written

from aobatch.api.request import HashSet, Limits, Parser, Request

FIELDS: dict[str, object] = {"prompt": "hi", "temperature": 0.5, "stop": ["a", "b"]}
OTHER_VALUES: dict[str, object] = {
    "model": "m", "prompt": "ho", "suffix": "s", "max_tokens": 17, "temperature": 0.25,
    "top_p": 0.5, "n": 2, "stream": True, "logprobs": 0, "echo": True, "stop": ["b", "a"],
    "presence_penalty": 1, "frequency_penalty": 1, "best_of": 2, "logit_bias": {"1": 2},
    "user": "u", "seed": 0, "top_k": 1, "min_p": 0.5, "repetition_penalty": 2, "min_tokens": 1,
    "ignore_eos": True, "stop_token_ids": [1], "guided_regex": "a",
}  # fmt: skip


def key_of(line: dict[str, object] | str, parser: Parser | None = None, number: int = 1) -> str:
    """Parse a line that must be right and give its key."""
    raw = line if isinstance(line, str) else json.dumps(line)
    parsed = (parser or Parser({}, Limits())).parse(number, raw.encode())
    assert isinstance(parsed, Request), parsed
    return parsed.key


@pytest.mark.parametrize("num_examples", [500, pytest.param(2_000, marks=pytest.mark.long)])
def test_key_does_not_depend_on_writing(num_examples: int) -> None:
    """Order of keys, spacing, carriage returns, escapes and forms of numbers change no key."""

    @settings(SAME, max_examples=num_examples)
    @given(BODIES, st.integers(0, 10**6))
    def check(fields: dict[str, object], seed: int) -> None:
        one, other = (written(fields, number).decode() for number in (seed, seed + 1))

        assert key_of(one) == key_of(other, number=99) == key_of(other + "\r")

    check()


@STEADY
@given(st.lists(st.sampled_from("aabc"), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_keys_do_not_depend_on_the_order_of_lines(
    prompts: list[str], source: random.Random
) -> None:
    """Shuffled lines have the same keys; equal lines have different ones, in their order."""
    shuffled = source.sample(prompts, len(prompts))
    found: list[list[tuple[str, str]]] = []
    for lines in (prompts, shuffled):
        parser = Parser({}, Limits())
        found.append([(prompt, key_of({"prompt": prompt}, parser)) for prompt in lines])
        parser.parse(9, b'{"prompt": "a", "n": 0}')

    assert len({key for _, key in found[0]}) == len(prompts)
    for prompt in {*prompts}:
        own, others = ([key for name, key in keys if name == prompt] for keys in found)
        assert own == others


@pytest.mark.parametrize(
    "spelled_out",
    [{"max_tokens": 16}, {"top_p": 1}, {"n": 1}, {"n": 1, "best_of": 1}, {"stream": False},
     {"suffix": None}, {"logprobs": None}, {"logit_bias": {}}, {"seed": None}, {"top_k": 0},
     {"metadata": {"a": "b"}}, {"custom_id": None}],
    ids=str,
)  # fmt: skip
def test_key_does_not_depend_on_spelled_out_defaults(spelled_out: dict[str, object]) -> None:
    """Saying what holds anyway leaves the key as it is."""
    assert key_of(FIELDS | spelled_out) == key_of(FIELDS)


def test_key_of_one_text_is_that_of_an_array_of_it() -> None:
    """Shapes with one meaning have one key."""
    assert key_of({"prompt": "hi", "stop": "a"}) == key_of({"prompt": ["hi"], "stop": ["a"]})
    assert key_of({"prompt": None}) == key_of({"prompt": ""})


def test_key_does_not_depend_on_style() -> None:
    """An envelope and a bare line that say the same share a result."""
    envelope: dict[str, object] = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/completions",
        "body": FIELDS,
    }

    assert key_of(envelope) == key_of(FIELDS | {"custom_id": "a"})


def test_job_defaults_count_as_said() -> None:
    """A default has the key of the line that spells it out."""
    parser = Parser({"max_tokens": 64}, Limits())

    assert key_of(FIELDS, parser) == key_of(FIELDS | {"max_tokens": 64})


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_key_depends_on_every_parameter(name: str) -> None:
    """Another value of any one parameter is another request."""
    assert key_of(FIELDS | {name: OTHER_VALUES[name]}) != key_of(FIELDS)


def test_key_depends_on_custom_id() -> None:
    """Lines that differ only in their custom_id are different requests."""
    keys = {
        key_of(FIELDS | custom_id) for custom_id in ({}, {"custom_id": "a"}, {"custom_id": "b"})
    }

    assert len(keys) == 3


def test_prompt_kinds_do_not_meet() -> None:
    """Ids, their digits, and one or several prompts of the same parts have different keys."""
    prompts: list[object] = [[1, 2], [[1], [2]], [[1, 2]], ["1", "2"], "12", ["12", ""], "[1, 2]"]

    assert len({key_of({"prompt": prompt}) for prompt in prompts}) == len(prompts) - 1


def test_keys_stay_the_same() -> None:
    """A key that changed with a version would compute half-finished jobs anew."""
    assert key_of(FIELDS) == "9bf3f19039f0f5422590ce7cc950d162"


def test_hash_set_is_a_set() -> None:
    """Over many growths and repeats, add says what Python's set would."""
    source = random.Random(5)
    values = [source.getrandbits(source.choice([11, 64])) + 2 & 2**64 - 1 for _ in range(9000)]
    hashes, oracle = HashSet(), set[int]()

    for value in [0, 0, 2**64 - 1, *values]:
        assert hashes.add(value) is (value not in oracle)
        oracle.add(value)
    assert len(hashes) == len(oracle)


def test_hash_set_takes_few_bytes() -> None:
    """An entry takes at most 24 bytes once there are many."""
    hashes = HashSet()
    source = random.Random(6)
    for _ in range(50_000):
        hashes.add(source.getrandbits(64))

        assert len(hashes) < 1000 or len(hashes._table) * 8 <= 24 * len(hashes) + 16
