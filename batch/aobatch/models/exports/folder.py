"""An exported folder with the facts that a converted model has in its model.toml."""

from dataclasses import dataclass
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.checks.links import own_file
from aobatch.models.exports.choice import TOKENIZER, find_graph
from aobatch.models.exports.memory import Description, recall, remember
from aobatch.models.folder import CacheDtype, ModelFolder


@dataclass(frozen=True, slots=True)
class ExportedFolder(ModelFolder):
    """Where an export lies; `path` opens it again, and is its graph if that was named."""

    description: Description

    @property
    def folder(self) -> Path:
        """The folder of the tokenizer."""
        return Path(self.description.folder)

    @property
    def files(self) -> list[Path]:
        """All files that it is made of; those of two folders have different names."""
        return [Path(name) for name, known in self.description.stamps.items() if known]

    @property
    def size_bytes(self) -> int:
        """Bytes of the graph and its weights."""
        graph = self.graph()
        files = [graph, *(graph.with_name(name) for name in self.description.data_names)]
        return sum(file.stat().st_size for file in files)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file, behind whatever link a cache has."""
        return own_file(self.folder / TOKENIZER)

    def graph(self, cache_dtype: CacheDtype = "fp32") -> Path:
        """Give the graph; ModelError if it is to be over an int8 cache."""
        if cache_dtype != "fp32":
            message = f"{self.path} is an export and has its own cache; use --kv-cache-dtype fp32"
            raise ModelError(message)
        return Path(self.description.graph)


def open_export(path: Path) -> ExportedFolder:
    """Open a folder of an exported graph, or one graph of it, by its path.

    Raises ModelError if it is none that can run here. What was found out is remembered as long as
    no file changes, so that weights are read through once.
    """
    folder, graph = find_graph(path)
    description = recall(graph)
    if description is None:
        # Reading a graph needs a library that takes long to load.
        from aobatch.models.exports.describing import describe

        description = describe(folder, graph)
        remember(graph, description)
    return ExportedFolder(
        graph if path.is_file() else folder, description.manifest, description=description
    )
