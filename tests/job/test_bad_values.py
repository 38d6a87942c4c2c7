"""Laws of lines whose values are wrong, over whole jobs: one error each, no other changed."""

import json
from pathlib import Path

import pytest
from bad_lines import Bad, ScriptedBackend, check_bad_lines
from job_files import run, texts, write_input

ABOVE, BELOW, TYPE, VALUE = (
    "integer_above_max_value",
    "integer_below_min_value",
    "invalid_type",
    "invalid_value",
)
URL = "/v1/completions"


def bad(code: str, param: str | None = None, **fields: object) -> Bad:
    """Give a bad line with a prompt; the first field is the wrong one."""
    return Bad({"prompt": "a", **fields}, code, param or next(iter(fields)))


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    """NaN, infinities, numbers beyond double and 5,000 digits are no JSON; 4,000 are too large."""
    constants = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5000, "-" + "9" * 5000]
    lines = [f'{{"prompt": "a", "top_p": {text}}}' for text in constants]
    lines += ['{"metadata": [1E400]}', '{"prompt": ' + "7" * 4301 + "}"]
    too_large = [
        Bad(f'{{"prompt": "a", "n": {"9" * 4000}}}'.encode(), ABOVE, "n"),
        Bad(f'{{"prompt": "a", "seed": -{"9" * 4000}}}'.encode(), BELOW, "seed"),
        Bad(f'{{"prompt": "a", "top_p": {"9" * 4300}}}'.encode(),
            "decimal_above_max_value", "top_p"),
        Bad(f'{{"prompt": [{"9" * 4000}]}}'.encode(), ABOVE, "prompt"),
        Bad(f'{{"prompt": "a", "logit_bias": {{"1": {"9" * 4000}}}}}'.encode(),
            "decimal_above_max_value", "logit_bias"),
    ]  # fmt: skip

    no_json = [Bad(line.encode(), "invalid_json_line") for line in lines]
    check_bad_lines(tmp_path, [*no_json, *too_large])


def test_values_of_another_type(tmp_path: Path) -> None:
    """True is no integer, "5" no number, 1.0 no integer, 0 no boolean."""
    check_bad_lines(
        tmp_path,
        [
            *(bad(TYPE, n=value) for value in (True, "5", 1.0, 1e0, [1], {})),
            *(bad(TYPE, temperature=value) for value in (False, "0.5", [0.5], {})),
            *(bad(TYPE, max_tokens=value) for value in (True, "16", 16.0)),
            *(bad(TYPE, seed=value) for value in (True, 1.5, "0x10")),
            *(bad(TYPE, echo=value) for value in (0, 1, "true", [])),
            *(bad(TYPE, stream=value) for value in (0, "false")),
            *(bad(TYPE, user=value) for value in (5, ["a"], {}, True)),
            *(bad(TYPE, suffix=value) for value in (5, ["a"])),
            *(bad(TYPE, model=value) for value in (5, [], {})),
            *(bad(TYPE, stop=value) for value in (5, {"a": 1}, [5], [["a"]], [None], True)),
            *(bad(TYPE, logit_bias=value) for value in ([], "1", {"1": "2"}, {"1": None})),
            bad(TYPE, stream=True, stream_options=[], param="stream_options"),
        ],
    )  # fmt: skip


def test_null_is_the_default(tmp_path: Path) -> None:
    """A null says as much as a field that is left out, and a null prompt is an empty one."""
    names = ["model", "suffix", "max_tokens", "temperature", "top_p", "n", "stream", "logprobs"]
    names += ["stream_options", "echo", "stop", "best_of", "logit_bias", "user", "seed", "top_k"]
    lines = [{"prompt": "a", **dict.fromkeys(names), "custom_id": None}, {"prompt": None}]
    write_input(tmp_path / "in.jsonl", lines)

    assert run(tmp_path).report.requests.failed == 0
    assert texts(tmp_path) == ["[a]", "[]"]


def test_numbers_out_of_bounds(tmp_path: Path) -> None:
    """A milliard of candidates costs an error and no memory; so does every other extreme."""
    milliard = 10**9
    above, below = "decimal_above_max_value", "decimal_below_min_value"
    check_bad_lines(
        tmp_path,
        [
            *(bad(ABOVE, n=value) for value in (129, milliard, 2**63, 10**400)),
            *(bad(BELOW, n=value) for value in (0, -1, -milliard)),
            *(bad(ABOVE, best_of=value) for value in (21, milliard, 10**400)),
            *(bad(BELOW, best_of=value) for value in (0, -1)),
            bad(BELOW, best_of=2, n=3),
            *(bad(BELOW, max_tokens=value) for value in (-1, -milliard)),
            *(bad(ABOVE, max_tokens=value) for value in (2**31, 10**10)),
            bad(ABOVE, min_tokens=17),
            *(bad(ABOVE, logprobs=value) for value in (21, milliard)),
            bad(BELOW, logprobs=-1),
            *(bad(above, temperature=value) for value in (2.0000001, 3, 1e300, 10**400)),
            *(bad(below, temperature=value) for value in (-1e-300, -5e-324, -1)),
            *(bad(above, top_p=value) for value in (1.0000001, 2)),
            *(bad(above, presence_penalty=value) for value in (2.1, 1e308)),
            *(bad(below, frequency_penalty=value) for value in (-2.1, -1e308)),
            *(bad(below, repetition_penalty=value) for value in (0, 1e-300)),
            *(bad(ABOVE, seed=value) for value in (2**63, 10**30)),
            *(bad(BELOW, top_k=value) for value in (-2, -(10**30))),
        ],
    )


def test_tiny_temperatures_are_greedy(tmp_path: Path) -> None:
    """A temperature near zero divides nothing to infinity: it is the answer of zero."""
    tiny = [0, 0.0, -0.0, 1e-300, 5e-324, 9e-6]
    extremes = [{"temperature": value, "top_p": 1e-300, "min_p": 1} for value in (1e-5, 2)]
    lines = [{"prompt": "a", "temperature": value} for value in tiny]
    write_input(tmp_path / "in.jsonl", [*lines, *({"prompt": "a", **e} for e in extremes)])

    run(tmp_path, ScriptedBackend())

    assert len({*texts(tmp_path)}) == 1


def test_unknown_and_missing_fields(tmp_path: Path) -> None:
    """A name that means nothing is an error unless it is to be ignored; a prompt is needed."""
    unknown = "unknown_parameter"
    lines = [
        bad(unknown, temprature=1),
        bad(unknown, messages=[{"role": "user", "content": "a"}]),
        bad(unknown, chat_template="{{ ''.__class__ }}"),
        Bad({"prompt": "a", "x" * 10**6: 1}, unknown, "x" * 63 + "…"),
        Bad({"prompt": "a", "\x1b[2J": 1}, unknown, "\x1b[2J"),
        bad(unknown, "stream_options.usage", stream=True, stream_options={"usage": True}),
        Bad({"model": "fake"}, "missing_required_parameter", "prompt"),
        Bad({}, "missing_required_parameter", "prompt"),
    ]
    check_bad_lines(tmp_path, lines)

    write_input(tmp_path / "in.jsonl", [line.line for line in lines])
    codes = run(tmp_path, ignore_unknown=True).report.requests.failed_by_code
    assert codes == {"missing_required_parameter": 2}


def test_custom_ids(tmp_path: Path) -> None:
    """A custom_id is a string of 1 to 512 characters that no other line has; the first one runs."""
    repeated = Bad(
        {"prompt": "b", "custom_id": "twice"}, "duplicate_custom_id", "custom_id", "twice"
    )
    envelope = {"method": "POST", "url": URL, "body": {"prompt": "a"}}
    check_bad_lines(
        tmp_path,
        [
            *(Bad({"prompt": "a", "custom_id": v}, TYPE, "custom_id") for v in (5, True, [], {})),
            bad("empty_string", custom_id=""),
            bad("string_above_max_length", custom_id="x" * 513),
            bad("string_above_max_length", custom_id="x" * 10**6),
            Bad({**envelope}, "missing_required_parameter", "custom_id"),
            Bad({**envelope, "custom_id": None}, TYPE, "custom_id"),
            Bad({"prompt": "a", "custom_id": "twice", "n": 0}, BELOW, "n", "twice"),
            repeated,
            repeated,
        ],
    )


def test_models_urls_and_methods(tmp_path: Path) -> None:
    """A model that nobody has is not found; an envelope asks for completions by POST."""
    envelope: dict[str, object] = {"custom_id": "e", "method": "POST", "url": URL, "body": {}}
    gone = Bad({"prompt": "a", "model": "gone"}, "model_not_found", "model", status=404)
    check_bad_lines(
        tmp_path,
        [
            gone,
            Bad({**envelope, "url": "/v1/embeddings"}, "invalid_url", "url", "e"),
            Bad({**envelope, "custom_id": "f", "method": "GET"}, VALUE, "method", "f"),
            Bad({**envelope, "custom_id": "g", "method": 5}, TYPE, "method", "g"),
            Bad({**envelope, "custom_id": "h", "body": "x"}, TYPE, "body", "h"),
            Bad({**envelope, "custom_id": "i", "x": 1}, "unknown_parameter", "x", "i"),
            Bad({"custom_id": "j", "url": URL}, "missing_required_parameter", "method", "j"),
        ],
    )


@pytest.mark.parametrize("length", [0, 1, 511, 512])
def test_longest_names_are_accepted(tmp_path: Path, length: int) -> None:
    """A custom_id and a user of 512 characters are right, however many bytes they have."""
    line = {"prompt": "a", "user": "写" * length, "custom_id": "😀" * max(1, length)}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))

    assert run(tmp_path).report.requests.failed == 0
