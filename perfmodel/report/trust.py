"""How far off perfmodel has been where a step's figures rest: errors on record, and caveats that no number holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.step import Step
from perfmodel.validation.evidence import closest
from perfmodel.validation.recorded import recorded_results

CAVEATS = (
    "Kernels alone are the small part of the error, 1 to 5 % in the median; what an engine adds around them is the "
    "large one.",
    "Time to first token is about 26 % off in the median where a run was warmed up, 38 % on runs in the field, and too "
    "small.",
    "LongCat-Flash's published steps are predicted 12 to 24 % too fast at every batch, inside their intervals; why is "
    "not known.",
    "How tokens choose experts is published for hardly any model; it moves cost more than most hardware does.",
    "Contention between kernels that run together is a model, measured on one training trace alone.",
)
"""docs/trust.md in short."""

Line = dict[str, Any]


def validation_lines(step: Step) -> list[Line]:
    """Errors on record that say something about a step: ``suite``, ``quantity``, ``role``, ``n``, ``median_abs_pct``,
    ``coverage_pct`` (how often the 80 % interval held the measured figure; None: not on record) and ``about``.

    First the calibration's own curves that cost the step's kernels, on shapes left out of their fit; then the rows of
    ``perfmodel validate`` that are most like the scenario, as last recorded.
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
    """From the closest measurements on record (same model, GPU and engine) to those that share less, each row once."""
    scenario, record = step.scenario, recorded_results()
    if scenario.costs == "report":
        own = record.about(model=scenario.model.name, suites=("longcat-theory",)).summary()
        groups = [("this way of counting", own)]
    else:
        groups = [(one.words, list(one.summary)) for one in closest(scenario, record)]
    lines = [
        (words, line)
        for words, summary in groups
        for line in summary
        if line["quantity"] in QUANTITIES and line["role"] in ("check", "theory")
    ]
    for words, line in lines[:MOST_LINES]:
        keys = ("suite", "quantity", "role", "median_abs_pct", "coverage_pct")
        yield {**{key: line[key] for key in keys}, "n": line["answered"], "about": words}


MOST_LINES = 12
"""Of measurements, the closest first: what shares less says less."""

QUANTITIES = (
    "tpot_s",
    "ttft_s",
    "itl_s",
    "output_tokens_per_s_per_gpu",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
)
"""Of a suite, what a report states too."""
