"""How sure the winner is: kernels' and engines' spreads drawn jointly for all finalists, and every run repeated.

A draw makes a kernel slow for whoever uses it, so what finalists have in common moves them together and decides
nothing; what tells them apart does. An engine's constant is one draw per engine. Each finalist's typical steps give
two factors per draw, on steps that decode and on steps with prompts (:mod:`perfmodel.serving.spread`), under which it
serves the same requests again: queues included.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.explore.plan.question import Limits
from perfmodel.explore.plan.simulate import SLACK, Run, figures_of, objective_of_figures
from perfmodel.serving.serve import serve
from perfmodel.serving.spread import typical_step
from perfmodel.serving.stretch import stretched
from perfmodel.sobol import sobol
from perfmodel.spec.scenario import Scenario
from perfmodel.special import normal_quantile
from perfmodel.step import common_log_std, drawable, has_contention, predict_steps
from perfmodel.uncertainty import DRAWS, QUANTILES, drawn_step_times

REPEATS, LEAST = 16, 8
"""Draws whose runs are simulated: the first of the 64, which are spread evenly by themselves; fewer than the second
say no interval.
"""
FINALISTS = 4
"""Candidates that are drawn."""
FIGURES = (
    "usd_per_million_output_tokens",
    "output_tokens_per_s_per_gpu",
    "goodput_requests_per_s",
    "ttft_at_s",
    "tpot_at_s",
)
Array = NDArray[np.float64]


def typical_steps(run: Run) -> tuple[Scenario, Scenario]:
    """The run's mean decode step and its mean step with prompts, by the time of each kind."""
    runs, scenario = run.served.records.load.runs, run.scenario
    decodes = runs.prompt == 0.0
    sides = ((scenario, decodes), (scenario.prefill_side or scenario, ~decodes))
    steps = [typical_step(own, runs, rows) for own, rows in sides if rows.any()]
    return steps[0], steps[-1]


def factors_of(runs: Sequence[Run]) -> Array | None:
    """Factors on the steps of each run, (run, kind, DRAWS); None where some op has no known spread."""
    pairs = [typical_steps(run) for run in runs]
    steps = [step for pair in pairs for step in pair]
    drawn = drawn_step_times(
        [drawable(step) for step in steps],
        common_log_std=0.0,
        contention=[has_contention(step) for step in steps],
    )
    if drawn is None:
        return None
    middles = [float(predict_steps(step).step_time_s[0]) for step in steps]
    own = np.array([times / middle for times, middle in zip(drawn, middles, strict=True)]).reshape(
        len(runs), 2, DRAWS
    )
    engines = sorted({run.kind.engine for run in runs})
    normal = engine_normals(len(engines))
    common = [
        np.exp(common_log_std(run.scenario) * normal[:, engines.index(run.kind.engine)]) for run in runs
    ]
    return np.asarray(own * np.array(common)[:, None, :])


def engine_normals(count: int) -> Array:
    """(DRAWS, engines) quasi-random standard normals, apart from those of the kernels."""
    return normal_quantile(np.clip(sobol(count, DRAWS, seed=1), 1e-6, 1.0 - 1e-6))


def runs_of_a_plan(candidates: int) -> int:
    """Simulations of a plan that simulates so many candidates: those, the draws', and one of more traffic; those that
    tell the best apart come on top.
    """
    return candidates + REPEATS * min(candidates, FINALISTS) + 1


@dataclass(frozen=True, slots=True)
class Drawn:
    """What draws say of each finalist, in their order."""

    intervals: list[dict[str, list[float]]]
    """80 % intervals of FIGURES."""
    best: list[float]
    """Share of draws in which it is best."""
    missing: str = ""
    """Why nothing is said, if so."""

    def of(self, place: int) -> tuple[dict[str, list[float]], float | None]:
        """Intervals and the probability of being best; none where nobody drew it."""
        if place >= len(self.best):
            return {}, None
        return self.intervals[place], self.best[place]


def joint_draws(
    runs: Sequence[Run],
    limits: Limits,
    objective: str,
    *,
    seconds: float,
    progress: Callable[[int, int], None] | None = None,
) -> Drawn:
    """How sure finalists are, of whom the best come first.

    The best of a draw is the least by the objective of those that keep the limits in it; where none does, the one that
    misses them by least. ``seconds`` are the wall time that draws may take: what the first run took says how many
    finalists can be drawn LEAST times in it. Where that is not two (or all there are), nothing is drawn; of REPEATS as
    many are made as there is time for.
    """
    factors = factors_of(runs)
    if factors is None:
        return Drawn([], [], "the spread of some op's time is not known")

    def again(number: int, draw: int) -> dict[str, Any]:
        run = runs[number]
        decode, prompt = factors[number, :, draw]
        served = serve(
            run.scenario,
            requests=run.served.requests,
            fleet=stretched(run.served.fleet, float(decode), float(prompt)),
            core=run.served.core,
        )
        return figures_of(served, run.scenario, limits)

    start = time.monotonic()
    first = again(0, 0)
    took = max(1e-9, time.monotonic() - start)
    most = min(len(runs), int(seconds / (LEAST * took)))
    if most < min(2, len(runs)):
        return Drawn([], [], "no time was left to repeat runs under drawn kernels: raise --seconds")
    drawn: list[list[dict[str, float]]] = [[] for _ in range(most)]
    wins = np.zeros(most)
    for draw in range(REPEATS):
        if draw >= LEAST and time.monotonic() >= start + seconds:
            break
        ranks = []
        for number in range(most):
            found = again(number, draw) if draw or number else first
            drawn[number].append({name: float(found[name]) for name in FIGURES})
            miss = float("inf") if found["behind"] else found["ratio"]
            keeps = miss <= SLACK
            ranks.append((not keeps, 0.0 if keeps else miss, objective_of_figures(found, objective), miss))
            if progress is not None:
                progress(draw * most + number + 1, REPEATS * most)
        wins[ranks.index(min(ranks))] += 1
    intervals = [
        {
            name: [
                float(bound) for bound in np.quantile([one[name] for one in own], QUANTILES, method="hazen")
            ]
            for name in FIGURES
        }
        for own in drawn
    ]
    return Drawn(intervals, [float(share) for share in wins / wins.sum()])
