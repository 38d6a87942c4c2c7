"""Laws of prompts, token ids, biases and stops that are wrong, over whole jobs and the engine."""

from pathlib import Path

from bad_lines import Bad, ScriptedBackend, check_bad_lines
from job_files import output, run, write_input

from aobatch.testing import VOCAB_SIZE

ABOVE, BELOW, TYPE, VALUE = (
    "integer_above_max_value",
    "integer_below_min_value",
    "invalid_type",
    "invalid_value",
)


def prompt(value: object, code: str) -> Bad:
    """Give a line whose prompt is wrong."""
    return Bad({"prompt": value}, code, "prompt")


def test_token_ids_outside_the_vocabulary(tmp_path: Path) -> None:
    """Ids below zero, beyond the vocabulary, true and 1.0 are errors wherever ids are given."""
    wrong = [(-1, BELOW), (-(2**63), BELOW), (VOCAB_SIZE, VALUE), (9_999_999, VALUE)]
    wrong += [(10**7, ABOVE), (2**63, ABOVE), (10**400, ABOVE)]
    types: list[object] = [True, 1.0, "1", None, [], {}]
    lines = [prompt([1, value], code) for value, code in wrong]
    lines += [prompt([[1], [value]], code) for value, code in wrong]
    lines += [prompt([1, value], TYPE) for value in types]
    lines += [prompt([[1, value]], TYPE) for value in types]
    lines += [
        Bad({"prompt": "a", "stop_token_ids": [value]}, code, "stop_token_ids")
        for value, code in [*wrong, *((value, TYPE) for value in types)]
    ]

    check_bad_lines(tmp_path, lines, ScriptedBackend())


def test_prompts_of_wrong_shape(tmp_path: Path) -> None:
    """Empty, mixed and deep arrays, objects and a million prompts are errors."""
    check_bad_lines(
        tmp_path,
        [
            *(prompt(value, TYPE) for value in (5, 1.5, True, {}, {"text": "a"}, [{}], [None])),
            *(prompt(value, TYPE) for value in (["a", 1], [1, "a"], [[1], 1], [[["a"]]], [True])),
            *(prompt(value, "empty_array") for value in ([], [[]], [[1], []])),
            prompt(["x"] * 2049, "array_above_max_length"),
            prompt(["x"] * 10**6, "array_above_max_length"),
            Bad(b'{"prompt": [' + b'"",' * 2**21 + b'""]}', "line_too_long"),
        ],
        ScriptedBackend(),
    )


def test_prompts_beyond_the_context(tmp_path: Path) -> None:
    """A prompt that does not fit is an error with both numbers, also if nobody tokenises it."""
    exceeded = "context_length_exceeded"
    check_bad_lines(
        tmp_path,
        [
            prompt("x" * 2049, exceeded),
            prompt("x" * 10**7, exceeded),
            prompt([1] * 2049, exceeded),
            prompt([1] * 10**6, exceeded),
            prompt(["a", "x" * 3000], exceeded),
            Bad({"prompt": "a", "suffix": "x" * 10**6}, exceeded, "suffix"),
            Bad({"prompt": "a", "max_tokens": 2048}, exceeded, "max_tokens"),
            Bad({"prompt": "a", "max_tokens": 10**9}, exceeded, "max_tokens"),
        ],
        ScriptedBackend(),
    )

    message = output(tmp_path)[1]["error"]["message"]
    assert "2048 tokens" in message
    assert "2049 in your prompt" in message


def test_empty_prompts_are_answered(tmp_path: Path) -> None:
    """An empty prompt is the start of a document, and max_tokens 0 asks for nothing."""
    lines = [{"prompt": value, "max_tokens": 1} for value in ("", None, [""], ["", "a"], [256])]
    write_input(tmp_path / "in.jsonl", [*lines, {"prompt": "", "max_tokens": 0, "echo": True}])

    assert run(tmp_path, ScriptedBackend()).report.requests.failed == 0


def test_biases(tmp_path: Path) -> None:
    """Keys are 1 to 7 digits of ASCII in the vocabulary; values lie in -100..100."""
    keys = [
        "1_0",
        " 7 ",
        "7 ",
        "+7",
        "-1",
        "0x1",
        "1.0",
        "",
        "a",
        "12345678",
        "٣",
        "７",
        "²",
        "1e1",
    ]
    lines = [Bad({"prompt": "a", "logit_bias": {key: 1}}, VALUE, "logit_bias") for key in keys]
    lines += [
        Bad({"prompt": "a", "logit_bias": bias}, code, "logit_bias")
        for bias, code in [
            ({str(VOCAB_SIZE): 1}, VALUE),
            ({"9999999": 1}, VALUE),
            ({"7": 1, "007": 1}, VALUE),
            ({"7": 101}, "decimal_above_max_value"),
            ({"7": -100.5}, "decimal_below_min_value"),
            ({str(index): 1 for index in range(1025)}, "array_above_max_length"),
        ]
    ]

    check_bad_lines(tmp_path, lines, ScriptedBackend())


def test_stops(tmp_path: Path) -> None:
    """A stop is 1 to 16 strings of 1 to 256 characters."""
    stops: list[tuple[object, str]] = [
        ("", "empty_string"),
        (["a", ""], "empty_string"),
        ([], "empty_array"),
        (["a"] * 17, "array_above_max_length"),
        (["a"] * 10_000, "array_above_max_length"),
        ("x" * 257, "string_above_max_length"),
        ("x" * 2**20, "string_above_max_length"),
        (["a", "x" * 2**20], "string_above_max_length"),
    ]
    lines = [Bad({"prompt": "a", "stop": stop}, code, "stop") for stop, code in stops]
    check_bad_lines(tmp_path, lines, ScriptedBackend())

    write_input(tmp_path / "in.jsonl", [{"prompt": "a", "stop": ["写" * 256] * 16}])
    assert run(tmp_path, ScriptedBackend()).report.requests.failed == 0
