"""Shapes compiled with a vocabulary, and answers held to them: which tokens may come next.

The library is loaded for the first shape, as few jobs have any.
"""

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from aobatch.api import errors
from aobatch.api.shapes import Shape, ShapeKind
from aobatch.arrays import TokenIds
from aobatch.errors import RequestError
from aobatch.models.tokenizer import Tokenizer
from aobatch.text import printable

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLTokenizer


class Matcher(Protocol):
    """How far one answer has come in its shape; llguidance's, which a `Masker` leads on."""

    def deep_copy(self) -> Self:
        """Copy it; neither has regard to the other from then on."""
        ...

    def is_stopped(self) -> bool:
        """Say whether nothing but the end may follow, or it has failed."""
        ...

    def is_error(self) -> bool:
        """Say whether it has failed."""
        ...

    def get_error(self) -> str:
        """Say why."""
        ...


NAMES: Final[dict[ShapeKind, str]] = {
    "json": "JSON schema",
    "regex": "regular expression",
    "choice": "choice",
    "grammar": "grammar",
}

LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
}
"""What compiling and each step may take: a tenth of a GB at most. They count work and not time, so
that neither the machine nor another answer decides what is too much."""

MAX_AMBIGUITY: Final = 500
"""Ways in which a grammar may read what an answer has so far; a step takes time by their square. A
schema has one for each property that may come next, whose steps are cheap."""

MAX_COMPILED: Final = 64
"""Shapes that are remembered."""

STACK_BYTES: Final = 2**28
"""Rules that name each other in a long row are followed by recursion. What a stack is not asked for
costs no memory."""


MAX_SECONDS: Final = 10.0
"""Processor time after which compiling is left to itself, should the limits miss a case; what is
known takes a tenth of it."""


class ShapeCompiler:
    """Compiles shapes with the tokens of a model; one thread at a time may call it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocabularies: dict[tuple[int, ...], LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[Shape, tuple[int, ...]], Matcher | str] = OrderedDict()

    def compile(self, shape: Shape, end_token_ids: tuple[int, ...]) -> Matcher:
        """Give a matcher at its beginning, to be copied; RequestError if there can be none.

        Any of `end_token_ids` may follow where the shape may end.
        """
        if not end_token_ids:
            reason = "this model has no end token, so no answer could end where its shape does."
            raise errors.invalid_value(reason, shape.name)
        key = shape, end_token_ids
        found = self._compiled.pop(key, None)
        if found is None:
            found = _in_deep_thread(self._vocabulary(end_token_ids), shape)
        self._compiled[key] = found
        if len(self._compiled) > MAX_COMPILED:
            self._compiled.popitem(last=False)
        if isinstance(found, str):
            raise unusable(shape, found)
        return found

    def _vocabulary(self, end_token_ids: tuple[int, ...]) -> "LLTokenizer":
        from llguidance import LLTokenizer, TokenizerWrapper

        if end_token_ids not in self._vocabularies:
            table = TokenizerWrapper(_Table(self._tokenizer, end_token_ids))
            made = LLTokenizer(table, eos_token=[*end_token_ids])
            self._vocabularies[end_token_ids] = made
        return self._vocabularies[end_token_ids]


class _Table:
    """Tokens as llguidance asks for them: special ones match no text, and no text is tokenised."""

    def __init__(self, tokenizer: Tokenizer, end_token_ids: tuple[int, ...]) -> None:
        self.eos_token_id, self.bos_token_id = end_token_ids[0], None
        self.tokens = [*tokenizer.token_bytes]
        self.special_token_ids = [*{*tokenizer.special_token_ids, *end_token_ids}]

    def __call__(self, _text: object) -> list[int]:
        return []


def unusable(shape: Shape, reason: str) -> RequestError:
    """Say why a shape cannot be used."""
    reason = f"this {NAMES[shape.kind]} cannot be used: {reason.rstrip('.')}."
    return errors.invalid_value(reason, shape.name)


def _in_deep_thread(vocabulary: "LLTokenizer", shape: Shape) -> Matcher | str:
    """Compile where the stack is deep enough for whatever a shape's length allows."""
    outcome: SimpleQueue[Matcher | str | BaseException] = SimpleQueue()
    clocks: list[int] = []

    def work() -> None:
        clocks.append(time.pthread_getcpuclockid(threading.get_ident()))
        try:
            outcome.put(_compile(vocabulary, shape))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.put(error)

    before = threading.stack_size(STACK_BYTES)
    try:
        threading.Thread(target=work, name="shapes", daemon=True).start()
    finally:
        threading.stack_size(before)
    found: Matcher | str | BaseException | None = None
    while found is None:
        try:
            found = outcome.get(timeout=1)
        except Empty:
            if clocks and _seconds(clocks[0]) > MAX_SECONDS:
                found = "it takes too long to compile"
    if isinstance(found, BaseException):
        raise found
    return found


def _seconds(clock: int) -> float:
    """Read a thread's clock; 0 if it has ended."""
    try:
        return time.clock_gettime(clock)
    except OSError:
        return 0.0


def _compile(vocabulary: "LLTokenizer", shape: Shape) -> Matcher | str:
    """Compile a shape; a text says why that cannot be."""
    from llguidance import LLMatcher, LLParserLimits

    from aobatch.shapes.grammar import UnusableShapeError, grammar_of

    ambiguity = MAX_AMBIGUITY if shape.kind == "grammar" else None
    limits = LLParserLimits(**LIMITS, max_items_in_row=ambiguity, verbose_errors=False)
    try:
        matcher = LLMatcher(vocabulary, grammar_of(shape), log_level=0, limits=limits)
    except UnusableShapeError as error:
        return str(error)
    if not matcher.is_error():
        matcher.compute_bitmask()  # what nothing can begin with is found here
    return failure(matcher) or matcher


_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")
_KEYWORDS = re.compile(r'Unimplemented keys: \["?(.*?)"?\]')


def failure(matcher: Matcher) -> str:
    """Say what a matcher failed with, in words for people; empty if it did not."""
    if not matcher.is_error():
        return ""
    lines = [_PLACE.sub("", line).strip() for line in matcher.get_error().splitlines()]
    told = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    reason = told or next(iter(lines), "")
    if found := _KEYWORDS.search(reason):
        keywords = found[1].replace('"', "")
        return f"it has keywords that are not supported: {keywords}"
    reason = reason.removeprefix("failed to compile JSON schema: ")
    if "items; max is" in reason:
        return "what an answer has so far can be read in too many ways"
    if reason.startswith("NoExtension"):
        return "nothing matches it"
    return printable(reason.partition(" Enable '")[0], 200)


class Masker:
    """Follows the answers of one lane in their shapes."""

    def __init__(self, vocab_size: int) -> None:
        self._bits = np.empty((0, -(-vocab_size // 32)), np.uint32)

    def allowed(self, matchers: Sequence[Matcher]) -> NDArray[np.uint32]:
        """Find what each answer may go on with, [M, ceil(V / 32)], see `Masks`.

        Other threads run meanwhile. The array holds until the next call.
        """
        if len(matchers) > len(self._bits):
            self._bits = np.empty((len(matchers), self._bits.shape[1]), np.uint32)
        bits = self._bits[: len(matchers)]
        places: list[Any] = [(matcher, row) for row, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(
            places, bits.ctypes.data, bits.shape[1] * bits.itemsize, len(bits)
        )
        return bits

    def take(self, matchers: Sequence[Matcher], token_ids: TokenIds) -> list[bool]:
        """Let each answer go on with a token; say which of them must end, or has failed."""
        pairs: list[Any] = [*zip(matchers, token_ids.tolist(), strict=True)]
        self._executor.consume_token_par(pairs)
        return [matcher.is_stopped() for matcher in matchers]

    @cached_property
    def _executor(self) -> "LLExecutor":
        from llguidance import LLExecutor

        # Both at once would take a core from the lane that is inside the model.
        return LLExecutor(1)
