"""How a benchmark's row was run beyond its engine's defaults: checkpoints, launch scripts and clients, as rules.

``data/published/silicon_setups.yaml`` holds the rules, each with its source. They are facts about
checkpoints, scripts and clients; a row's measured time never enters.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from perfmodel.errors import DataError
from perfmodel.spec.base import NonNegative, Positive, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.validation.names import architecture_of

RULES = DATA / "published" / "silicon_setups.yaml"
RANGES = ("concurrency", "isl", "osl")
"""Columns that a rule gives as [low, high]."""
DATES = ("measured_before", "measured_from")
"""Conditions on the day of the run; a row without one meets neither."""


class Setup(Spec):
    """What the rules say of one row."""

    settings: dict[str, Any] = {}
    """Key paths of a scenario and their values: number formats, and what a launch script set."""
    budget_per_prompt: bool = False
    """Whether the token budget was set to max(budget_floor, concurrency + isl + 64, up to a multiple of 64)."""
    budget_floor: NonNegative = 0
    client: Literal["", "inferencex", "srt-slurm", "aiperf", "sglang-bench", "vllm-bench"] = ""
    """Who sent the requests; empty: not known. Set by a row's ``origin``; rules may ask for it (``when``)."""
    prompts_per_slot: Positive = 10.0
    """Requests that are judged, over the concurrency."""
    warm_up_per_slot: NonNegative = 0.0
    """Requests before those, over the concurrency. Every client here waits for the last of them before it sends the
    first that counts, so that they warm the engine and leave nothing in its queue: the loop has no need of them."""
    cold: bool = False
    """Whether the first wave compiled, so that the start-up is in the row's mean TTFT."""
    lowest_length_ratio: NonNegative = 1.0
    """Shortest input and output over the stated length: they are drawn uniformly, each for itself."""
    highest_length_ratio: Positive = 1.0
    """Longest over the stated length, which is the mean where a run's mean is stated."""
    expert_parallel: bool | None = None
    """Overrides the CSV: experts divided over ranks (True) or each cut in slices (False)."""
    attention_dp: bool = False
    """Overrides the CSV: every GPU has requests of its own."""
    layout: str = ""
    """Overrides the CSV's layout and number of GPUs: parallelism as the server was started, in the CSV's own form."""
    remark: str = ""
    """What is uncertain of how it was run: such a row is summed up with those that have a note. Empty: nothing."""
    not_predicted: str = ""
    """Why no prediction would mean anything; empty: predicted."""

    @property
    def length_ratio(self) -> float:
        """Mean length over the stated one."""
        return (self.lowest_length_ratio + self.highest_length_ratio) / 2.0

    def overrides(self, concurrency: float, isl: float) -> dict[str, Any]:
        """Key paths of a scenario and their values, the budget among them where it depends on the row."""
        if not self.budget_per_prompt:
            return dict(self.settings)
        budget = max(self.budget_floor, 64.0 * math.ceil((concurrency + isl + 64.0) / 64.0))
        return {**self.settings, "serving.max_batched_tokens": int(budget)}


def setup_of(record: Mapping[str, str]) -> Setup:
    """The set-up of a row of ``silicon_serving.csv``, or of a user's own in its columns: that one has no ``origin`` and
    no day, so that only number formats apply to it.
    """
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for rule in _rules():
        if all(_holds(name, wanted, record, values) for name, wanted in rule["when"].items()):
            settings |= {key: value for key, value in rule["set"].items() if "." in key}
            values |= {key: value for key, value in rule["set"].items() if "." not in key}
    return Setup.model_validate({**values, "settings": settings})


@cache
def _rules() -> tuple[dict[str, Any], ...]:
    document = read_document(RULES).get("rules")
    if not isinstance(document, list):
        raise DataError(f"{RULES}: must hold a list under 'rules'")
    return tuple(document)


def _holds(name: str, wanted: Any, record: Mapping[str, str], values: Mapping[str, Any]) -> bool:
    """Whether a condition holds for a row, of which earlier rules have said ``values``."""
    if name in DATES:
        measured = record.get("measured") or ""  # dates as in ISO 8601, in the order of their letters
        return bool(measured) and (measured < wanted) is (name == "measured_before")
    if name in RANGES:
        low, high = wanted
        return bool(record.get(name)) and low <= float(record[name]) <= high
    allowed = wanted if isinstance(wanted, list) else [wanted]
    if name == "architecture":
        return architecture_of(record["system"]) in allowed
    cell = values.get(name, "") if name == "client" else record.get(name, "")
    return cell in [str(value) for value in allowed]
