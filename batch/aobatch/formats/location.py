"""Where a file is: a path of this machine, or a URI of a store that pyarrow can open."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

_URI = re.compile(r"[a-z][a-z0-9.+-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that another machine keeps."""

    uri: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.uri).path)).name

    @property
    def suffix(self) -> str:
        """The end of its name from the last dot on."""
        return PurePosixPath(self.name).suffix

    @property
    def is_folder(self) -> bool:
        """Whether its path ends as that of a folder."""
        return urlsplit(self.uri).path.endswith("/")

    @property
    def folder(self) -> str:
        """The URI of the folder that it is in, without what follows a question mark."""
        parts = urlsplit(self.uri)
        return urlunsplit((*parts[:2], parts.path.rpartition("/")[0], "", ""))

    def with_name(self, name: str) -> "Remote":
        """Give the file of another name in the same folder."""
        parts = urlsplit(self.uri)
        folder = parts.path.rpartition("/")[0]
        return Remote(urlunsplit(parts._replace(path=f"{folder}/{quote(name)}")))

    def __str__(self) -> str:
        """Write the URI without the keys that it may hold."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


Location: TypeAlias = Path | Remote


def parse_location(text: str) -> Location:
    """Read a path, a URI, or a URI of this machine, which is a path."""
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return Remote(text) if _URI.match(text) else Path(text)
