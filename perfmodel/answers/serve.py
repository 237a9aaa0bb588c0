"""The answer to ``perfmodel serve``: what was simulated, with money, warnings and provenance."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from perfmodel.answers.basis import Rest, basis, rest_of
from perfmodel.answers.caveats import Caveat, caveat_values, danger, note, standing, step_caveats
from perfmodel.answers.serve_intervals import check_repeats, run_intervals
from perfmodel.answers.step import ffns_of, plain, provenance, refuse_beyond_peak, utilisation
from perfmodel.economics.energy import add_usages, unknown_power, usage_of, usage_values
from perfmodel.economics.facts import Facts, facts_of
from perfmodel.economics.peaks import peak_seconds
from perfmodel.economics.rates import step_rates
from perfmodel.economics.requests import client_wait, serving_metrics
from perfmodel.errors import SpecError
from perfmodel.serving.cluster import Progress
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import Run, Served, serve
from perfmodel.serving.spread import step_of
from perfmodel.serving.stream import RequestStream
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import PLACES, Scenario
from perfmodel.spec.traces.read import long_trace_of, trace_of
from perfmodel.step import Step, common_log_std, simulate_step
from perfmodel.units import PERCENT

SHORTAGE = 0.02
"""Share of requests preempted above which it is said."""
BEHIND = 0.5
"""Share of the time of arrivals that it may take to serve what is left after the last one; more is said."""

WITHOUT_FAULTS = (
    "ttft_s",
    "tpot_s",
    "e2e_s",
    "requests_per_s",
    "goodput_requests_per_s",
    "usd_per_million_output_tokens",
    "usd_per_million_total_tokens",
)
"""Figures that are told for healthy replicas too, where the scenario has faults."""
EXACT: dict[str, Any] = {"percentiles": "exact"}
"""How percentiles were found, for provenance."""
THROTTLED = 0.1
"""Mean wait at the client over the mean E2E above which it is said that the cap holds the traffic back."""
IN_TURNS = (
    "{stages} pipeline stages: micro-batches pass in turns as long as the slowest takes, so a run whose steps mostly "
    "carry prompts comes out up to a third too slow, and a prompt of several chunks up to one pass too early"
)
NO_INTERVALS = "no intervals: the spread of some op's time is not known"


@dataclass(frozen=True, slots=True)
class ServeAnswer:
    """One run's answer."""

    run: Run
    values: dict[str, Any]
    """The keys of ``perfmodel serve --json``, SI units; unknown is None."""
    rest: Rest
    """What the run's time rests on."""

    @property
    def scenario(self) -> Scenario:
        """What was asked."""
        return self.run.scenario

    @property
    def served(self) -> Served:
        """The run with its records, where they were kept."""
        assert isinstance(self.run, Served), "records were not kept"
        return self.run


def answer_serve(
    scenario: Scenario,
    *,
    requests: Requests | None = None,
    progress: Progress | None = None,
    repeats: int | None = None,
    executor: Executor | None = None,
) -> ServeAnswer:
    """Serve a scenario's traffic and say what it means; with ``repeats``, model intervals from so many more runs,
    which an ``executor`` shares out.

    Raises:
        SpecError: too few repeats, or too many; requests beyond the model's positions.
        InfeasibleError: no room for a cache, or for a request.
        DataError: a trace that can't be read.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    if repeats is not None:
        check_repeats(repeats)
    served = serve(scenario, requests=requests, progress=progress)
    refuse_beyond_positions(scenario, [served.requests])
    step = decode_step_of(scenario)
    intervals = _intervals(served, step, repeats, progress, executor)
    no_intervals = [note(NO_INTERVALS)] if repeats is not None and not intervals else []
    without_faults = _without_faults(served, progress)
    facts = facts_of(served.records, scenario)
    return answer_of(served, facts, step, without_faults, intervals, no_intervals, EXACT)


def decode_step_of(scenario: Scenario) -> Step:
    """One decode step as ``perfmodel step`` has it: what full batches would give."""
    decode = scenario.deployment.model_copy(update={"phase": "decode"})
    return simulate_step(scenario.model_copy(update={"deployment": decode}))


def answer_of(
    run: Run,
    facts: Facts,
    step: Step,
    without_faults: dict[str, Any] | None,
    intervals: dict[str, Any],
    more: list[Caveat],
    percentiles: dict[str, Any],
) -> ServeAnswer:
    """Everything put together: what was found, what it costs, what it rests on and where it comes from."""
    scenario, metrics = run.scenario, facts.metrics
    rest = _rest(run, facts)
    waits = client_wait(run.requests, run.records, scenario.workload) if isinstance(run, Served) else None
    values: dict[str, Any] = {
        "scenario": scenario.name,
        "model": scenario.model.name,
        "cluster": scenario.cluster.name,
        "gpu": scenario.cluster.gpu.name,
        **ffns_of(scenario),
        "replicas": scenario.serving.replicas,
        "policy": run.pool.batching.policy,
        "kv_tokens_per_rank": run.pool.kv_tokens,
        "prefill": _prefill(run),
        **metrics,
        "client_wait_s": waits,
        **_capacity(run, step, metrics),
        **_usage(run, facts),
        "without_faults": without_faults,
        **intervals,
        "basis": basis(rest),
        **caveat_values([*_caveats(run, facts, waits), *more, *step_caveats(rest)]),
        "provenance": {
            **provenance(step),
            **_provenance_apart(run),
            "trace": trace_id(scenario, run.requests),
            "core": run.core,
            **percentiles,
        },
    }
    return ServeAnswer(run, {key: plain(value) for key, value in values.items()}, rest)


def refuse_beyond_positions(scenario: Scenario, portions: Iterable[Requests]) -> None:
    """Refuse a run with requests that the model has no positions for: an engine would not take them.

    Raises:
        SpecError: as said, with how many.
    """
    model, beyond, most, n = scenario.model, 0, 0, 0
    for requests in portions:
        total = requests.input_tokens + requests.output_tokens
        beyond += int((total > model.max_context_tokens).sum())
        most, n = max(most, int(total.max())), n + len(total)
    if beyond:
        raise SpecError(
            f"{beyond:,} of {number_of(n, 'request')} are longer (up to {most:,} tokens) than the "
            f"{model.max_context_tokens:,} positions of model {model.name} (max_position_embeddings): leave them out, "
            f"or with a rope scaling that reaches further state --set model.max_position_embeddings={most}"
        )


def _capacity(run: Run, step: Step, metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """``capacity_used_pct`` and ``prefill_capacity_used_pct``: the share of the GPUs' time that the run's work would
    take in full steps back to back, output tokens in steps of ``deployment.batch_per_gpu`` requests and prompt tokens
    (those not cached) in prefill steps. With prefill apart each side has its own; else one holds both.

    Raises:
        SpecError: such a step is faster than the GPU's peaks allow.
    """
    scenario = run.scenario
    side = scenario.prefill_side
    prompts = side or scenario
    prefill = prompts.deployment.model_copy(update={"phase": "prefill"})
    reading = simulate_step(prompts.model_copy(update={"deployment": prefill}))
    for one in (step, reading):
        refuse_beyond_peak(one, utilisation(one, peak_seconds))
    output = step_rates(step.scenario, step.step_time_s).output_tokens_per_s_per_gpu
    full_input = step_rates(reading.scenario, reading.step_time_s).input_tokens_per_s_per_gpu
    if not output or not full_input:
        return {"capacity_used_pct": None, "prefill_capacity_used_pct": None}
    per_s = metrics["input_tokens_per_s_per_gpu"] * metrics["num_gpus"]
    computed = per_s * (1.0 - metrics["cache_hit_pct"] / PERCENT)
    decoding = metrics["output_tokens_per_s"] / (_gpus(scenario) * output)
    reads = computed / (_gpus(prompts) * full_input)
    return {
        "capacity_used_pct": PERCENT * float(decoding + (reads if side is None else 0.0)),
        "prefill_capacity_used_pct": None if side is None else PERCENT * float(reads),
    }


def _gpus(scenario: Scenario) -> int:
    return scenario.serving.replicas * scenario.deployment.num_gpus


def _rest(run: Run, facts: Facts) -> Rest:
    """What the run's time rests on: its mean decode step and its mean step with prompts, by the time of each kind."""
    scenario = run.scenario
    sides = ((scenario, facts.decodes), (scenario.prefill_side or scenario, facts.prompts))
    steps = [(simulate_step(step_of(own, work)), work.seconds) for own, work in sides if work.seconds > 0.0]
    return rest_of(steps, "the run's time")


def _without_faults(served: Served, progress: Progress | None) -> dict[str, Any] | None:
    """What the same traffic would have had from healthy replicas."""
    if not served.scenario.faults:
        return None
    scenario = served.scenario.model_copy(update={"faults": ()})
    healthy = serve(
        scenario, requests=served.requests, fleet=served.fleet, progress=progress, core=served.core
    )
    return healthy_figures(serving_metrics(healthy.records, healthy.scenario))


def healthy_figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run without faults that are told."""
    return {key: metrics[key] for key in WITHOUT_FAULTS}


def _prefill(run: Run) -> dict[str, Any] | None:
    """The replicas that compute prompts only."""
    pool = run.prefill
    if pool is None:
        return None
    return {
        "replicas": pool.layout.replicas,
        "num_gpus": pool.layout.replicas * pool.scenario.deployment.num_gpus,
        "policy": pool.batching.policy,
        "kv_tokens_per_rank": pool.kv_tokens,
        **_apart(run),
    }


def _apart(run: Run) -> dict[str, Any]:
    """Where prompts are computed, at which price, where that is another place."""
    apart, side = run.scenario.prefill, run.scenario.prefill_side
    if apart is None or side is None or apart.cluster is None:
        return {}
    price = side.prices.usd_per_gpu_hour
    return {"cluster": side.cluster.name, "gpu": side.cluster.gpu.name, "usd_per_gpu_hour": price}


def _provenance_apart(run: Run) -> dict[str, Any]:
    """Calibration and price of prefill replicas with a cluster of their own."""
    side = run.scenario.prefill_side
    own = run.scenario.prefill
    if own is None or side is None or all(getattr(own, key) is None for key in PLACES):
        return {}
    found = provenance(decode_step_of(side))
    return {"prefill": {key: found[key] for key in ("calibration", "price", "price_source")}}


def _usage(run: Run, facts: Facts) -> dict[str, Any]:
    """Utilisation and energy, all GPUs counted over the whole span."""
    span_s, replicas = facts.metrics["duration_s"], run.pool.layout.replicas
    own_work, other_work = facts.work
    usage = usage_of(run.scenario, own_work, replicas=replicas, span_s=span_s)
    if run.prefill is not None:
        own = run.prefill.layout.replicas
        other = usage_of(run.prefill.scenario, other_work, replicas=own, span_s=span_s)
        gpus = run.pool.scenario.deployment.num_gpus * replicas
        usage = add_usages(usage, gpus, other, run.prefill.scenario.deployment.num_gpus * own)
    return usage_values(
        usage, gpus=facts.metrics["num_gpus"], span_s=span_s, output_tokens=facts.output_tokens
    )


def _intervals(
    served: Served, step: Step, repeats: int | None, progress: Progress | None, executor: Executor | None
) -> dict[str, Any]:
    """Model intervals, where they were asked for and every op's spread is known."""
    if repeats is None:
        return {}
    return run_intervals(
        served,
        common_log_std=common_log_std(step.scenario),
        repeats=repeats,
        progress=progress,
        executor=executor,
    )


def _caveats(run: Run, facts: Facts, waits: dict[str, float] | None) -> list[Caveat]:
    """What of the traffic, or of what is known, makes the answer less certain."""
    scenario, workload = run.scenario, run.scenario.workload
    sides = [("", scenario)]
    if scenario.two_clusters:
        sides.append(("ffns.", scenario.ffn_side))
    if scenario.prefill is not None and scenario.prefill.cluster is not None:
        sides.append(("prefill.", scenario.prefill_side or scenario))
    unknown = [unknown_power(side, section=section) for section, side in sides]
    found = [note(text) for text in unknown if text]
    found += [note(f"workload.trace: {text}") for text in run.requests.notes]
    if workload.warm_up_requests or workload.cool_down_requests:
        found.append(
            standing("gaps between outputs (ITL) are pooled: they are those of all requests, left out or not")
        )
    if not scenario.serving.prefix_cache and _shares_prefixes(run.requests):
        found.append(
            note("serving.prefix_cache = false: prompts that begin alike are computed again every time")
        )
    asked = scenario.serving.max_running
    if run.pool.layout.max_running < asked:
        found.append(
            note(
                f"a rank runs at most {number_of(run.pool.layout.max_running, 'request')} (serving.max_running = "
                f"{asked}): DeepEP low-latency's buffers are sized for deployment.low_latency_max_tokens_per_gpu"
            )
        )
    for own in (scenario, scenario.prefill_side):
        if own is not None and own.deployment.pp > 1:
            found.append(standing(IN_TURNS.format(stages=own.deployment.pp)))
    if run.path is not None and run.path.flag:
        found.append(note(f"transfer of caches: {run.path.flag}"))
    lost = facts.preempted / run.requests.num_requests
    if lost > SHORTAGE:
        found.append(
            note(
                f"{lost:.0%} of the requests lost their KV blocks for a while: the cache is short "
                f"({run.pool.kv_tokens:,} tokens per rank)"
            )
        )
    if waits is not None and waits["mean"] > THROTTLED * facts.metrics["e2e_s"]["mean"]:
        found.append(
            danger(
                f"workload.max_concurrency = {run.requests.max_concurrency} holds the traffic back: requests wait "
                f"{waits['mean']:.3g} s in the mean at the client (client_wait_s) before they are sent, which TTFT and "
                "E2E do not hold; a higher cap, or none, shows what the stated rate asks for"
            )
        )
    first, last = facts.arrivals_s
    behind = last > first and facts.end_s - last > BEHIND * (last - first)
    if run.requests.max_concurrency is None and behind:
        found.append(
            danger(
                "requests come faster than they are served: the queue grows until the last has come, and latencies "
                "with it"
            )
        )
    return found


def _shares_prefixes(requests: Requests | RequestStream) -> bool:
    if isinstance(requests, RequestStream):
        return False
    return bool((requests.prefix >= 0).any() or (requests.parent >= 0).any() or requests.hash_ids is not None)


def trace_id(scenario: Scenario, requests: Requests | RequestStream) -> str | None:
    """Which trace it was, all of it; a long one that was read whole need not be read again."""
    w = scenario.workload
    if not w.trace:
        return None
    if isinstance(requests, RequestStream):
        part = w.start_s or w.duration_s is not None or w.num_requests is not None
        found = long_trace_of(w, hold=0, whole=True) if part else requests.trace
        return f"{found.name}-{found.id}"
    trace = trace_of(w, whole=True)
    return f"{trace.name}-{trace.id}"
