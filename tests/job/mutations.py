"""Right lines made wrong in many ways by a seeded generator, for tests."""

import json
import random
from collections.abc import Callable, Iterator

TEXTS = [
    "", "a", "写一首诗", "😀👨‍👩‍👧", "\0", "\x1b[2J", "\u202eabc\u2066", "\u2028\x85\x0b\r",
    "\ufeff", "\ud800", "\udfff\ud800", "\uffff", "\U0010ffff", "a" * 300, "x" * 5000, "../../etc",
    "[{" * 50, '"\\', "NaN", "1_0", " 7 ", "٣", "fail", "%s{0}", "=1+1", "\\ud800", "gone",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "-0.0", "1", "-1", "2", "20", "21", "128", "129", "1.0", "1e0", "0.5", "1e-300",
    "5e-324", "1e308", "1e309", "-1e999", "NaN", "Infinity", "-Infinity", "1e", "01", "+1", ".5",
    "0x1", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "1" * 400,
    "9" * 4300, "9" * 4301, "-" + "9" * 5000, "1" + "0" * 400 + ".0",
]  # fmt: skip
NAMES = [
    "prompt", "model", "n", "stop", "user", "custom_id", "body", "url", "method", "x", "temprature",
    "stream", "stream_options", "metadata", "logit_bias", "best_of", "prompt ", "\ud800", "",
]  # fmt: skip
BOUNDED = [
    "n", "best_of", "max_tokens", "temperature", "top_p", "logprobs", "seed", "top_k", "min_p",
]  # fmt: skip
ENCODINGS = ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1", "utf-7", "utf-8-sig", "cp037"]


def mutated_lines(seed: int, count: int) -> Iterator[bytes]:
    """Yield lines that are not blank and have no line feed; a tenth of them is right."""
    source = random.Random(seed)
    for number in range(1, count + 1):
        line = _valid_line(source, number)
        if source.random() < 0.1:
            yield json.dumps(line, ensure_ascii=source.random() < 0.5).encode()
            continue
        for _ in range(source.choice([0, 0, 1, 1, 1, 2])):
            source.choice(STRUCTURES)(source, line)
        raw = _written(source, line)
        for _ in range(source.choice([0, 0, 0, 1, 1, 2])):
            raw = source.choice(DAMAGES)(source, raw)
        raw = raw.replace(b"\n", b"\r")
        yield raw if raw.strip() else b"{"


def _valid_line(source: random.Random, number: int) -> dict[str, object]:
    body: dict[str, object] = {"prompt": source.choice([f"p{number}", ["a", "b"], [1, 2], None])}
    options: dict[str, object] = {
        "model": source.choice(["fake", "other"]), "suffix": "z", "max_tokens": 4,
        "temperature": 0.5, "top_p": 0.9, "n": 2, "logprobs": 3, "echo": True, "best_of": 3,
        "stop": ["x", "yy"], "presence_penalty": -1, "logit_bias": {"5": 1.5, "17": -100},
        "user": "ada", "seed": 7, "stream": False, "top_k": 3, "min_p": 0.1, "stop_token_ids": [3],
        "metadata": {"a": ["b"]},
    }  # fmt: skip
    chosen = source.sample(sorted(options), source.randrange(5))
    body.update((name, options[name]) for name in chosen)
    custom_id = f"id-{number}"
    if source.random() < 0.3:
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    return body | ({"custom_id": custom_id} if source.random() < 0.5 else {})


def _value(source: random.Random, depth: int = 0) -> object:
    kind = source.randrange(9 if depth < 3 else 6)
    if kind < 2:
        return source.choice(TEXTS)
    if kind < 4:
        return _Number(source.choice(NUMBERS))
    if kind < 6:
        return source.choice([None, True, False])
    if kind == 6:
        return [_value(source, depth + 1) for _ in range(source.choice([0, 1, 2, 20]))]
    if kind == 7:
        return {source.choice(NAMES): _value(source, depth + 1) for _ in range(source.randrange(4))}
    return _Number("[" * (levels := source.choice([3, 63, 65, 500])) + "]" * levels)


class _Number(str):
    """A piece of JSON that is written as it stands."""

    __slots__ = ()


def _replace(source: random.Random, line: dict[str, object]) -> None:
    target = _target(source, line)
    target[source.choice([*target, source.choice(NAMES)])] = _value(source)


def _exceed(source: random.Random, line: dict[str, object]) -> None:
    _target(source, line)[source.choice(BOUNDED)] = _Number(source.choice(NUMBERS))


def _remove(source: random.Random, line: dict[str, object]) -> None:
    target = _target(source, line)
    target.pop(source.choice([*target, None]), None)  # type: ignore[call-overload]


def _rename(source: random.Random, line: dict[str, object]) -> None:
    target = _target(source, line)
    for name in list(target)[:1]:
        target[source.choice(NAMES)] = target.pop(name)


def _wrap(source: random.Random, line: dict[str, object]) -> None:
    target = _target(source, line)
    for name in source.sample(sorted(target), min(1, len(target))):
        target[name] = source.choice([[target[name]], {name: target[name]}, [[target[name]] * 3]])


def _grow(source: random.Random, line: dict[str, object]) -> None:
    name = source.choice(["prompt", "stop", "logit_bias", "custom_id"])
    size = source.choice([17, 513, 2049, 5000])
    grown = {"logit_bias": {str(index): 1 for index in range(size)}, "custom_id": "x" * size}
    _target(source, line)[name] = grown.get(name, ["x"] * size)


def _target(source: random.Random, line: dict[str, object]) -> dict[str, object]:
    body = line.get("body")
    return body if isinstance(body, dict) and source.random() < 0.7 else line


def _written(source: random.Random, line: dict[str, object]) -> bytes:
    pieces = [f"{json.dumps(name)}:{_text(source, value)}" for name, value in line.items()]
    if pieces and source.random() < 0.05:
        pieces.append(source.choice(pieces))  # a key twice
    source.shuffle(pieces)
    separator = source.choice([",", ", ", " ,\t", ",\r"])
    return f"{{{separator.join(pieces)}}}".encode("utf-8", "surrogatepass")


def _text(source: random.Random, value: object) -> str:
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        parts = (f"{json.dumps(name)}:{_text(source, item)}" for name, item in value.items())
        return f"{{{','.join(parts)}}}"
    if isinstance(value, list):
        return f"[{','.join(_text(source, item) for item in value)}]"
    return json.dumps(value, ensure_ascii=source.random() < 0.7)


def _cut(source: random.Random, raw: bytes) -> bytes:
    return raw[: source.randrange(len(raw) + 1)]


def _overwrite(source: random.Random, raw: bytes) -> bytes:
    place = source.randrange(len(raw) + 1)
    return raw[:place] + source.randbytes(source.choice([1, 1, 2, 4])) + raw[place + 1 :]


def _insert(source: random.Random, raw: bytes) -> bytes:
    place = source.randrange(len(raw) + 1)
    signs = [
        b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\0", b"\\u12", b"\xff", b"//", b"e9",
    ]  # fmt: skip
    return raw[:place] + source.choice(signs) + raw[place:]


def _encode(source: random.Random, raw: bytes) -> bytes:
    return raw.decode("utf-8", "replace").encode(source.choice(ENCODINGS), "replace")


def _join(source: random.Random, raw: bytes) -> bytes:
    return source.choice(
        [raw + raw, raw + b"," + raw, b"[" + raw + b"]", b"\xef\xbb\xbf" + raw, b"null"]
    )


STRUCTURES: list[Callable[[random.Random, dict[str, object]], None]] = [
    _replace, _replace, _exceed, _exceed, _remove, _rename, _wrap, _grow,
]  # fmt: skip
DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [_cut, _overwrite, _insert, _encode, _join]
