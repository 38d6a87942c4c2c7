"""The models of a job's lines without their weights, and what the lines ask of each."""

from array import array
from collections.abc import Callable, Mapping, Sequence

from aobatch.api.errors import unusable_model
from aobatch.api.request import Request
from aobatch.arrays import TokenIds
from aobatch.engine.preparation import Preparation
from aobatch.engine.sequence import SequenceGroup
from aobatch.errors import ModelError, RequestError, UnavailableModelError
from aobatch.executors.local import limits_of
from aobatch.job.plan import Workload
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import ReadAhead, load_tokenizer

MAX_MISSING = 1024
"""Names of no model whose errors are kept."""


class Vocabulary:
    """A model's tokenizer and limits."""

    def __init__(self, folder: ModelFolder, *, clamp_max_tokens: bool) -> None:
        self.folder = folder
        self.load = Workload()
        self.prompt_lengths = array("q")
        self.new_tokens = 0
        """What all completions have at most."""
        self._tokenizer = ReadAhead(load_tokenizer(folder))
        limits = limits_of(folder.manifest)
        self._preparation = Preparation(self._tokenizer, limits, clamp_max_tokens=clamp_max_tokens)

    def read_ahead(self, requests: Sequence[Request]) -> Mapping[str, TokenIds]:
        """Tokenise what requests say that are to be checked later, in any thread."""
        texts = [p for request in requests for p in request.body.prompts if isinstance(p, str)]
        suffixes = [request.body.suffix for request in requests if request.body.suffix]
        return self._tokenizer.read([*texts, *suffixes])

    def hold(self, known: Mapping[str, TokenIds]) -> None:
        """Know what was read ahead."""
        self._tokenizer.hold(known)

    def check(self, request: Request) -> RequestError | None:
        """Give the error that the request would end with, or add it to the load."""
        state = self._preparation.prepare(request)
        if state.error is None:
            self.load.requests += 1
            for group in state.groups:
                self._add(group)
        return state.error

    def _add(self, group: SequenceGroup) -> None:
        load, num_prompt_tokens = self.load, len(group.prompt_token_ids)
        self.prompt_lengths.append(num_prompt_tokens)
        new_tokens = group.max_tokens * group.num_sequences
        self.new_tokens += new_tokens * group.num_copies
        if group.needs_model:
            load.sequences += group.num_sequences
            load.prompt_tokens += num_prompt_tokens
            load.computed_tokens += new_tokens
            load.longest = max(load.longest, group.num_tokens_at_most)


class Vocabularies:
    """The models that lines name, each opened once; nothing is fetched."""

    def __init__(
        self, find: Callable[[str | None], ModelFolder], default: str | None, *, clamps: bool
    ) -> None:
        """`find` raises RequestError for no model, ModelError for one that is not here."""
        self.notes: list[str] = []
        """What could not be looked at, and why."""
        self._find = find
        self._default = default
        self._clamps = clamps
        self._known: dict[str | None, Vocabulary | None] = {}
        self._missing: dict[str, RequestError] = {}

    @property
    def opened(self) -> list[Vocabulary]:
        """Those that lines asked for."""
        known = {id(found): found for found in self._known.values() if found is not None}
        return list(known.values())

    def of(self, name: str | None) -> Vocabulary | RequestError | None:
        """Give the model of a name, the error of its lines, or None if the model is not here.

        ModelError if there is no such model as the job's own.
        """
        if name in self._known:
            return self._known[name]
        if name is not None and name in self._missing:
            return self._missing[name]
        try:
            found = self._open(name)
        except RequestError as error:
            if name is None:
                raise ModelError(error.message) from error
            if len(self._missing) < MAX_MISSING:
                self._missing[name] = error
            return error
        self._known[name] = found
        return found

    def _open(self, name: str | None) -> Vocabulary | None:
        try:
            folder = self._find(self._default if name is None else name)
        except ModelError as error:
            if isinstance(error, UnavailableModelError) and name not in (None, self._default):
                raise unusable_model(str(error)) from error  # as a run answers these lines
            note = f"{error}; tokens of its lines are not counted, nor held against its context"
            if note not in self.notes:
                self.notes.append(note)
            return None
        # Two names may stand for one model.
        for known in self.opened:
            if known.folder.path == folder.path:
                return known
        return Vocabulary(folder, clamp_max_tokens=self._clamps)
