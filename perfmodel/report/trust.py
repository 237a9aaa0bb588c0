"""How far off perfmodel has been where a step's figures rest: errors on record, and caveats that no number holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.spec.scenario import Scenario
from perfmodel.step import Step
from perfmodel.validation.ceilings import recorded

CAVEATS = (
    "Kernels alone are the small part of the error, 1 to 5 % in the median; what an engine adds around them is the "
    "large one.",
    "Time to first token is about 40 % off in the median and too small; tokenisation, HTTP and the client are not "
    "counted.",
    "Small batches of LongCat-Flash are predicted 17 to 23 % too fast; large ones are within 11 %.",
    "How tokens choose experts is published for hardly any model; it moves cost more than most hardware does.",
    "Contention between kernels that run together is a model, measured on one training trace alone.",
)
"""docs/trust.md in short."""

Line = dict[str, Any]


def validation_lines(step: Step) -> list[Line]:
    """Errors on record that say something about a step: ``suite``, ``quantity``, ``role``, ``n``, ``median_abs_pct``,
    ``coverage_pct`` (how often the 80 % interval held the measured figure; None: not on record) and ``about``.

    First the calibration's own curves that cost the step's kernels, on shapes left out of their fit; then the suites of
    ``perfmodel validate``, whose medians are those of their recorded limits.
    """
    return [*_curve_lines(step), *_suite_lines(step)]


def _curve_lines(step: Step) -> Iterator[Line]:
    calibration = step.calibration
    if calibration is None:
        return
    used = {
        (task.op.kernel, task.op.dtype)
        for segment in step.segments
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
        if timing.calibrated
    }
    backends = {task.op.backend for segment in step.segments for task in segment.tasks if task.op.backend} | {
        ""
    }
    for (kernel, dtype, backend), curve in calibration.curves.items():
        own = (kernel, dtype) in used or (dtype == "any" and any(kernel == name for name, _ in used))
        if own and (not backend or backend in backends) and curve.median_error_pct is not None:
            yield {
                "suite": f"calibration {calibration.name}",
                "quantity": " ".join(filter(None, (kernel, dtype, backend))),
                "role": "left out",
                "n": curve.num_rows,
                "median_abs_pct": curve.median_error_pct,
                "coverage_pct": None,
                "about": f"this GPU's kernels, timed on {_device(calibration.document)}",
            }


def _device(document: Mapping[str, Any]) -> str:
    environment = document.get("environment", {})
    return str(environment.get("device_name") or environment.get("cpu") or "it")


def _suite_lines(step: Step) -> Iterator[Line]:
    for (suite, quantity, role), ceiling in recorded().items():
        about = _about(suite, step.scenario)
        if about and role in ("check", "theory") and quantity in QUANTITIES:
            yield {
                "suite": suite,
                "quantity": quantity,
                "role": role,
                "n": ceiling.answered_at_least,
                "median_abs_pct": ceiling.median_abs_pct,
                "coverage_pct": None,
                "about": about,
            }


QUANTITIES = (
    "tpot_s",
    "ttft_s",
    "itl_s",
    "output_tokens_per_s_per_gpu",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
)
"""Of a suite, what a report states too."""
MEASURED_SERVING = ("h100-sxm", "h200-sxm", "b200-sxm", "gb200-nvl72")
"""GPUs of suite silicon."""


def _about(suite: str, scenario: Scenario) -> str:
    """What a suite's rows have to do with a scenario; empty: nothing."""
    model, gpu = scenario.model.name, scenario.cluster.gpu.name
    if scenario.costs == "report":
        return "this way of counting: figures round to those printed" if suite == "longcat-theory" else ""
    if suite.startswith("longcat-measured"):
        here = " on this GPU" if gpu == "h800-sxm" else ", on H800"
        return f"this model{here}" if model == "longcat-flash" else ""
    if suite.startswith("deepseek"):
        here = "this model" if model == "deepseek-v3" else "another model"
        return f"{here}, on H800 and H100" if gpu in ("h800-sxm", "h100-sxm") or here == "this model" else ""
    if suite == "silicon":
        where = "this GPU among others" if gpu in MEASURED_SERVING else "other GPUs"
        return f"measured serving of other models, {where}" if scenario.deployment.engine else ""
    return ""
