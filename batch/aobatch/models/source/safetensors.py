"""A folder of safetensors with its config.json as a checkpoint: headers, weights, special tokens.

The safetensors library vouches for a header: tensors fill the file without gap or overlap, and each
takes as many bytes as its type and shape need. Rows are then read from their place, since a mapped
file that becomes shorter would end the process.
"""

from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from aobatch.errors import ModelError
from aobatch.models.checks import (
    ADAPTER,
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
from aobatch.models.source.config import check_config, check_weights, text_config, text_weights
from aobatch.models.source.decoder import (
    StoredRows,
    arranged_heads,
    check_presence,
    check_spec,
    decoder_shapes,
    load_rows,
    memory_budget,
    stored_rows,
    with_wide_heads,
)
from aobatch.models.source.families import Family, find, spec_from_config
from aobatch.models.source.fields import Fields
from aobatch.models.source.tokenizer_json import read_fields, read_licence, read_tokenizer
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight, WeightLoader

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_MAX_NAME = 1024
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_RANK)]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: Annotated[
        dict[str, str], msgspec.Meta(min_length=1, max_length=MAX_SAFETENSORS_TENSORS)
    ]


@dataclass(frozen=True, slots=True)
class FileTensor:
    """Where a tensor is: in which file, from which byte on, row by row, little-endian."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


def read_header(path: Path) -> dict[str, FileTensor]:
    """Read the tensors of a safetensors file by name; ModelError if it is damaged or too large."""
    # Caches keep files behind links.
    with open_regular(path, follows_links=True) as (file, _):
        if file.read(len(POINTER)) == POINTER:
            message = f"{path} {POINTER_ADVICE}"
            raise ModelError(message)
        try:
            with safe_open(path, framework="np"):
                file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = msgspec.json.decode(file.read(length))
            header.pop("__metadata__", None)
            entries = msgspec.convert(header, dict[str, _Entry])
        except (SafetensorError, msgspec.MsgspecError, OSError, UnicodeError) as error:
            # Newer files may have types of fewer bits than the library knows.
            is_newer = "unknown variant" in str(error)
            what = (
                "has a type of numbers that is not read" if is_newer else "is no safetensors file"
            )
            raise refusal(path, f"it {what}: {error}") from error
    if len(entries) > MAX_SAFETENSORS_TENSORS:
        raise refusal(path, f"it has {len(entries)} tensors, at most {MAX_SAFETENSORS_TENSORS}")
    for name in entries:
        if not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
            raise refusal(path, f"a tensor is named {shown(name)}")
    return {
        name: FileTensor(name, path, entry.dtype, entry.shape, 8 + length + begin, end - begin)
        for name, entry in entries.items()
        for begin, end in (entry.data_offsets,)
    }


def read_index(path: Path) -> dict[str, Path]:
    """Read the file of each tensor that a model.safetensors.index.json names.

    All lie beside the index; whether they hold these tensors is for `read_header` to say.
    """
    content = read_regular(path, MAX_SAFETENSORS_HEADER_BYTES, follows_links=True)
    try:
        names = msgspec.json.decode(content, type=_Index).weight_map
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise refusal(path, f"it is no index of safetensors files: {error}") from error
    return {tensor: neighbour(path, name) for tensor, name in names.items()}


def find_weights(folder: Path) -> dict[str, FileTensor]:
    """Find the tensors of a folder by name, in one file or in those that its index names.

    Raises ModelError if a file is missing, or does not hold what the index says.
    """
    index, path = folder / _INDEX, folder / _SINGLE
    if not index.is_file():
        if not path.exists() and not path.is_symlink():
            message = f"{folder} has neither {_SINGLE} nor {_INDEX}; get the whole folder"
            raise ModelError(message)
        return read_header(path)
    paths = read_index(index)
    lost = sorted({path.name for path in paths.values() if not path.exists()})
    if lost:
        message = f"{folder} lacks {lost[0]}, which {_INDEX} names; get the whole folder"
        raise ModelError(message)
    headers = [read_header(path) for path in sorted({*paths.values()})]
    tensors = {name: tensor for header in headers for name, tensor in header.items()}
    wrong = [name for name, tensor in tensors.items() if paths.get(name) != tensor.path]
    wrong += [name for name in paths if name not in tensors]
    if wrong:
        message = f"{index} does not say truly which file holds {shown(wrong[0])}; get it anew"
        raise ModelError(message)
    return tensors


def load_tensor(tensor: FileTensor, start: int = 0, stop: int | None = None) -> Weight:
    """Read rows start to stop; ModelError for integers, or a number that is not finite."""
    if tensor.dtype not in _TYPES:
        message = f"{tensor.path}: weight {tensor.name!r} has type {tensor.dtype}, not supported"
        raise ModelError(message)
    numbers = _rows(tensor, _TYPES[tensor.dtype], start, stop)
    if tensor.dtype == "BF16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return _finite(numbers.astype(np.float32, copy=False), tensor)


def _rows(tensor: FileTensor, dtype: str, start: int, stop: int | None) -> NDArray[Any]:
    """Read rows start to stop as they are stored."""
    shape = (len(range(tensor.shape[0])[start:stop]), *tensor.shape[1:])
    with open_regular(tensor.path, follows_links=True) as (file, _):
        file.seek(tensor.begin + start * prod(shape[1:]) * np.dtype(dtype).itemsize)
        numbers = np.fromfile(file, dtype, prod(shape))
    if len(numbers) != prod(shape):
        message = f"{tensor.path} became shorter while it was read"
        raise ModelError(message)
    return numbers.reshape(shape)


def _finite(weight: Weight, tensor: FileTensor) -> Weight:
    if not np.isfinite(weight).all():
        message = f"{tensor.path}: weight {tensor.name!r} holds numbers that are not finite"
        raise ModelError(message)
    return weight


_BLOCK = 2**22
"""Numbers of a table that are compared at a time."""
_EMBEDDERS = ("modules.json", "config_sentence_transformers.json")
# Old files keep the frequencies that follow from config.json.
_UNNEEDED = ("rotary_emb.inv_freq",)


def _are_equal(one: FileTensor, other: FileTensor) -> bool:
    """Say whether two tables hold the same numbers, however they are typed."""
    if one.shape != other.shape or len(one.shape) != 2:
        return False
    step = max(1, _BLOCK // max(1, one.shape[1]))
    starts = range(0, one.shape[0], step)
    return all(
        np.array_equal(load_tensor(one, i, i + step), load_tensor(other, i, i + step))
        for i in starts
    )


def read_description(folder: Path) -> tuple[Fields, str, Family]:
    """Read config.json, and which family it names; ModelError if that is not known here."""
    config = text_config(read_fields(folder / "config.json"))
    # The part of a model that reads text alone adds this to the family's name.
    name = config.text("model_type").removesuffix("_text")
    family = find(name, config.source)
    return config.with_defaults(family.defaults), name, family


def read_safetensors(folder: Path) -> Checkpoint:
    """Open a folder as its author published it; weights are read one at a time.

    Nothing is taken on trust: raises ModelError if the files contradict each other, or ask for
    anything that is not supported.
    """
    config, name, family = read_description(folder)
    stored, left_out = text_weights(find_weights(folder))
    check_weights(config, ((name, tensor.dtype) for name, tensor in stored.items()))
    _check_purpose(folder, config, family, stored)
    embedding, head = map(family.naming.of, ("embedding", "head"))
    check_presence(embedding, stored, config)
    spec = spec_from_config(family, name, config, stored[embedding].shape[0])
    warnings = check_config(config, name)
    # Fine-tuning may train a head of its own and leave the description as it was.
    if spec.is_tied and head in stored:
        spec = replace(spec, is_tied=_are_equal(stored[embedding], stored[head]))
    files = sorted({tensor.path for tensor in stored.values()})
    check_spec(spec, config, memory_budget(sum(path.stat().st_size for path in files)))
    unneeded = (*_UNNEEDED, *((head,) if spec.is_tied else ()))
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    places = stored_rows(spec, family.naming, config, shapes, {}, unneeded)
    spec = with_wide_heads(spec)
    tokenizer, tokens, remark = read_tokenizer(folder, config, spec.vocab_size)

    return Checkpoint(
        **asdict(tokens),
        spec=spec,
        load=_loader(stored, places, spec, family),
        tokenizer_json=tokenizer,
        licence=read_licence(folder),
        source=_source(folder.resolve()),
        files=tuple(files),
        warnings=tuple(filter(None, (*warnings, remark))),
        left_out=left_out,
    )


def _source(folder: Path) -> str:
    """Name a folder; one of a hub's cache is the revision of a repository."""
    cache = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cache.startswith("models--"):
        return folder.name
    return f"{cache.removeprefix('models--').replace('--', '/')} {folder.name}"


def _check_purpose(folder: Path, config: Fields, family: Family, stored: Container[str]) -> None:
    """Raise ModelError for an adapter beside a model, and for a model that writes nothing."""
    if (folder / ADAPTER).exists():
        message = (
            f"{folder} has an adapter, {ADAPTER}, which is not applied; give it a folder of its "
            "own and merge it with --lora, or remove it"
        )
        raise ModelError(message)
    embedding = family.naming.of("embedding")
    is_bare = embedding.removeprefix("model.") in stored and embedding not in stored
    if is_bare or any((folder / name).exists() for name in _EMBEDDERS):
        config.refuse("the model embeds texts and completes none; take one that writes texts")


def _loader(
    stored: Mapping[str, FileTensor],
    places: Mapping[str, StoredRows],
    spec: DecoderSpec,
    family: Family,
) -> WeightLoader:
    shapes = decoder_shapes(spec)

    def tensor_rows(name: str, start: int, stop: int) -> Weight:
        return load_tensor(stored[name], start, stop)

    def expert_rows(name: str, start: int, stop: int) -> NDArray[Any]:
        if stored[name].dtype == "U8":
            return _rows(stored[name], "u1", start, stop)
        return tensor_rows(name, start, stop)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        if found := family.naming.expert_part(name):
            (layer, part), shape = found, shapes[name]
            first = stored[next(iter(part.tensors(layer, shape, stored)))]
            experts = range(shape[0])[start:stop]
            own = [part.load(layer, shape, stored, expert_rows, expert) for expert in experts]
            return _finite(np.stack(own), first)
        weight = load_rows(places[name], tensor_rows, start, stop)
        weight = weight + family.gain_offset if name.endswith("norm") else weight
        return arranged_heads(weight, name, spec, pairs_neighbours=family.pairs_neighbours)

    return load
