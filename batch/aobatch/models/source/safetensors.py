"""Headers of safetensors files, checked to the last byte before a weight is read.

The header is a length in eight bytes and a JSON object: the type, shape and place of each tensor.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aobatch.errors import ModelError
from aobatch.models.checks import (
    MAX_ELEMENTS,
    MAX_RANK,
    MAX_SAFETENSORS_HEADER_BYTES,
    MAX_SAFETENSORS_TENSORS,
    POINTER,
    POINTER_ADVICE,
    neighbour,
    open_regular,
    read_regular,
    refusal,
    shown,
)
from aobatch.models.source import families
from aobatch.models.source.config import check_config
from aobatch.models.source.decoder import (
    check_presence,
    check_shapes,
    check_spec,
    decoder_shapes,
    memory_budget,
    safetensors_name,
)
from aobatch.models.source.tokenizer_json import read_fields, read_licence, read_tokenizer
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight

_ITEM_SIZES: Mapping[object, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_METADATA = "__metadata__"
_MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file, row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """The first byte, counted from the start of the file."""
    end: int


class _HeaderError(ValueError):
    """What is wrong with a header."""


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Give the tensors of a safetensors file by name, in the order of their bytes.

    ModelError for anything that the format does not have: they fill the file without gap or
    overlap, and each takes as many bytes as its type and shape need.
    """
    # Caches keep files behind links.
    with open_regular(path, follows_links=True) as (file, size):
        if file.read(len(POINTER)) == POINTER:
            message = f"{path} {POINTER_ADVICE}"
            raise ModelError(message)
        file.seek(0)
        try:
            return _tensors(file, size)
        except (_HeaderError, OSError) as error:
            raise refusal(path, f"it is no safetensors file, for {error}") from error


def read_index(path: Path) -> dict[str, Path]:
    """Give the file of each tensor that a model.safetensors.index.json names.

    All lie beside the index; whether they hold these tensors is for `read_header` to say.
    """
    content = read_regular(path, MAX_SAFETENSORS_HEADER_BYTES, follows_links=True)
    try:
        names = _file_names(_parse(content))
    except _HeaderError as error:
        raise refusal(path, f"it is no index of safetensors files, for {error}") from error
    return {tensor: neighbour(path, name) for tensor, name in names.items()}


def _file_names(index: Mapping[str, object]) -> dict[str, str]:
    names = index.get("weight_map")
    if not isinstance(names, dict) or not 0 < len(names) <= MAX_SAFETENSORS_TENSORS:
        message = "it has no weight_map, or one that is too large"
        raise _HeaderError(message)
    if not all(isinstance(name, str) for name in names.values()):
        message = "it names files by something else than names"
        raise _HeaderError(message)
    return names


def _tensors(file: BinaryIO, size: int) -> dict[str, StoredTensor]:
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size or length > MAX_SAFETENSORS_HEADER_BYTES:
        message = f"a header of {length} bytes does not fit"
        raise _HeaderError(message)
    header = _parse(file.read(length))
    _check_metadata(header.pop(_METADATA, {}))
    if len(header) > MAX_SAFETENSORS_TENSORS:
        message = f"it has {len(header)} tensors"
        raise _HeaderError(message)
    tensors = {name: _tensor(name, entry, start) for name, entry in header.items()}
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    position = start
    for name, tensor in ordered:
        if tensor.begin != position:
            message = f"tensor {shown(name)} leaves a gap or overlaps another"
            raise _HeaderError(message)
        position = tensor.end
    if position != size:
        message = f"its tensors end at byte {position} of {size}"
        raise _HeaderError(message)
    return dict(ordered)


def _tensor(name: str, entry: object, start: int) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        message = f"tensor {shown(name)} is not described by dtype, shape and data_offsets"
        raise _HeaderError(message)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        message = f"a tensor is named {shown(name)}"
        raise _HeaderError(message)
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        message = f"tensor {shown(name)} has the type {shown(dtype)}"
        raise _HeaderError(message)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        message = f"tensor {shown(name)} has shape {shown(shape)} and offsets {shown(offsets)}"
        raise _HeaderError(message)
    begin, end = offsets
    if math.prod(shape) * _ITEM_SIZES[dtype] != end - begin:
        message = f"tensor {shown(name)} has {end - begin} bytes, not those of its type and shape"
        raise _HeaderError(message)
    return StoredTensor(dtype, tuple(shape), start + begin, start + end)


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_RANK
        and all(type(size) is int and 0 <= size <= MAX_ELEMENTS for size in value)
    )


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        message = "its metadata are not strings"
        raise _HeaderError(message)


def _parse(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        message = f"its JSON cannot be read ({error})"
        raise _HeaderError(message) from error
    if not isinstance(value, dict) or content[:1] != b"{":
        message = "it does not begin with an object"
        raise _HeaderError(message)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        message = "a key stands twice"
        raise ValueError(message)
    return fields


_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor and the file that it lies in."""

    name: str
    path: Path
    stored: StoredTensor


def find_weights(folder: Path) -> dict[str, FileTensor]:
    """Give the tensors of a folder by name, out of one file or of those that its index names.

    Raises ModelError if a file is missing, or does not hold what the index says.
    """
    index = folder / _INDEX
    if not index.is_file():
        path = folder / _SINGLE
        if not path.exists() and not path.is_symlink():
            message = f"{folder} has neither {_SINGLE} nor {_INDEX}; get the whole folder"
            raise ModelError(message)
        return {name: FileTensor(name, path, tensor) for name, tensor in read_header(path).items()}
    paths = read_index(index)
    tensors = {
        name: FileTensor(name, path, tensor)
        for path in sorted({*paths.values()})
        for name, tensor in read_header(path).items()
    }
    wrong = [name for name, tensor in tensors.items() if paths.get(name) != tensor.path]
    wrong += [name for name in paths if name not in tensors]
    if wrong:
        message = f"{index} does not say truly which file holds {shown(wrong[0])}; get it anew"
        raise ModelError(message)
    return tensors


def load_tensor(tensor: FileTensor, start: int = 0, stop: int | None = None) -> Weight:
    """Read rows start to stop; ModelError for integers, or a number that is not finite."""
    stored = tensor.stored
    if stored.dtype not in _TYPES:
        message = f"{tensor.path}: weight {tensor.name!r} has type {stored.dtype}, not supported"
        raise ModelError(message)
    dtype = np.dtype(_TYPES[stored.dtype])
    num_rows = len(range(stored.shape[0])[start:stop])
    row_size = prod(stored.shape[1:])
    with open_regular(tensor.path, follows_links=True) as (file, _):
        file.seek(stored.begin + start * row_size * dtype.itemsize)
        numbers = np.fromfile(file, dtype, num_rows * row_size)
    if len(numbers) != num_rows * row_size:
        message = f"{tensor.path} became shorter while it was read"
        raise ModelError(message)
    if stored.dtype == "BF16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        weight = numbers.astype(np.float32, copy=False).reshape(num_rows, *stored.shape[1:])
    if not np.isfinite(weight).all():
        message = f"{tensor.path}: weight {tensor.name!r} holds numbers that are not finite"
        raise ModelError(message)
    return weight


_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Old files keep the frequencies that follow from config.json.
_UNNEEDED = ("rotary_emb.inv_freq",)


def read_safetensors(folder: Path) -> Checkpoint:
    """Open a folder as its author published it; weights are read one at a time.

    Nothing is taken on trust: raises ModelError if the files contradict each other, or ask for
    anything that is not supported.
    """
    config = read_fields(folder / "config.json")
    # The part of a model that reads text alone adds this to the family's name.
    family = families.find(config.text("model_type").removesuffix("_text"), config.source)
    stored = find_weights(folder)
    check_presence(_EMBEDDING, stored, config)
    spec = family.spec_from_config(config, stored[_EMBEDDING].stored.shape[0])
    check_config(config)
    files = sorted({tensor.path for tensor in stored.values()})
    check_spec(spec, config, memory_budget(sum(path.stat().st_size for path in files)))
    names = _stored_names(spec)
    expected = {names[name]: shape for name, shape in decoder_shapes(spec).items()}
    unneeded = (*_UNNEEDED, *((_HEAD,) if spec.is_tied else ()))
    shapes = {name: tensor.stored.shape for name, tensor in stored.items()}
    check_shapes(expected, shapes, config, unneeded)
    tokenizer, tokens = read_tokenizer(folder, config, spec.vocab_size)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = load_tensor(stored[names[name]], start, stop)
        return weight + family.GAIN_OFFSET if name.endswith("norm") else weight

    return Checkpoint(
        spec=spec,
        load=load,
        tokenizer_json=tokenizer,
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        adds_document_start=tokens.adds_document_start,
        infill_token_ids=tokens.infill,
        name=folder.resolve().name,
        licence=read_licence(folder),
        source=folder.resolve().name,
        files=tuple(files),
    )


def _stored_names(spec: DecoderSpec) -> dict[str, str]:
    names = {name: safetensors_name(name, spec) for name in decoder_shapes(spec)}
    return names | ({"head": names["embedding"]} if spec.is_tied else {})
