"""How GGUF files of each family are laid out, as converters write them; names are the library's."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from gguf_experts import merged

Config = dict[str, Any]
Extra = Callable[[Config], dict[str, object]]


@dataclass(frozen=True)
class Layout:
    """What tells a family's files from those of others."""

    architecture: str
    extra: Extra = lambda _: {}
    """Metadata beside the sizes, or None for what the converter leaves out."""
    permutes: bool = False
    """Whether rows of q and k are ordered for a rotation of neighbouring pairs."""
    adds_one: bool = False
    """Whether 1 is added to the gains of norms."""
    has_experts_apart: bool = False
    """Whether each expert has tensors of its own."""


def _head_dim(config: Config) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _llama(config: Config) -> dict[str, object]:
    return {"vocab_size": config["vocab_size"], "rope.dimension_count": _head_dim(config)}


def _window(config: Config) -> dict[str, object]:
    window = config.get("sliding_window")
    return {"attention.sliding_window": window} if window else {}


def _windows(config: Config) -> dict[str, object]:
    kinds = [kind == "sliding_attention" for kind in config["layer_types"]]
    return {**_window(config), "attention.sliding_window_pattern": kinds}


def _partial(config: Config) -> dict[str, object]:
    part = config["rope_parameters"]["partial_rotary_factor"]
    return {"rope.dimension_count": int(part * _head_dim(config))}


def _norm(name: str) -> Extra:
    return lambda config: {
        "attention.layer_norm_epsilon": config[name],
        "attention.layer_norm_rms_epsilon": None,
    }


def _ministral(config: Config) -> dict[str, object]:
    rope = config["rope_parameters"]
    return {
        **_llama(config),
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        "rope.scaling.yarn_beta_slow": rope["beta_slow"],
        "rope.scaling.yarn_log_multiplier": rope["mscale_all_dim"],
        "attention.temperature_scale": rope["llama_4_scaling_beta"],
    }


def _phi3(config: Config) -> dict[str, object]:
    rope = config["rope_parameters"]
    old = rope.get("original_max_position_embeddings", config["original_max_position_embeddings"])
    factor = config["max_position_embeddings"] / old
    gain = np.sqrt(1 + np.log(factor) / np.log(old)) if factor > 1 else 1.0
    scaled = {"rope.scaling.attn_factor": float(gain)} if "short_factor" in rope else {}
    window = {"attention.sliding_window": config["sliding_window"] or 0}
    return {**_partial(config), **window, **scaled, "rope.scaling.original_context_length": old}


def _gemma2(config: Config) -> dict[str, object]:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    return {**_window(config), **{name: config[name] for name in caps}, "rope.freq_base": None}


def _cohere(config: Config) -> dict[str, object]:
    return {
        **_llama(config),
        **_norm("layer_norm_eps")(config),
        **_window(config),
        "logit_scale": config["logit_scale"],
        "rope.scaling.type": "none",
    }


def _granite(config: Config) -> dict[str, object]:
    names = {"attention.scale": "attention", "embedding_scale": "embedding"}
    names |= {"residual_scale": "residual"}
    found = {key: config[f"{name}_multiplier"] for key, name in names.items()}
    return {**_llama(config), **found, "logit_scale": config["logits_scaling"]}


def _without_theta(*extras: Extra) -> Extra:
    return lambda config: {
        key: value
        for extra in (*extras, lambda _: {"rope.freq_base": None})
        for key, value in extra(config).items()
    }


def _both(*extras: Extra) -> Extra:
    return lambda config: {k: v for extra in extras for k, v in extra(config).items()}


def _gptneox(config: Config) -> dict[str, object]:
    parallel = {"use_parallel_residual": config["use_parallel_residual"]}
    return {**parallel, "attention.head_count_kv": None}


def _stablelm(_: Config) -> dict[str, object]:
    return {"use_parallel_residual": True}  # which its converter says of all of them


def _experts(*extras: Extra) -> Extra:
    return _both(
        lambda config: {
            "expert_count": config.get("num_local_experts", config.get("num_experts")),
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config.get("moe_intermediate_size"),
        },
        *extras,
    )


def _gptoss(config: Config) -> dict[str, object]:
    rope = config["rope_parameters"]
    return {
        **_windows(config),
        "expert_feed_forward_length": config["intermediate_size"],
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": rope["factor"],
        "rope.scaling.original_context_length": rope["original_max_position_embeddings"],
        "rope.scaling.yarn_beta_fast": rope["beta_fast"],
        "rope.scaling.yarn_beta_slow": rope["beta_slow"],
    }


LAYOUTS: Mapping[str, Layout] = {
    "llama": Layout("llama", permutes=True),
    "llama3-rope": Layout("llama", permutes=True),
    "mistral": Layout("llama", _window, permutes=True),
    "qwen2": Layout("qwen2"),
    "qwen3": Layout("qwen3"),
    "gemma": Layout("gemma", lambda _: {"rope.freq_base": None}, adds_one=True),
    "gemma2": Layout("gemma2", _gemma2, adds_one=True),
    "gemma3": Layout("gemma3", _window, adds_one=True),
    "granite": Layout("granite", _granite, permutes=True),
    "smollm3": Layout("smollm3", _llama, permutes=True),
    "ministral3": Layout("mistral3", _ministral, permutes=True),
    "arcee": Layout("arcee", _llama, permutes=True),
    "phi3": Layout("phi3", _phi3),
    "ernie4_5": Layout("ernie4_5"),
    "seed_oss": Layout("seed_oss"),
    "olmo": Layout("olmo", lambda _: {"attention.layer_norm_epsilon": 1e-5}, permutes=True),
    "olmo2": Layout("olmo2"),
    "olmo3": Layout("olmo2", _windows),
    "exaone4": Layout("exaone4", _windows),
    "cohere2": Layout("cohere2", _cohere),
    "glm4": Layout("glm4", _partial),
    "nemotron": Layout("nemotron", _both(_norm("norm_eps"), _partial), adds_one=True),
    "starcoder2": Layout("starcoder2", _norm("norm_epsilon")),
    "stablelm": Layout("stablelm", _both(_norm("layer_norm_eps"), _partial, _stablelm)),
    "gptneox": Layout("gptneox", _without_theta(_norm("layer_norm_eps"), _partial, _gptneox)),
    "phi": Layout("phi2", _without_theta(_norm("layer_norm_eps"), _partial)),
    "mixtral": Layout("llama", _experts(_llama), permutes=True),
    "qwen3moe": Layout("qwen3moe", _experts()),
    "olmoe": Layout("olmoe", _experts()),
    "granitemoe": Layout("granitemoe", _experts(_granite), permutes=True),
    "gptoss": Layout("gpt-oss", _experts(_gptoss)),
    "gptoss-mxfp4": Layout("gpt-oss", _experts(_gptoss)),
}


def metadata_of(layout: Layout, config: Config) -> dict[str, object]:
    """Give the sizes that files of all families have, and what this one's have beside them."""
    rope = config["rope_parameters"]
    values = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config.get("rms_norm_eps"),
        "rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
        **dict.fromkeys(("attention.key_length", "attention.value_length"), config.get("head_dim")),
        **layout.extra(config),
    }
    return {f"{layout.architecture}.{k}": v for k, v in values.items() if v is not None}


def tensors_of(
    layout: Layout, config: Config, weights: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the tensors of a file, under the names of the library's table."""
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "llama3":
        yield "rope_freqs.weight", _llama3_factors(config)
    for length in ("long", "short") if "short_factor" in rope else ():
        yield f"rope_factors_{length}.weight", np.array(rope[f"{length}_factor"], np.float32)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[layout.architecture], config["num_hidden_layers"])
    for name, weight in merged(weights):
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        if weight.dtype == np.uint8:
            yield stored, weight
        elif "_exps" in stored and layout.has_experts_apart:
            for expert, own in enumerate(weight.astype(np.float32)):
                yield stored.replace("_exps", f".{expert}"), own
        else:
            yield stored, _stored(name, weight.astype(np.float32), layout, config)


def _stored(name: str, weight: np.ndarray, layout: Layout, config: Config) -> np.ndarray:
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    count = heads.get(name.split(".")[-2])
    if layout.adds_one and name.endswith("norm.weight"):
        return weight + 1
    if "query_key_value" in name:  # head by head in folders, one behind the other here
        parts = weight.reshape(config["num_attention_heads"], 3, -1, *weight.shape[1:])
        return parts.swapaxes(0, 1).reshape(weight.shape)
    if count is None or not layout.permutes:
        return weight
    halves = weight.reshape(count, 2, weight.shape[0] // count // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _llama3_factors(config: Config) -> np.ndarray:
    """Say what each frequency is divided by, as the rule was published: one wave at a time."""
    rope, factors = config["rope_parameters"], []
    old = rope["original_max_position_embeddings"]
    for index in range(config["head_dim"] // 2):
        wave = 2 * np.pi * rope["rope_theta"] ** (2 * index / config["head_dim"])
        if wave < old / rope["high_freq_factor"]:
            factors.append(1.0)
        elif wave > old / rope["low_freq_factor"]:
            factors.append(rope["factor"])
        else:
            smooth = (old / wave - rope["low_freq_factor"]) / (
                rope["high_freq_factor"] - rope["low_freq_factor"]
            )
            factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)
