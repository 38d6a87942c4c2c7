"""Laws of requests with a shape in the engine: endings, batches, and all that may stand beside."""

import json
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from schema_table import CHOICES, GRAMMARS, REGEXES, SCHEMAS

from aobatch.api.request import Limits, Parser, Request
from aobatch.arrays import Logits
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.preparation import Preparation
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta
from aobatch.shapes.matching import Masker
from aobatch.testing import (
    END_TOKEN,
    LIMITS,
    VOCAB_SIZE,
    ByteTokenizer,
    Script,
    ScriptedRunner,
    random_script,
    scripted_engine,
)

Body = dict[str, object]


def parse(*bodies: Body) -> list[Request]:
    """Make requests of bodies that are right."""
    parser = Parser({}, Limits())
    lines = [parser.parse(line, json.dumps(body).encode()) for line, body in enumerate(bodies, 1)]
    assert all(isinstance(line, Request) for line in lines), lines
    return lines  # type: ignore[return-value]


def compute(
    *bodies: Body, script: Script = random_script, config: EngineConfig | None = None
) -> list[Result]:
    """Compute bodies, results in their order."""
    results = scripted_engine(script, config).run(parse(*bodies))
    return sorted(results, key=lambda result: result.request.line)


def wishing(*wishes: int) -> Script:
    """Make a model that wants the first of some tokens most, then the next, whatever was said."""

    def script(_: tuple[int, ...]) -> Logits:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        logits[[*wishes]] = np.arange(len(wishes), 0, -1)
        return logits

    return script


GREEDY: Body = {"prompt": "x", "temperature": 0, "max_tokens": 9}


@pytest.mark.parametrize(
    ("shape", "script", "text", "reason", "num_tokens"),
    [
        pytest.param({"guided_regex": "a{2,4}"}, wishing(END_TOKEN, 97), "aa", "stop", 3, id="may"),
        pytest.param({"guided_regex": "a{2,4}"}, wishing(97), "aaaa", "stop", 4, id="must"),
        pytest.param({"guided_regex": "a*"}, wishing(97), "a" * 9, "length", 9, id="never"),
        pytest.param({"guided_regex": "a*"}, wishing(END_TOKEN), "", "stop", 1, id="at once"),
        pytest.param({"guided_regex": "a{9}"}, wishing(97), "a" * 9, "stop", 9, id="at the last"),
        pytest.param({"guided_json": {"const": 5}}, wishing(END_TOKEN), "5", "stop", 1, id="json"),
        pytest.param(
            {"guided_regex": "a+b+", "stop": "b"}, wishing(98, 97), "a", "stop", 2, id="stop string"
        ),
        pytest.param(
            {"guided_regex": "a+b+", "stop_token_ids": [97]}, wishing(97), "", "stop", 1, id="token"
        ),
    ],
)
def test_answers_end_where_their_shape_does(
    shape: Body, script: Script, text: str, reason: str, num_tokens: int
) -> None:
    """The end token is possible exactly where the shape may end; where it must, no step is left."""
    (result,) = compute(GREEDY | shape, script=script)
    (choice,) = result.choices

    assert (choice.text, choice.finish_reason) == (text, reason)
    assert result.usage.completion_tokens == num_tokens


def test_special_tokens_are_no_text() -> None:
    """A token that stands for no text is not written, though a string could hold its name."""
    (result,) = compute(GREEDY | {"guided_regex": ".{3,5}"}, script=wishing(END_TOKEN))

    assert "<end>" not in result.choices[0].text
    assert len(result.choices[0].text) == 3


MIXED: list[Body] = [
    *({"prompt": "s", "guided_json": schema} for schema in SCHEMAS.values()),
    *({"prompt": "r", "guided_regex": pattern, "n": 2} for pattern in REGEXES.values()),
    *({"prompt": "g", "guided_grammar": grammar} for grammar in GRAMMARS.values()),
    {"prompt": "greedy", "guided_choice": CHOICES, "temperature": 0, "n": 2},
    {"prompt": "best", "guided_regex": "[a-z]{1,9}", "n": 2, "best_of": 4},
    {"prompt": "listed", "guided_choice": CHOICES, "echo": True, "logprobs": 3},
    {"prompt": "scored", "guided_choice": CHOICES, "echo": True, "logprobs": 1, "max_tokens": 0},
    {"prompt": ["two", "prompts"], "response_format": {"type": "json_object"}, "top_p": 0.9},
    {"prompt": "biased", "guided_regex": "[ab]*", "logit_bias": {"97": 4}, "max_tokens": 20},
    {"prompt": "penalised", "guided_regex": "[ab]*", "frequency_penalty": 2, "max_tokens": 20},
    {"prompt": "streamed", "guided_regex": "[a-z]{1,30}", "stream": True, "stop": "e"},
    {"prompt": "hard", "guided_regex": "(.*a.{20}b.*)|(.*c.{20}d.*)"},
    *({"prompt": f"free {number}", "max_tokens": 12} for number in range(9)),
]


def outcomes(results: list[Result]) -> dict[str, object]:
    """Give everything of the results that a user sees, by the requests' keys."""
    return {
        r.request.key: (r.choices, r.usage, r.error and (r.error.message, r.error.code))
        for r in results
    }


def test_batches_and_order_change_nothing() -> None:
    """Shapes among other requests, in any batch and order, give the same answers."""
    bodies = [{"max_tokens": 40, "temperature": 1.3} | body for body in MIXED]
    expected = outcomes(compute(*bodies, config=EngineConfig(max_num_seqs=1)))
    shuffled = random.Random(0).sample(bodies, len(bodies))
    for size, lanes, order in ((16, 2, bodies), (64, 3, shuffled)):
        config = EngineConfig(max_num_seqs=size, num_lanes=lanes)

        assert outcomes(compute(*order, config=config)) == expected


def test_what_becomes_too_much_fails_alone() -> None:
    """A shape that outgrows its limits in the middle of an answer is that request's error."""
    unclear = GREEDY | {"guided_grammar": 'start: s\ns: s s s | "a" |', "max_tokens": 999}
    script = wishing(97)
    bad, good = compute(unclear, GREEDY | {"guided_regex": "a{3}"}, script=script)

    assert bad.error is not None
    assert (bad.error.status_code, bad.error.param) == (400, "guided_grammar")
    assert "can be read in too many ways" in bad.error.message
    assert good.choices[0].finish_reason == "stop"


def test_answers_without_a_shape_are_what_they_were() -> None:
    """Beside requests with one, others have the bytes that they have alone."""
    bodies = [GREEDY | {"prompt": f"p{number}", "temperature": 1} for number in range(6)]
    expected = [result.choices for result in compute(*bodies)]
    beside = [GREEDY | {"guided_regex": ".+"}] * 6

    assert [result.choices for result in compute(*bodies, *beside)[:6]] == expected


def test_streams_of_shapes_are_their_answers() -> None:
    """The pieces joined are the answer, also where the last token is text and ends it."""
    deltas: list[Delta] = []
    bodies = [
        {"prompt": "s", "guided_json": schema, "stream": True, "max_tokens": 30, "logprobs": 1}
        for schema in SCHEMAS.values()
    ]
    results = [*scripted_engine().run(parse(*bodies), deltas.append)]
    for result in results:
        pieces = [d.choice for d in deltas if d.request.key == result.request.key]
        (choice,) = result.choices

        assert "".join(piece.text for piece in pieces) == choice.text
        assert pieces[-1].finish_reason == choice.finish_reason
        assert choice.logprobs is not None
        listed = [token for piece in pieces if piece.logprobs for token in piece.logprobs.tokens]
        assert listed == choice.logprobs.tokens


def test_logprobs_are_the_models_own() -> None:
    """Raw ones know no shape; processed ones are of what it leaves."""
    body = GREEDY | {"guided_regex": "[ab]", "logprobs": 2}
    found = {}
    for mode in ("raw", "processed"):
        config = EngineConfig(logprobs_mode=mode)  # type: ignore[arg-type]
        (result,) = compute(body, script=wishing(99, 97), config=config)
        assert result.choices[0].logprobs is not None
        found[mode] = result.choices[0].logprobs.top_logprobs[0] or {}

    assert [*found["raw"]] == ["a", "c"]
    assert [*found["processed"]] == ["a", "b"]
    total = np.logaddexp(found["processed"]["a"], found["processed"]["b"])
    assert total == pytest.approx(0, abs=1e-5)


def test_model_without_an_end_cannot_keep_a_shape() -> None:
    """It is told so; without a shape it answers."""
    limits = replace(LIMITS, eos_token_ids=())
    engine = Engine(ScriptedRunner(), ByteTokenizer(), limits, EngineConfig())
    shaped, free = engine.complete(["a"], guided_regex="b")[0], engine.complete(["a"])[0]

    assert shaped.error is not None
    assert "this model has no end token" in shaped.error.message
    assert free.error is None


def test_requests_with_a_shape_are_counted() -> None:
    """Each that asks for one, whether it is computed or shares an equal one's result."""
    engine = scripted_engine()
    list(engine.run(parse(*[GREEDY | {"guided_regex": "a"}] * 3, GREEDY)))

    assert engine.statistics.requests_shaped == 3


def script_of_nothing(_: tuple[int, ...]) -> Logits:
    """Find only one token possible, which no shape of the test allows."""
    logits = np.full(VOCAB_SIZE, -np.inf, np.float32)
    logits[122] = 0
    return logits


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_that_allows_nothing_of_the_shape_is_told(temperature: float) -> None:
    """No answer is made up where every token of the shape has the logit -inf."""
    body = GREEDY | {"guided_regex": "a", "temperature": temperature}
    (result,) = compute(body, script=script_of_nothing)

    assert result.error is not None
    assert result.error.code == "numerical_error"


Make = Callable[[], str]


def chain(write: Callable[[int], str], count: int) -> str:
    """Write rules that name each other, one after the other."""
    return "\n".join(write(number) for number in range(count))


def definitions(count: int) -> str:
    """Write a schema whose definitions refer to each other in a row."""
    tables = {
        f"a{n}": {"type": "array", "items": {"$ref": f"#/$defs/a{n + 1}"}} for n in range(count)
    }
    return json.dumps({"$ref": "#/$defs/a0", "$defs": {**tables, f"a{count}": {"type": "null"}}})


def test_long_rows_of_rules_are_followed() -> None:
    """Recursion through thousands of rules ends no process."""
    bodies: list[Body] = [
        {"guided_json": definitions(3900)},
        {"guided_grammar": f'start: r0\n{chain(lambda n: f"r{n}: r{n + 1}", 3500)}\nr3500: "a"'},
        {"guided_grammar": f'start: T0\n{chain(lambda n: f"T{n}: T{n + 1}", 3500)}\nT3500: "a"'},
    ]
    results = compute(*(GREEDY | body for body in bodies))

    assert [result.error for result in results] == [None] * 3
    assert results[1].choices[0].text == results[2].choices[0].text == "a"


def test_a_shaped_answer_to_a_chat_may_end_as_the_format_ends_turns() -> None:
    turn_end = VOCAB_SIZE

    class Turns(ByteTokenizer):
        token_bytes = (*ByteTokenizer.token_bytes, b"<|im_end|>")
        special_token_ids = (END_TOKEN, turn_end)

    limits = replace(LIMITS, vocab_size=VOCAB_SIZE + 1)
    preparation = Preparation(Turns(), limits, clamp_max_tokens=False)
    chat = {"messages": [{"role": "user", "content": "x"}], "guided_regex": "a*"}

    def allowed(body: Body) -> set[int]:
        (request,) = parse(body)
        (group,) = preparation.prepare(request).groups
        assert group.matcher
        (bits,) = Masker(limits.vocab_size).allowed([group.matcher.deep_copy()])
        return {index for index in range(limits.vocab_size) if bits[index // 32] >> index % 32 & 1}

    assert allowed(chat) == {ord("a"), END_TOKEN, turn_end}
    assert allowed({"prompt": "x", "guided_regex": "a*"}) == {ord("a"), END_TOKEN}
