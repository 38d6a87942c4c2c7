"""Files of repositories through huggingface_hub, its one home.

The library's own settings hold: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, proxies. What was
fetched once stays in its cache.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from aobatch.errors import ModelError
from aobatch.models.hub.choice import DESCRIPTIONS
from aobatch.models.progress import Progress

_PROBES = (*DESCRIPTIONS, "model.safetensors")


class Repository:
    """One revision of a repository; every method raises ModelError, in one sentence."""

    def __init__(self, name: str, revision: str | None, progress: Progress) -> None:
        self._library = _library()
        self._name = name
        self._revision = revision
        self._progress = progress

    def names(self, file: str | None) -> list[str]:
        """List the files; offline those that the cache has, among which `file` is looked for."""
        with self._reported():
            if not self._library.is_offline_mode():
                found = self._library.HfApi().model_info(self._name, revision=self._revision)
                return [sibling.rfilename for sibling in found.siblings or ()]
            root = self._cached_root(file)
        if root is None:
            message = (
                f"{self._name} is not in the cache of Hugging Face, or not whole, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch the model elsewhere"
            )
            raise ModelError(message)
        files = (path for path in root.rglob("*") if path.is_file())
        return sorted(path.relative_to(root).as_posix() for path in files)

    def fetch(self, names: Sequence[str]) -> Path:
        """Fetch files into the cache, unless they are there; the folder that has them all."""
        roots = {self._fetch(name) for name in names}
        if len(roots) != 1:
            message = f"{self._name} was changed while it was fetched; run the same command again"
            raise ModelError(message)
        return roots.pop()

    def _fetch(self, name: str) -> Path:
        stage, progress = f"downloading {name}", self._progress

        class _Bar(_StageBar):
            def show(self) -> None:
                progress(stage, min(self.n, self.total or self.n), self.total or self.n)

        with self._reported():
            path = self._library.hf_hub_download(
                self._name, name, revision=self._revision, tqdm_class=_Bar
            )
        return Path(path).parents[name.count("/")]

    def _cached_root(self, file: str | None) -> Path | None:
        """Give the folder of the revision in the cache, by any of its files."""
        for name in (file, *_PROBES) if file else _PROBES:
            path = self._library.try_to_load_from_cache(self._name, name, revision=self._revision)
            if isinstance(path, str):
                return Path(path).parents[name.count("/")]
        return None

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Say in one sentence what the library or the network says in many."""
        errors = self._library.errors
        try:
            yield
        except ModelError:
            raise
        except errors.GatedRepoError as error:
            message = (
                f"{self._name} is gated: accept its terms on its page at Hugging Face, and set "
                "HF_TOKEN to a token of the account that did"
            )
            raise ModelError(message) from error
        except errors.RevisionNotFoundError as error:
            message = f"{self._name} has no revision {self._revision!r}"
            raise ModelError(message) from error
        except errors.RepositoryNotFoundError as error:
            message = (
                f"there is no repository {self._name}, or it is private; see its name, and set "
                "HF_TOKEN if it needs one"
            )
            raise ModelError(message) from error
        except Exception as error:  # its HTTP client's errors have no base that it names
            raise ModelError(self._other(error)) from error

    def _other(self, error: Exception) -> str:
        response = getattr(error, "response", None)
        if getattr(response, "status_code", None) in (401, 403):
            return f"{self._name} cannot be read with this HF_TOKEN; use one that may read it"
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        return (
            f"{self._name} could not be fetched: {reason}; check the network and HF_ENDPOINT, then "
            "run the same command again, which keeps the files that are here"
        )


class _StageBar:
    """As much of a tqdm bar as the library needs, shown as a stage."""

    def __init__(self, *, total: int | None = None, initial: int = 0, **_: object) -> None:
        self.total, self.n = total, initial
        self.show()

    def show(self) -> None:
        """Show how far it is."""

    def update(self, count: int = 1) -> None:
        """Move on; or back, where a server sends all anew."""
        self.n += count
        self.show()

    def __enter__(self) -> "_StageBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is."""


def _library() -> Any:  # noqa: ANN401 - an optional library
    """Load the library, which then tells nobody that it is used."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # Plain HTTP goes through every proxy, and shows how far it is.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        message = (
            "models of Hugging Face need the package huggingface_hub; install it with "
            "`pip install 'aobatch[remote]'`"
        )
        raise ModelError(message) from error
    library: Any = huggingface_hub
    library.logging.set_verbosity_error()
    return library
