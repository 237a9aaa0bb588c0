"""How far off all steps of a run may be together: factors on its decode steps and on those that carry prompts.

The spread is that of two typical steps of the run (the mean ones, by the time that they take) under the draws that
``perfmodel step`` takes: what both use (a kernel on one shape, the device's noise between runs, the engine) errs alike
in both, so the two factors are correlated by as much as the two steps have in common. They are taken as log-normal,
with the draws' means, spreads and correlation. One pair holds for a whole run: that kernels on other shapes err
otherwise, and so average out over a run's batches, is not counted, which makes intervals rather too wide than too
narrow.
"""

from dataclasses import dataclass
from math import exp, fsum
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from perfmodel.serving.records import StepRuns
from perfmodel.serving.step_times import decode_leaves, prompt_leaves, with_uneven_ranks
from perfmodel.spec.scenario import Scenario
from perfmodel.step import drawable, has_contention, predict_steps
from perfmodel.uncertainty import drawn_step_times

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of log(drawn time / the model's time): mean, standard deviation, and correlation between the two kinds."""

    decode_mean: float
    decode_log_std: float
    prompt_mean: float
    prompt_log_std: float
    correlation: float

    def factors(self, count: int) -> list[tuple[float, float]]:
        """``count`` (a power of two) quasi-random pairs (decode, prompt), a lattice on the principal axes of the two:
        what they share, and what tells them apart, has one point in each of ``count`` equally likely parts. For every
        pair there is its mirror image.

        Of all lattices the one whose axes correlate least. A lattice and its inverse are exactly tied, and which one
        comes first must be no matter of a processor's rounding: ``fsum`` is exact, and the smaller step wins.
        """
        normal = NormalDist()
        shared = np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
        lattices = [shared[(np.arange(count) * odd + odd // 2) % count] for odd in range(1, count, 2)]
        apart = min(lattices, key=lambda one: abs(fsum((one * shared).tolist())))
        shared, apart = (
            ((1.0 + sign * self.correlation) / 2.0) ** 0.5 * axis for sign, axis in ((1, shared), (-1, apart))
        )
        decode = np.exp(self.decode_mean + self.decode_log_std * (shared + apart))
        prompt = np.exp(self.prompt_mean + self.prompt_log_std * (shared - apart))
        return list(zip(decode.tolist(), prompt.tolist(), strict=True))

    def at(self, deviations: float) -> tuple[float, float]:
        """The pair (decode, prompt) where the decode factor is so many standard deviations from its middle, and the
        prompt's is what it then is on average.
        """
        shared = self.correlation * self.prompt_log_std
        return (
            exp(self.decode_mean + deviations * self.decode_log_std),
            exp(self.prompt_mean + deviations * shared),
        )


def run_spread(scenario: Scenario, runs: StepRuns, *, common_log_std: float) -> Spread | None:
    """The spread of a run's typical steps; None where some op has no known spread.

    A run that has only one kind of step gives the other kind the same spread, which nothing asks for.
    """
    decodes = runs.prompt == 0.0
    prompts = scenario.prefill_side or scenario
    steps = [
        typical_step(own, runs, rows)
        for own, rows in ((scenario, decodes), (prompts, ~decodes))
        if rows.any()
    ]
    drawn = drawn_step_times(
        [drawable(step) for step in steps],
        common_log_std=common_log_std,
        contention=[has_contention(step) for step in steps],
    )
    if drawn is None:
        return None
    logs = [
        np.log(times / float(predict_steps(step).step_time_s[0]))
        for step, times in zip(steps, drawn, strict=True)
    ]
    decode, prompt = logs[0], logs[-1]
    stds = float(decode.std()), float(prompt.std())
    together = _covariance(decode, prompt) / (stds[0] * stds[1]) if min(stds) > 0.0 else 0.0
    return Spread(float(decode.mean()), stds[0], float(prompt.mean()), stds[1], min(max(together, -1.0), 1.0))


def _covariance(first: Floats, other: Floats) -> float:
    """By an exact sum: those of matrix products differ in their last digits from processor to processor."""
    products = (first - first.mean()) * (other - other.mean())
    return fsum(products.tolist()) / len(products)


@dataclass(frozen=True, slots=True)
class TimedWork:
    """The work of some steps, each times its seconds; over ``seconds`` it is that of a typical one."""

    seconds: float = 0.0
    requests: float = 0.0
    tokens: float = 0.0
    prompt: float = 0.0
    attended: float = 0.0
    even: float = 0.0

    @classmethod
    def of(cls, runs: StepRuns, rows: Bools) -> "TimedWork":
        """Of the chosen rows."""
        seconds = runs.seconds[rows]
        columns = (runs.requests, runs.tokens, runs.prompt, runs.attended, runs.even)
        return cls(float(seconds.sum()), *(float((column[rows] * seconds).sum()) for column in columns))

    def __add__(self, other: "TimedWork") -> "TimedWork":
        """Of both."""
        return TimedWork(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def typical_step(scenario: Scenario, runs: StepRuns, rows: Bools) -> Scenario:
    """One step with the mean work of the chosen ones, each weighted by its time."""
    return step_of(scenario, TimedWork.of(runs, rows))


def step_of(scenario: Scenario, work: TimedWork) -> Scenario:
    """One step with the mean work of some."""

    def mean(total: float) -> Floats:
        return np.asarray(total / work.seconds)

    requests, prompt, per_gpu = mean(work.requests), mean(work.prompt), 1.0 / scenario.deployment.attention_tp
    values: dict[str, Floats] = {}
    stages, serving = scenario.deployment.pp, scenario.serving
    if requests:
        each = requests if stages == 1 else np.maximum(requests / stages, 1.0)
        values |= decode_leaves(each * per_gpu, mean(work.tokens) / requests)
    if prompt:
        whole = stages == 1 or serving.whole_prompts
        part = prompt if whole else np.minimum(prompt, float(serving.max_batched_tokens))
        values |= prompt_leaves(part, mean(work.attended) / prompt, per_gpu)
    plain = {path.removeprefix("deployment."): float(value) for path, value in values.items()}
    phase = "mixed" if requests and prompt else "prefill" if prompt else "decode"
    own = {"phase": phase, "ranks": "representative", **plain}
    step = scenario.model_copy(update={"deployment": scenario.deployment.model_copy(update=own)})
    return with_uneven_ranks(step, float(mean(work.even)))
