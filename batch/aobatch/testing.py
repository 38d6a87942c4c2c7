"""Fakes for tests, of this package and of its users: a scripted model and a byte vocabulary."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.preparation import ModelLimits
from aobatch.executors import Executor, ModelIdentity
from aobatch.executors.local import LocalExecutor
from aobatch.models.chat import Part
from aobatch.runners import Chunk

END_TOKEN = 256
VOCAB_SIZE = 257
LIMITS = ModelLimits(
    vocab_size=VOCAB_SIZE,
    context_length=2048,
    eos_token_ids=(END_TOKEN,),
    document_start_token_id=END_TOKEN,
    adds_document_start=False,
    infill_token_ids=(),
    chat_format="chatml",
)

Script: TypeAlias = Callable[[tuple[int, ...]], Logits]
"""From the token ids of a sequence to the logits of the next one, [V]."""


class ByteTokenizer:
    """A vocabulary of the 256 bytes and an end token."""

    token_bytes: Sequence[bytes] = (*(bytes([value]) for value in range(256)), b"<end>")
    special_token_ids: Sequence[int] = (END_TOKEN,)

    def encode(self, text: str) -> TokenIds:
        """Split a text into its bytes, whose values are their ids, [N]."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def encode_parts(self, parts: Sequence[Part]) -> TokenIds:
        """Split a conversation into its bytes, [N]."""
        return self.encode("".join(text for text, _ in parts))


def random_script(token_ids: tuple[int, ...]) -> Logits:
    """Draw logits from a generator that all tokens seed."""
    digest = blake2b(np.array(token_ids, np.int64).tobytes(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    return (3 * generator.standard_normal(VOCAB_SIZE)).astype(np.float32)


def speaking_script(prompt: str, text: str) -> Script:
    """Make a model that answers prompt with text, byte by byte, and then ends."""
    spoken = [*prompt.encode(), *text.encode(), END_TOKEN]

    def script(token_ids: tuple[int, ...]) -> Logits:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        if list(token_ids) == spoken[: len(token_ids)] and len(token_ids) < len(spoken):
            logits[spoken[len(token_ids)]] = 20.0
        return logits

    return script


class ScriptedRunner:
    """A ModelRunner whose logits come from a script; it refuses calls that break the protocol."""

    vocab_size = VOCAB_SIZE
    kv_bytes_per_token = 1
    splits_freely = True
    min_chunk = 2
    seconds_in_run = 0.0

    def __init__(self, script: Script = random_script) -> None:
        self._script = script
        self._slots: list[tuple[int, ...]] = []
        self._capacity = 0
        self.num_prefilled_tokens = 0

    def sibling(self) -> "ScriptedRunner":
        """Make a runner with slots of its own over the same script."""
        return type(self)(self._script)

    def interrupted(self) -> AbstractContextManager[None]:
        """Do nothing: scripts are short."""
        return nullcontext()

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room; slot i keeps its first lengths[i] tokens."""
        kept = [self._slots[slot][:length] for slot, length in enumerate(lengths)]
        self._slots = kept + [()] * (num_slots - len(kept))
        self._capacity = capacity

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        _demand([chunk.slot - chunks[0].slot for chunk in chunks] == [*range(len(chunks))])
        rows = [logits for chunk in chunks for logits in self._take_in(chunk)]
        return np.array(rows, np.float32).reshape(-1, VOCAB_SIZE)

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        for slot, (token_id, length) in enumerate(zip(token_ids, lengths, strict=True)):
            self._put(slot, int(length), (int(token_id),))
        return np.stack([self._script(tokens) for tokens in self._slots[: len(token_ids)]])

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot target the first `length` tokens of slot source."""
        _demand(length <= len(self._slots[source]))
        self._slots[target] = self._slots[source][:length]

    def _take_in(self, chunk: Chunk) -> list[Logits]:
        _demand(len(chunk.token_ids) >= (self.min_chunk if chunk.start else 1))
        self._put(chunk.slot, chunk.start, tuple(chunk.token_ids.tolist()))
        self.num_prefilled_tokens += len(chunk.token_ids)
        tokens = self._slots[chunk.slot]
        ends = range(len(tokens) - chunk.num_logits + 1, len(tokens) + 1)
        return [self._script(tokens[:end]) for end in ends]

    def _put(self, slot: int, start: int, token_ids: tuple[int, ...]) -> None:
        _demand(start <= len(self._slots[slot]))
        self._slots[slot] = self._slots[slot][:start] + token_ids
        _demand(len(self._slots[slot]) <= self._capacity)


def scripted_engine(script: Script = random_script, config: EngineConfig | None = None) -> Engine:
    """Open an engine over a scripted model and the byte vocabulary."""
    return Engine(ScriptedRunner(script), ByteTokenizer(), LIMITS, config or EngineConfig())


class ScriptedBackend:
    """A `Backend` of one scripted model of bytes, under any name, for `run_job` and `run_table`."""

    survives_requests = False
    settings: Mapping[str, object] = MappingProxyType({"seed": 0})

    def __init__(self, script: Script = random_script, config: EngineConfig | None = None) -> None:
        self._script = script
        self._config = config

    def resolve(self, name: str | None, began: str = "") -> ModelIdentity:  # noqa: ARG002
        """Find the model."""
        return ModelIdentity(name or "scripted", "fp_scripted", Path("scripted"))

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:  # noqa: ARG002 - a Backend
        """Open the model."""
        yield LocalExecutor(scripted_engine(self._script, self._config))


def _demand(holds: bool) -> None:
    if not holds:
        message = "the engine broke the ModelRunner protocol"
        raise AssertionError(message)
