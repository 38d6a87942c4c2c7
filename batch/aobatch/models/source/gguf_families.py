"""The families in GGUF files: what these call them, state of them, and leave to the reader.

What a family has in every file is said in `families`. Weights are named alike in all families but
for the stems that an entry changes; gains of norms are stored as they are multiplied with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from math import sqrt

from aobatch.errors import ModelError
from aobatch.models.source.config import EXPORT
from aobatch.models.source.decoder import gguf_spec
from aobatch.models.source.families import Family, find
from aobatch.models.source.fields import Fields
from aobatch.models.source.rope import BASES, CONTEXTS
from aobatch.models.spec import DecoderSpec, Experts, LayerAttention, Rope

Refine = Callable[[Fields, DecoderSpec], DecoderSpec]
"""Adds to a decoder what further fields, by their names behind the kind of file, say."""


@dataclass(frozen=True, slots=True)
class GgufFamily:
    """How GGUF files describe a family."""

    name: str
    """What it is called elsewhere."""
    pairs_neighbours: bool = False
    """Whether rows of q and k are ordered for a rotation of neighbouring pairs."""
    period: int = 0
    """Every how many layers one sees all, where the file does not say; 0 if none does."""
    refine: Refine = lambda _, spec: spec
    stems: Mapping[str, str] = field(default_factory=dict)
    """Names of weights that differ from the usual ones."""
    defaults: Callable[[Fields], Mapping[str, object]] = lambda _: {}
    """What is meant by fields that a converter left out, or has under other names."""
    adds_space: bool = True
    """Whether pieces begin a text with a space, where the file does not say."""

    @property
    def family(self) -> Family:
        """What holds for it in every kind of file."""
        return find(self.name, "")


def find_gguf(name: str, source: str) -> GgufFamily:
    """Find the family that a GGUF file names; ModelError names the known ones."""
    if name not in GGUF_FAMILIES:
        known = ", ".join(GGUF_FAMILIES)
        message = (
            f"{source}: model family {name!r} is not supported; supported in GGUF files are "
            f"{known}; {EXPORT}"
        )
        raise ModelError(message)
    return GGUF_FAMILIES[name]


def spec_from_gguf(known: GgufFamily, at: Fields, vocab_size: int) -> DecoderSpec:
    """Read sizes and traits from what stands behind the name of a GGUF's kind."""
    traits = known.family.traits
    kinds = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")
    stated, other = kinds[::-1] if traits.get("centres") else kinds
    at.get(other)  # some have both
    spec = replace(gguf_spec(at, (known.name, vocab_size), stated), **traits)
    windows = _windows(at, spec.num_layers, known.period)
    layers = zip(spec.attentions, windows, strict=True)
    spec = replace(spec, attentions=tuple(replace(x, window=size) for x, size in layers))
    return known.refine(at, spec)


_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
_SCALES, _CAPS = (1e-6, 1e6), (1e-3, 1e6)


def _windows(at: Fields, num_layers: int, period: int) -> list[int]:
    """Read how many tokens each layer sees, 0 for all; every n-th sees all, or as a list says."""
    window = at.integer(_WINDOW, 0, CONTEXTS[1], 0)
    pattern = at.get(_PATTERN, period)
    if type(pattern) is int:
        period = at.integer(_PATTERN, 0, 512, period)
        has_window = [not period or (index + 1) % period > 0 for index in range(num_layers)]
    else:
        has_window = list(islice(at.flags(_PATTERN), num_layers + 1))
    if len(has_window) != num_layers:
        at.refuse(f"{_PATTERN!r} does not say which of {num_layers} layers have a window")
    return [window if has else 0 for has in has_window]


def _with_positions(spec: DecoderSpec, *, plain: Rope, windowed: Rope) -> DecoderSpec:
    """Turn by one kind of positions in layers with a window, and by another in those without."""
    sizes = [layer.window for layer in spec.attentions]
    layers = (LayerAttention(windowed if size else plain, size) for size in sizes)
    return replace(spec, attentions=tuple(layers))


_NO_POSITIONS = Rope(1.0, width=0)


def _full_without_positions(_: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Turn queries and keys of layers with a window alone, if there are any."""
    if not any(layer.window for layer in spec.attentions):
        return spec
    return _with_positions(spec, plain=_NO_POSITIONS, windowed=spec.attentions[0].rope)


def _cohere(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    spec = replace(spec, logits_scale=at.number("logit_scale", *_SCALES))
    return _full_without_positions(at, spec)


def _olmo(_: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Call one with windows the third, which stretches positions in layers without one alone."""
    if not any(layer.window for layer in spec.attentions):
        return spec
    whole = spec.attentions[0].rope
    spec = replace(spec, family="olmo3")
    return _with_positions(spec, plain=whole, windowed=Rope(whole.theta))


def _gemma(_: Fields, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, embedding_scale=sqrt(spec.hidden_size))


# The largest models scale by another width than their heads', which the file does not say.
_LARGEST = {"gemma2": 46, "gemma3": 62}


def _later_gemma(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    if spec.num_layers == _LARGEST[spec.family]:
        spec = replace(spec, attention_scale=1 / sqrt(spec.hidden_size / spec.num_heads))
    return _gemma(at, spec)


def _second_gemma(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    attention_cap = at.number("attn_logit_softcapping", *_CAPS, 50.0)
    logits_cap = at.number("final_logit_softcapping", *_CAPS, 30.0)
    return replace(_later_gemma(at, spec), attention_cap=attention_cap, logits_cap=logits_cap)


_OTHER_BASE = "rope.global.freq_base"


def _third_gemma(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    local = Rope(at.number("rope.freq_base_swa", *BASES))
    whole = spec.attentions[0].rope
    spec = _with_positions(_later_gemma(at, spec), plain=whole, windowed=local)
    cap = "final_logit_softcapping"
    # The converter that called a base so wrote a cap that no such model has.
    if cap in at and at.get(cap) != 0 and _OTHER_BASE not in at:
        spec = replace(spec, logits_cap=at.number(cap, *_CAPS))
    return spec


def _gemma_defaults(at: Fields) -> dict[str, object]:
    """Say what ollama's converters mean by other names, and by what they leave out."""
    epsilon = "attention.layer_norm_rms_epsilon"
    # They leave it out of models with pictures, and that positions are stretched in these.
    is_stretched = epsilon not in at and at.get("context_length") == 2**17
    return {
        epsilon: 1e-6,
        "rope.freq_base": at.get(_OTHER_BASE, 1e6),
        "rope.freq_base_swa": at.get("rope.local.freq_base", 1e4),
        "rope.scaling.yarn_ext_factor": at.get("rope.scaling.extrapolation_factor"),
        "rope.scaling.yarn_beta_fast": at.get("rope.scaling.beta_fast"),
        "rope.scaling.yarn_beta_slow": at.get("rope.scaling.beta_slow"),
        **({"rope.scaling.type": "linear", "rope.scaling.factor": 8.0} if is_stretched else {}),
    }


def _granite(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read multipliers; what is called fine-tuned says here whether there are positions."""
    if not at.flag("rope.scaling.finetuned", default=True):
        spec = _with_positions(spec, plain=_NO_POSITIONS, windowed=_NO_POSITIONS)
    return replace(
        spec,
        attention_scale=at.number("attention.scale", *_SCALES, spec.attention_scale),
        embedding_scale=at.number("embedding_scale", *_SCALES, 1.0),
        residual_scale=at.number("residual_scale", *_SCALES, 1.0),
        logits_scale=1 / at.number("logit_scale", *_SCALES),
    )


def _smollm(_: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Leave every fourth layer without positions."""
    layers = tuple(
        layer if (index + 1) % 4 else replace(layer, rope=_NO_POSITIONS)
        for index, layer in enumerate(spec.attentions)
    )
    return replace(spec, attentions=layers)


_MOST_EXPERTS = 1024


def _experts(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read how many experts there are, and how many of them a token goes through."""
    count = at.integer("expert_count", 1, _MOST_EXPERTS)
    used = at.integer("expert_used_count", 1, count)
    width = at.integer("expert_feed_forward_length", 1, 2**20, spec.intermediate_size)
    return replace(spec, intermediate_size=width, experts=Experts(count, used))


def _llama(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Call one with experts mixtral."""
    return _experts(at, replace(spec, family="mixtral")) if at.get("expert_count") else spec


def _olmo_experts(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    spec = _experts(at, spec)
    return replace(spec, experts=replace(_of(spec), shares_whole=False))


def _gpt_oss(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Read experts, whose gates are cut off where no file says."""
    spec = _experts(at, spec)
    return replace(spec, experts=replace(_of(spec), sharpness=1.702, limit=7.0, offset=1.0))


def _of(spec: DecoderSpec) -> Experts:
    assert spec.experts is not None
    return spec.experts


_ORIGINAL = "rope.scaling.original_context_length"


def _ministral(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Take the original context alone, if queries grow beyond it."""
    if not at.number("attention.temperature_scale", 0, 1e3, 0.0):
        return spec
    return replace(spec, context_length=at.integer(_ORIGINAL, 1, spec.context_length))


def _ministral_defaults(at: Fields) -> dict[str, object]:
    """Say what ollama's converter means by other names."""
    at.require("rope.scaling.mscale", 1)
    return {
        "rope.scaling.yarn_beta_fast": at.get("rope.scaling.beta_fast"),
        "rope.scaling.yarn_beta_slow": at.get("rope.scaling.beta_slow"),
        "rope.scaling.yarn_log_multiplier": at.get("rope.scaling.mscale_all_dim"),
        "attention.temperature_scale": at.get("rope.scaling_beta"),
    }


def _neox(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    return replace(spec, is_parallel=at.flag("use_parallel_residual", default=True))


def _starcoder_defaults(at: Fields) -> dict[str, object]:
    """Give the window that all published ones have, which their files do not state."""
    length, window = at.get("context_length"), 4096
    return {_WINDOW: window} if isinstance(length, int) and length > window else {}


def _stablelm(at: Fields, spec: DecoderSpec) -> DecoderSpec:
    """Go by the weights that are there: the field says so of models whose blocks take turns."""
    at.get("use_parallel_residual")
    return spec


GGUF_FAMILIES: Mapping[str, GgufFamily] = {
    # Models of mistral call themselves llama.
    "llama": GgufFamily("llama", pairs_neighbours=True, refine=_llama),
    "mistral": GgufFamily("mistral", pairs_neighbours=True),
    "mistral3": GgufFamily(
        "ministral3", pairs_neighbours=True, refine=_ministral, defaults=_ministral_defaults
    ),
    "qwen2": GgufFamily("qwen2"),
    "qwen3": GgufFamily("qwen3"),
    "gemma": GgufFamily("gemma", refine=_gemma, adds_space=False),
    "gemma2": GgufFamily(
        "gemma2",
        period=2,
        refine=_second_gemma,
        defaults=lambda _: {_WINDOW: 4096},
        adds_space=False,
    ),
    "gemma3": GgufFamily(
        "gemma3", period=6, refine=_third_gemma, defaults=_gemma_defaults, adds_space=False
    ),
    "phi3": GgufFamily("phi3"),
    "granite": GgufFamily("granite", pairs_neighbours=True, refine=_granite),
    "smollm3": GgufFamily("smollm3", pairs_neighbours=True, refine=_smollm),
    "ernie4_5": GgufFamily("ernie4_5", pairs_neighbours=True),
    "seed_oss": GgufFamily("seed_oss", stems={"mlp_norm": "post_attention_norm"}),
    "olmo": GgufFamily("olmo", pairs_neighbours=True),
    # The third has windows, and else nothing that the second has not.
    "olmo2": GgufFamily("olmo2", period=4, refine=_olmo),
    "olmo3": GgufFamily("olmo2", period=4, refine=_olmo),  # as ollama calls it
    "exaone4": GgufFamily("exaone4", period=4, refine=_full_without_positions),
    "arcee": GgufFamily("arcee", pairs_neighbours=True),
    "nemotron": GgufFamily("nemotron"),
    "cohere2": GgufFamily("cohere2", pairs_neighbours=True, period=4, refine=_cohere),
    "glm4": GgufFamily("glm4", pairs_neighbours=True),
    "starcoder2": GgufFamily("starcoder2", defaults=_starcoder_defaults),
    "stablelm": GgufFamily("stablelm", refine=_stablelm),
    "gptneox": GgufFamily("gpt_neox", refine=_neox),
    "phi2": GgufFamily("phi"),
    "qwen3moe": GgufFamily("qwen3_moe", refine=_experts),
    "olmoe": GgufFamily("olmoe", refine=_olmo_experts),
    "granitemoe": GgufFamily(
        "granitemoe",
        pairs_neighbours=True,
        refine=lambda at, spec: _granite(at, _experts(at, spec)),
    ),
    "gpt-oss": GgufFamily(
        "gpt_oss",
        period=2,
        refine=_gpt_oss,
        stems={"mlp_norm": "post_attention_norm"},
        defaults=lambda _: {"rope.scaling.yarn_truncate": False},
    ),
}
"""By the names that GGUF files have for them."""
