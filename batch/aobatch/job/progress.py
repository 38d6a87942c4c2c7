"""How a job tells whoever watches how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Someone who watches a job."""

    def start(self, total: int, known: int) -> None:
        """Hear how many lines there are, and how many an earlier run has answered."""
        ...

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Hear that further lines were answered with so many new tokens."""
        ...

    def warn(self, message: str) -> None:
        """Hear of something that went wrong and does not stop the job."""
        ...

    def close(self) -> None:
        """Hear that nothing more will be computed."""
        ...


class Silent:
    """Watches nothing."""

    def start(self, total: int, known: int) -> None:
        """Ignore the start."""

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Ignore an answer."""

    def warn(self, message: str) -> None:
        """Ignore a warning."""

    def close(self) -> None:
        """Ignore the end."""
