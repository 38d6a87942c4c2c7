"""Inputs of crash tests: lines with every kind of parameter among bad, blank and equal ones."""

import json
import random

PROSE = "the sea was calm and old men told of ships that never came home again by night"
VARIANTS: tuple[dict[str, object], ...] = (
    {},
    {"temperature": 0},
    {"n": 2, "best_of": 4, "top_p": 0.9, "guided_json": {"type": ["array", "string"]}},
    {"logprobs": 3, "echo": True},
    {"stop": ["e", "ab"], "user": "ada"},
    {"logit_bias": {"5": -50, "9": 3}, "presence_penalty": 0.5, "user": "grace"},
    {"stream": True, "stream_options": {"include_usage": True}, "guided_regex": "[a-h ]{2,20}"},
    {"seed": 11, "top_k": 20, "min_tokens": 3},
    {"prompt": ["tell me of ships", "tell me of men"], "echo": True, "max_tokens": 3},
    {"prompt": "equal lines", "temperature": 0, "max_tokens": 24},
)
"""What lines ask for, in turn, beside a random prompt and length."""

BAD_LINES = (
    b"nonsense",
    b'{"prompt":1.5}',
    b'{"prompt":"a","max_tokens":-1}',
    b'{"prompt":"b","unheard_of":true}',
    b'\xff\xfe{"prompt":"c"}',
    b"",
)


def mixed_lines(num_good: int, max_tokens: int, num_bad: int = 40) -> bytes:
    """Write an input whose good lines ask for up to max_tokens new tokens; always the same."""
    draw = random.Random(f"{num_good} {max_tokens}")
    lines = [_good_line(draw, number, max_tokens) for number in range(num_good)]
    for number in range(num_bad):
        lines.insert(draw.randrange(len(lines)), BAD_LINES[number % len(BAD_LINES)])
    return b"".join(line + b"\n" for line in lines)


def _good_line(draw: random.Random, number: int, max_tokens: int) -> bytes:
    body: dict[str, object] = {
        "prompt": " ".join(draw.choices(PROSE.split(), k=draw.randint(2, 20))),
        "max_tokens": draw.randint(max(1, max_tokens // 2), max_tokens),
        **VARIANTS[number % len(VARIANTS)],
    }
    if number % 7 == 0:
        url = "/v1/completions"
        line = {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": body}
        return json.dumps(line).encode()
    return json.dumps(body).encode()
