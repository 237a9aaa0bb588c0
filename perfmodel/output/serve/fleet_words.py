"""What the sizes of a fleet are worth, in words; the one by objectives comes first, where there is one."""

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.output.formats import significant

SIZES = (("by_slo", "by SLO"), ("by_throughput", "by throughput"))
"""Key of a size -> its name, in the order in which they are told."""


def fleet_sizes(
    fleet: Mapping[str, Any], used_pct: float | None
) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    """(key, name, size, what it is) of the sizes that there are; ``used_pct`` is the run's ``capacity_used_pct``."""
    for key, name in SIZES:
        size = fleet[key]
        if size is not None:
            yield key, name, size, _by_slo(size) if key == "by_slo" else _by_throughput(fleet, used_pct)


def _by_slo(size: Mapping[str, Any]) -> str:
    if size["limited_by"] == "length":
        return "simulated, but the run is too short to say"
    if size["replicas"] is None:
        return f"simulated: no number of replicas lets {size['good_pct']:g} % of the requests keep it"
    return f"simulated: {size['good_pct']:g} % keep it"


def _by_throughput(fleet: Mapping[str, Any], used_pct: float | None) -> str:
    """What arithmetic on the run's own rate is worth: little, where its replicas waited for requests."""
    bound = fleet["by_throughput"]["bound"]
    if bound == "lower":
        return "arithmetic, a lower bound: this run fell behind its requests"
    text = "arithmetic at this run's load, whatever users wait"
    if bound == "upper" and used_pct is not None and used_pct < HALF_PCT:
        text += f"; a replica may serve more, {significant(used_pct, 2)} % of its capacity was used"
    return text if fleet["by_slo"] else f"{text}. State slo.ttft_ms and slo.tpot_ms to size by simulation"


HALF_PCT = 50.0
"""Share of capacity used below which a run says little of what its GPUs could serve."""
