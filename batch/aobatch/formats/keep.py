"""Columns of the inputs that go along into the output, with the types that they have."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from aobatch.errors import InputError
from aobatch.formats.answers import COLUMNS, CUSTOM_ID, RESPONSE
from aobatch.formats.remote import Location
from aobatch.formats.template import text_of
from aobatch.text import nearest, printable

ALL = "all"
"""In place of names: every column."""
_JSON = {b"aobatch.json": b"1"}
"""Marks a field whose cells are JSON, as those of JSON lines are."""


class KeptBatch(NamedTuple):
    """Some neighbouring rows of an input: their numbers, and what is kept of them."""

    numbers: Sequence[int]
    batch: pa.RecordBatch


def kept_schema(schema: pa.Schema, path: Location, names: Sequence[str]) -> pa.Schema | None:
    """Find the columns that are kept; InputError if one is not there."""
    if not names:
        return None
    known = [name for name in schema.names if name != CUSTOM_ID]
    for name in () if ALL in names else names:
        if name not in schema.names:
            meant = nearest(name, tuple(known))
            hint = f" (did you mean '{printable(meant)}'?)" if meant else ""
            listed = ", ".join(map(printable, known)) or "none"
            message = f"{path} has no column '{printable(name)}' to keep{hint}; it has {listed}"
            raise InputError(message)
    wanted = known if ALL in names else [name for name in dict.fromkeys(names) if name in known]
    fields = [schema.field(name) for name in wanted]
    return pa.schema([f if f.metadata == _JSON else f.remove_metadata() for f in fields])


def json_schema(names: Iterable[str]) -> pa.Schema:
    """Give the schema of lines: cells of JSON text."""
    return pa.schema([pa.field(name, pa.string(), metadata=_JSON) for name in names])


class KeptRows:
    """What is kept of the rows that an output answers, in their order."""

    def __init__(
        self, schema: pa.Schema, batches: Iterator[KeptBatch], numbers: Iterator[int]
    ) -> None:
        self._schema = schema
        self._batches = batches
        self._numbers = numbers
        self._current = KeptBatch((), pa.RecordBatch.from_pylist([], schema=schema))

    def take(self, count: int) -> list[pa.RecordBatch]:
        """Give what is kept of the next rows, in one batch or several."""
        found, wanted = list[pa.RecordBatch](), list[int]()
        for number in islice(self._numbers, count):
            while not len(self._current.numbers) or number > self._current.numbers[-1]:
                found += self._chosen(wanted)
                wanted = []
                self._current = next(self._batches)
            wanted.append(number)
        return [*found, *self._chosen(wanted)]

    def _chosen(self, wanted: list[int]) -> list[pa.RecordBatch]:
        # Not taken by a list of places: some types can only be sliced.
        slices, begun = list[pa.RecordBatch](), 0
        places = {number: place for place, number in enumerate(self._current.numbers)}
        for index, number in enumerate(wanted, 1):
            ends = index == len(wanted) or places[wanted[index]] != places[number] + 1
            if ends:
                start = places[wanted[begun]]
                slices.append(self._current.batch.slice(start, index - begun))
                begun = index
        return slices

    @property
    def table_fields(self) -> list[pa.Field]:
        """The columns that a table of answers has of them; none has the name of one of its own."""
        taken = {*COLUMNS, RESPONSE}
        return [
            pa.field(f"input_{f.name}" if f.name in taken else f.name, f.type) for f in self._schema
        ]

    def columns(self, count: int) -> list[pa.ChunkedArray]:
        """Give the columns of the next rows, as tables have them."""
        table = pa.Table.from_batches(self.take(count), schema=self._schema)
        return [
            _plain(column) if f.metadata == _JSON else column
            for f, column in zip(self._schema, table.columns, strict=True)
        ]

    def texts(self, count: int) -> list[list[str | None]]:
        """Give the columns of the next rows as text."""
        return [
            [value if value is None else text_of(value) for value in column.to_pylist()]
            for column in self.columns(count)
        ]

    def objects(self, count: int) -> Iterator[bytes]:
        """Yield the next rows as JSON objects."""
        marked = {f.name for f in self._schema if f.metadata == _JSON}
        encoder = msgspec.json.Encoder(enc_hook=str)
        for batch in self.take(count):
            for row in batch.to_pylist():
                yield encoder.encode({k: _raw(v) if k in marked else v for k, v in row.items()})


def _raw(text: str | None) -> object:
    return None if text is None else msgspec.Raw(text.encode())


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write text as text and all else as the JSON that it is."""
    values = [None if text is None else msgspec.json.decode(text) for text in column.to_pylist()]
    texts = [
        text if value is None or not isinstance(value, str) else value
        for text, value in zip(column.to_pylist(), values, strict=True)
    ]
    nothing = [None if value is None else text for value, text in zip(values, texts, strict=True)]
    return pa.chunked_array([pa.array(nothing, pa.string())])


@dataclass(frozen=True, slots=True)
class Extras:
    """What an output has beside the answers."""

    id_type: object = None
    """The type of its custom_ids, if tables of the inputs have one that is not text."""
    kept: KeptRows | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What Parquet files say of the job."""


class Written(NamedTuple):
    """What an output has beside its answers, as `Extras` put it there."""

    id_type: object = None
    schema: pa.Schema | None = None
    """The columns that are kept, None if there are none."""
    batches: Iterator[KeptBatch] = iter(())
    metadata: Mapping[str, str] = {}


def in_turn(parts: Sequence[Iterator[KeptBatch]]) -> Iterator[KeptBatch]:
    """Take a row of each part in turn, and number them from 1."""
    rows = [(batch.slice(n, 1) for _, batch in part for n in range(len(batch))) for part in parts]
    found = chain.from_iterable(zip_longest(*rows))
    return numbered(row for row in found if row is not None)


def with_kept(records: Iterable[bytes], kept: KeptRows | None) -> Iterator[bytes]:
    """Add to each record, as its last key, what is kept of its row."""
    source = iter(records)
    while block := list(islice(source, 1024)) if kept else []:
        assert kept is not None
        for record, row in zip(block, kept.objects(len(block)), strict=True):
            yield b'%b,"input":%b}' % (record[:-1], row)
    yield from source


def numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[KeptBatch]:
    """Number the rows of a table from 1."""
    first = 1
    for batch in batches:
        yield KeptBatch(range(first, first + batch.num_rows), batch)
        first += batch.num_rows


def renumbered(parts: Iterable[Iterator[KeptBatch]]) -> Iterator[KeptBatch]:
    """Number the rows of several inputs as if they were one."""
    first = 0
    for part in parts:
        last = 0
        for numbers, batch in part:
            last = numbers[-1] if len(numbers) else last
            yield KeptBatch([first + number for number in numbers], batch)
        first += last


def row_of_json(fields: Mapping[str, Any], names: Sequence[str]) -> dict[str, str | None]:
    """Give the cells of a line: JSON, or nothing."""
    return {n: msgspec.json.encode(fields[n]).decode() if n in fields else None for n in names}
