"""Laws of lines whose bytes are wrong, over whole jobs: one error for each, the others answered."""

import codecs
import json
from pathlib import Path

from bad_lines import Bad, check_bad_lines
from job_files import output, run, texts

PROMPT = b'{"prompt": "a"}'


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    """Truncated lines, two objects, comments and words are one error each."""
    raws = [
        b'{"prompt": "a"', b'{"prompt": "a', b'{"prompt": ', b'{"prompt', b"{", b"[", b'"', b"\\",
        b'{"prompt": "a"} {"prompt": "b"}', b'{"prompt": "a"}{"prompt": "b"}', b'{"prompt": "a"}]',
        b"{'prompt': 'a'}", b'{"prompt": "a",}', b'{"prompt": "a"} // b', b"{prompt: 1}", b"nil",
        b'{"prompt": "\\x41"}', b'{"prompt": "\\u12"}', b'{"n": 01}', b'{"n": +1}', b'{"n": .5}',
    ]  # fmt: skip

    check_bad_lines(tmp_path, [Bad(raw, "invalid_json_line") for raw in raws])


def test_json_that_is_no_object(tmp_path: Path) -> None:
    """A line is an object, nothing else."""
    raws = [b"[]", b"[{}]", b'"prompt"', b"5", b"null", b"true", b"-0.0", b"[[[[]]]]"]

    check_bad_lines(tmp_path, [Bad(raw, "invalid_type") for raw in raws])


def test_lines_that_are_no_utf8(tmp_path: Path) -> None:
    """Stray bytes, cut characters and other encodings are one error each; none is guessed."""
    raws = [
        b"\xff", b'{"prompt": "\xff"}', b'{"prompt": "\xc3"}', b'{"prompt": "\xc0\x80"}',
        b'{"prompt": "\xed\xa0\x80"}', b'{"prompt": "\xf4\x90\x80\x80"}', b'{"prompt": "\xe9"}',
        '{"prompt": "a"}'.encode("utf-16"), '{"prompt": "写"}'.encode("utf-16-be"),
        '{"prompt": "a"}'.encode("utf-32"), codecs.BOM_UTF16_BE, codecs.BOM_UTF32_LE,
    ]  # fmt: skip

    assert not any(b"\n" in raw for raw in raws)
    check_bad_lines(tmp_path, [Bad(raw, "invalid_utf8") for raw in raws])


def test_byte_order_marks_are_dropped_at_the_start_of_a_line(tmp_path: Path) -> None:
    """Marks ahead of a line, where files were joined, are no error; anywhere else they are."""
    mark = codecs.BOM_UTF8
    joined = PROMPT + mark + PROMPT
    lines = [mark + PROMPT, mark + PROMPT, PROMPT + mark, mark + mark + PROMPT, mark, joined]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))

    run(tmp_path)

    codes = [line.get("error", {}).get("code") for line in output(tmp_path)]  # type: ignore[attr-defined]
    assert codes == [None, None, "invalid_json_line", None, "invalid_json_line"]
    assert "files were joined without a line feed" in output(tmp_path)[-1]["error"]["message"]


def test_line_feeds_alone_end_lines(tmp_path: Path) -> None:
    """CRLF ends a line too; separators of other systems are text, raw and escaped."""
    separators = "\u2028\u2029\u0085"
    escaped = json.dumps("\r\x0b\x0c\x1c\x1d\x1e" + separators)
    lines = [PROMPT + b"\r", f'{{"prompt": "{separators}"}}\r'.encode(), b"\r", b" \t\r"]
    lines += [f'{{"prompt": {escaped}}}'.encode(), b"", PROMPT]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))

    report = run(tmp_path).report

    assert (report.requests.total, report.requests.failed) == (4, 0)
    assert texts(tmp_path) == ["[a]", f"[{separators}]", f"[{json.loads(escaped)}]", "[a]"]


def test_an_answer_is_one_line_for_every_reader(tmp_path: Path) -> None:
    """What Python's splitlines splits at stands in no answer, error or event as it is."""
    ends = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
    given = [
        {"custom_id": f"a{ends}", "prompt": ends, "stream": True},
        {"custom_id": f"b{ends}", "prompt": ends, ends: 1},
        {"method": "POST", "url": "/v1/completions", "custom_id": f"c{ends}", "body": {ends: 1}},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")

    run(tmp_path)

    found = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert len(found.splitlines()) == len(given)
    lines = [json.loads(line) for line in found.splitlines()]
    assert [line["custom_id"] for line in lines] == [line["custom_id"] for line in given]
    assert lines[0]["choices"][0]["text"] == f"[{ends}]"
    events = (tmp_path / "out.jsonl.stream" / "000001.sse").read_text(encoding="utf-8")
    assert events.splitlines() == events.removesuffix("\n").split("\n")


def test_failed_envelope_without_an_id_says_its_line(tmp_path: Path) -> None:
    """Whoever joins by custom_id has the line where there is none, as in bare lines."""
    envelope = {"method": "POST", "url": "/v1/completions", "body": {"prompt": "a", "n": 0}}
    given = [{"prompt": "a"}, envelope, envelope | {"custom_id": 7}, envelope | {"custom_id": "x"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, given)), encoding="utf-8")

    run(tmp_path)

    assert [line.get("line") for line in output(tmp_path)] == [None, 2, 3, None]


def test_raw_control_characters_are_no_json(tmp_path: Path) -> None:
    """NUL, a lone carriage return, a vertical tab or an escape must be escaped in a string."""
    raws = [f'{{"prompt": "a{chr(code)}b"}}'.encode() for code in range(32) if code != 10]
    raws += [b'\x00{"prompt": "a"}', b'{"prompt": "a"}\x00', b"\x00", b'{"prompt":\x0b"a"}']

    check_bad_lines(tmp_path, [Bad(raw, "invalid_json_line") for raw in raws])


def test_escaped_control_characters_are_text(tmp_path: Path) -> None:
    """What JSON escapes reaches the model and comes back, NUL too."""
    prompt = "".join(map(chr, range(32))) + "\x7f\x9b"
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": prompt, "custom_id": prompt}))

    run(tmp_path)

    (line,) = output(tmp_path)
    assert (line["choices"][0]["text"], line["custom_id"]) == (f"[{prompt}]", prompt)


def test_half_characters_anywhere(tmp_path: Path) -> None:
    """A lone surrogate in a prompt, stop, name or key is one error; custom_id stays readable."""
    half = "\ud800"
    bad = [
        Bad({"prompt": half}, "invalid_unicode"),
        Bad({"prompt": ["a", half]}, "invalid_unicode"),
        Bad({"prompt": "a", "custom_id": "x", "stop": ["a", half]}, "invalid_unicode", None, "x"),
        Bad({"prompt": "a", "custom_id": f"x{half}"}, "invalid_unicode"),
        Bad({"prompt": "a", "user": "\udfff"}, "invalid_unicode"),
        Bad({"prompt": "a", "model": half}, "invalid_unicode"),
        Bad({"prompt": "a", half: 1}, "invalid_unicode"),
        Bad({"prompt": "a", "logit_bias": {half: 1}}, "invalid_unicode"),
        Bad({"prompt": "a", "metadata": {"a": [{"b": half}]}}, "invalid_unicode"),
        Bad(rb'{"prompt": "\ude00\ud83d"}', "invalid_unicode"),
        Bad(rb'{"\ud800": 1, "\ud800": 2}', "invalid_unicode"),
    ]

    check_bad_lines(tmp_path, bad)


def test_deep_nesting(tmp_path: Path) -> None:
    """More than 64 levels, up to 200,000 of them, are refused before they are parsed."""
    deep = [
        b'{"prompt": ' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
        b"[" * 200_000,
        b'[{"a":' * 1000,
    ]
    allowed = b'{"prompt": "a", "metadata": ' + b"[" * 63 + b"]" * 63 + b"}"
    check_bad_lines(tmp_path, [Bad(raw, "too_deep") for raw in deep])

    (tmp_path / "in.jsonl").write_bytes(allowed)
    assert run(tmp_path).report.requests.failed == 0


def test_repeated_keys(tmp_path: Path) -> None:
    """An object that says a thing twice is refused, wherever it stands."""
    bad = [
        Bad(b'{"prompt": "a", "prompt": "a"}', "duplicate_key", "prompt"),
        Bad(b'{"custom_id": "k", "n": 1, "n": 2, "prompt": ""}', "duplicate_key", "n", "k"),
        Bad(b'{"custom_id": "a", "custom_id": "b", "prompt": ""}', "duplicate_key", "custom_id"),
        Bad(b'{"prompt": "a", "logit_bias": {"7": 1, "7": 2}}', "duplicate_key", "7"),
        Bad(b'{"prompt": "a", "\\u0070rompt": "b"}', "duplicate_key", "prompt"),
        Bad(b'{"' + b"x" * 99 + b'": 1, "' + b"x" * 99 + b'": 1}', "duplicate_key", "x" * 63 + "…"),
    ]

    check_bad_lines(tmp_path, bad)
