"""How far a scenario's figures can be trusted, in sentences; nothing of Streamlit in it."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dashboard.words import NAMES
from perfmodel.answers.constants import engine_constants
from perfmodel.answers.step import StepAnswer
from perfmodel.errors import PerfModelError
from perfmodel.kernels.calibration import AnyCurve, Calibration
from perfmodel.output.catalogue.entries import calibration_values
from perfmodel.output.formats import count, significant, with_unit
from perfmodel.output.step.schedules import Told
from perfmodel.output.validation.page import quantity_name
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.units import PERCENT
from perfmodel.validation.evidence import Evidence
from perfmodel.validation.recorded import Recorded

DECODE = ("tpot_s", "output_tokens_per_s_per_gpu", "itl_s")
ASKED = {"prefill": ("input_tokens_per_s_per_gpu", "ttft_s"), "decode": DECODE, "mixed": DECODE}
"""Phase -> what its measurements are of, the most telling first."""


class Basis(NamedTuple):
    """On what the times of a step's ops rest."""

    calibration: Calibration | None
    kernels: pd.DataFrame
    """One row per kernel of it that the step uses."""


class Nearest(NamedTuple):
    """The line of the closest measurements that says most about a scenario."""

    words: str
    """What they share with it."""
    line: Mapping[str, Any]
    """As ``perfmodel validate`` sums them up."""


def basis_of(found: StepAnswer) -> Basis:
    """What gave a step's times."""
    used = found.step.calibration
    ops: dict[tuple[str, ...], list[str]] = {}
    curves: dict[tuple[str, ...], AnyCurve] = {}
    for segment in found.step.segments:
        for task, timing in zip(segment.tasks, segment.timings, strict=True):
            if timing.source == "given":
                continue
            seconds = segment.repeat * float(np.mean(timing.seconds))
            curve = used.curve(task.op) if used is not None and timing.calibrated and seconds else None
            if curve is not None:
                key = (curve.kernel, curve.dtype, curve.backend, curve.engine)
                curves[key] = curve
                ops.setdefault(key, []).append(task.op.name)
    rows = [kernel_row(curve) | {"ops": ", ".join(dict.fromkeys(ops[key]))} for key, curve in curves.items()]
    return Basis(used, pd.DataFrame(rows))


def kernel_row(curve: AnyCurve) -> dict[str, Any]:
    """A curve and how far off it is on shapes that its fit never saw."""
    return {
        "kernel": curve.kernel,
        "format": curve.dtype,
        "backend": curve.backend,
        "engine": curve.engine or "any",
        "timed shapes": curve.num_rows,
        "median error": curve.median_error_pct,
        "90th percentile": curve.p90_error_pct,
    }


def nearest_of(scenario: Scenario, evidence: Sequence[Evidence]) -> Nearest | None:
    """The closest measurements of what the scenario's phase is about; None for a published way of counting."""
    if scenario.costs == "report":
        return None
    for one in evidence:
        for quantity in ASKED[scenario.deployment.phase]:
            lines = [line for line in one.summary if line["quantity"] == quantity]
            if lines:
                best = max(lines, key=lambda line: (line["coverage_pct"] is not None, line["answered"]))
                return Nearest(one.words, best)
    return None


def sentences(
    scenario: Scenario, found: Told, basis: Basis, nearest: Nearest | None, record: Recorded
) -> dict[str, str]:
    """What a reader should know, by topic. The texts may hold what somebody uploaded."""
    told = {
        "The figure": _figure(scenario, found),
        "Measured elsewhere": _measured(scenario, nearest),
        "Kernels": _kernels(scenario, found, basis, record),
        "Engine": _engine(scenario),
    }
    return {topic: text for topic, text in told.items() if text}


def _figure(scenario: Scenario, found: Told) -> str:
    keys = ("tpot_s", "ttft_s", "step_time_s")
    key = next(key for key in keys if found.values[key] is not None)
    name, value = NAMES[key], with_unit(found.values[key], "s")
    bounds = found.values.get("intervals", {}).get(key)
    if bounds is None:
        report = scenario.costs == "report"
        why = "a published way of counting has none" if report else "the spread of some op is not known"
        return f"{name} is {value}, without an interval: {why}."
    low, high = (with_unit(bound, "s") for bound in bounds)
    engine = " and published runs of the engine" if scenario.deployment.step_log_std else ""
    text = (
        f"{name} is {value}, with a chance of 80% between {low} and {high}. That is how much kernels{engine} were seen "
        "to vary"
    )
    if scenario.routing.prior_imbalance > 1.0:
        text += ", and how busy a busiest rank may be"
    return f"{text}; what the model leaves out is not in it."


def _measured(scenario: Scenario, nearest: Nearest | None) -> str:
    if scenario.costs == "report":
        return "this is the report's own calculation; suite longcat-theory below compares it cell by cell."
    if nearest is None:
        return (
            f"no measurement on record is of this model, {scenario.cluster.gpu.kind} or engine: nothing says how far "
            "off the figures are. perfmodel validate --data compares your own."
        )
    line = nearest.line
    one = line["answered"] == 1
    text = (
        f"{number_of(line['answered'], 'figure')} of {quantity_name(line['quantity'])} ({nearest.words}; suite "
        f"{line['suite']}) {'was' if one else 'were'} predicted with {'an' if one else 'a median'} error of "
        f"{pct(line['median_abs_pct'])}"
    )
    bias = line["bias_pct"]
    text += (
        f", too {'small' if bias < 0 else 'large'}"
        if one
        else f", in the mean {pct(abs(bias))} too {'small' if bias < 0 else 'large'}"
    )
    coverage = line["coverage_pct"]
    return text + (f"; {coverage:.0f}% lay inside their 80% interval." if coverage is not None else ".")


def _kernels(scenario: Scenario, found: Told, basis: Basis, record: Recorded) -> str:
    used = basis.calibration
    if scenario.costs == "report":
        return (
            "none is timed: costs: report takes FLOPs over peaks, and bytes over the bandwidths of Table 7."
        )
    if used is None:
        return (
            "no calibration: each op is estimated from its FLOPs and bytes, at fractions of the GPU's peaks that "
            "similar kernels reach."
        )
    shapes = sum(curve.num_rows for curve in used.all_curves)
    device = used.document.get("environment", {}).get("device_name") or used.gpu
    source = used.document.get("source")
    text = (
        f"calibration {used.name} ({used.id}), fitted {days(used.created)} ago ({used.created[:10]}) on "
        f"{count(shapes)} timed shapes of {device}{f'; source: {source}' if source else ''}."
    )
    steps = ((tested(used) or {}).get("check") or {}).get("all steps")
    if steps:
        text += f" Whole steps timed anew on it were {pct(steps['median_abs_pct'])} off in the median."
    known = [one for one in record.calibrations if one.rpartition("-")[0] == used.name]
    if known and f"{used.name}-{used.id}" not in known:
        text += " The comparison below rests on another version of it."
    return text


def _engine(scenario: Scenario) -> str:
    deployment = scenario.deployment
    if scenario.costs == "report":
        return ""
    if not deployment.engine:
        return (
            "none is named: nothing is added for its host, its scheduler and ranks that wait for each other."
        )
    text = f"{deployment.engine} {deployment.engine_version}: {'; '.join(engine_constants(scenario))}."
    if deployment.step_log_std:
        spread = significant(PERCENT * float(deployment.step_log_std), 2)
        text += f" Published runs of it vary by {spread}% around what is modelled."
    return text


def tested(calibration: Calibration) -> dict[str, Any] | None:
    """What the catalogue says of a calibration beyond its curves: harder tests; None for one of a path."""
    try:
        values = calibration_values(calibration.name)
    except PerfModelError:
        return None
    return values if values["id"] == calibration.id else None


def pct(value: float) -> str:
    """A percentage as the page's tables have it."""
    return f"{value:.1f}%"


def days(created: str) -> str:
    """Whole days since a date (ISO)."""
    made = datetime.fromisoformat(created)
    made = made if made.tzinfo else made.replace(tzinfo=UTC)
    return number_of(max((datetime.now(UTC) - made).days, 0), "day")
