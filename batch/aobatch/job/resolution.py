"""The model of each line: its name looked up once and held against earlier runs."""

import time
from copy import copy
from pathlib import Path

from aobatch.api import errors
from aobatch.errors import ModelError, RequestError, UnavailableModelError
from aobatch.executors import Backend, ModelIdentity
from aobatch.job.ledger import Ledger

NUM_MISSING = 1024
"""Names of no model whose errors are kept; more are looked up again."""

MAX_NAME_LENGTH = 4096
"""No path, and so no name of a model, is longer."""


class ModelDirectory:
    """Models by the names that lines give; None is the job's own."""

    def __init__(self, backend: Backend, default: str | None, ledger: Ledger) -> None:
        self._backend = backend
        self._default = default
        self._ledger = ledger
        self._known = ledger.settings
        self._found: dict[str | None, ModelIdentity] = {}
        self._missing: dict[str | None, RequestError] = {}
        self._given_up: dict[str | None, RequestError] = {}
        self._failure: ModelError | None = None

    def find(self, name: str | None) -> ModelIdentity | RequestError:
        """Give the model of a name, or the error of the lines that ask for it.

        ModelError if the job's own model, or one that an earlier run of the job used, is missing;
        InputError if it is another model than in that run.
        """
        known = self._found.get(name) or self._missing.get(name) or self._given_up.get(name)
        return known or self._look_up(name)

    def is_of_lines(self, model: ModelIdentity) -> bool:
        """Say whether a model is asked for by lines alone, and is not the job's own."""
        names = {name for name, found in self._found.items() if found == model}
        return not names & {None, self._default}

    def give_up(self, model: ModelIdentity, error: ModelError) -> None:
        """Let lines that name a model fail with that error, since it cannot be opened."""
        names = [name for name, found in self._found.items() if found == model]
        self._ledger.unclaim(map(_setting, names))
        for name in names:
            del self._found[name]
            self._given_up[name] = errors.unusable_model(str(error))
        self._failure = error

    def check_any_usable(self) -> None:
        """Raise what is wrong with a model if the job has no other one: nothing was computed."""
        if self._failure is not None and not self._found:
            raise self._failure

    def asked_name(self, name: str | None) -> str | None:
        """Give the name that a response carries: the line's, the job's or the model's own."""
        if name is not None or self._default is not None:
            return name if name is not None else self._default
        model = self.find(None)
        return model.name if isinstance(model, ModelIdentity) else None

    @property
    def found(self) -> dict[str, ModelIdentity]:
        """What each name stood for; "" stands for the job's own model."""
        return {name or "": model for name, model in self._found.items()}

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of what each name stood for."""
        return {name: model.fingerprint for name, model in self.found.items()}

    @property
    def folders(self) -> set[Path]:
        """Where the models are."""
        return {model.path for model in self.found.values()}

    def _look_up(self, name: str | None) -> ModelIdentity | RequestError:
        setting = _setting(name)
        started = time.monotonic()
        try:
            model = self._backend.resolve(self._default if name is None else name)
        except RequestError as error:
            if name is None:
                raise ModelError(error.message) from error
            if setting in self._known:
                message = f"{setting} answered lines in an earlier run and is gone: {error.message}"
                raise ModelError(message) from error
            return self._note_missing(name, error)
        except UnavailableModelError as error:
            if name is None or name == self._default or setting in self._known:
                raise
            self._failure = error
            return self._note_missing(name, errors.unusable_model(str(error)))
        self._ledger.claim({setting: model.fingerprint})
        # The first run may fetch and convert a model, which says nothing of the job's speed.
        self._ledger.add_statistics({"model_seconds": time.monotonic() - started})
        self._found[name] = model
        return model

    def _note_missing(self, name: str, error: RequestError) -> RequestError:
        # A job may name another model in each line, and none of them exists.
        if len(self._missing) == NUM_MISSING:
            del self._missing[next(iter(self._missing))]
        error = copy(error)  # without the frames that raised it
        if len(name) <= MAX_NAME_LENGTH:
            self._missing[name] = error
        return error


def _setting(name: str | None) -> str:
    """Say under which name the ledger has the fingerprint of a model."""
    return "model" if name is None else f"model {name!r}"
