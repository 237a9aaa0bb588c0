"""What a GPU that is not always busy costs per token, and how busy it must be to beat a price."""

from collections.abc import Sequence
from dataclasses import dataclass

from perfmodel.numeric import Num
from perfmodel.units import PERCENT


@dataclass(frozen=True, slots=True)
class BreakEven:
    """How busy GPUs must be for a token of one's own to cost what somebody else asks for it."""

    api_usd_per_million_tokens: float
    utilisation_pct: float
    """Above 100: even GPUs that are always busy are dearer."""
    interval_pct: tuple[float, float] | None
    """80 %: that of the cost at full use, over the price asked."""


def usd_at_utilisation(usd_at_full_use: Num, utilisation_pct: Num) -> Num:
    """USD per million tokens where GPUs, paid for all the time, do full steps for ``utilisation_pct`` of it."""
    return usd_at_full_use * PERCENT / utilisation_pct


def break_even(
    usd_at_full_use: float, api_usd_per_million_tokens: float, interval: Sequence[float] | None = None
) -> BreakEven:
    """The utilisation at which a million tokens cost what an API asks: cost at full use over that price."""
    low_high = None
    if interval is not None:
        low, high = (PERCENT * bound / api_usd_per_million_tokens for bound in interval)
        low_high = (low, high)
    share = PERCENT * usd_at_full_use / api_usd_per_million_tokens
    return BreakEven(api_usd_per_million_tokens, share, low_high)
