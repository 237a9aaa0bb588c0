"""What moves the cost of a token: one lever at a time between a low and a high value, and why these.

A lever's value is the same step simulated again with one field changed. A range is what is published or quoted; where
nothing is, it is plus and minus WHAT_IF_PCT and says that it is a what-if. A lever that a scenario does not have is
left out, with the reason.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from perfmodel.economics.rates import step_rates
from perfmodel.economics.utilisation import usd_at_utilisation
from perfmodel.errors import PerfModelError
from perfmodel.explore.levers import LeftOut, Lever, Setting, levers_of
from perfmodel.numeric import comparable
from perfmodel.spec.scenario import Scenario
from perfmodel.step import simulate_step
from perfmodel.workers import each


@dataclass(frozen=True, slots=True)
class End:
    """One end of a lever's range, and the step there."""

    label: str
    value: float
    usd_per_million_tokens: float
    tpot_s: float | None


@dataclass(frozen=True, slots=True)
class Swing:
    """One lever's effect on the cost of a million output tokens (prompt tokens in prefill)."""

    lever: str
    unit: str
    base_label: str
    low: End
    high: End
    """Of the lever's value, not of the cost."""
    reason: str
    """Why this range."""
    source: str

    @property
    def width_usd(self) -> float:
        """How far apart the ends' costs are."""
        return abs(self.high.usd_per_million_tokens - self.low.usd_per_million_tokens)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {**asdict(self), "width_usd": self.width_usd}


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The levers of one scenario, the widest first."""

    usd_per_million_tokens: float
    tpot_s: float | None
    swings: tuple[Swing, ...]
    left_out: Mapping[str, str]
    """Lever -> why it does not apply."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {
            "usd_per_million_tokens": self.usd_per_million_tokens,
            "tpot_s": self.tpot_s,
            "levers": [swing.as_dict() for swing in self.swings],
            "left_out": dict(self.left_out),
        }


def sensitivity(
    scenario: Scenario,
    *,
    peak_to_mean: float | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
) -> Sensitivity:
    """Every lever of a scenario; ``peak_to_mean`` of its traffic, where stated, sets how idle its GPUs may be.
    An ``executor`` shares the levers out; what is found is the same.

    Raises:
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    base, levers = _cost(scenario), levers_of(scenario)
    found = each(
        partial(_moved, scenario, peak_to_mean), range(len(levers)), executor=executor, progress=progress
    )
    swings = [one for one in found if isinstance(one, Swing)]
    left_out = {
        lever.name: one for lever, one in zip(levers, found, strict=True) if not isinstance(one, Swing)
    }
    swings.sort(key=lambda swing: -comparable(swing.width_usd))
    return Sensitivity(base[0], base[1], tuple(swings), left_out)


def _moved(scenario: Scenario, peak_to_mean: float | None, number: int) -> Swing | str:
    """What one lever does, or why it is left out."""
    lever = levers_of(scenario)[number]
    found = lever.settings(scenario, peak_to_mean)
    if isinstance(found, LeftOut):
        return found.reason
    try:
        return _swing(scenario, lever, *found)
    except PerfModelError as error:  # the changed scenario is refused: nothing to say about this lever
        return str(error)


def _swing(scenario: Scenario, lever: Lever, low: Setting, high: Setting) -> Swing:
    reasons = dict.fromkeys(filter(None, (low.reason, high.reason)))
    sources = dict.fromkeys(filter(None, (low.source, high.source)))
    return Swing(
        lever=lever.name,
        unit=lever.unit,
        base_label=lever.base(scenario),
        low=_end(scenario, low),
        high=_end(scenario, high),
        reason="; ".join(reasons),
        source="; ".join(sources),
    )


def _end(scenario: Scenario, setting: Setting) -> End:
    usd, tpot = _cost(setting.scenario or scenario)
    if setting.utilisation_pct is not None:
        usd = float(usd_at_utilisation(usd, setting.utilisation_pct))
    return End(setting.label, setting.value, usd, tpot)


def _cost(scenario: Scenario) -> tuple[float, float | None]:
    """(USD per million tokens that the phase produces, TPOT)."""
    rates = step_rates(scenario, simulate_step(scenario).step_time_s)
    usd = next(_known((rates.usd_per_million_output_tokens, rates.usd_per_million_input_tokens)))
    return float(usd), None if rates.tpot_s is None else float(rates.tpot_s)


def _known(values: tuple[Any, ...]) -> Iterator[Any]:
    return (value for value in values if value is not None)
