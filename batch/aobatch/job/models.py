"""The models of a job's lines without their weights, and what the lines ask of each."""

import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, TypeVar

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.arrays import TokenIds
from aobatch.engine.preparation import Preparation
from aobatch.errors import ModelError, ModelNotFoundError, RequestError, UnavailableModelError
from aobatch.executors import Backend, ModelIdentity, Statistics
from aobatch.executors.local import limits_of
from aobatch.job.ledger import Ledger
from aobatch.job.plan import Workload
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import ReadAhead, load_tokenizer

Found = TypeVar("Found")

NUM_MISSING = 1024
"""Names of no model whose errors are kept; more are looked up again."""
MAX_NAME_LENGTH = 4096
"""No path, and so no name of a model, is longer."""


class ModelNames(Generic[Found]):
    """What the names that lines give stand for, each looked up once; None is the job's own.

    A lookup raises ModelNotFoundError for no model and UnavailableModelError for one that cannot be
    had. Either ends the job if it is the job's own model, and fails the lines that name another.
    """

    def __init__(self, look_up: Callable[[str | None], Found], default: str | None) -> None:
        self.failure: ModelError | None = None
        """Why a model could not be had, the last one of which that is so."""
        self._look_up = look_up
        self._default = default
        self._found: dict[str | None, Found] = {}
        self._missing: dict[str | None, RequestError] = {}

    def find(self, name: str | None) -> Found | RequestError:
        """Look up the model of a name, or the error of the lines that ask for it."""
        if name in self._found:
            return self._found[name]
        if name in self._missing:
            return self._missing[name]
        try:
            found = self._look_up(name)
        except ModelNotFoundError as error:
            if name is None:
                raise
            return self._note_missing(name, error)
        except UnavailableModelError as error:
            if name is None or name == self._default:
                raise
            self.failure = error
            return self._note_missing(name, error)
        self._found[name] = found
        return found

    def _note_missing(self, name: str, error: ModelError) -> RequestError:
        # A job may name another model in each line, and none of them exists.
        if len(self._missing) == NUM_MISSING:
            del self._missing[next(iter(self._missing))]
        fault = errors.model_not_found(str(error))
        if len(name) <= MAX_NAME_LENGTH:
            self._missing[name] = fault
        return fault


class ModelDirectory(ModelNames[ModelIdentity]):
    """The models of a job that runs, bound to those of its earlier runs.

    Finding one raises ModelError also if it answered lines in an earlier run and is gone, and
    InputError if it is another model than in that run.
    """

    def __init__(self, backend: Backend, default: str | None, ledger: Ledger) -> None:
        super().__init__(self._resolve, default)
        self._backend = backend
        self._ledger = ledger
        self._known = ledger.settings
        self._given_up: dict[str, RequestError] = {}

    def is_of_lines(self, model: ModelIdentity) -> bool:
        """Say whether a model is asked for by lines alone, and is not the job's own."""
        return model not in (self._found.get(None), self._found.get(self._default))

    def names_of(self, model: ModelIdentity) -> list[str]:
        """List the names under which lines ask for a model."""
        return [name for name, found in self._found.items() if found == model if name is not None]

    def give_up(self, model: ModelIdentity, error: ModelError) -> None:
        """Let lines that name a model fail with that error, since it cannot be opened."""
        names = self.names_of(model)
        self._ledger.unclaim(map(_setting, names))
        for name in names:
            del self._found[name]
            self._given_up[name] = errors.model_not_found(str(error))
        self.failure = error

    def check_any_usable(self) -> None:
        """Raise what is wrong with a model if the job has no other one: nothing was computed."""
        if self.failure is not None and not self._found:
            raise self.failure

    def asked_name(self, name: str | None) -> str | None:
        """Choose the name that a response carries: the line's, the job's or the model's own."""
        if name is not None or self._default is not None:
            return name if name is not None else self._default
        model = self.find(None)
        return model.name if isinstance(model, ModelIdentity) else None

    @property
    def own_name(self) -> str | None:
        """The name of the job's own model, None if no line asked for that."""
        own = self._found.get(None)
        return self._default or (own.name if own else None)

    @property
    def found(self) -> dict[str, ModelIdentity]:
        """What each name stood for; "" stands for the job's own model."""
        return {name or "": model for name, model in self._found.items()}

    @property
    def folders(self) -> set[Path]:
        """Where the models are."""
        return {model.path for model in self._found.values()}

    def find(self, name: str | None) -> ModelIdentity | RequestError:
        """Look up the model of a name, or the error of the lines that ask for it."""
        return self._given_up.get(name or "") or super().find(name)

    def _resolve(self, name: str | None) -> ModelIdentity:
        setting = _setting(name)
        started = time.monotonic()
        try:
            asked = self._default if name is None else name
            model = self._backend.resolve(asked, self._known.get(setting, ""))
        except ModelNotFoundError as error:
            if name is None or setting not in self._known:
                raise
            message = f"{setting} answered lines in an earlier run and is gone: {error}"
            raise ModelError(message) from error
        except UnavailableModelError as error:
            if setting not in self._known:
                raise
            raise ModelError(str(error)) from error
        self._ledger.claim({setting: model.fingerprint})
        if name is None:
            # It stands in every response of a line that names no model.
            self._ledger.claim({ASKED: asked or model.name})
        # The first run may fetch and convert a model, which says nothing of the job's speed.
        self._ledger.add_statistics(Statistics(model_seconds=time.monotonic() - started))
        return model


ASKED = "model asked for"
"""Under which the ledger has the name of the job's own model."""


def _setting(name: str | None) -> str:
    """Say under which name the ledger has the fingerprint of a model."""
    return "model" if name is None else f"model {name!r}"


class Vocabulary:
    """A model's tokenizer and limits."""

    def __init__(
        self, folder: ModelFolder, *, clamp_max_tokens: bool, chat_format: str | None = None
    ) -> None:
        self.folder = folder
        self.load = Workload()
        self.prompt_lengths = array("q")
        self.new_tokens = 0
        """What all completions have at most."""
        self._tokenizer = ReadAhead(load_tokenizer(folder))
        limits = limits_of(folder.manifest)
        if chat_format is not None:
            limits = replace(limits, chat_format=chat_format)
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
        """Return the error that the request would end with, or add it to the load."""
        state = self._preparation.prepare(request)
        if state.error is None:
            self.load.requests += 1
        for group in state.groups if state.error is None else ():
            self.prompt_lengths.append(len(group.prompt_token_ids))
            self.new_tokens += group.max_tokens * group.num_sequences * group.num_copies
            self.load.add(group)
        return state.error


class Vocabularies(ModelNames[Vocabulary | None]):
    """The models of a job that is only checked; nothing is fetched, and None is one not here."""

    def __init__(
        self,
        find: Callable[[str | None], ModelFolder],
        default: str | None,
        *,
        clamps: bool,
        chat_format: str | None = None,
    ) -> None:
        super().__init__(self._open, default)
        self.notes: list[str] = []
        """What could not be looked at, and why."""
        self._find_folder = find
        self._clamps, self._chat_format = clamps, chat_format

    @property
    def opened(self) -> list[Vocabulary]:
        """Those that lines asked for."""
        known = {id(found): found for found in self._found.values() if found is not None}
        return list(known.values())

    def _open(self, name: str | None) -> Vocabulary | None:
        try:
            folder = self._find_folder(self._default if name is None else name)
        except ModelError as error:
            is_own = name is None or name == self._default
            is_none = isinstance(error, ModelNotFoundError)
            if is_none or (isinstance(error, UnavailableModelError) and not is_own):
                raise
            note = f"{error}; tokens of its lines are not counted, nor held against its context"
            if note not in self.notes:
                self.notes.append(note)
            return None
        # Two names may stand for one model.
        for known in self.opened:
            if known.folder.path == folder.path:
                return known
        return Vocabulary(folder, clamp_max_tokens=self._clamps, chat_format=self._chat_format)
