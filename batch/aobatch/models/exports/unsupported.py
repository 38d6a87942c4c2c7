"""Exports that cannot run here, each told apart by what its graph asks for."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.checks import printable, shown
from aobatch.models.exports.layout import Port

_REASONS: Mapping[str, str] = {
    "inputs_embeds": "it takes embeddings instead of token ids, as parts of larger models do",
    "pixel_values": "it takes pictures, and only models of text alone run here",
    "input_features": "it takes sound, and only models of text alone run here",
    "block_table": "it is made for a paged cache, which has no kernel on a CPU",
    "encoder": "it is a decoder that reads an encoder, and only decoders alone run here",
    "decoder_input_ids": "it is an encoder with a decoder, and only decoders alone run here",
    "conv": "it keeps state other than keys and values (convolutions)",
    "ssm": "it keeps state other than keys and values (a state-space model)",
    "recurrent": "it keeps state other than keys and values (a recurrent layer)",
}
"""Parts of inputs' names, and what they tell."""


def unusable(path: Path, reason: str) -> ModelError:
    """Give the error that says why an export cannot run here."""
    return ModelError(f"{path} cannot run here: {printable(reason)}")


def check_inputs(path: Path, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ModelError if a graph asks for anything that only other kinds of models need."""
    names = list(names)
    for part, reason in _REASONS.items():
        if any(part in name for name in names):
            raise unusable(path, reason)
    if "input_ids" not in names:
        raise unusable(path, "it has no input named input_ids")
    if unknown := sorted(set(names) - set(known)):
        raise unusable(path, f"nobody here knows its input {shown(unknown[0])}")


def check_ports(path: Path, input_ids: Port, logits: Port | None) -> None:
    """Raise ModelError if token ids or scores are not [batch, tokens] and [batch, tokens, V]."""
    if logits is None:
        raise unusable(path, "it has no output named logits, so it is an encoder or a part")
    if len(input_ids.dimensions) != 2:
        raise unusable(path, "its input_ids are not [batch, tokens]")
    if input_ids.dimensions[0] not in (None, 1) or input_ids.dimensions[1] is not None:
        raise unusable(path, "its inputs have fixed sizes; export it with dynamic axes")
    if len(logits.dimensions) != 3 or logits.dimensions[1] == 1:
        raise unusable(path, "it gives scores of the last token alone; export it with all logits")
    if logits.dtype not in ("float32", "float16"):
        raise unusable(path, f"its logits are of type {logits.dtype}; export it as float32")
