"""Requests of a program, which come from no line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from aobatch.api import faults
from aobatch.api.json_line import is_unicode
from aobatch.api.keys import KeyMaker
from aobatch.api.request import Request
from aobatch.api.validation import BodyValidator, Limits

PromptLike: TypeAlias = str | Sequence[int]
"""A text, or token ids."""


def requests_of(
    prompts: Iterable[PromptLike], parameters: Mapping[str, object]
) -> Iterator[Request]:
    """Yield a request a prompt, numbered from 1; RequestError if a parameter or prompt is wrong.

    They have the keys, and so the draws, of a file with the same requests.
    """
    validator = BodyValidator(parameters, Limits(), ignores_unknown=False)
    return _requests([prompts] if isinstance(prompts, str) else prompts, validator)


def _requests(prompts: Iterable[PromptLike], validator: BodyValidator) -> Iterator[Request]:
    keys = KeyMaker()
    for number, prompt in enumerate(prompts, 1):
        if not is_unicode(prompt):
            raise faults.invalid_unicode()
        value = prompt if isinstance(prompt, str) else [int(token_id) for token_id in prompt]
        body = validator.validate({"prompt": value})
        yield Request(number, None, False, body, keys.make_key(None, body))
