"""A decoder's sizes out of either kind of file, and the weights that it then has to have."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from aobatch.models.checks import shown
from aobatch.models.source.experts import ExpertPart
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import head_order, rope_from_gguf
from aobatch.models.spec import DecoderSpec, LayerAttention, Rope, Weight

_BIASED = ("q", "k", "v", "o", "router", "gate", "up", "down")

_NAMES: Mapping[str, tuple[str, str]] = {
    "embedding": ("token_embd", "model.embed_tokens"),
    "final_norm": ("output_norm", "model.norm"),
    "head": ("output", "lm_head"),
    "attention_norm": ("attn_norm", "input_layernorm"),
    "q": ("attn_q", "self_attn.q_proj"),
    "k": ("attn_k", "self_attn.k_proj"),
    "v": ("attn_v", "self_attn.v_proj"),
    "o": ("attn_output", "self_attn.o_proj"),
    "q_norm": ("attn_q_norm", "self_attn.q_norm"),
    "k_norm": ("attn_k_norm", "self_attn.k_norm"),
    "attention_post_norm": ("post_attention_norm", "post_attention_layernorm"),
    "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
    "sinks": ("attn_sinks", "self_attn.sinks"),
    "router": ("ffn_gate_inp", "mlp.gate"),
    "gate": ("ffn_gate", "mlp.gate_proj"),
    "up": ("ffn_up", "mlp.up_proj"),
    "down": ("ffn_down", "mlp.down_proj"),
    "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
}
"""How GGUF and safetensors files call each canonical weight."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How a kind of file names and groups the weights of a family."""

    layers: str
    """What stands ahead of a layer's number."""
    stems: Mapping[str, str]
    """The stored name of each canonical weight, without its end."""
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Stored names of several weights, whose rows follow each other."""
    is_by_head: bool = False
    """Whether the rows of queries, keys and values take turns head by head."""
    experts: Mapping[str, ExpertPart] = field(default_factory=dict)
    """Where canonical weights of experts are, if not in a tensor each under the names of stems."""
    bare: frozenset[str] = frozenset()
    """Canonical weights that are stored under a stem alone."""

    def of(self, name: str) -> str:
        """Say under which name a canonical weight is stored, alone or with others."""
        layer, _, weight = name.removeprefix("layers.").rpartition(".")
        stem = weight.removesuffix("_bias")
        whole = next((stored for stored, parts in self.fused.items() if stem in parts), None)
        end = "" if weight in self.bare else ".weight" if stem == weight else ".bias"
        found = f"{whole or self.stems[stem]}{end}"
        return f"{self.layers}{layer}.{found}" if layer else found

    def expert_part(self, name: str) -> tuple[str, ExpertPart] | None:
        """Say where a weight of experts is, behind the name of its layer; None if it is no such."""
        layer, _, weight = name.removeprefix("layers.").rpartition(".")
        return (f"{self.layers}{layer}.", self.experts[weight]) if weight in self.experts else None

    def siblings(self, name: str) -> list[str]:
        """List the canonical weights that are stored with one, in their order."""
        place, _, weight = name.rpartition(".")
        stem, end = weight.removesuffix("_bias"), "_bias" if weight.endswith("_bias") else ""
        parts = next((parts for parts in self.fused.values() if stem in parts), (stem,))
        return [f"{place}.{part}{end}" if place else f"{part}{end}" for part in parts]


def gguf_naming(
    stems: Mapping[str, str] | None = None, fused: Mapping[str, tuple[str, ...]] | None = None
) -> Naming:
    """Give the names of GGUF files, some of them changed."""
    names = {name: stored for name, (stored, _) in _NAMES.items()} | dict(stems or {})
    return Naming("blk.", names, fused or {})


def safetensors_naming(fused: Mapping[str, tuple[str, ...]] | None = None, **stems: str) -> Naming:
    """Give the names of safetensors files, some of them changed."""
    names = {name: stored for name, (_, stored) in _NAMES.items()} | stems
    return Naming("model.layers.", names, fused or {})


GGUF = gguf_naming()


class StoredRows(NamedTuple):
    """Where a weight is stored: whole, or as some rows of a tensor."""

    tensor: str
    first: int
    num_rows: int
    part: tuple[int, int, int] | None = None
    """Which of how many parts it is, and of how many heads, where these take turns."""


def gguf_biases(stored: Container[str], naming: Naming) -> frozenset[str]:
    """Say which matrices of a GGUF file add a bias, by the names that are there."""
    layer = {name for name in _BIASED if naming.of(f"layers.0.{name}_bias") in stored}
    return frozenset(layer | ({"head"} if naming.of("head_bias") in stored else set()))


SIZES: Mapping[str, tuple[str, str, int, int]] = {
    "num_heads": ("num_attention_heads", "attention.head_count", 1, 1024),
    "hidden_size": ("hidden_size", "embedding_length", 1, 65_536),
    "intermediate_size": ("intermediate_size", "feed_forward_length", 1, 1_048_576),
    "num_layers": ("num_hidden_layers", "block_count", 1, 512),
    "num_kv_heads": ("num_key_value_heads", "attention.head_count_kv", 1, 1024),
    "head_dim": ("head_dim", "attention.key_length", 16, 1024),
    "context_length": ("max_position_embeddings", "context_length", 1, 2**24),
}
"""How a config.json and a GGUF file, there behind the family's name, call each size; its bounds."""

_EPSILON = (1e-12, 1.0)
_MAX_VOCABULARY = 2**21
_HEAD_DIM_MULTIPLE = 16  # GroupQueryAttention turns vectors of 16 numbers

# Bytes that conversion takes at its peak: for the angles of a position and a channel with their
# cosines and sines, and for a number of the random rotation with its factors.
_ROTARY_BYTES, _ROTATION_BYTES = 16, 32


def memory_budget(file_size: int) -> int:
    """Say how many bytes one array may take that is made from a file of that size."""
    return 8 * file_size + 64 * 2**20


def gguf_spec(at: Fields, head: tuple[str, int], norm_epsilon: str) -> DecoderSpec:
    """Read the sizes that GGUF files of every family have behind the name of their kind."""
    names = {name: gguf for name, (_, gguf, _, _) in SIZES.items()}
    spec = _plain_spec(at, {**names, "norm_epsilon": norm_epsilon}, head)
    for same in ("attention.value_length", "attention.head_dim"):
        at.integer(same, spec.head_dim, spec.head_dim, spec.head_dim)
    return _with_rope(spec, rope_from_gguf(at, spec.head_dim, spec.context_length))


def config_spec(
    fields: Fields,
    head: tuple[str, int],
    read_rope: Callable[[Fields, int], Rope],
    norm_epsilon: str,
    *,
    states_head_dim: bool,
) -> DecoderSpec:
    """Read the sizes under the names that a config.json of every family has, and the biases.

    `head` is the family and the size of its vocabulary.
    """
    names = {name: config for name, (config, _, _, _) in SIZES.items()}
    names["norm_epsilon"] = norm_epsilon
    fields.integer("vocab_size", head[1], head[1])
    spec = _plain_spec(fields, names, head, states_head_dim=states_head_dim)
    attention = "qkvo" if fields.flag("attention_bias", default=False) else ""
    mlp = ("gate", "up", "down") if fields.flag("mlp_bias", default=False) else ()
    spec = replace(spec, biases=frozenset((*attention, *mlp)))
    return _with_rope(spec, read_rope(fields, spec.head_dim))


def _plain_spec(
    fields: Fields,
    names: Mapping[str, str],
    head: tuple[str, int],
    *,
    states_head_dim: bool = False,
) -> DecoderSpec:
    """Read the sizes of a decoder, each under the name that it has in the file."""
    sizes: dict[str, Any] = {}
    epsilon = None if names["norm_epsilon"] else _EPSILON[1]  # a family may have a fixed one
    for name, (_, _, low, high) in SIZES.items():
        default = None
        if name == "num_kv_heads":
            default = sizes["num_heads"]
        elif name == "head_dim" and not states_head_dim:
            default = sizes["hidden_size"] // sizes["num_heads"]
        sizes[name] = fields.integer(names[name], low, high, default)
    return DecoderSpec(
        *head,
        **sizes,
        norm_epsilon=fields.number(names["norm_epsilon"], *_EPSILON, epsilon),
        attentions=(),
        attention_scale=1 / sqrt(sizes["head_dim"]),
    )


def _with_rope(spec: DecoderSpec, rope: Rope) -> DecoderSpec:
    return replace(spec, attentions=(LayerAttention(rope),) * spec.num_layers)


def check_spec(spec: DecoderSpec, fields: Fields, budget: int) -> None:
    """Hold sizes against each other, and the tables that are made of them against the budget.

    Raises ModelError for the first thing that does not fit.
    """
    if spec.vocab_size > _MAX_VOCABULARY:
        fields.refuse(f"{spec.vocab_size} embeddings are more than {_MAX_VOCABULARY}")
    if spec.num_heads % spec.num_kv_heads:
        fields.refuse(
            f"{spec.num_heads} heads of queries cannot share {spec.num_kv_heads} of keys and values"
        )
    if spec.head_dim % 2:
        fields.refuse(f"heads of {spec.head_dim} numbers cannot be turned in pairs")
    if _ROTARY_BYTES * spec.context_length * spec.head_dim > budget:
        fields.refuse(f"a context of {spec.context_length} is out of proportion to the file's size")
    if _ROTATION_BYTES * spec.hidden_size**2 > budget:
        fields.refuse(f"a width of {spec.hidden_size} is out of proportion to the file's size")


Shape: TypeAlias = tuple[int, ...]
"""[out, in] of a matrix, [out] of a gain or bias."""


def decoder_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    """List the weights that a decoder has by their canonical names, with their shapes."""
    layer = _layer_shapes(spec)
    shapes: dict[str, Shape] = {
        "embedding": (spec.vocab_size, spec.hidden_size),
        **_norms(spec, "final_norm"),
        "head": (spec.vocab_size, spec.hidden_size),
    }
    if "head" in spec.biases:
        shapes["head_bias"] = (spec.vocab_size,)
    for index in range(spec.num_layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def _layer_shapes(spec: DecoderSpec) -> dict[str, Shape]:
    hidden, intermediate = spec.hidden_size, spec.intermediate_size
    queries, keys = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    shapes = _norms(spec, *(("attention_norm",) if spec.has_pre_norms else ()))
    shapes |= {
        "q": (queries, hidden),
        "k": (keys, hidden),
        "v": (keys, hidden),
        "o": (hidden, queries),
    }
    if spec.has_pre_norms and not spec.shares_norms:
        shapes |= _norms(spec, "mlp_norm")
    if spec.has_sinks:
        shapes["sinks"] = (spec.num_heads,)
    count = () if spec.experts is None else (spec.experts.count,)
    if spec.experts is not None:
        shapes["router"] = (spec.experts.count, hidden)
    if spec.is_gated:
        shapes["gate"] = (*count, intermediate, hidden)
    shapes |= {"up": (*count, intermediate, hidden), "down": (*count, hidden, intermediate)}
    shapes |= {f"{name}_bias": shapes[name][:-1] for name in sorted(spec.biases - {"head"})}
    if spec.has_head_norms:
        widths = (queries, keys) if spec.norms_whole_rows else (spec.head_dim,) * 2
        shapes |= {"q_norm": widths[:1], "k_norm": widths[1:]}
    if spec.has_post_norms:
        shapes |= {"attention_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    return shapes


def _norms(spec: DecoderSpec, *names: str) -> dict[str, Shape]:
    ends = ("",) * spec.has_norm_gains + ("_bias",) * spec.has_norm_biases
    return {f"{name}{end}": (spec.hidden_size,) for name in names for end in ends}


def stored_rows(
    spec: DecoderSpec,
    naming: Naming,
    fields: Fields,
    stored: Mapping[str, Shape],
    further: Mapping[str, Shape],
    unneeded: tuple[str, ...] = (),
) -> dict[str, StoredRows]:
    """Say where each canonical weight is stored but for experts', which have places of their own.

    Raises ModelError if one is missing, has another shape, or is none of the decoder's nor further:
    it would be left out of the model without a word, as those may be whose names `unneeded` ends.
    """
    rows = places(spec, naming)
    expected = dict(further) | tensor_shapes(spec, naming)
    for name, shape in decoder_shapes(spec).items():
        if found := naming.expert_part(name):
            expected |= found[1].tensors(found[0], shape, stored)
    if spec.is_tied:
        del expected[rows["head"].tensor]
        rows["head"] = rows["embedding"]
    for name, shape in expected.items():
        check_presence(name, stored, fields)
        if stored[name] != shape:
            fields.refuse(
                f"weight {name!r} has shape {stored[name]}, and by the sizes that the file states "
                f"it has to be {shape}"
            )
    others = [name for name in stored if name not in expected and not name.endswith(unneeded)]
    if others:
        fields.refuse(f"weight {shown(others[0])} belongs to no model that is supported here")
    return rows


def places(spec: DecoderSpec, naming: Naming) -> dict[str, StoredRows]:
    """Say where each canonical weight would be stored, a tied head in a tensor of its own.

    Those of experts have places of their own, where `naming` says so.
    """
    shapes = decoder_shapes(spec)
    rest = (name for name in shapes if naming.expert_part(name) is None)
    return {name: _place(spec, naming, name, shapes) for name in rest}


def tensor_shapes(spec: DecoderSpec, naming: Naming) -> dict[str, Shape]:
    """Give the shapes of the tensors that these weights would be stored in."""
    shapes = decoder_shapes(spec)
    found = {}
    for name, shape in shapes.items():
        if naming.expert_part(name) is not None:
            continue
        together = [shapes[part][0] for part in naming.siblings(name) if part in shapes]
        found[naming.of(name)] = (sum(together), *shape[1:])
    return found


def _place(spec: DecoderSpec, naming: Naming, name: str, shapes: Mapping[str, Shape]) -> StoredRows:
    siblings = naming.siblings(name)
    index = siblings.index(name)
    first = sum(shapes[before][0] for before in siblings[:index])
    takes_turns = naming.is_by_head and len(siblings) > 1
    part = (index, len(siblings), spec.num_heads) if takes_turns else None
    return StoredRows(naming.of(name), first, shapes[name][0], part)


def load_rows(
    place: StoredRows, load: Callable[[str, int, int], Weight], start: int, stop: int | None
) -> Weight:
    """Load rows start to stop of a weight by a function that loads rows of a tensor."""
    stop = place.num_rows if stop is None else min(stop, place.num_rows)
    if place.part is None:
        return load(place.tensor, place.first + start, place.first + stop)
    index, count, heads = place.part
    whole = load(place.tensor, 0, count * place.num_rows)
    taken = whole.reshape(heads, count, place.num_rows // heads, -1)[:, index]
    return taken.reshape(place.num_rows, *whole.shape[1:])[start:stop]


def with_wide_heads(spec: DecoderSpec) -> DecoderSpec:
    """Give each head zeros behind its numbers, up to a width that the attention operators take."""
    width = -(-spec.head_dim // _HEAD_DIM_MULTIPLE) * _HEAD_DIM_MULTIPLE
    if width == spec.head_dim:
        return spec
    own = [spec.head_dim if x.rope.width is None else x.rope.width for x in spec.attentions]
    layers = zip(spec.attentions, own, strict=True)
    attentions = tuple(replace(x, rope=replace(x.rope, width=turned)) for x, turned in layers)
    return replace(spec, head_dim=width, attentions=attentions, head_share=spec.head_dim / width)


def with_own_heads(spec: DecoderSpec) -> DecoderSpec:
    """Give the same decoder as its checkpoint has it."""
    return replace(spec, head_dim=round(spec.head_dim * spec.head_share), head_share=1.0)


def arranged_heads(
    weight: Weight, name: str, spec: DecoderSpec, *, pairs_neighbours: bool
) -> Weight:
    """Order rows of q and k, their biases and gains so that halves of a head are turned.

    What belongs to heads gets their zeros first; of such a weight all rows are needed.
    """
    layer, _, stem = name.removeprefix("layers.").rpartition(".")
    part = stem.removesuffix("_bias").removesuffix("_norm")
    if not layer or part not in ("q", "k", "v", "o") or (part == "o" and weight.ndim == 1):
        return weight
    if spec.head_share < 1:
        weight = _widened(weight, stem, spec)
    width = spec.attentions[int(layer)].rope.width
    width = spec.head_dim if width is None else width
    if part in ("v", "o") or (width == spec.head_dim and not pairs_neighbours):
        return weight
    order = head_order(spec.head_dim, width, pairs_neighbours=pairs_neighbours)
    heads = weight.reshape(len(weight) // spec.head_dim, spec.head_dim, -1)
    return heads[:, order].reshape(weight.shape)


def _widened(weight: Weight, stem: str, spec: DecoderSpec) -> Weight:
    """Put zeros behind each head's rows, or columns of o, [heads * head_dim, …].

    Norms of heads divide by the mean over more numbers then, for which their gains make up.
    """
    own = round(spec.head_dim * spec.head_share)
    wide = weight.T if stem == "o" else weight
    heads = wide.reshape(len(wide) // own, own, *wide.shape[1:])
    more = ((0, 0), (0, spec.head_dim - own), *((0, 0),) * (wide.ndim - 1))
    wide = np.pad(heads, more).reshape(len(heads) * spec.head_dim, *wide.shape[1:])
    if stem.endswith("_norm"):
        wide = wide * np.float32(sqrt(spec.head_share))
    return wide.T if stem == "o" else wide


def check_presence(name: str, stored: Container[str], fields: Fields) -> None:
    """Raise ModelError if a weight is missing."""
    if name not in stored:
        fields.refuse(f"weight {name!r} is missing; the file is incomplete or of another family")
