"""Adapters as their files have them: a folder that PEFT wrote, or a LoRA as GGUF.

A folder has adapters by the names that its base has in safetensors, a GGUF file by those of GGUF.
The scale of what is added is alpha / rank, or alpha / sqrt(rank) if it is stabilised (Kalajdzievski
2023).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.checks import ADAPTER, shown
from aobatch.models.source.decoder import GGUF, Shape
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf import check_parts
from aobatch.models.source.gguf_checkpoint import load_weight
from aobatch.models.source.gguf_families import GgufFamily, find_gguf
from aobatch.models.source.safetensors import FileTensor, load_tensor, read_header
from aobatch.models.source.tokenizer_json import read_fields
from aobatch.models.spec import Weight

_WEIGHTS, _PICKLE = "adapter_model.safetensors", "adapter_model.bin"
_KEPT = 2
"""Tensors that are kept since tables are merged some rows at a time."""

Rows = Callable[[int, int | None], Weight]
"""Gives rows start to stop of a tensor."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of an adapter, whose rows are read when they are asked for."""

    shape: Shape
    rows: Rows

    def turned(self) -> "Tensor":
        """Give the tensor with rows and columns exchanged."""
        return Tensor(self.shape[::-1], lambda start, stop: self.rows(0, None).T[start:stop])


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one weight that the base stores: [out, in] or [out]."""

    whole: Tensor | None = None
    """Takes its place."""
    up: Tensor | None = None
    """[out, rank] of what is added; or all of it, [out], if there is no `down`."""
    down: Tensor | None = None
    """[rank, in]"""
    scale: float = 1.0
    lengths: Tensor | None = None
    """Of each row of the sum, [out]."""
    tokens: Tensor | None = None
    """Takes the place of some rows of a table, [number of `token_ids`, in]."""
    token_ids: tuple[int, ...] = ()

    @property
    def shapes(self) -> Iterator[Shape]:
        """Give the shape that the weight has to have by each part."""
        if self.whole:
            yield self.whole.shape
        if self.up:
            yield self.up.shape[:1] + self.down.shape[1:] if self.down else self.up.shape


@dataclass(frozen=True, slots=True)
class Adapter:
    """What one adapter changes, by the names of what its base stores."""

    path: Path
    files: tuple[Path, ...]
    changes: Mapping[str, Change]
    base: str = ""
    """What it says it was trained on."""
    known: GgufFamily | None = None
    """The family that a GGUF file names."""


def read_adapter(path: Path) -> Adapter:
    """Read what a folder or a GGUF file changes; its tensors are read when they are asked for.

    ModelError if it is none that can be merged exactly.
    """
    return _read_gguf(path) if path.is_file() else _read_folder(path)


_GGUF_INERT = ("adapter.lora.task_name", "adapter.lora.prompt_prefix")


def _read_gguf(path: Path) -> Adapter:
    """Read a LoRA as a GGUF file; ModelError if it is none."""
    file = check_parts(path)
    fields = file.fields
    fields.require("adapter.type", "lora")
    if fields.text("general.type", "model") != "adapter":
        fields.refuse("it is a model, not an adapter; name it as the base")
    if "adapter.alora.invocation_tokens" in fields:
        fields.refuse("it is at work from some tokens on alone, and so cannot be merged")
    alpha = fields.number("adapter.lora.alpha", -1e6, 1e6, 0.0)
    fields.check_all_read("adapter.", _GGUF_INERT)
    keep = lru_cache(_KEPT)(lambda name: load_weight(file.tensors[name]))

    def rows(name: str) -> Rows:
        return lambda start, stop: keep(name)[start:stop]

    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in file.tensors.items():
        stem, _, end = name.rpartition(".")
        part = {"lora_a": "down", "lora_b": "up"}.get(end, "whole")
        if part == "whole" and not name.endswith("_norm.weight"):
            fields.refuse(f"{shown(name)} is no part of a LoRA")
        parts.setdefault(name if part == "whole" else stem, {})[part] = Tensor(
            tensor.shape, rows(name)
        )
    changes = {name: _gguf_change(path, name, found, alpha) for name, found in parts.items()}
    known = find_gguf(fields.text("general.architecture"), str(path))
    return Adapter(path, file.paths, changes, known=known)


def _gguf_change(path: Path, name: str, parts: Mapping[str, Tensor], alpha: float) -> Change:
    if "whole" in parts:
        return Change(whole=parts["whole"])
    up, down = _pair(path, name, parts)
    rank = up.shape[-1]
    if name == GGUF.of("embedding"):  # its rows are looked up in the first part
        up, down = down, up.turned()
    return Change(up=up, down=down, scale=alpha / rank if alpha else 1.0)


def _pair(path: Path, name: str, parts: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    matrix = 2
    pair = [parts.get("up"), parts.get("down")]
    if any(tensor is None or len(tensor.shape) != matrix for tensor in pair):
        message = f"{path}: of the two parts for {shown(name)} one is missing or no matrix"
        raise ModelError(message)
    return parts["up"], parts["down"]


# What shapes training, or says again what the tensors say.
_INERT_NAMES = """
    auto_mapping base_model_class corda_config eva_config exclude_modules fan_in_fan_out
    inference_mode layers_pattern layers_to_transform loftq_config lora_dropout megatron_core
    modules_to_save parent_library peft_version qalora_group_size revision runtime_config
    target_modules target_parameters task_type ensure_weight_tying lora_bias bias use_dora
    lora_ga_config velora_config r lora_alpha use_rslora rank_pattern alpha_pattern
    base_model_name_or_path trainable_token_indices
"""
_INERT = frozenset(_INERT_NAMES.split())
_NO_SUMS = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication"),
    *("megatron_config", "monteclora_config", "use_bdlora"),
    "use_qalora",
)
# Training began from a base that these had changed first.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|token_adapter\.trainable_tokens_delta)(?:\.default)?(?:\.(?P<end>weight|bias))?"
)
_WHOLE = re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(weight|bias)")
_TOKENS = "token_adapter.trainable_tokens_delta"
_PREFIXES = ("base_model.model.", "language_model.", "model.language_model.")


def _read_folder(path: Path) -> Adapter:
    """Read an adapter as PEFT writes it; ModelError if it is none that can be merged exactly."""
    if not (path / ADAPTER).is_file():
        message = f"{path} is no adapter: it has no {ADAPTER}; give the folder of a LoRA, or a GGUF"
        raise ModelError(message)
    if not (path / _WEIGHTS).is_file():
        is_pickle = (path / _PICKLE).is_file()
        reason = f"{_PICKLE} is a pickle, which is never read" if is_pickle else "it is incomplete"
        message = f"{path} has no {_WEIGHTS}: {reason}; get its safetensors"
        raise ModelError(message)
    config = read_fields(path / ADAPTER)
    _check_kind(config)
    parts: dict[str, dict[str, Tensor]] = {}
    keep = lru_cache(_KEPT)(load_tensor)

    def rows(tensor: FileTensor, *, is_kept: bool) -> Rows:
        if is_kept:
            return lambda start, stop: keep(tensor)[start:stop]
        return lambda start, stop: load_tensor(tensor, start, stop)

    for name, tensor in read_header(path / _WEIGHTS).items():
        stored, part = _target(name, config)
        found = Tensor(tensor.shape, rows(tensor, is_kept=part != "whole"))
        parts.setdefault(stored, {})[part] = found
    changes = {name: _change(path, name, found, config) for name, found in parts.items()}
    base = config.get("base_model_name_or_path")
    files = (path / _WEIGHTS, path / ADAPTER)
    return Adapter(path, files, changes, base if isinstance(base, str) else "")


def _check_kind(config: Fields) -> None:
    kind = config.text("peft_type")
    if kind != "LORA":
        config.refuse(f"it is an adapter of the kind {shown(kind)}; LoRA and DoRA can be merged")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        config.refuse(
            f"its base was changed when training began ({shown(start)}), so it fits no published "
            "model; save it anew with path_initial_model_for_weight_conversion"
        )
    for key in _NO_SUMS:
        if config.get(key):
            config.refuse(f"{key!r} makes it more than a sum of weights, so it cannot be merged")
    config.check_all_read(ignored=_INERT)


def _target(name: str, config: Fields) -> tuple[str, str]:
    """Say to which weight of the base a tensor belongs, and as which part."""
    plain = name
    for prefix in _PREFIXES:
        kept = "model." if prefix.startswith("model.") else ""
        plain = kept + plain.removeprefix(prefix) if plain.startswith(prefix) else plain
    if found := _PART.fullmatch(plain):
        module, part, end = found["module"], found["part"], found["end"]
        if part == "lora_B" and end == "bias":
            return f"{module}.bias", "up"
        return f"{module}.weight", part
    found = _WHOLE.fullmatch(plain)
    if found is None:
        config.refuse(f"{shown(name)} is no part of a LoRA that can be merged")
    return f"{found[1]}.{found[2]}", "whole"


def _change(path: Path, name: str, parts: Mapping[str, Tensor], config: Fields) -> Change:
    module = name.rpartition(".")[0]
    whole, lengths = parts.get("whole"), parts.get("lora_magnitude_vector")
    if tokens := parts.get(_TOKENS):
        return Change(whole, tokens=tokens, token_ids=_token_ids(config, module))
    if name.endswith(".bias"):
        scale = _scale(config, module) if "up" in parts else 1.0
        return Change(whole=whole, up=parts.get("up"), scale=scale)
    if not {*parts} - {"whole"}:
        return Change(whole=whole)
    is_table = "lora_embedding_A" in parts
    if is_table and lengths:
        config.refuse(f"{shown(name)} is a table with DoRA, which cannot be merged row by row")
    low, high = ("lora_embedding_A", "lora_embedding_B") if is_table else ("lora_A", "lora_B")
    given = {"down": parts.get(low), "up": parts.get(high)}
    up, down = _pair(path, name, {part: x for part, x in given.items() if x})
    scale = _scale(config, module, up.shape[1])
    if is_table:
        up, down = down.turned(), up.turned()
    return Change(whole, up, down, scale, lengths)


def _token_ids(config: Fields, module: str) -> tuple[int, ...]:
    """Read which tokens of a table were trained."""
    key, most = "trainable_token_indices", 2**21
    stated = config.get(key)
    if not isinstance(stated, Mapping):
        return tuple(config.integers(key, 0, most))
    table = next((name for name in stated if f".{module}".endswith(f".{name}")), module)
    return tuple(config.section(key).integers(table, 0, most))


def _scale(config: Fields, module: str, rank: int | None = None) -> float:
    """Say by how much what is added to a module is multiplied."""
    stated = int(_patterned(config, "rank_pattern", module, config.number("r", 1, 65_536, 8)))
    if rank not in (None, stated):
        config.refuse(f"it states rank {stated} for {shown(module)}, whose tensors have {rank}")
    alpha = _patterned(config, "alpha_pattern", module, config.number("lora_alpha", -1e6, 1e6, 8))
    stabilised = config.flag("use_rslora", default=False)
    return alpha / (sqrt(stated) if stabilised else stated)


_MOST_REPEATS, _LONGEST = 4, 256


def _patterned(config: Fields, key: str, module: str, otherwise: float) -> float:
    """Read a number by the first pattern that ends a module's name, as PEFT matches them."""
    if not config.get(key):
        return otherwise
    section, stated = config.section(key), config.get(key)
    for pattern in stated if isinstance(stated, Mapping) else ():
        # Whoever wrote it must not decide how long a match takes.
        if len(pattern) > _LONGEST or sum(map(pattern.count, "*+{?")) > _MOST_REPEATS:
            config.refuse(f"{key!r} has the pattern {shown(pattern)}, which is too intricate")
        try:
            is_match = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error:
            config.refuse(f"{key!r} has {shown(pattern)}, which is no pattern")
        if is_match:
            return section.number(pattern, -1e6, 1e6)
    return otherwise
