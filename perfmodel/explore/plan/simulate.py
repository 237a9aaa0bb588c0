"""Candidates under simulated traffic: the same requests for all, and what comes of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.economics.requests import latencies, serving_metrics
from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan.layouts import document_of
from perfmodel.explore.plan.question import Kind, Limits, Question
from perfmodel.explore.plan.race import race
from perfmodel.explore.plan.screen import Screen
from perfmodel.explore.speeds import behind
from perfmodel.load import build_scenario
from perfmodel.ops.limits import limits, with_batch
from perfmodel.serving.cores import chosen
from perfmodel.serving.requests import Requests, requests_of
from perfmodel.serving.serve import Served, serve
from perfmodel.serving.window import counted
from perfmodel.spec.scenario import Scenario
from perfmodel.units import HOUR, MEGA, PERCENT

PER_STRUCTURE, PER_DECODER = 2, 4
"""Candidates of one pair of layouts that are simulated first, and pairs of one that decodes: others are alike."""
CONTENDERS = 0.05
"""How much worse than the best a candidate may be after one replication to be simulated again."""
REPLICATIONS = 8
WAITS = 0.05
"""Share of their time from which on requests are said to wait for a place."""
SLACK = 1.0 + 1e-9


@dataclass(slots=True)
class Run:
    """A candidate that was simulated."""

    kind: Kind
    keys: Mapping[str, Any]
    scenario: Scenario
    served: Served
    """Its first replication."""
    figures: list[dict[str, Any]] = field(default_factory=list)
    """Of each replication."""
    screened_score: float = 0.0
    words: str = ""
    """Its GPUs and engine."""
    longest: Served | None = None
    """The replication with the longest request of all: its step times reach far enough for the others."""

    def mean(self, key: str) -> float:
        """Of a figure over replications."""
        return float(np.mean([one[key] for one in self.figures]))

    @property
    def miss(self) -> float:
        """Largest ratio of a latency to its limit, mean over replications; infinite where requests outrun it."""
        if any(one["behind"] for one in self.figures):
            return float("inf")
        return self.mean("ratio")

    @property
    def keeps(self) -> bool:
        """Whether it keeps all limits."""
        return self.miss <= SLACK


def steady(served: Served) -> dict[str, float]:
    """Rates while the traffic neither settles nor fades: from the first judged arrival to the first that cools down,
    what ends in between (of open traffic that is kept up with: what comes), whoever it is.

    :func:`perfmodel.economics.requests.serving_metrics` divides the judged requests by the time until their last end,
    which pays for those left out: of four rounds of users it would count two.
    """
    records, workload = served.records, served.scenario.workload
    arrivals = np.sort(records.arrival_s)
    last = max(workload.warm_up_requests + 1, len(arrivals) - workload.cool_down_requests - 1)
    start, end = arrivals[workload.warm_up_requests], arrivals[min(last, len(arrivals) - 1)]
    closed = served.requests.max_concurrency is not None
    when = records.end_s if closed or behind(served) else records.arrival_s  # who keeps up serves what comes
    inside = (when > start) & (when <= end)
    if not inside.any() or not end > start:
        start, end = arrivals[0], records.end_s.max()
        inside = np.ones(len(arrivals), dtype=bool)
    span, scenario = float(end - start), served.scenario
    output = float(records.output_tokens[inside].sum()) / span
    return {
        "requests_per_s": float(inside.sum()) / span,
        "output_tokens_per_s": output,
        "output_tokens_per_s_per_gpu": output / scenario.fleet_gpus,
        "usd_per_million_output_tokens": scenario.fleet_usd_per_gpu_hour
        * scenario.fleet_gpus
        / HOUR
        / output
        * MEGA,
    }


def figures_of(served: Served, scenario: Scenario, limits_: Limits) -> dict[str, Any]:
    """What candidates are compared by: latencies as ``perfmodel serve`` has them and at the percentile, and rates and
    money in the steady state.
    """
    found = serving_metrics(served.records, scenario)
    good = found["goodput_requests_per_s"] / found["requests_per_s"]
    found |= steady(served)
    found["goodput_requests_per_s"] = good * found["requests_per_s"]
    ttft, tpot, _ = latencies(counted(served.records, scenario.workload))
    ttft_at = float(np.percentile(ttft, limits_.percentile))
    finite = tpot[np.isfinite(tpot)]
    tpot_at = float(np.percentile(finite, limits_.percentile)) if finite.size else 0.0
    pairs = ((ttft_at, limits_.ttft_s), (tpot_at, limits_.tpot_s))
    ratios = [value / limit for value, limit in pairs if limit is not None]
    closed = served.requests.max_concurrency is not None
    return {
        **found,
        "ttft_at_s": ttft_at,
        "tpot_at_s": tpot_at,
        "ratio": max(ratios, default=0.0),
        "behind": not closed and behind(served),
        "goodput_per_gpu": found["goodput_requests_per_s"] / found["num_gpus"],
    }


def objective_of_figures(figures: Mapping[str, Any], objective: str) -> float:
    """What is to be small."""
    usd = float(figures["usd_per_million_output_tokens"])
    if objective == "gpus":  # whole GPUs, ties by money
        return float(figures["num_gpus"]) + 1e-6 * usd
    if objective == "goodput":
        return -float(figures["goodput_per_gpu"])
    return {"usd": usd, "ttft": float(figures["ttft_at_s"]), "tpot": float(figures["tpot_at_s"])}[objective]


def ranked_runs(runs: Sequence[Run], objective: str) -> list[Run]:
    """Those that keep the limits by the objective (of equals the one with more room), then the others by how far
    they miss them.
    """

    def key(run: Run) -> tuple[int, float, float]:
        value = float(np.mean([objective_of_figures(one, objective) for one in run.figures]))
        return (0, value, run.miss) if run.keeps else (1, run.miss, value)

    return sorted(runs, key=key)


def _longest(requests: Requests) -> int:
    """Tokens of the longest request."""
    return int((requests.input_tokens + requests.output_tokens).max())


class Simulator:
    """Serves candidates under the question's traffic, whose requests are drawn once per replication."""

    def __init__(self, question: Question, *, seconds: float, runs: int) -> None:
        """``seconds``: wall time that simulation may take, from the end of the first run on, which may compile;
        ``runs``: simulations at least, all on the core that so many requests together are worth.
        """
        self.question, self.seconds, self.ends = question, seconds, float("inf")
        self.simulated = 0
        self.requests: dict[int, Requests] = {}
        self.core = chosen(runs * self.traffic(0).num_requests)
        self.documents = {kind: question.document(kind) for kind in question.kinds}

    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.ends

    def traffic(self, replication: int) -> Requests:
        """The requests of a replication."""
        if replication not in self.requests:
            one = self.question.scenario(self.question.kinds[0])
            self.requests[replication] = requests_of(one.workload, one.seed + replication)
        return self.requests[replication]

    def first(self, kind: Kind, keys: Mapping[str, Any]) -> Run | None:
        """A candidate's first run; None where it turns out not to hold the longest request."""
        scenario = build_scenario(document_of(self.documents[kind], keys))
        self.simulated += 1
        try:
            served = serve(scenario, requests=self.traffic(0), core=self.core)
        except InfeasibleError:
            return None
        finally:
            self.ends = min(self.ends, time.monotonic() + self.seconds)
        return Run(kind, keys, scenario, served, [figures_of(served, scenario, self.question.limits)])

    def again(self, run: Run, replication: int) -> Mapping[str, Any]:
        """One more replication of it."""
        while len(run.figures) <= replication:
            asked, known = self.traffic(len(run.figures)), run.longest or run.served
            if _longest(asked) > _longest(known.requests):  # step times for all that may come, once
                longest = max((self.traffic(number) for number in range(REPLICATIONS)), key=_longest)
                known = run.longest = serve(run.scenario, requests=longest, core=self.core)
            served = serve(run.scenario, requests=asked, fleet=known.fleet, core=self.core)
            run.figures.append(figures_of(served, run.scenario, self.question.limits))
        return run.figures[replication]


def in_turn(found: Screen, per_pair: int = PER_STRUCTURE) -> Iterator[tuple[int, int]]:
    """The screened candidates (batch, place in it) from the best on, each once.

    Those of one pair of layouts beyond ``per_pair``, and of one layout that decodes beyond PER_DECODER times as many,
    come after all others; last those whose pair has one that the screen cannot tell from them (a ``max_running`` that
    nobody reaches).
    """
    seen: dict[Any, int] = {}
    scores: set[tuple[Any, ...]] = set()
    held: list[tuple[int, int]] = []
    alike: list[tuple[int, int]] = []
    for b, i in found.ranked:
        batch = found.batches[b]
        pair = (b, *batch.structure(i))
        score = (*pair, float(batch.score[i]))
        if score in scores:
            alike.append((b, i))
        elif seen.get(pair, 0) >= per_pair or seen.get(pair[:-1], 0) >= PER_DECODER * per_pair:
            held.append((b, i))
        else:
            for mark in (pair, pair[:-1]):
                seen[mark] = seen.get(mark, 0) + 1
            yield b, i
        scores.add(score)
    yield from held
    yield from alike


def simulate_survivors(
    found: Screen,
    simulator: Simulator,
    *,
    most: int,
    per_pair: int = PER_STRUCTURE,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Run], bool]:
    """The screen's best, simulated and ranked, and whether the winner is told apart from the others.

    Args:
        found: the screen.
        simulator: what serves them.
        most: candidates in all.
        per_pair: of one pair of layouts, and four times as many of one layout that decodes, before others are tried.
        progress: told what is done, and what there is.

    Raises:
        InfeasibleError: none of them holds the traffic's requests.
    """
    runs: list[Run] = []
    objective = simulator.question.objective
    for b, i in in_turn(found, per_pair):
        if simulator.simulated >= most or (runs and not simulator.goes_on()):
            break
        batch = found.batches[b]
        run = simulator.first(batch.kind, batch.keys(i))
        if run is not None:
            run.screened_score, run.words = float(batch.score[i]), batch.words
            runs.append(run)
        if progress is not None:
            progress(simulator.simulated, most)
    if not runs:
        raise InfeasibleError(
            "no candidate's cache holds the longest request: use more or larger GPUs, or shorter requests"
        )
    runs = ranked_runs(runs, objective)
    good = [k for k, run in enumerate(runs) if run.keeps]
    if not good:
        return runs, False
    best = objective_of_figures(runs[good[0]].figures[0], objective)
    near = [
        k
        for k in good
        if abs(objective_of_figures(runs[k].figures[0], objective) - best) <= CONTENDERS * abs(best)
    ]

    def value(k: int, replication: int) -> float:
        figures = simulator.again(runs[k], replication)
        if figures["ratio"] > SLACK * (1.0 + CONTENDERS) or figures["behind"]:
            return float("inf")
        return objective_of_figures(figures, objective)

    _, apart = race(near, value, most=REPLICATIONS, goes_on=simulator.goes_on)
    return ranked_runs(runs, objective), apart


def step_of(run: Run) -> Scenario:
    """The run's scenario with its mean decode batch as the step's, at most what ``step`` takes."""
    runs, s = run.served.records.load.runs, run.scenario
    decodes = (runs.requests > 0.0) & (runs.replica < s.serving.replicas)
    weights = runs.seconds[decodes] * 1.0
    tp = s.deployment.attention_tp
    mean = float(np.average(runs.requests[decodes], weights=weights)) if decodes.any() else 1.0
    context = (
        float(np.average(runs.tokens[decodes] / runs.requests[decodes], weights=weights))
        if decodes.any()
        else 1.0
    )
    deployment = s.deployment.model_copy(update={"phase": "decode", "context_tokens": float(round(context))})
    each = max(1.0, round(mean / s.deployment.pp))
    found = with_batch(s.model_copy(update={"deployment": deployment}), each / tp)
    return with_batch(found, min(found.deployment.batch_per_gpu, limits(found).fits))


def binding_of(run: Run, limits_: Limits) -> list[str]:
    """What keeps the candidate from doing better, in words."""
    found = []
    for name, key, limit in (("TTFT", "ttft_at_s", limits_.ttft_s), ("TPOT", "tpot_at_s", limits_.tpot_s)):
        if limit is not None and run.mean(key) > 0.9 * limit:
            share = PERCENT * run.mean(key) / limit
            found.append(f"{name} at p{limits_.percentile:g} is {share:.0f} % of its limit")
    figures = run.figures[0]
    if figures["preemptions"] > 0:
        found.append("memory: the cache is short, requests lose their blocks")
    queue, closed = figures["queue_s"], run.served.requests.max_concurrency is not None
    if closed and queue and queue["mean"] > WAITS * figures["e2e_s"]["mean"]:
        found.append("requests wait for a place: cache, dispatch buffers or max_running are full")
    if not found:
        found.append("price: limits and memory have room, more traffic per GPU is what would make it cheaper")
    return found
