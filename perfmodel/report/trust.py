"""How far off perfmodel has been where a step's figures rest: errors on record, and caveats that no number holds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from perfmodel.kernels.calibration import Calibration
from perfmodel.step import Step
from perfmodel.validation.evidence import closest
from perfmodel.validation.recorded import Recorded, recorded_results

Line = dict[str, Any]


def caveats(record: Recorded) -> list[str]:
    """docs/trust.md in short, with the errors that are on record; what too small or too large is said of is said of
    those rows alone.
    """
    lines = {(one["suite"], one["quantity"]): one for one in record.summary() if one["role"] == "check"}
    kernels = [
        one["median_abs_pct"] for (suite, _), one in lines.items() if suite == "kernels" and one["answered"]
    ]
    table6 = [
        row.error_pct for row in record.about(suites=("longcat-measured",)).rows if row.quantity == "tpot_s"
    ]
    steps = [error for error in table6 if error is not None]
    told = []
    if kernels:
        told.append(
            f"Kernels alone are the small part of the error, {min(kernels):.0f} to {max(kernels):.0f} % in the median; "
            "what an engine adds around them is the large one."
        )
    warm, field = (lines.get((suite, "ttft_s")) for suite in ("silicon", "silicon-field"))
    if warm and field:
        told.append(
            f"Time to first token is {_off(warm)} where a run was warmed up, and {_off(field)} on runs in the field."
        )
    if steps:
        told.append(f"LongCat-Flash's published steps are predicted {_range(steps)}; why is not known.")
    return [*told, *STANDING]


STANDING = (
    "How tokens choose experts is published for hardly any model; it moves cost more than most hardware does.",
    "Contention between kernels that run together is a model, measured on one training trace alone.",
)
"""What no number on record holds."""


def _off(line: Line) -> str:
    """A line's median error, and to which side its rows lie in the mean."""
    side = "small" if line["bias_pct"] < 0.0 else "large"
    return f"{line['median_abs_pct']:.0f} % off in the median (in the mean {abs(line['bias_pct']):.0f} % too {side})"


def _range(errors: Sequence[float]) -> str:
    """Signed errors of times in percent, from the smallest to the largest."""
    low, high = min(errors), max(errors)
    if low < 0.0 < high:
        return f"{-low:.0f} % too fast to {high:.0f} % too slow"
    least, most = sorted((abs(low), abs(high)))
    return f"{least:.0f} to {most:.0f} % too {'fast' if high <= 0.0 else 'slow'} at every batch"


def validation_lines(step: Step) -> list[Line]:
    """Errors on record that say something about a step: ``suite``, ``quantity``, ``role``, ``n``, ``median_abs_pct``,
    ``coverage_pct`` (how often the 80 % interval held the measured figure; None: not on record) and ``about``.

    First the calibration's own curves that cost the step's kernels, on shapes left out of their fit; then the rows of
    ``perfmodel validate`` that are most like the scenario, as last recorded.
    """
    return [*_curve_lines(step), *_suite_lines(step)]


def _curve_lines(step: Step) -> Iterator[Line]:
    for number, place in enumerate(step.places):
        if place.calibration is not None:
            yield from _curve_lines_of(place.calibration, step, number)


def _curve_lines_of(calibration: Calibration, step: Step, place: int) -> Iterator[Line]:
    """Of the ops in one of a step's places."""
    there = [
        (task.op, timing)
        for segment in step.segments
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
        if step.place_of(task.op) == place
    ]
    used = {(op.kernel, op.dtype) for op, timing in there if timing.calibrated}
    backends = {op.backend for op, _ in there} | {""}
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
                "about": f"this {step.scenario.cluster.gpu.kind}'s kernels, timed on {_device(calibration.document)}",
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
