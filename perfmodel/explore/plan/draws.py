"""How sure the winner is: kernels' and engines' spreads drawn jointly for all finalists, and every run repeated.

A draw makes a kernel slow for whoever uses it, so what finalists have in common moves them together and decides
nothing; what tells them apart does. An engine's constant is one draw per engine. Each finalist's typical steps give
two factors per draw, on steps that decode and on steps with prompts (:mod:`perfmodel.serving.spread`), under which it
serves the same requests again: queues included.
"""

from collections.abc import Callable, Sequence

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

REPEATS = 16
"""Draws whose runs are simulated: the first of the 64, which are spread evenly by themselves."""
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
        [drawable(step) for step in steps], common_log_std=0.0, contention=has_contention(steps[0])
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


def joint_draws(
    runs: Sequence[Run],
    limits: Limits,
    objective: str,
    *,
    goes_on: Callable[[], bool],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, list[float]]], list[float]] | None:
    """80 % intervals of FIGURES and the probability of being best, per run; None where they are not known.

    The best of a draw is the least by the objective of those that keep the limits in it; where none does, the one that
    misses them by least. Draws that there is no time for are left out, at least half of them are made.
    """
    factors = factors_of(runs)
    if factors is None:
        return None
    drawn: list[list[dict[str, float]]] = [[] for _ in runs]
    wins = np.zeros(len(runs))
    count = 0
    for draw in range(REPEATS):
        if draw >= REPEATS // 2 and not goes_on():
            break
        count += 1
        ranks = []
        for number, run in enumerate(runs):
            decode, prompt = factors[number, :, draw]
            served = serve(
                run.scenario,
                requests=run.served.requests,
                fleet=stretched(run.served.fleet, float(decode), float(prompt)),
                core=run.served.core,
            )
            found = figures_of(served, run.scenario, limits)
            drawn[number].append({name: float(found[name]) for name in FIGURES})
            miss = float("inf") if found["behind"] else found["ratio"]
            keeps = miss <= SLACK
            ranks.append((not keeps, 0.0 if keeps else miss, objective_of_figures(found, objective), miss))
        wins[ranks.index(min(ranks))] += 1
        if progress is not None:
            progress(draw + 1, REPEATS)
    intervals = [
        {
            name: [
                float(bound) for bound in np.quantile([one[name] for one in own], QUANTILES, method="hazen")
            ]
            for name in FIGURES
        }
        for own in drawn
    ]
    return intervals, [float(share) for share in wins / count]
