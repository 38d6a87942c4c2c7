"""A repository's model, fetched and converted; an exported graph is fetched alone, for it runs."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from aobatch.errors import ModelError, UsageError
from aobatch.models import Progress
from aobatch.models.checks import ADAPTER, ADAPTER_ADVICE, part_names
from aobatch.models.convert.quality import Scorer
from aobatch.models.source.pieces import MERGES, PIECES, VOCABULARY
from aobatch.models.source.safetensors import read_description
from aobatch.models.source.tokenizer_json import UNKNOWN, read_licence
from aobatch.models.store.card import check_name
from aobatch.models.store.catalogue import import_checkpoint
from aobatch.models.store.folder import TOKENIZER, ModelFolder
from aobatch.models.store.locate import CONFIG, read_checkpoint

DESCRIPTIONS = (
    *("config.json", "generation_config.json", TOKENIZER, "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja", "modules.json", "README.md"),
)
TOKENIZER_PARTS = (PIECES, VOCABULARY, MERGES)
"""What a tokenizer is made of where there is no tokenizer.json."""
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_SHARD = "model-"
_GGUF, _SAFETENSORS, _ONNX = ".gguf", ".safetensors", ".onnx"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_GRAPHS = ("model.onnx", "onnx/model.onnx", "onnx/decoder_model_merged.onnx")
"""Of the graphs of one repository the first of these is taken."""
_GENAI_CONFIG = "genai_config.json"
_MAX_LISTED = 12
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubModel:
    """What is asked for of a repository."""

    repository: str
    name: str = ""
    """What the model is to be called; the last part of the repository's name, if it is empty."""
    revision: str | None = None
    file: str | None = None
    precision: str = "int8"


def pull_from_hub(model: HubModel, progress: Progress, scorer: Scorer) -> ModelFolder | Path:
    """Fetch a model and convert it; of an exported graph give the path, by which it can be used.

    Raises ModelError if it cannot be fetched or converted.
    """
    if not _NAME.fullmatch(model.repository):
        message = f"{model.repository!r} is no repository; write it as ORG/NAME"
        raise UsageError(message)
    name = model.name or model.repository.rpartition("/")[2]
    check_name(name)
    repository = Repository(model.repository, model.revision, progress)
    files = choose(model.repository, repository.names(), model.file)
    if files[-1].endswith(_SAFETENSORS):  # many bytes that would be for nothing otherwise
        read_description(repository.fetch([CONFIG]))
    folder = repository.fetch(files)
    single = next((file for file in files if file.endswith((_GGUF, _ONNX))), "")
    if single.endswith(_ONNX):
        return folder / single
    checkpoint = read_checkpoint(folder / single)
    licence = read_licence(folder)
    checkpoint = replace(
        checkpoint,
        source=f"{model.repository} {folder.name}",
        licence=checkpoint.licence if licence == UNKNOWN else licence,
    )
    return import_checkpoint(
        checkpoint, name, precision=model.precision, progress=progress, scorer=scorer
    )


def choose(repository: str, names: Sequence[str], file: str | None) -> list[str]:
    """Choose the files to fetch, the weights last; `file` names what holds them, if it is known.

    ModelError if there are no weights that can be used, UsageError if it is not clear which.
    """
    weights = _weights(repository, names) if file is None else _named(repository, names, file)
    if weights[0] in (_SINGLE, _INDEX) and ADAPTER in names:
        message = (
            f"{repository} has an adapter, {ADAPTER}, which is not applied; take a repository into "
            "whose model it is merged"
        )
        raise ModelError(message)
    parts = () if TOKENIZER in names else TOKENIZER_PARTS
    described = [name for name in (*DESCRIPTIONS, *parts) if name in names]
    if weights[0].endswith(_ONNX) and _GENAI_CONFIG in names:
        described.append(_GENAI_CONFIG)
    return [*described, *weights]


def _weights(repository: str, names: Sequence[str]) -> list[str]:
    if _SINGLE in names:
        return [_SINGLE]
    if _INDEX in names:
        parts = [name for name in names if name.endswith(_SAFETENSORS) and "/" not in name]
        # Some publish the same weights once more, in one file (consolidated.safetensors).
        shards = [name for name in parts if name.startswith(_SHARD)]
        return [_INDEX, *sorted(shards or parts)]
    ggufs = sorted({part_names(name)[0] for name in names if _is_decoder(name)})
    graphs = sorted(name for name in names if name.endswith(_ONNX))
    known = ggufs if ggufs else [name for name in _GRAPHS if name in graphs][:1]
    if len(known) == 1:
        return _named(repository, names, known[0])
    if ggufs or graphs:
        listed = _listed(ggufs or graphs)
        message = f"{repository} has several files to choose from; name one with --file: {listed}"
        raise UsageError(message)
    message = f"{repository} has neither safetensors nor GGUF nor ONNX files"
    if ADAPTER in names:
        message = f"{repository} {ADAPTER_ADVICE}"
    elif pickle := next((name for name in names if name.endswith(_PICKLES)), ""):
        message = (
            f"{repository} has its weights as pickles alone ({pickle}), which can run code and "
            "are never read; take a repository with safetensors or GGUF files"
        )
    raise ModelError(message)


def _named(repository: str, names: Sequence[str], file: str) -> list[str]:
    """Choose a file of weights, behind it what a graph keeps in files of their own."""
    if PurePosixPath(file).suffix not in (_GGUF, _ONNX):
        message = f"--file takes a .gguf or .onnx file, and {file!r} is none"
        raise UsageError(message)
    if file not in names:
        found = sorted(name for name in names if name.endswith((_GGUF, _ONNX)))
        message = f"{repository} has no file {file!r}; it has {_listed(found) or 'none'}"
        raise ModelError(message)
    if file.endswith(_GGUF):
        return part_names(file)
    data = (f"{file}_data", f"{file}.data")
    return [file, *sorted(name for name in names if name.startswith(data))]


def _is_decoder(name: str) -> bool:
    """Say whether a file is GGUF and not the part of a model that reads pictures."""
    return name.endswith(_GGUF) and not PurePosixPath(name).name.startswith("mmproj")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


class Repository:
    """One revision of a repository; every method raises ModelError, in one sentence."""

    def __init__(self, name: str, revision: str | None, progress: Progress) -> None:
        self._library = _library()
        self._name = name
        self._revision = revision
        self._progress = progress

    def names(self) -> list[str]:
        """List the files; offline those that the cache has."""
        library, name, revision = self._library, self._name, self._revision
        with self._reported():
            if not library.is_offline_mode():
                found = library.HfApi().model_info(name, revision=revision)
                return [sibling.rfilename for sibling in found.siblings or ()]
            root = Path(library.snapshot_download(name, revision=revision, local_files_only=True))
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

        class Bar(_StageBar):
            def show(self) -> None:
                progress(stage, min(self.n, self.total or self.n), self.total or self.n)

        with self._reported():
            path = self._library.hf_hub_download(
                self._name, name, revision=self._revision, tqdm_class=Bar
            )
        return Path(path).parents[name.count("/")]

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Say in one sentence what the library or the network says in many."""
        errors = self._library.errors
        reasons = {  # the first that fits, for some are kinds of others
            errors.GatedRepoError: (
                f"{self._name} is gated: accept its terms on its page at Hugging Face, and set "
                "HF_TOKEN to a token of the account that did"
            ),
            errors.RevisionNotFoundError: f"{self._name} has no revision {self._revision!r}",
            errors.RepositoryNotFoundError: (
                f"there is no repository {self._name}, or it is private; see its name, and set "
                "HF_TOKEN if it needs one"
            ),
        }
        if self._library.is_offline_mode():
            reasons[errors.LocalEntryNotFoundError] = (
                f"{self._name} is not in the cache of Hugging Face, or not whole, and "
                "HF_HUB_OFFLINE forbids to fetch it; unset it, or fetch the model elsewhere"
            )
        try:
            yield
        except Exception as error:  # its HTTP client's errors have no base that it names
            fitting = (reason for kind, reason in reasons.items() if isinstance(error, kind))
            raise ModelError(next(fitting, None) or self._other(error)) from error

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

    def __exit__(self, *_: object) -> None:
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
            "models of Hugging Face need the extra [remote]: `pip install huggingface_hub` adds "
            "what it has for them"
        )
        raise ModelError(message) from error
    library: Any = huggingface_hub
    library.logging.set_verbosity_error()
    return library
