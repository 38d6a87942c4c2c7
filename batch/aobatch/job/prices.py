"""What tokens would cost, by a file of prices."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from aobatch.errors import InputMissingError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aobatch.job.report import GroupUsage

Price: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
MILLION = 1_000_000
OTHER = "*"
"""The name under which a file gives the price of models that it does not name."""


class ModelPrice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The price of a million tokens of one model."""

    prompt: Price
    completion: Price


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a file of prices."""

    currency: str
    models: dict[str, ModelPrice]


class Cost(msgspec.Struct, frozen=True):
    """What a job cost."""

    currency: str
    """As the file of prices names it."""
    total: float
    by_model: dict[str, float]
    unpriced: list[str]
    """Models that answered lines and have no price; they are not in the total."""


def read_prices(path: Path) -> Prices:
    """Read a TOML file of prices; UsageError says what is wrong with it."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Prices)
    except OSError as error:
        message = f"prices {path} cannot be read: {error.strerror}"
        raise InputMissingError(message) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = (
            f"prices {path} are not as they should be ({error}); give a currency, and for each "
            'model prompt and completion, the price of a million tokens, under [models."NAME"]'
        )
        raise UsageError(message) from error


def cost_of(groups: "Sequence[GroupUsage]", prices: Prices) -> Cost:
    """Add up what the tokens of some models cost."""
    by_model: dict[str, float] = {}
    unpriced = []
    for group in (group for group in groups if group.total_tokens):
        name = group.name or ""
        price = prices.models.get(name, prices.models.get(OTHER))
        if price is None:
            unpriced.append(name)
        else:
            tokens = price.prompt * group.prompt_tokens + price.completion * group.completion_tokens
            by_model[name] = round(tokens / MILLION, 9)
    return Cost(prices.currency, round(sum(by_model.values()), 9), by_model, unpriced)
