"""A runner that another thread can ask how long it has been at its present run."""

import time
from collections.abc import Sequence

from aobatch.arrays import Logits, TokenIds
from aobatch.runners import Chunk, ModelRunner


class Watch:
    """The time since a run began."""

    def __init__(self) -> None:
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds in the present run, 0 outside of one; any thread may ask."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._began = None


class WatchedRunner:
    """Runs as the given runner does; see `ModelRunner`."""

    def __init__(self, runner: ModelRunner) -> None:
        self.watch = Watch()
        self.vocab_size = runner.vocab_size
        self.kv_bytes_per_token = runner.kv_bytes_per_token
        self.interrupted = runner.interrupted
        self.reserve = runner.reserve
        self.copy = runner.copy
        self._runner = runner

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks of two or more."""
        return self._runner.splits_freely

    def sibling(self) -> "WatchedRunner":
        """Give a runner with slots and a watch of its own over the same weights."""
        return WatchedRunner(self._runner.sibling())

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        with self.watch:
            return self._runner.prefill(chunks)

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        with self.watch:
            return self._runner.decode(token_ids, lengths)
