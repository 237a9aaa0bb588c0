"""Ranking and selection: which of several noisy candidates is the least, sure at whatever point one stops.

All candidates meet the same traffic, replication by replication (common random numbers), so what is compared are
paired differences, whose variance is small. After each replication a contender is dropped once the lower end of an
interval for its mean difference to the leader exceeds an indifference zone. The interval holds at all times together,
so that looking after every replication, and stopping when the budget is spent, breaks no promise: the asymptotic
confidence sequence of Waudby-Smith et al. (Time-uniform central limit theory and asymptotic confidence sequences,
Annals of Statistics 2024, theorem 2.2), of half-width

    std x sqrt(2 (t rho^2 + 1) / (t rho)^2 x log(sqrt(t rho^2 + 1) / alpha))

after t replications, alpha shared among the contenders (Bonferroni). It is asymptotic: with the few replications here
it is a guide with a known shape rather than a guarantee, which is why nobody is dropped before LEAST of them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

ALPHA = 0.05
RHO = 1.0
LEAST = 3
"""Replications before a contender may be dropped, unless its differences do not vary at all."""
ZONE = 0.005
"""Differences below this share of the leader's value decide nothing."""


def half_width(std: float, count: int, alpha: float) -> float:
    """Half of the interval of a mean after ``count`` values of that spread, valid at all counts together."""
    t = count * RHO**2 + 1.0
    return std * math.sqrt(2.0 * t / (count * RHO) ** 2 * math.log(math.sqrt(t) / alpha))


def race(
    contenders: Sequence[int],
    value: Callable[[int, int], float],
    *,
    most: int,
    goes_on: Callable[[], bool],
) -> tuple[dict[int, list[float]], bool]:
    """Values of each contender by replication, and whether the least one is told apart from all others.

    Args:
        contenders: names; ``value(name, replication)`` is asked for each in turn.
        value: what is to be small; infinite: out at once.
        most: replications at most.
        goes_on: whether there is budget for one more value.
    """
    values: dict[int, list[float]] = {one: [] for one in contenders}
    alive = list(contenders)
    for replication in range(most):
        for one in list(alive):
            if replication and not goes_on():
                return values, len(alive) == 1
            values[one].append(value(one, replication))
        finite = [one for one in alive if math.isfinite(values[one][-1])]
        alive = _left(finite, values) if finite else alive
        if len(alive) == 1:
            return values, True
        if replication and all(values[one] == values[alive[0]] for one in alive):
            break  # equal whatever the traffic: more of it tells nothing
    return values, False


def _left(alive: Sequence[int], values: dict[int, list[float]]) -> list[int]:
    """Who is not yet told to be worse than the leader."""
    leader = min(alive, key=lambda one: float(np.mean(values[one])))
    kept = []
    for one in alive:
        if one == leader:
            kept.append(one)
            continue
        with np.errstate(invalid="ignore"):
            apart = np.asarray(values[one]) - np.asarray(values[leader])
        apart[np.isnan(apart)] = 0.0  # traffic in which neither kept the limits does not tell them apart
        std, count = float(apart.std(ddof=1)) if apart.size > 1 else math.nan, apart.size
        zone = ZONE * abs(float(np.mean(values[leader])))
        sure = count >= LEAST or (count > 1 and std == 0.0)
        if not sure or float(apart.mean()) - half_width(std, count, ALPHA / max(1, len(alive) - 1)) <= zone:
            kept.append(one)
    return kept
