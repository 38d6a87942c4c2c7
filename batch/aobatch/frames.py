"""Prompts and tables of a program, answered without a file of requests."""

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from aobatch.api.request import Parameters, PromptLike
from aobatch.executors import Backend
from aobatch.executors.local import LocalBackend, load_engine
from aobatch.formats.keep import ALL
from aobatch.formats.parquet import ArrowStream, ArrowTable, read_whole, write_stream
from aobatch.formats.template import parse_template
from aobatch.job.config import JobConfig
from aobatch.job.context import Progress, Unwatched
from aobatch.job.runner import run_job

if TYPE_CHECKING:
    from aobatch.engine.sequence import Result


def complete(
    prompts: PromptLike | Iterable[PromptLike],
    *,
    model: str | None = None,
    **parameters: Unpack[Parameters],
) -> "list[Result]":
    """Open a model, compute a request for each prompt, and give the results in their order.

    A prompt is a text, token ids, or the messages of a chat; the parameters are those of a request:
    max_tokens=64, temperature=0. RequestError says what is wrong with them, ModelError what is
    wrong with the model. Who asks more than once keeps an engine: `with load_engine() as engine`.
    """
    with load_engine(model) as engine:
        return engine.complete(prompts, **parameters)


def run_table(  # noqa: PLR0913 - each but the table has a default
    table: ArrowStream,
    *,
    template: str | None = None,
    chat: bool = False,
    system: str | None = None,
    columns: Mapping[str, str] | None = None,
    keep: str | Sequence[str] = ALL,
    model: str | None = None,
    backend: Backend | None = None,
    progress: bool | None = None,
    **parameters: Unpack[Parameters],
) -> ArrowTable:
    """Answer each row of a table, and give a table with a row for each, in their order.

    The table is anything with `__arrow_c_stream__`: of pandas, polars, duckdb, pyarrow. Its prompts
    are written by the template, `"Is this good? {text}"`, as what a user says if it is a chat, or
    stand in a column `prompt`; `columns` says which columns give other fields, {"custom_id": "id"}.
    The answer has the columns of a job's output, and those of the table that are kept, with their
    types. A failed row has its error in `error_message`; JobError says why none can be answered.
    Progress is shown in notebooks and on terminals, unless it is said.
    """
    kept = (keep,) if isinstance(keep, str) else tuple(keep)
    with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
        source, output = Path(folder) / "table.parquet", Path(folder) / "answers.parquet"
        write_stream(table, source)
        config = JobConfig(
            (source,),
            output,
            model=model,
            defaults=dict(parameters),
            columns=dict(columns or {}),
            template=parse_template(template, is_chat=chat, system=system) if template else None,
            keep=kept,
            ignore_unknown=bool(kept),
        )
        is_watched = _is_watched() if progress is None else progress
        watched: Progress = _Bar() if is_watched else Unwatched()
        run_job(config, backend or LocalBackend(), watched)
        return read_whole(output)


def _is_watched() -> bool:
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


@dataclass(slots=True)
class _Bar:
    """A bar that fits where it is shown, in a notebook or on a terminal."""

    _bar: Any = field(default=None)

    def start(self, total: int, known: int) -> None:
        """Show the bar."""
        from tqdm.auto import tqdm

        self._bar = tqdm(total=total, initial=known, unit="row")

    def advance(self, num_lines: int, num_tokens: int) -> None:  # noqa: ARG002 - a Progress
        """Move the bar."""
        self._bar.update(num_lines)

    def fail(self) -> None:
        """Leave failures to the table."""

    def warn(self, message: str) -> None:
        """Write under the bar."""
        self._bar.write(message)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
