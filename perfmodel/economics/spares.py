"""How many nodes must stand by, so that what traffic needs is there although nodes fail."""

from math import exp

GPU_FAILURES_PER_DAY = 419 / (54 * 16_384)
"""Interruptions per GPU and day: 419 unexpected ones in 54 days on 16,384 H100, Llama 3 (arXiv 2407.21783, table 5)."""
REPAIR_HOURS = 24.0
"""How long a failed node is away, as ``training.failures.repair_hours`` has it: a convention, no measurement."""
AVAILABILITY = 0.999
"""Share of the time in which spares are to make up for all that are away: a convention."""
HOURS_PER_DAY = 24.0


def mean_nodes_away(
    num_gpus: float, *, per_gpu_day: float = GPU_FAILURES_PER_DAY, repair_hours: float = REPAIR_HOURS
) -> float:
    """Nodes that are away at one time on average, each failure taking one: rate x time (Little)."""
    return num_gpus * per_gpu_day * repair_hours / HOURS_PER_DAY


def spare_nodes(mean_away: float, *, availability: float = AVAILABILITY) -> int:
    """The fewest spares that are enough for so large a share of the time.

    Failures come at random and repairs do not wait for each other, so the number away is Poisson whatever the repair
    times' distribution (M/G/infinity; Palm 1943).
    """
    term = total = exp(-mean_away)
    number = 0
    if term == 0.0:  # beyond exp's range: Poisson's normal limit is exact to a part in 10^5 there
        from statistics import NormalDist

        return int(mean_away + NormalDist().inv_cdf(availability) * mean_away**0.5) + 1
    while total < availability:
        number += 1
        term *= mean_away / number
        total += term
    return number
