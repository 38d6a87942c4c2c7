"""The body of a completion request: its parameters, each with its bounds and its sentence.

Adding a parameter is adding a field to CompletionBody and a row to PARAMETERS; several may say the
same thing, and then have one field.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import msgspec

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
from aobatch.api.shapes import (
    Choices,
    JsonSchema,
    MaybeShape,
    ResponseFormat,
    ShapeText,
    StructuredOutputs,
)
from aobatch.sampling.params import GREEDY_BELOW, SamplingParams

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class CompletionBody(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A checked body with all defaults filled in."""

    model: str | None = None
    prompts: tuple[Prompt, ...]
    suffix: str | None = None
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None
    echo: bool = False
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    best_of: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    user: str | None = None
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    shape: MaybeShape = msgspec.UNSET
    ranks_all: bool | msgspec.UnsetType = msgspec.UNSET
    """Whether candidates are ranked although all are returned; where not, it is in no key."""

    @property
    def is_ranked(self) -> bool:
        """Whether candidates come in the order of their probability."""
        return self.best_of > self.n or self.ranks_all is True

    def said(self) -> "CompletionBody":
        """Leave only what a request says, not which of several names it says it by."""
        if self.shape is msgspec.UNSET:
            return self
        return msgspec.structs.replace(self, shape=msgspec.structs.replace(self.shape, name=""))

    def decision(self) -> "CompletionBody | None":
        """Leave only what decides the result; None if the request's own random draws do too.

        A stream is made of pieces that are sent while it is computed, so it decides for itself.
        """
        is_greedy = self.temperature < GREEDY_BELOW
        if self.stream or not (is_greedy or self.seed is not None):
            return None
        return msgspec.structs.replace(self, user=None, seed=None if is_greedy else self.seed)

    def sampling_params(
        self, end_token_ids: tuple[int, ...], num_logprobs: int | None
    ) -> SamplingParams:
        """Say what the sampler needs; end_token_ids are the model's, this body's own are added."""
        params = msgspec.convert(self, SamplingParams, from_attributes=True)
        end_token_ids = tuple(dict.fromkeys(end_token_ids + self.stop_token_ids))
        return replace(params, num_logprobs=num_logprobs, end_token_ids=end_token_ids)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One row of the table of parameters."""

    name: str
    """As requests write it."""
    field: str
    """The field of CompletionBody."""
    kind: Kind
    default: object
    """As the body keeps it; msgspec.NODEFAULT if the parameter is required."""
    doc: str


_ROWS: dict[str, tuple[Kind, str]] = {
    "model": (
        Text(),
        "A model folder, a catalogue name or an alias; the job's model if not given.",
    ),
    "prompt": (Prompts(2048), 'What is continued; null and "" mean the start of a document.'),
    "suffix": (Text(), "The text that follows the completion."),
    "max_tokens": (Integer(0, INT32_MAX), "How many tokens a completion has at most."),
    "temperature": (Number(0, 2), "How random a choice is; 0 takes the most probable token."),
    "top_p": (Number(0, 1), "Choose among the fewest tokens that have this probability."),
    "n": (Integer(1, 128), "How many completions a prompt gets."),
    "stream": (Boolean(), "Also write server-sent events while tokens come."),
    "stream_options": (StreamOptions(), "End a stream with the usage; only with stream."),
    "logprobs": (Integer(0, 20), "Report the logprobs of each token and of that many best ones."),
    "echo": (Boolean(), "Begin the text with the prompt."),
    "stop": (Texts(Text(1, 256), 16), "End the text ahead of the first of these strings."),
    "presence_penalty": (Number(-2, 2), "Taken off the logit of every token that was generated."),
    "frequency_penalty": (Number(-2, 2), "Taken off the logit each time the token was generated."),
    "best_of": (Integer(1), "Return the n best of that many candidates: n, if not given, to 20."),
    "logit_bias": (
        LogitBias(Number(-100, 100), 1024),
        "What is added to the logits of these tokens.",
    ),
    "user": (Text(0, 512), "Whom the usage report counts the request for."),
    "seed": (Integer(-INT64_MAX - 1, INT64_MAX), "Makes the draw repeatable in any other job."),
    "top_k": (Integer(-1, INT32_MAX), "Choose among that many best tokens; 0 and -1: all."),
    "min_p": (Number(0, 1), "Drop tokens less probable than this share of the best one."),
    "repetition_penalty": (
        Number(0.01, 10),
        "Divides the logits of tokens of prompt and completion.",
    ),
    "min_tokens": (Integer(0, INT32_MAX), "No end token before that many; at most max_tokens."),
    "ignore_eos": (Boolean(), "Go on after the model's end-of-text token."),
    "stop_token_ids": (TokenIdList(0, 64), "Tokens that end the completion as its end does."),
    "response_format": (ResponseFormat(), "Answer with JSON, or with JSON of a schema."),
    "structured_outputs": (
        StructuredOutputs(),
        "Answer with JSON of a schema, a match of a regular expression, one of some strings, or a "
        "sentence of a grammar.",
    ),
    "guided_json": (JsonSchema(), "The same as the field json of structured_outputs."),
    "guided_regex": (ShapeText("regex"), "The same as its field regex."),
    "guided_choice": (Choices(), "The same as its field choice."),
    "guided_grammar": (ShapeText("grammar"), "The same as its field grammar."),
}

SHAPES: Final = tuple(name for name in _ROWS if name.startswith(("response_", "struct", "guided_")))
"""The parameters that give answers a shape, of which a request has one at most."""

_FIELDS: Final = {"prompt": "prompts", "stream_options": "include_usage"} | dict.fromkeys(
    SHAPES, "shape"
)
"""The fields of parameters that are called otherwise."""

_DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(CompletionBody)}

PARAMETERS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        name: Parameter(name, field := _FIELDS.get(name, name), kind, _DEFAULTS[field], doc)
        for name, (kind, doc) in _ROWS.items()
    }
)
"""Every parameter by its name, in the documented order."""
