"""The answer to ``perfmodel plan-train``: layouts ranked, why the first is first, and it as a scenario file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.train import TrainAnswer, answer_train
from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan_training.question import (
    LAYOUT,
    Kind,
    Objective,
    Question,
    layouts,
    space_of,
    training_with,
)
from perfmodel.explore.plan_training.screen import Progress, Screened, screen
from perfmodel.explore.train_difference import Difference, train_difference
from perfmodel.explore.train_launch import launches_of
from perfmodel.explore.train_sensitivity import usd_per_million_tokens
from perfmodel.spec.training import Training
from perfmodel.training.layout import training_of
from perfmodel.units import GB, MEGA

SIMULATE = 24
SHOWN = 100
"""Screened layouts of the answer, beside those that were simulated."""
FARTHEST = 200
"""GPUs more or fewer among which a number is looked for that some layout divides."""
CLOSE = 0.01
"""Shares of a figure within which layouts are not told apart: what pairs of stages add is known no better."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout that was simulated as ``perfmodel train`` does."""

    kind: Kind
    keys: Mapping[str, Any]
    answer: TrainAnswer

    @property
    def usd_per_million_tokens(self) -> float:
        """USD of a million tokens, as :func:`perfmodel.explore.train_sensitivity.usd_per_million_tokens`."""
        return usd_per_million_tokens(self.answer)

    def figure(self, objective: Objective) -> float:
        """What is made small."""
        values = self.answer.values
        if objective == "usd":
            return self.usd_per_million_tokens
        if objective == "gpu":
            return -float(values["tokens_per_s_per_gpu"])
        return -float(values["tokens_per_s"])


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """What ``perfmodel plan-train`` says."""

    question: Question
    values: dict[str, Any]
    """The keys of ``perfmodel plan-train --json``, SI units; unknown is None."""
    candidates: tuple[Candidate, ...]
    """Simulated, best first."""
    document: dict[str, Any]
    """The best as a scenario file."""
    screened: tuple[Screened, ...]
    """Every layout, by kind of GPUs."""


def plan_training(
    question: Question, *, simulate: int = SIMULATE, progress: Progress | None = None
) -> TrainPlan:
    """The best layouts for a run.

    Args:
        question: what is asked.
        simulate: layouts that are simulated at most, beside the scenario's own.
        progress: told the stage, what is done and what there is.

    Raises:
        InfeasibleError: no layout is legal, or none fits; with how far the nearest is off.
        PerfModelError: the question is bad.
    """
    screened = [screen(question, kind, simulate, progress) for kind in question.every_kind()]
    ranked = _ranked(screened, question.objective)
    _check(question, screened, ranked)
    found: list[Candidate] = []
    problem: InfeasibleError | None = None
    for number, (which, i) in enumerate(ranked[:simulate], 1):
        one = screened[which]
        keys = one.layouts[i]
        training = training_with(training_of(one.scenario), keys)
        try:
            answer = answer_train(one.scenario.model_copy(update={"training": training}))
        except InfeasibleError as error:  # failures leave it no time: it fits
            problem = error
            continue
        found.append(Candidate(one.kind, keys, answer))
        if progress is not None:
            progress("simulated", number, min(simulate, len(ranked)))
    if not found:
        assert problem is not None
        raise problem
    found.sort(key=lambda one: one.figure(question.objective))
    best = found[0]
    why = _why(found, question.objective)
    values = {
        "scenario": question.name,
        "model": best.answer.step.scenario.model.name,
        "gpus": [one.kind.words for one in screened],
        "objective": question.objective,
        "candidates": [_row(one) for one in found] + _others(screened, ranked[simulate : simulate + SHOWN]),
        "considered": {
            "legal": sum(len(one.layouts) for one in screened),
            "fit": len(ranked),
            "simulated": len(found),
        },
        "kinds": [
            {"kind": one.kind.words, "legal": len(one.layouts), "fit": int(one.fits.sum())}
            for one in screened
        ],
        "alike": sum(_close(one, best, question.objective) for one in found),
        "own": _own(question, best),
        "why": None if why is None else why.as_dict(),
        "launch": launches_of(best.answer.step),
        "provenance": {**best.answer.values["provenance"], "perfmodel": perfmodel.__version__},
    }
    return TrainPlan(question, values, tuple(found), _document(question, best), tuple(screened))


def _ranked(screened: Sequence[Screened], objective: Objective) -> list[tuple[int, int]]:
    """(kind, layout) of all that fit, best first; equals in order."""
    rows: list[tuple[float, int, int]] = []
    for which, one in enumerate(screened):
        tokens = training_of(one.scenario).step_tokens
        figure = {
            "usd": one.usd_per_token,
            "gpu": one.step_s * one.kind.gpus / tokens,
            "time": one.step_s / tokens,
        }[objective]
        rows += [(float(f"{figure[i]:.9e}"), which, int(i)) for i in np.flatnonzero(one.fits)]
    return [(which, i) for _, which, i in sorted(rows)]


def _numbers_near(question: Question, one: Screened) -> str:
    """Numbers of GPUs close by that some layout divides, in words; empty: none."""
    gpus, scenario = one.kind.gpus, one.scenario

    def divides(number: int) -> bool:
        space = space_of(scenario, number, question.space, of_several=len(question.kinds) > 1)
        return next(layouts(scenario, number, space, question.space), None) is not None

    fewer, more = range(gpus - 1, max(0, gpus - FARTHEST), -1), range(gpus + 1, gpus + FARTHEST)
    found = (next((number for number in numbers if divides(number)), None) for numbers in (fewer, more))
    return " or ".join(f"{number:,}" for number in found if number is not None)


def _check(question: Question, screened: Sequence[Screened], ranked: Sequence[tuple[int, int]]) -> None:
    if ranked:
        return
    legal = [one for one in screened if len(one.layouts)]
    if not legal:
        training = training_of(screened[0].scenario)
        near = _numbers_near(question, screened[0])
        raise InfeasibleError(
            f"plan-train: no layout of {'; '.join(one.kind.words for one in screened)} divides "
            f"global_batch_sequences = {training.global_batch_sequences} and sequence_tokens = "
            f"{training.sequence_tokens}: another number of GPUs{f' ({near})' if near else ''}, another batch, or a "
            f"wider --space"
        )
    least = min(legal, key=lambda one: float(one.memory.min() - one.scenario.cluster.gpu.memory_bytes))
    i = int(least.memory.argmin())
    device = float(least.scenario.cluster.gpu.memory_bytes)
    raise InfeasibleError(
        f"plan-train: of {sum(len(one.layouts) for one in legal):,} layouts none fits; the nearest, "
        f"{layout_words(least.layouts[i])}, needs {least.memory[i] / GB:.1f} GB of {device / GB:.1f}: more GPUs (some "
        f"{math.ceil(least.memory[i] / device * least.kind.gpus):,} hold as much), or a wider --space"
    )


def layout_words(keys: Mapping[str, Any]) -> str:
    """A layout in a few words."""
    parts = [
        f"{name.upper()}{keys[name]}" for name in ("tp", "cp", "pp", "dp", "ep", "etp") if keys[name] > 1
    ]
    chunks = f" x{keys['virtual_stages']}" if keys["virtual_stages"] > 1 else ""
    parts += [f"{keys['schedule']}{chunks}"] if keys["pp"] > 1 else []
    parts += [f"micro-batch {keys['micro_batch_sequences']}"]
    if keys["moe_overlap"] != "none":
        parts.append(f"{keys['moe_overlap']} overlap")
    again = keys["recompute"]
    if again != "none":
        parts.append(f"recompute {again if isinstance(again, str) else '+'.join(again)}")
    parts += [f"ZeRO {keys['zero']}"] if keys["zero"] != 1 else []
    parts += [f"{key} {value}" for key, value in keys.items() if key not in (*LAYOUT, "dp")]
    return ", ".join(parts)


def _row(one: Candidate) -> dict[str, Any]:
    values = one.answer.values
    names = (
        "num_gpus",
        "step_time_s",
        "tokens_per_s",
        "tokens_per_s_per_gpu",
        "mfu",
        "exposed_communication_fraction",
        "days",
        "usd",
        "availability",
        "intervals",
    )
    return {
        "layout": layout_words(one.keys),
        "kind": one.kind.words,
        "keys": _keys(one.keys),
        "simulated": True,
        **{name: values[name] for name in names},
        "bubble_fraction": max(0.0, values["bubble_fraction"]),
        "usd_per_million_tokens": one.usd_per_million_tokens,
        "memory_bytes": max(rank["total"] for rank in values["memory_by_stage"]),
    }


def _others(screened: Sequence[Screened], ranked: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Layouts that were screened alone: fewer figures, as from the screen."""
    found = []
    for which, i in ranked:
        one = screened[which]
        rate = training_of(one.scenario).step_tokens / float(one.step_s[i])
        found.append(
            {
                "layout": layout_words(one.layouts[i]),
                "kind": one.kind.words,
                "keys": _keys(one.layouts[i]),
                "simulated": False,
                "num_gpus": one.kind.gpus,
                "step_time_s": float(one.step_s[i]),
                "tokens_per_s": rate,
                "tokens_per_s_per_gpu": rate / one.kind.gpus,
                "usd_per_million_tokens": float(one.usd_per_token[i]) * MEGA,
                "memory_bytes": int(one.memory[i]),
            }
        )
    return found


def _keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"training.{key}": list(value) if isinstance(value, tuple) else value for key, value in keys.items()
    }


def _close(one: Candidate, best: Candidate, objective: Objective) -> bool:
    return abs(one.figure(objective) / best.figure(objective) - 1.0) <= CLOSE


def _why(found: Sequence[Candidate], objective: Objective) -> Difference | None:
    """The best against the next one that is told apart from it, else against the second."""
    best = found[0]
    apart = [one for one in found[1:] if not _close(one, best, objective)]
    other = next(iter((*apart, *found[1:])), None)
    if other is None:
        return None
    return train_difference(best.answer, other.answer, layout_words(best.keys), layout_words(other.keys))


def _own(question: Question, best: Candidate) -> dict[str, Any] | None:
    """The scenario's own layout beside the best, where it fits and has as many GPUs."""
    scenario = question.scenario(best.kind)
    try:
        own = answer_train(scenario)
    except InfeasibleError:
        return None
    values, found = own.values, best.answer.values
    return {
        "num_gpus": values["num_gpus"],
        "step_time_s": values["step_time_s"],
        "tokens_per_s_per_gpu": values["tokens_per_s_per_gpu"],
        "best_over_own": found["tokens_per_s_per_gpu"] / values["tokens_per_s_per_gpu"],
    }


def _document(question: Question, best: Candidate) -> dict[str, Any]:
    """The best as a scenario that ``train`` takes: what the question's scenario states, with the layout's keys."""
    document = question.document(best.kind)
    stated = dict(document["training"])
    for gone in ("edp", "stage_layers"):
        stated.pop(gone, None)
    kept: Training = best.answer.step.training
    if kept.stage_layers is not None:
        stated["stage_layers"] = list(kept.stage_layers)
    for key, value in best.keys.items():
        stated[key] = list(value) if isinstance(value, tuple) else value
    title = f"Planned: {layout_words(best.keys)}"
    return {key: value for key, value in document.items() if key not in ("name", "source")} | {
        "title": title,
        "training": stated,
    }
