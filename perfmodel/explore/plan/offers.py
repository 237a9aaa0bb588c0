"""What a screen offers one kind of GPU: how many of them traffic needs, at which speeds, how sure that is, and how much
traffic so many GPUs carry. All by the screen's approximation: ``plan`` simulates what is to be trusted.

How sure: the chosen deployment's decode step is drawn under kernels' and engine's spread, as ``plan`` draws it, and the
screen is asked again with all steps as slow, and as fast, as the ends of the 80 % interval.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan.draws import engine_normals
from perfmodel.explore.plan.layouts import document_of
from perfmodel.explore.plan.question import Kind, Question
from perfmodel.explore.plan.screen import Batch, Screen, Stepped, screen, stepped
from perfmodel.load import build_scenario
from perfmodel.ops.limits import limits, with_batch
from perfmodel.spec.scenario import Scenario
from perfmodel.step import common_log_std, drawable, has_contention, predict_steps
from perfmodel.uncertainty import QUANTILES, drawn_step_times

MOST_GPUS = 512
"""GPUs of a kind up to which a need is looked for."""
FIRST = 16
RATES = 8
"""Amounts of traffic between none and the most, at which speeds are looked at."""
REFINED = 5
"""Halvings between the last amount that keeps the limits and the first that does not: a fortieth of an octave."""
DOUBLINGS = 24
HELPS = 0.95
"""Twice the GPUs that bring no candidate nearer to the limits than by this factor: more would not, either."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A screened deployment."""

    kind: Kind
    keys: Mapping[str, Any]
    """What it states over the question's document."""
    gpus: int
    usd_per_hour: float
    """All its GPUs."""
    tpot_at_s: float
    ttft_at_s: float
    """At the question's percentile."""
    requests_per_s: float
    running: float
    """Requests that decode on a rank."""
    usd_per_million_output_tokens: float

    @property
    def tokens_per_s_per_user(self) -> float:
        """That so many requests as the percentile says get at least."""
        return 1.0 / self.tpot_at_s


@dataclass(frozen=True, slots=True)
class Need:
    """What traffic needs of one kind of GPU."""

    question: Question
    """With the fewest GPUs, of a power of two, among which some deployment keeps the limits."""
    best: Offer | None
    """The cheapest that keeps the limits; None: none does."""
    front: tuple[Offer, ...]
    """From the cheapest on, each faster for a user than all that cost less; all keep the limit of TTFT."""
    nearest: Offer | None
    """What comes nearest to the limits, where none keeps them; None: requests outrun all."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What so many GPUs of one kind carry."""

    question: Question
    """With the most traffic within the limits."""
    best: Offer | None
    """At that traffic; None: not even the least keeps the limits."""
    times: float
    """The traffic over the one that was asked with."""
    front: tuple[tuple[float, Offer], ...]
    """(times, fastest for a user) of less and of more traffic."""


Steps = Callable[..., Stepped]


def needed(question: Question, *, steps: Steps = stepped, most: int = MOST_GPUS) -> Need:
    """What the traffic needs of the question's one kind, by as few GPUs as a power of two allows.

    Args:
        question: of one kind, whose number of GPUs does not matter.
        steps: where layouts and steps come from (:func:`perfmodel.explore.plan.screen.screen`).
        most: GPUs to look at.

    Raises:
        InfeasibleError: no layout is legal or fits, however many GPUs.
        PerfModelError: the question is bad.
    """
    gpus, before = FIRST, float("inf")
    while True:
        own = _of(question, gpus)
        try:
            found = screen(own, steps=steps)
        except InfeasibleError:
            if gpus * 2 > most:
                raise
        else:
            best = cheapest(found)
            if best is not None:
                return Need(own, best, _front(found), None)
            ratio, nearest = _nearest(found)
            if gpus * 2 > most or ratio > before * HELPS:
                return Need(own, None, (), nearest)
            before = ratio
        gpus *= 2


def carried(question: Question, *, steps: Steps = stepped) -> Carried:
    """How much of the question's traffic its GPUs carry within the limits.

    Raises:
        InfeasibleError: no layout is legal or fits.
        PerfModelError: the question is bad.
    """
    kept: dict[Kind, Stepped] = {}

    def once(asked: Question, kind: Kind, lengths: Any) -> Stepped:
        """Mean lengths hang a little on how many requests are drawn: those of the first question are taken."""
        if kind not in kept:
            kept[kind] = steps(asked, kind, lengths)
        return kept[kind]

    def at(times: float) -> tuple[Screen, Offer | None]:
        found = screen(replace(question, traffic=question.traffic.times(times)), steps=once)
        return found, cheapest(found)

    low, high = _bracket(lambda times: at(times)[1] is not None)
    if low is None:
        return Carried(question, None, 0.0, ())
    for _ in range(REFINED):
        middle = (low * high) ** 0.5
        if at(middle)[1] is None:
            high = middle
        else:
            low = middle
    best = at(low)[1]
    front = []
    for times in np.geomspace(low / 2.0**4, low * 2.0**2, RATES):
        fast = _front(at(float(times))[0])
        if fast:
            front.append((float(times), fast[-1]))
    return Carried(replace(question, traffic=question.traffic.times(low)), best, low, tuple(front))


def cheapest(found: Screen) -> Offer | None:
    """The best by the objective of those that keep all limits."""
    kept: list[tuple[float, int, int]] = []
    for b, batch in enumerate(found.batches):
        keeps = (batch.ratio <= 1.0) & ~batch.screen.overloaded & np.isfinite(batch.score)
        if keeps.any():
            i = int(np.where(keeps, batch.score, np.inf).argmin())
            kept.append((float(batch.score[i]), b, i))
    return _offer(found, *min(kept)[1:]) if kept else None


def scenario_document(question: Question, offer: Offer) -> dict[str, Any]:
    """The offer as a scenario file, its mean decode step as the step's.

    Raises:
        PerfModelError: it makes no scenario.
    """
    found = document_of(question.document(offer.kind), offer.keys)
    step = _decode_step(question, offer).deployment
    found["deployment"] = {
        **found["deployment"],
        "phase": "decode",
        "batch_per_gpu": step.batch_per_gpu,
        "context_tokens": step.context_tokens,
    }
    return {key: value for key, value in found.items() if key != "name"}


def _of(question: Question, gpus: int) -> Question:
    (kind,) = question.kinds
    return replace(question, kinds=(Kind(kind.cluster, gpus, kind.engine),))


def _bracket(keeps: Callable[[float], bool]) -> tuple[float | None, float]:
    """Traffic that is kept and twice as much that is not, in multiples of what was asked; None: none is kept."""
    times = 1.0
    if keeps(times):
        for _ in range(DOUBLINGS):
            if not keeps(times * 2.0):
                break
            times *= 2.0
        return times, times * 2.0
    for _ in range(DOUBLINGS):
        times /= 2.0
        if keeps(times):
            return times, times * 2.0
    return None, 0.0


def _offer(found: Screen, b: int, i: int) -> Offer:
    batch = found.batches[b]
    c, s = batch.candidates, batch.screen
    return Offer(
        batch.kind,
        batch.keys(i),
        int(c.gpus[i]),
        float(c.gpus[i] * c.usd_per_gpu_hour[i]),
        float(s.tpot_at_s[i]),
        float(s.ttft_at_s[i]),
        float(s.requests_per_s[i]),
        float(s.running[i]),
        float(batch.usd[i]),
    )


def _nearest(found: Screen) -> tuple[float, Offer | None]:
    """What misses the limits by least, and the ratio; infinite, and nothing, where requests outrun all."""
    nearest: list[tuple[float, int, int]] = []
    for b, batch in enumerate(found.batches):
        ratios = np.where(batch.screen.overloaded, np.inf, batch.ratio)
        i = int(ratios.argmin())
        nearest.append((float(ratios[i]), b, i))
    ratio, b, i = min(nearest)
    return ratio, None if ratio == float("inf") else _offer(found, b, i)


def _front(found: Screen) -> tuple[Offer, ...]:
    """Candidates that keep the limit of TTFT and requests do not outrun, of which none is both cheaper and faster."""
    rows: list[tuple[float, float, int, int]] = []
    for b, batch in enumerate(found.batches):
        for i in _cheap_and_fast(found, batch):
            c = batch.candidates
            cost = float(c.gpus[i] * c.usd_per_gpu_hour[i])
            rows.append((cost, float(batch.screen.tpot_at_s[i]), b, i))
    front: list[tuple[float, float, int, int]] = []
    for row in sorted(rows):
        if not front or row[1] < front[-1][1]:
            front.append(row)
    return tuple(_offer(found, b, i) for _, _, b, i in front)


def _cheap_and_fast(found: Screen, batch: Batch) -> Sequence[int]:
    """The fastest of each cost."""
    limit = found.ttft_limit_s
    keeps = ~batch.screen.overloaded & np.isfinite(batch.score)
    if limit is not None:
        keeps &= batch.screen.ttft_at_s <= limit
    inside = np.flatnonzero(keeps)
    if not inside.size:
        return ()
    c = batch.candidates
    cost = (c.gpus * c.usd_per_gpu_hour)[inside]
    order = inside[np.lexsort((batch.screen.tpot_at_s[inside], cost))]
    _, first = np.unique((c.gpus * c.usd_per_gpu_hour)[order], return_index=True)
    return [int(i) for i in order[first]]


def _decode_step(question: Question, offer: Offer) -> Scenario:
    """The offer's mean decode step, at most what fits."""
    scenario = build_scenario(document_of(question.document(offer.kind), offer.keys))
    traffic = scenario.workload
    tokens = [
        own.expected if own is not None else 0.0 for own in (traffic.input_tokens, traffic.output_tokens)
    ]
    context = float(round(tokens[0] + tokens[1] / 2.0))
    deployment = scenario.deployment.model_copy(update={"phase": "decode", "context_tokens": context})
    own = with_batch(
        scenario.model_copy(update={"deployment": deployment}),
        max(1.0, round(offer.running)) / deployment.attention_tp,
    )
    return with_batch(own, min(own.deployment.batch_per_gpu, limits(own).fits))


def step_factors(question: Question, offer: Offer) -> tuple[float, float] | None:
    """80 % interval of the offer's decode step over its middle; None where some op has no known spread."""
    step = _decode_step(question, offer)
    drawn = drawn_step_times([drawable(step)], common_log_std=0.0, contention=[has_contention(step)])
    if drawn is None:
        return None
    common = np.exp(common_log_std(step) * engine_normals(1)[:, 0])
    times = drawn[0] * common / float(predict_steps(step).step_time_s[0])
    low, high = np.quantile(times, QUANTILES, method="hazen")
    return float(low), float(high)


def gpus_interval(question: Question, best: Offer, *, steps: Steps = stepped) -> tuple[int, int] | None:
    """80 % interval of the GPUs of the cheapest, which ``best`` is: with fast and with slow kernels.

    None: the spread of some op's time is not known, or with slow kernels twice the question's GPUs do not keep the
    limits.
    """
    factors = step_factors(question, best)
    if factors is None:
        return None
    (kind,) = question.kinds
    counts = [best.gpus]
    for factor in factors:

        def scaled(asked: Question, kind: Kind, lengths: Any, factor: float = factor) -> Stepped:
            return steps(asked, kind, lengths).times(factor)

        found = cheapest(screen(question, steps=scaled)) or cheapest(
            screen(_of(question, 2 * kind.gpus), steps=scaled)
        )
        if found is None:
            return None
        counts.append(found.gpus)
    return min(counts), max(counts)
