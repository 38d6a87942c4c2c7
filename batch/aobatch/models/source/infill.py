"""How models are asked to fill in: the tokens that their vocabularies have for it, and the order.

A prefix and a suffix follow the tokens that announce them, and the middle is what the model writes
(Bavarian et al. 2022): prefix, suffix, middle (PSM), or the suffix first (SPM). Each layout is as
its authors publish it.
"""

from collections.abc import Container
from typing import NamedTuple

from aobatch.models import InfillOrder


class InfillLayout(NamedTuple):
    """The tokens ahead of a prefix, of a suffix and of the middle."""

    prefix: str
    suffix: str
    middle: str
    """Empty if the model goes on right behind the prefix."""
    order: InfillOrder = "PSM"
    beside: str = ""
    """A token that tells a vocabulary from others with the same names."""

    @property
    def names(self) -> dict[str, str]:
        """The tokens by their roles, which are those of GGUF's metadata."""
        roles = {"fim_pre": self.prefix, "fim_suf": self.suffix, "fim_mid": self.middle}
        return {role: name for role, name in roles.items() if name}


INFILL_LAYOUTS = {
    "CodeGemma, Qwen2.5-Coder, Granite 3.3": InfillLayout(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
    ),
    # The names are StarCoder's, the order is not; tags of roles stand in this vocabulary alone.
    "Mellum": InfillLayout(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "SPM", beside="</assistant>"
    ),
    "StarCoder2, Stable Code, Granite Code": InfillLayout(
        "<fim_prefix>", "<fim_suffix>", "<fim_middle>"
    ),
    "SantaCoder": InfillLayout("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    "Code Llama": InfillLayout("▁<PRE>", "▁<SUF>", "▁<MID>"),
    "Code Llama, names without their spaces": InfillLayout("<PRE>", "<SUF>", "<MID>"),
    "DeepSeek-Coder": InfillLayout("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    "Seed-Coder": InfillLayout("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", "SPM"),
    # Later vocabularies of its maker have the names too, and are none of pieces.
    "Codestral": InfillLayout("[PREFIX]", "[SUFFIX]", "", "SPM", beside="▁"),
}
"""By the models that have them; of two that fit, the first is taken."""


def find_layout(tokens: Container[str]) -> InfillLayout | None:
    """Find the first layout all of whose tokens a vocabulary has."""
    for layout in INFILL_LAYOUTS.values():
        needed = (*layout.names.values(), *filter(None, (layout.beside,)))
        if all(name in tokens for name in needed):
            return layout
    return None
