"""The body of a completion request: one field a parameter, with its bounds and its sentence."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, get_type_hints

import msgspec

from aobatch.api import errors
from aobatch.api.kinds import (
    Boolean,
    Integer,
    Kind,
    LogitBias,
    Number,
    Prompt,
    Prompts,
    StreamOptions,
    Text,
    Texts,
    TokenIdList,
)
from aobatch.sampling.params import GREEDY_BELOW, SamplingParams

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """What the table says of a field: its kind, its sentence, and its name if that differs."""

    kind: Kind
    doc: str
    name: str | None = None


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checked body with all defaults filled in; adding a parameter is adding a field here."""

    model: Annotated[
        str | None,
        Row(Text(), "A model folder, a catalogue name or an alias; the job's model if not given."),
    ] = None
    prompts: Annotated[
        tuple[Prompt, ...],
        Row(
            Prompts(maximum_length=2048),
            'What is continued; null and "" mean the start of a document.',
            name="prompt",
        ),
    ]
    suffix: Annotated[str | None, Row(Text(), "The text that follows the completion.")] = None
    max_tokens: Annotated[
        int, Row(Integer(0, INT32_MAX), "How many tokens a completion has at most.")
    ] = 16
    temperature: Annotated[
        float, Row(Number(0, 2), "How random a choice is; 0 takes the most probable token.")
    ] = 1.0
    top_p: Annotated[
        float, Row(Number(0, 1), "Choose among the fewest tokens that have this probability.")
    ] = 1.0
    n: Annotated[int, Row(Integer(1, 128), "How many completions a prompt gets.")] = 1
    stream: Annotated[bool, Row(Boolean(), "Also write server-sent events while tokens come.")] = (
        False
    )
    include_usage: Annotated[
        bool,
        Row(
            StreamOptions(),
            "End a stream with the usage; only with stream.",
            name="stream_options",
        ),
    ] = False
    logprobs: Annotated[
        int | None,
        Row(Integer(0, 20), "Report the logprobs of each token and of that many best ones."),
    ] = None
    echo: Annotated[bool, Row(Boolean(), "Begin the text with the prompt.")] = False
    stop: Annotated[
        tuple[str, ...],
        Row(Texts(Text(1, 256), 16), "End the text ahead of the first of these strings."),
    ] = ()
    presence_penalty: Annotated[
        float, Row(Number(-2, 2), "Taken off the logit of every token that was generated.")
    ] = 0.0
    frequency_penalty: Annotated[
        float, Row(Number(-2, 2), "Taken off the logit each time the token was generated.")
    ] = 0.0
    best_of: Annotated[
        int,
        Row(Integer(1), "Return the n best of that many candidates: n, if not given, to 20."),
    ] = 1
    logit_bias: Annotated[
        tuple[tuple[int, float], ...],
        Row(LogitBias(Number(-100, 100), 1024), "What is added to the logits of these tokens."),
    ] = ()
    user: Annotated[
        str | None, Row(Text(0, 512), "Whom the usage report counts the request for.")
    ] = None
    seed: Annotated[
        int | None,
        Row(Integer(-INT64_MAX - 1, INT64_MAX), "Makes the draw repeatable in any other job."),
    ] = None
    top_k: Annotated[
        int, Row(Integer(-1, INT32_MAX), "Choose among that many best tokens; 0 and -1: all.")
    ] = 0
    min_p: Annotated[
        float, Row(Number(0, 1), "Drop tokens less probable than this share of the best one.")
    ] = 0.0
    repetition_penalty: Annotated[
        float, Row(Number(0.01, 10), "Divides the logits of tokens of prompt and completion.")
    ] = 1.0
    min_tokens: Annotated[
        int, Row(Integer(0, INT32_MAX), "No end token before that many; at most max_tokens.")
    ] = 0
    ignore_eos: Annotated[bool, Row(Boolean(), "Go on after the model's end-of-text token.")] = (
        False
    )
    stop_token_ids: Annotated[
        tuple[int, ...], Row(TokenIdList(0, 64), "Tokens that end the completion as its end does.")
    ] = ()

    def decision(self) -> "CompletionBody | None":
        """Give all that decides the result, None where that is the request's own draws.

        A stream is made of pieces that are sent while it is computed, so it decides for itself.
        """
        is_greedy = self.temperature < GREEDY_BELOW
        if self.stream or not (is_greedy or self.seed is not None):
            return None
        return msgspec.structs.replace(self, user=None, seed=None if is_greedy else self.seed)

    def sampling_params(
        self, end_token_ids: tuple[int, ...], num_logprobs: int | None
    ) -> SamplingParams:
        """Give what the sampler needs; end_token_ids are the model's, this body's own are added."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logit_bias=self.logit_bias,
            num_logprobs=num_logprobs,
            min_tokens=self.min_tokens,
            end_token_ids=tuple(dict.fromkeys(end_token_ids + self.stop_token_ids)),
        )


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of the table of parameters."""

    name: str
    """As requests write it."""
    field: str
    """The field of CompletionBody."""
    kind: Kind
    default: object
    """As the body keeps it; msgspec.NODEFAULT if the parameter is required."""
    doc: str


def _read_table() -> Mapping[str, Parameter]:
    hints = get_type_hints(CompletionBody, include_extras=True)
    parameters = {}
    for field in msgspec.structs.fields(CompletionBody):
        row: Row = hints[field.name].__metadata__[0]
        name = row.name or field.name
        parameters[name] = Parameter(name, field.name, row.kind, field.default, row.doc)
    return MappingProxyType(parameters)


PARAMETERS: Final = _read_table()
"""Every parameter by its name, in the documented order."""


MAX_BEST_OF = 20
"""More candidates than this need an n as large."""

Rule = Callable[[CompletionBody, Collection[str]], None]
"""Raises RequestError; gets the body and the names of the parameters that the line itself gave."""


def check_best_of(body: CompletionBody, _given: Collection[str]) -> None:
    """Require n <= best_of <= 20, or best_of = n if n is larger."""
    maximum = max(MAX_BEST_OF, body.n)
    if body.best_of < body.n:
        raise errors.below_minimum(body.best_of, body.n, "integer", "best_of")
    if body.best_of > maximum:
        raise errors.above_maximum(body.best_of, maximum, "integer", "best_of")


def check_stream(body: CompletionBody, _given: Collection[str]) -> None:
    """Refuse a stream of candidates that are ranked only when all are complete."""
    if body.stream and body.best_of > body.n:
        reason = "results cannot be streamed when 'best_of' is greater than 'n'."
        raise errors.invalid_value(reason, "stream")


def check_stream_options(body: CompletionBody, given: Collection[str]) -> None:
    """Refuse stream_options in a line that does not stream."""
    if "stream_options" in given and not body.stream:
        reason = "it is only allowed when 'stream' is true."
        raise errors.invalid_value(reason, "stream_options")


def check_min_tokens(body: CompletionBody, _given: Collection[str]) -> None:
    """Require min_tokens <= max_tokens."""
    if body.min_tokens > body.max_tokens:
        raise errors.above_maximum(body.min_tokens, body.max_tokens, "integer", "min_tokens")


RULES: tuple[Rule, ...] = (check_best_of, check_stream, check_stream_options, check_min_tokens)
"""In the order in which a line is checked."""
