"""Why a training token costs more with one layout, GPU or schedule than with another: the difference in parts.

A step's seconds are cut as :func:`perfmodel.training.summary.breakdown_s` does (work by op class, exposed
communication by kind, bubble; means over pipeline ranks). Times GPUs over tokens a part is GPU hours per million
tokens, times the price dollars; a change of price is split off evenly, as
:mod:`perfmodel.explore.difference` does it, so that parts add up exactly, and a against b is minus b against a. What
failures, checkpoints and spares add is **failures**, what smaller batches at the start do **batch ramp**, where runs
are stated.
"""

from dataclasses import asdict, dataclass
from typing import Any

from perfmodel.answers.train import TrainAnswer
from perfmodel.numeric import comparable
from perfmodel.units import HOUR, MEGA

PRICE, FAILURES, RAMP = "price", "failures", "batch ramp"


@dataclass(frozen=True, slots=True)
class Difference:
    """Training b against a, USD per million tokens."""

    name_a: str
    name_b: str
    usd_a: float
    usd_b: float
    rows: tuple[dict[str, Any], ...]
    """``component``, ``usd_a``, ``usd_b``, ``delta_usd``, largest change first; columns add up to the figures of their
    name, ``delta_usd`` to ``usd_b - usd_a`` (its parts are at the mean of the two prices, so with two prices they are
    not ``usd_b - usd_a`` row by row)."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        return {**asdict(self), "rows": [dict(row) for row in self.rows]}


def train_difference(a: TrainAnswer, b: TrainAnswer, name_a: str = "", name_b: str = "") -> Difference:
    """The change from ``a`` to ``b`` by part."""
    hours_a, hours_b = _gpu_hours(a), _gpu_hours(b)
    price_a, price_b = (one.step.scenario.prices.usd_per_gpu_hour for one in (a, b))
    mean = (price_a + price_b) / 2.0
    rows: list[dict[str, Any]] = []
    for part in {**hours_a, **hours_b}:
        own, other = hours_a.get(part, 0.0), hours_b.get(part, 0.0)
        if comparable(own) == comparable(other):  # alike but for the order in which seconds were added
            other = own
        rows.append(
            {
                "component": part,
                "usd_a": own * price_a,
                "usd_b": other * price_b,
                "delta_usd": (other - own) * mean,
            }
        )
    total_a, total_b = sum(hours_a.values()), sum(hours_b.values())
    rows.sort(key=lambda row: (-abs(row["delta_usd"]), row["component"]))
    if price_a != price_b:
        delta = (price_b - price_a) * (total_a + total_b) / 2.0
        rows.append({"component": PRICE, "usd_a": 0.0, "usd_b": 0.0, "delta_usd": delta})
    return Difference(
        name_a or a.step.scenario.name,
        name_b or b.step.scenario.name,
        total_a * price_a,
        total_b * price_b,
        tuple(rows),
    )


def _gpu_hours(answer: TrainAnswer) -> dict[str, float]:
    """GPU hours per million tokens by part."""
    values, training = answer.values, answer.step.training
    per_token = training.num_gpus / training.step_tokens * MEGA / HOUR
    found = {part: seconds * per_token for part, seconds in values["breakdown_s"].items()}
    if "batch_ramp" in values and training.tokens:
        found[RAMP] = values["batch_ramp"]["more_s"] * training.num_gpus / training.tokens * MEGA / HOUR
    if values["gpu_hours"] is not None and training.tokens:
        every, steps = values["gpu_hours"] / training.tokens * MEGA, sum(found.values())
        if comparable(every) != comparable(steps):
            found[FAILURES] = every - steps
    return found
