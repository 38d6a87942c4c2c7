"""Laws of logits that are no numbers: the request fails, no other one is touched."""

from collections.abc import Callable

import numpy as np
import pytest

from aobatch.arrays import Logits
from aobatch.engine.sequence import Result
from aobatch.testing import VOCAB_SIZE, random_script


def broken_at(text: str, value: float) -> Callable[[tuple[int, ...]], Logits]:
    """Make a script that gives `value` somewhere behind each sequence that ends with a text."""

    def script(token_ids: tuple[int, ...]) -> Logits:
        logits = random_script(token_ids)
        if bytes(token for token in token_ids if token < VOCAB_SIZE - 1).endswith(text.encode()):
            logits[7] = value
        return logits

    return script


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"prompt": "a bad!"}, id="first token"),
        pytest.param({"prompt": "bad! end", "echo": True, "logprobs": 2}, id="prompt's logprobs"),
        pytest.param({"prompt": "a", "suffix": " bad! b"}, id="suffix"),
    ],
)
def test_numbers_that_are_none_fail_their_request_alone(
    complete: Callable[..., list[Result]], value: float, body: dict[str, object]
) -> None:
    """NaN and infinity end a request with numerical_error; its neighbours are as without it."""
    good = {"prompt": "good", "logprobs": 1, "echo": True}
    (expected,) = complete(good, script=random_script)

    failed, other = complete(body, good, script=broken_at("bad!", value))

    assert failed.error is not None
    assert failed.error.code == "numerical_error"
    assert other.choices == expected.choices
