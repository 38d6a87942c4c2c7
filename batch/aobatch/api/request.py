"""Requests: one line of a job's input becomes a checked request or says why it cannot."""

import operator
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from types import MappingProxyType
from typing import TypeAlias, TypedDict

import msgspec

from aobatch.api import errors
from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.json_line import Decoded, decode_line, is_unicode
from aobatch.api.kinds import Chat, Text
from aobatch.api.validation import BodyValidator, Limits
from aobatch.errors import RequestError

__all__ = ["CompletionBody", "FailedLine", "Limits", "Parser", "Request"]

ENDPOINT, CHAT_ENDPOINT = "/v1/completions", "/v1/chat/completions"

CUSTOM_ID = Text(1, 512)

ENVELOPE_FIELDS = ("custom_id", "method", "url", "body")
"""Any of the last three makes a line an envelope, and then all four must be there."""

PromptLike: TypeAlias = str | Sequence[int] | Sequence[Mapping[str, object]] | None
"""A text, token ids, the messages of a chat, or nothing, which is the start of a document."""


class Parameters(TypedDict, total=False):
    """The parameters of a request beside its prompt, as programs give them."""

    suffix: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    n: int | None
    stream: bool | None
    stream_options: Mapping[str, bool] | None
    logprobs: int | None
    echo: bool | None
    stop: str | list[str] | None
    presence_penalty: float | None
    frequency_penalty: float | None
    best_of: int | None
    logit_bias: Mapping[str, float] | None
    user: str | None
    seed: int | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    min_tokens: int | None
    ignore_eos: bool | None
    stop_token_ids: list[int] | None
    response_format: Mapping[str, object] | None
    structured_outputs: Mapping[str, object] | None
    guided_json: Mapping[str, object] | str | None
    guided_regex: str | None
    guided_choice: list[str] | None
    guided_grammar: str | None


class Request(msgspec.Struct, frozen=True, gc=False):
    """A checked request."""

    line: int
    """Counted from 1."""
    custom_id: str | None
    is_envelope: bool
    """Whether the output line is a batch envelope too."""
    body: CompletionBody
    key: str
    """32 hexadecimal digits that name the request within its job, wherever it stands."""
    is_awaited: bool = False
    """Whether somebody waits for the answer, so that it is computed ahead of others."""

    @property
    def is_chat(self) -> bool:
        """Whether its response is that of a chat."""
        return isinstance(self.body.prompts[0], Chat)


class FailedLine(msgspec.Struct, frozen=True, gc=False):
    """A line that has an error instead of a completion."""

    line: int
    custom_id: str | None
    """None also if it could not be read."""
    is_envelope: bool
    error: ErrorObject
    status_code: int
    model: str | None = None
    """The model that it asks for, "" if for none; None if it could not be read."""
    user: str | None = None
    file: str | None = None
    """The input that it is in, if there are several."""
    line_in_file: int = 0

    @classmethod
    def of(
        cls,
        line: int,
        custom_id: str | None,
        is_envelope: bool,
        error: RequestError,
        told: tuple[str | None, str | None] = (None, None),
    ) -> "FailedLine":
        """Make the failed line of an error, with its model and user as far as they are known."""
        return cls(line, custom_id, is_envelope, error_object(error), error.status_code, *told)


class Parser:
    """Parses the lines of one job in their order; it remembers what the job had so far.

    The first error of a line is reported, in this order: UTF-8, depth, JSON, repeated keys, half
    surrogate pairs, custom_id, envelope, then what BodyValidator checks.
    """

    def __init__(
        self,
        defaults: Mapping[str, object],
        limits: Limits,
        ignore_unknown: bool = False,
        overrides: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Keep what lines may leave out, and what replaces theirs; RequestError if it is wrong."""
        self._ignores_unknown = ignore_unknown
        self._validator = BodyValidator(
            defaults, limits, ignores_unknown=ignore_unknown, overrides=overrides
        )
        self._keys = KeyMaker()

    def parse(self, line: int, raw: bytes) -> Request | FailedLine:
        """Parse a line into its request or its first error; never raises for what it holds."""
        try:
            decoded = decode_line(raw)
        except RequestError as error:
            return FailedLine.of(line, None, False, error)
        return self._open(line, decoded, None)

    def parse_fields(
        self, line: int, fields: dict[str, object], error: RequestError | None = None
    ) -> Request | FailedLine:
        """Do the same for a line that is decoded already, with what was wrong about it, if any."""
        return self._open(line, Decoded(fields), error)

    def _open(
        self, line: int, decoded: Decoded, known: RequestError | None
    ) -> Request | FailedLine:
        fields = decoded.fields
        is_envelope = "body" in fields or "method" in fields or "url" in fields
        custom_id = _readable_custom_id(decoded)
        # A line that fails uses up its custom_id too: the output has each only once.
        is_repeated = custom_id is not None and not self._keys.claim(custom_id)
        try:
            if known is not None:
                raise known
            decoded.check()
            if is_repeated:
                raise errors.duplicate_custom_id(str(custom_id), is_envelope=is_envelope)
            body = self._validated(self._body_of(fields, is_envelope), fields)
        except RequestError as error:
            asked = fields.get("body") if is_envelope else fields
            told = self._validator.told(asked) if isinstance(asked, dict) else (None, None)
            return FailedLine.of(line, custom_id, is_envelope, error, told)
        return Request(line, custom_id, is_envelope, body, self._keys.make_key(custom_id, body))

    def _validated(
        self, body: Mapping[str, object], fields: Mapping[str, object]
    ) -> CompletionBody:
        """Check a body as its envelope's url asks, a bare one by what it has."""
        is_bare = body is not fields.get("body")
        has_messages = "messages" in body and "prompt" not in body
        if has_messages if is_bare else fields.get("url") == CHAT_ENDPOINT:
            return self._validator.validate_chat(body)
        return self._validator.validate(body)

    def _body_of(self, fields: dict[str, object], is_envelope: bool) -> Mapping[str, object]:
        """Take the body out of a line; RequestError if the custom_id or the envelope is wrong."""
        custom_id = fields.get("custom_id")
        if custom_id is not None or (is_envelope and "custom_id" in fields):
            CUSTOM_ID("custom_id", custom_id)
        if not is_envelope:
            return {name: value for name, value in fields.items() if name != "custom_id"}
        for name in fields:
            if name not in ENVELOPE_FIELDS and not self._ignores_unknown:
                raise errors.unknown_parameter(name, ENVELOPE_FIELDS)
        for name in ENVELOPE_FIELDS:
            if name not in fields:
                raise errors.missing_parameter(name)
        method, url = Text()("method", fields["method"]), Text()("url", fields["url"])
        if method != "POST":
            reason = f"expected 'POST', but got '{errors.shorten(method)}' instead."
            raise errors.invalid_value(reason, "method")
        if url not in (ENDPOINT, CHAT_ENDPOINT):
            raise errors.invalid_url(url, f"{ENDPOINT}' or '{CHAT_ENDPOINT}")
        body = fields["body"]
        if type(body) is not dict:
            raise errors.invalid_type(body, "an object", "body")
        return body


def _readable_custom_id(decoded: Decoded) -> str | None:
    """Read the custom_id of a line that may be wrong; one that is not right is None."""
    custom_id = decoded.fields.get("custom_id")
    if custom_id is None or "custom_id" in decoded.repeated_keys:
        return None
    try:
        readable = CUSTOM_ID("custom_id", custom_id)
    except RequestError:
        return None
    return None if decoded.has_lone_surrogate and not is_unicode(readable) else readable


def requests_of(
    prompts: PromptLike | Iterable[PromptLike], parameters: Mapping[str, object]
) -> Iterator[Request]:
    """Yield a request a prompt, numbered from 1; RequestError if a parameter or prompt is wrong.

    They have the keys, and so the draws, of a file with the same requests.
    """
    validator = BodyValidator(parameters, Limits(), ignores_unknown=False)
    given = [prompts] if prompts is None or isinstance(prompts, str) else prompts
    if not isinstance(given, Iterable):
        raise errors.invalid_type(given, "a prompt or several", "prompts")
    return _requests(given, validator)


def _requests(prompts: Iterable[object], validator: BodyValidator) -> Iterator[Request]:
    keys = KeyMaker()
    for number, prompt in enumerate(prompts, 1):
        body = _body_of_prompt(prompt, validator)
        yield Request(number, None, False, body, keys.make_key(None, body))


def _body_of_prompt(prompt: object, validator: BodyValidator) -> CompletionBody:
    if not is_unicode(prompt):
        raise errors.invalid_unicode()
    if prompt is None or isinstance(prompt, str):
        return validator.validate({"prompt": prompt})
    if not isinstance(prompt, Iterable):
        raise errors.invalid_type(prompt, "a text, token ids or messages", "prompt")
    items = list(prompt)
    if items and all(isinstance(item, Mapping) for item in items):
        return validator.validate_chat({"messages": [dict(item) for item in items]})
    # Token ids may be those of an array of numpy.
    ids = [operator.index(item) if hasattr(item, "__index__") else item for item in items]
    return validator.validate({"prompt": ids})


class HashSet:
    """A set of 64-bit hashes that takes 12 to 24 bytes an entry, where Python's takes 80."""

    def __init__(self) -> None:
        # Open addressing; zero marks a free place, so that hash zero is kept as one.
        self._table = array("Q", bytes(8 * 1024))
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, value: int) -> bool:
        """Add a hash; say whether it is new."""
        if 3 * self._length >= 2 * len(self._table):
            values = self._table
            self._table = array("Q", bytes(16 * len(values)))
            for held in values:
                if held:
                    self._place(held)
        is_new = self._place(value or 1)
        self._length += is_new
        return is_new

    def _place(self, value: int) -> bool:
        mask = len(self._table) - 1
        index = value & mask
        while held := self._table[index]:
            if held == value:
                return False
            index = index + 1 & mask
        self._table[index] = value
        return True


class KeyMaker:
    """Makes the keys of a job's requests and remembers the hashes of those there were."""

    def __init__(self) -> None:
        self._seen = HashSet()
        self._repeats: dict[int, int] = {}
        self._encoder = msgspec.msgpack.Encoder()

    def claim(self, custom_id: str) -> bool:
        """Remember a custom_id; say whether no line before had it."""
        # Only this process compares them, so Python's own hash will do; it is signed.
        return self._seen.add(hash(custom_id) & 2**64 - 1)

    def make_key(self, custom_id: str | None, body: CompletionBody) -> str:
        """Hash what a request says and its number among the equal ones, 32 hexadecimal digits."""
        message = self._encoder.encode((custom_id, body.said()))
        digest = blake2b(message, digest_size=16, person=b"aobatch-request")
        value, occurrence = int.from_bytes(digest.digest()[:8]), 0
        # A custom_id stands in a job once, so that only requests without one can be equal.
        if custom_id is None and not self._seen.add(value):
            occurrence = self._repeats[value] = self._repeats.get(value, 0) + 1
        digest.update(occurrence.to_bytes(8, "little"))
        return digest.hexdigest()
