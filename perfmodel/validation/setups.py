"""How a benchmark's row was run: engine defaults and launch scripts, as rules that say when they apply.

``data/published/silicon_setups.yaml`` holds the rules, each with its source. They are facts about engines and scripts;
a row's measured time never enters.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from perfmodel.errors import DataError
from perfmodel.spec.base import Count, NonNegative, Positive, PositiveFraction, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.formats import Dtype

RULES = DATA / "published" / "silicon_setups.yaml"
RANGES = ("concurrency", "isl", "osl")
"""Columns that a rule gives as [low, high]."""


class Setup(Spec):
    """What the rules say of one row."""

    policy: Literal["prefill-first", "mixed"] = "mixed"
    """Whether a prefill runs alone while decodes wait, or joins them in one step."""
    chunk_tokens: Positive = 8192
    """Most prompt tokens of one step."""
    whole_prompts: bool = False
    """Whether prompts are never cut: one longer than the budget has a step of its own."""
    budget_per_prompt: bool = False
    """Whether the budget was set to max(budget_floor, concurrency + isl + 64, up to a multiple of 64)."""
    budget_floor: NonNegative = 0
    max_running: Count = 1_000_000
    """Most requests that decode at once."""
    poll_steps: Positive = 1.0
    """Decode steps between two looks at newly arrived requests."""
    balanced_prefill: bool = False
    """Whether prompts are held back until every data-parallel rank has one."""
    length_ratio: PositiveFraction = 1.0
    """Mean length over the stated one, of inputs and of outputs."""
    shared_experts: Literal["in-line", "own-stream"] = "in-line"
    fused_norms: bool = False
    """Whether the all-reduce adds the residual and normalises."""
    expert_parallel: bool | None = None
    """Overrides the CSV: experts divided over ranks (True) or each cut in slices (False)."""
    attention_dp: bool = False
    """Overrides the CSV: every GPU has requests of its own."""
    expert_kernel: Literal["auto", "cutlass", "deepgemm"] = "auto"
    linear: Dtype = "bf16"
    attention_output: Dtype | None = None
    dense: Dtype | None = None
    experts: Dtype = "bf16"
    shared: Dtype | None = None
    kv_cache: Literal["bf16", "fp8"] = "bf16"
    not_predicted: str = ""
    """Why no prediction would mean anything; empty: predicted."""

    def budget(self, concurrency: float, isl: float) -> float:
        """Prompt tokens that one step may carry."""
        if not self.budget_per_prompt:
            return max(self.chunk_tokens, isl) if self.whole_prompts else self.chunk_tokens
        return max(self.budget_floor, 64.0 * math.ceil((concurrency + isl + 64.0) / 64.0))


def setup_of(record: Mapping[str, str]) -> Setup:
    """The set-up of a row of ``silicon_serving.csv`` (or of a user's own in its columns)."""
    values: dict[str, Any] = {}
    for rule in _rules():
        if all(_holds(name, wanted, record) for name, wanted in rule["when"].items()):
            values |= rule["set"]
    return Setup.model_validate(values)


@cache
def _rules() -> tuple[dict[str, Any], ...]:
    document = read_document(RULES).get("rules")
    if not isinstance(document, list):
        raise DataError(f"{RULES}: must hold a list under 'rules'")
    return tuple(document)


def _holds(name: str, wanted: Any, record: Mapping[str, str]) -> bool:
    if name == "measured_known":  # the rows of InferenceX state their date, the package's own runs do not
        return bool(record.get("measured")) is bool(wanted)
    if name in RANGES:
        low, high = wanted
        return bool(record[name]) and low <= float(record[name]) <= high
    allowed = wanted if isinstance(wanted, list) else [wanted]
    return record.get(name, "") in [str(value) for value in allowed]
