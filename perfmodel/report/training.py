"""A training run's report: what the run takes, in days and dollars, by term, and what could go wrong.

``values`` are the object that ``perfmodel report --json`` prints for scenarios with a ``training`` section.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.step import plain
from perfmodel.answers.train import TrainAnswer, answer_train
from perfmodel.errors import PerfModelError
from perfmodel.report.document import scenario_yaml
from perfmodel.report.terms import NOT_INCLUDED, Ownership, terms
from perfmodel.spec.scenario import Scenario
from perfmodel.training.run import DAY, simulate_run

FAILURES_TIMES = 3.0
"""How many times as many failures a what-if counts."""
WHAT_IF_PRICE = 1.2
"""A price a fifth higher, where the catalogue has no other: a what-if."""
DAYS_PER_MONTH = 365.0 / 12.0


@dataclass(frozen=True, slots=True)
class TrainingPart:
    """One run of a report."""

    label: str
    scenario: Scenario
    answer: TrainAnswer | None
    """None: it can't be answered."""
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Everything that a report of training runs says."""

    parts: tuple[TrainingPart, ...]
    values: dict[str, Any]


def build_training_report(
    scenarios: Sequence[tuple[str, Scenario]],
    ownership: Ownership,
    *,
    command: str = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> TrainingReport:
    """Answer every run; one that can't be answered keeps its place with the reason.

    Raises:
        PerfModelError: none can be answered; the first one's reason.
    """
    parts, errors = [], []
    for number, (label, scenario) in enumerate(scenarios):
        if progress is not None:
            progress("training runs", number, len(scenarios))
        try:
            parts.append(_part(label, scenario, answer_train(scenario), ownership))
        except PerfModelError as error:
            errors.append(error)
            parts.append(TrainingPart(label, scenario, None, {"name": label, "reason": str(error)}))
    if len(errors) == len(parts):
        raise errors[0]
    values = {
        "scenarios": [part.values for part in parts],
        "not_included": list(NOT_INCLUDED),
        "provenance": {"perfmodel": perfmodel.__version__, "command": command},
    }
    return TrainingReport(tuple(parts), values)


def _part(label: str, scenario: Scenario, answer: TrainAnswer, ownership: Ownership) -> TrainingPart:
    text, is_exact = scenario_yaml(scenario)
    found = answer.values
    values: dict[str, Any] = {
        "name": label,
        "title": scenario.title,
        "reason": None,
        "train": found,
        "gpus": _gpus(answer),
        "usd_per_gpu_hour": scenario.prices.usd_per_gpu_hour,
        "months": _months(answer),
        "risks": _risks(answer),
        "terms": _terms(answer, ownership),
        "scenario_yaml": text,
        "scenario_yaml_is_exact": is_exact,
    }
    return TrainingPart(label, scenario, answer, {key: _plain(value) for key, value in values.items()})


def _gpus(answer: TrainAnswer) -> dict[str, int]:
    """``training``, ``spare`` and ``total``."""
    training = answer.step.training
    spare = (training.failures.spare_nodes or 0) * answer.step.scenario.cluster.node.num_gpus
    return {"training": training.num_gpus, "spare": spare, "total": training.num_gpus + spare}


def _months(answer: TrainAnswer) -> list[dict[str, float]] | None:
    """What is paid in each month of the run, USD; None where no tokens are stated."""
    days = answer.values["days"]
    if days is None:
        return None
    rows: list[dict[str, float]] = []
    left = days
    while left > 0.0:
        now = min(left, DAYS_PER_MONTH)
        rows.append({"month": len(rows) + 1, "days": now, "usd": answer.values["usd"] * now / days})
        left -= DAYS_PER_MONTH
        if len(rows) >= MOST_MONTHS:
            break
    return rows


MOST_MONTHS = 60
"""Of a longer run the first five years are listed."""


def _risks(answer: TrainAnswer) -> list[dict[str, Any]]:
    """What makes the run dearer, the dearest first: ``what``, ``days``, ``usd``, ``more_usd``, ``why``."""
    found, step, run = answer.values, answer.step, answer.run
    if run is None:
        return []
    days, usd = found["days"], found["usd"]
    rows = []

    def add(what: str, other_days: float, times_price: float, why: str) -> None:
        cost = usd * other_days / days * times_price
        if cost > usd * 1.001:
            rows.append({"what": what, "days": other_days, "usd": cost, "more_usd": cost - usd, "why": why})

    add(
        "steps are slower than predicted", found["intervals"]["days"][1], 1.0, "slow end of the 80 % interval"
    )
    failures = step.training.failures
    if failures.per_gpu_day:
        add(
            f"{FAILURES_TIMES:g} times as many failures",
            _days(answer, failures.model_copy(update={"per_gpu_day": FAILURES_TIMES * failures.per_gpu_day})),
            1.0,
            "the run simulated again",
        )
        without = failures.model_copy(update={"spare_nodes": 0})
        add(
            "no node stands by",
            _days(answer, without),
            1.0,
            f"{failures.repair_hours:g} h until a failed one is back",
        )
    add("GPUs cost a fifth more", days, WHAT_IF_PRICE, "a what-if; other terms below")
    rows.sort(key=lambda row: -row["more_usd"])
    return rows


def _days(answer: TrainAnswer, failures: Any) -> float:
    """Mean days of the run with other failures; without end where they leave no time to train."""
    step = answer.step
    assert answer.run is not None
    try:
        again = simulate_run(
            answer.run.productive_s,
            num_gpus=step.training.num_gpus,
            step_time_s=step.step_time_s,
            checkpoints=step.training.checkpoints,
            failures=failures,
            seed=step.scenario.seed,
        )
    except PerfModelError:
        return 0.0  # no figure to tell
    return float(np.mean(again.elapsed_s)) / DAY


def _terms(answer: TrainAnswer, ownership: Ownership) -> list[dict[str, Any]]:
    """Prices by term, with ``usd`` of the whole run; owned GPUs cost the run's hours of their life."""
    hours = answer.values["gpu_hours"]
    rows = terms(answer.step.scenario, _gpus(answer)["total"], ownership)
    return [{**row, "usd": None if hours is None else hours * row["usd_per_gpu_hour"]} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return plain(value)
