"""The answer to ``perfmodel plan``: candidates ranked, with reasons, and how to start the winner."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.step import plain
from perfmodel.engines.launch import Launch, launches
from perfmodel.errors import InfeasibleError, PerfModelError
from perfmodel.explore.difference import Difference, difference
from perfmodel.explore.plan.draws import FINALISTS, Drawn, joint_draws, runs_of_a_plan
from perfmodel.explore.plan.grids import Lengths
from perfmodel.explore.plan.layouts import document_of
from perfmodel.explore.plan.question import Kind, Question, workload_of
from perfmodel.explore.plan.screen import Screen, Stepped, screen, stepped
from perfmodel.explore.plan.simulate import (
    Run,
    Simulator,
    binding_of,
    figures_of,
    simulate_survivors,
    step_of,
)
from perfmodel.explore.space import CHUNK, CP, DCP, FFN_CLUSTER, FFNS, FORMATS, PARTS, PP, REPLICAS, RUNNING
from perfmodel.serving.serve import serve
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.workload import Workload

SIMULATE, SECONDS = 32, 60.0
SHOWN = 100
"""Screened candidates of the answer, beside those that were simulated."""
PICTURE = 3000
"""Screened candidates of the picture."""
MORE_TRAFFIC = 1.5
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """What ``perfmodel plan`` says."""

    question: Question
    values: dict[str, Any]
    """The keys of ``perfmodel plan --json``, SI units; unknown is None."""
    runs: tuple[Run, ...]
    """Simulated candidates, ranked."""
    winner: Run | None
    """None: nothing meets the limits."""
    why: Difference | None
    """Of the winner against the runner-up, a decode step."""
    document: dict[str, Any] | None
    """The winner as a scenario file, or the nearest miss."""
    screened: list[dict[str, Any]]
    """Points of the picture."""


def plan(
    question: Question,
    *,
    simulate: int = SIMULATE,
    seconds: float = SECONDS,
    progress: Progress | None = None,
    screened: Screen | None = None,
) -> PlanAnswer:
    """The best deployments for a question.

    Args:
        question: what is asked.
        simulate: candidates that are simulated at most.
        seconds: wall time for simulation, and as much again for draws.
        progress: told the stage, what is done and what there is.
        screened: the question's screen, where somebody has it already.

    Raises:
        InfeasibleError: no layout is legal or fits.
        PerfModelError: the question is bad.
    """

    def steps(question: Question, kind: Kind, lengths: Lengths) -> Stepped:
        return stepped(question, kind, lengths, _of(progress, f"layouts of {kind.words}"))

    found = screened or screen(question, steps=steps)
    simulator = Simulator(question, seconds=seconds, runs=runs_of_a_plan(simulate))
    runs, apart = simulate_survivors(found, simulator, most=simulate, progress=_of(progress, "simulated"))
    keeping = [run for run in runs if run.keeps]
    winner = keeping[0] if keeping else None
    finalists = keeping[:FINALISTS] or runs[:1]
    drawn = joint_draws(
        finalists,
        question.limits,
        question.objective,
        seconds=seconds,
        progress=_of(progress, "drawn"),
    )
    candidates = _candidates(found, runs, finalists, drawn)
    best = winner or runs[0]
    document = _document(question, best)
    values: dict[str, Any] = {
        "model": question.model,
        "gpus": [kind.words for kind in question.kinds],
        "traffic": question.traffic.words,
        "limits": {
            "ttft_s": question.limits.ttft_s,
            "tpot_s": question.limits.tpot_s,
            "percentile": question.limits.percentile,
        },
        "objective": question.objective,
        "meets_limits": winner is not None,
        "candidates": candidates,
        "considered": {
            "legal": found.considered.legal,
            "fit": found.considered.fit,
            "screened": found.considered.screened,
            "simulated": simulator.simulated,
        },
        "separated": apart,
        "pareto": _pareto(candidates),
        "binding": binding_of(best, question.limits),
        "launch": _launch(best, question),
        "more_traffic": _more_traffic(best, question),
        "warnings": _warnings(question, best, apart, drawn.missing),
        "provenance": {
            "perfmodel": perfmodel.__version__,
            "scenario_hash": best.scenario.hash,
            "calibration": best.scenario.calibration or None,
            "seed": question.seed,
        },
    }
    why, against = _why(keeping)
    values["why"] = None if why is None else {**why.as_dict(), "against": against}
    return PlanAnswer(question, _plain(values), tuple(runs), winner, why, document, _picture(found))


def nearest_miss(answer: PlanAnswer) -> InfeasibleError:
    """What to say where nothing meets the limits."""
    best, limits = answer.runs[0], answer.question.limits
    parts = []
    for name, key, limit in (("TTFT", "ttft_at_s", limits.ttft_s), ("TPOT", "tpot_at_s", limits.tpot_s)):
        if limit is not None:
            value = best.mean(key)
            parts.append(f"{name} {value:.3g} s of {limit:g} s{' (missed)' if value > limit else ''}")
    if any(figures["behind"] for figures in best.figures):
        parts.append("requests come faster than they are served")
    return InfeasibleError(
        f"nothing simulated keeps the limits at p{limits.percentile:g}; nearest miss, {layout_words(best.scenario)} "
        f"on {best.scenario.fleet_gpus} GPUs: {', '.join(parts)}: use more GPUs, looser limits or less traffic"
    )


def layout_words(scenario: Scenario) -> str:
    """A deployment in words."""
    side = scenario.prefill_side
    replicas, own = scenario.serving.replicas, _deployment_words(scenario.deployment)
    own += f", FFNs on {scenario.ffn_cluster.name}" if scenario.two_clusters else ""
    if side is None:
        return f"{replicas} x [{own}], chunk {scenario.serving.max_batched_tokens}"
    return (
        f"prefill {side.serving.replicas} x [{_deployment_words(side.deployment)}], chunk "
        f"{side.serving.max_batched_tokens}; decode {replicas} x [{own}]"
    )


def _deployment_words(d: Deployment) -> str:
    parts = [
        f"TP{d.attention_tp} x DP{d.attention_dp}",
        f"EP{d.ep}" + (f" x TP{d.moe_tp}" if d.moe_tp > 1 else ""),
    ]
    if d.dense_tp != d.attention_tp:
        parts.append(f"dense TP{d.dense_tp}")
    parts += [f"PP{d.pp}"] * (d.pp > 1) + d.division_words
    p = d.precision
    weights = p.linear if p.linear == p.experts else f"{p.linear}/{p.experts}"
    parts.append(f"{weights}, KV {p.kv_cache}")
    if d.mtp.draft_tokens:
        parts.append(f"{d.mtp.draft_tokens} drafts")
    if d.overlap != "sequential":
        parts.append(d.overlap)
    if d.redundant_experts:
        parts.append(f"{d.redundant_experts} redundant experts")
    return ", ".join(parts)


def _candidates(
    found: Screen,
    runs: Sequence[Run],
    finalists: Sequence[Run],
    drawn: Drawn,
) -> list[dict[str, Any]]:
    """Simulated ones first, ranked; then those that were screened alone."""
    rows = []
    for run in runs:
        place = next((i for i, one in enumerate(finalists) if one is run), len(finalists))
        intervals, probability = drawn.of(place)
        rows.append(
            {
                "layout": layout_words(run.scenario),
                "kind": run.words,
                "scenario": dict(run.keys),
                "num_gpus": run.scenario.fleet_gpus,
                "ttft_s": run.figures[0]["ttft_s"],
                "tpot_s": run.figures[0]["tpot_s"],
                "ttft_at_s": run.mean("ttft_at_s"),
                "tpot_at_s": run.mean("tpot_at_s"),
                "requests_per_s": run.mean("requests_per_s"),
                "goodput_requests_per_s": run.mean("goodput_requests_per_s"),
                "output_tokens_per_s_per_gpu": run.mean("output_tokens_per_s_per_gpu"),
                "usd_per_million_output_tokens": run.mean("usd_per_million_output_tokens"),
                "meets_limits": run.keeps,
                "miss": None if run.keeps else run.miss,
                "intervals": intervals,
                "probability_best": probability if run.keeps else None,
                "replications": len(run.figures),
                "simulated": True,
            }
        )
    done = {json.dumps([run.words, dict(run.keys)], sort_keys=True) for run in runs}
    for b, i in found.ranked[:SHOWN]:
        batch = found.batches[b]
        keys = batch.keys(i)
        if json.dumps([batch.words, keys], sort_keys=True) not in done:
            rows.append(_screened_row(found, b, i, keys))
    return rows


def _screened_row(found: Screen, b: int, i: int, keys: Mapping[str, Any]) -> dict[str, Any]:
    batch = found.batches[b]
    tpot, ttft = (
        {"mean": float(mean[i]), "p50": None, "p90": None, "p99": None}
        for mean in (batch.screen.tpot_s, batch.screen.ttft_s)
    )
    return {
        "layout": keys_words(keys),
        "kind": batch.words,
        "scenario": dict(keys),
        "num_gpus": int(batch.candidates.gpus[i]),
        "ttft_s": ttft,
        "tpot_s": tpot,
        "ttft_at_s": float(batch.screen.ttft_at_s[i]),
        "tpot_at_s": float(batch.screen.tpot_at_s[i]),
        "requests_per_s": float(batch.screen.requests_per_s[i]),
        "goodput_requests_per_s": None,
        "output_tokens_per_s_per_gpu": float(batch.output_per_gpu[i]),
        "usd_per_million_output_tokens": float(batch.usd[i]),
        "meets_limits": bool(batch.ratio[i] <= 1.0 and not batch.screen.overloaded[i]),
        "miss": float(batch.ratio[i]) if batch.ratio[i] > 1.0 else None,
        "intervals": {},
        "probability_best": None,
        "replications": 0,
        "simulated": False,
    }


def keys_words(keys: Mapping[str, Any]) -> str:
    """A candidate that was not loaded as a scenario, in words."""

    def of(prefix: str) -> str:
        get = {path.removeprefix(prefix): value for path, value in keys.items() if path.startswith(prefix)}
        tp, dp, ep = (get[f"deployment.{key}"] for key in ("attention_tp", "attention_dp", "ep"))
        group = get.get(FFNS) or tp * dp
        words = [f"TP{tp} x DP{dp}", f"EP{ep}" + (f" x TP{group // ep}" if group > ep else "")]
        dense = get["deployment.dense_tp"]
        if dense != tp:
            words.append(f"dense TP{dense}")
        words += [
            f"{name}{get[key]}" for key, name in ((PP, "PP"), (CP, "CP"), (DCP, "DCP")) if get.get(key, 1) > 1
        ]
        if get.get(FFNS):
            on = f" on {get[FFN_CLUSTER]}" if get.get(FFN_CLUSTER) else ""
            words.append(f"{tp * dp} GPUs of attention, {get[FFNS]} of FFNs{on}")
            words += [f"{get[PARTS]} micro-batches"] if PARTS in get else []
        overlap = get.get("deployment.overlap", "sequential")
        formats = {path: keys.get(path) for path in FORMATS["fp8"]}
        weights = "/".join(dict.fromkeys(str(value) for value in formats.values()))
        words.append(f"{weights}, KV {keys.get('deployment.precision.kv_cache')}")
        if not prefix and keys.get("deployment.mtp.draft_tokens"):
            words.append(f"{keys['deployment.mtp.draft_tokens']} drafts")
        if overlap != "sequential":
            words.append(str(overlap))
        return ", ".join(words)

    replicas, running = keys[REPLICAS], keys.get(RUNNING)
    most = f", at most {running} a rank" if running else ""
    if f"prefill.{REPLICAS}" not in keys:
        return f"{replicas} x [{of('')}], chunk {keys[CHUNK]}{most}"
    chunk = keys[f"prefill.{CHUNK}"]
    readers = f"prefill {keys[f'prefill.{REPLICAS}']} x [{of('prefill.')}], chunk {chunk}"
    return f"{readers}; decode {replicas} x [{of('')}]{most}"


def _pareto(candidates: Sequence[Mapping[str, Any]]) -> list[int]:
    """Simulated candidates that no other beats in both TPOT (mean) and output per GPU."""
    rows = [
        (i, c["tpot_s"]["mean"], c["output_tokens_per_s_per_gpu"])
        for i, c in enumerate(candidates)
        if c["simulated"]
    ]
    found, best = [], -np.inf
    for i, _, output in sorted(rows, key=lambda row: (row[1], -row[2])):
        if output > best:
            found.append(i)
            best = output
    return found


def _picture(found: Screen) -> list[dict[str, Any]]:
    """Screened candidates as points, evenly thinned."""
    rows = []
    step = max(1, len(found.ranked) // PICTURE)
    for b, i in found.ranked[::step]:
        batch = found.batches[b]
        if batch.screen.overloaded[i]:
            continue
        rows.append(
            {
                "layout": keys_words(batch.keys(i)),
                "kind": batch.words,
                "num_gpus": int(batch.candidates.gpus[i]),
                "tpot_s": float(batch.screen.tpot_s[i]),
                "ttft_at_s": float(batch.screen.ttft_at_s[i]),
                "output_tokens_per_s_per_gpu": float(batch.output_per_gpu[i]),
                "usd_per_million_output_tokens": float(batch.usd[i]),
                "meets_limits": bool(batch.ratio[i] <= 1.0),
                "apart": batch.candidates.prompt_row is not None,
            }
        )
    return rows


def _document(question: Question, run: Run) -> dict[str, Any]:
    """The candidate as a scenario file that step, serve and report take."""
    found = document_of(question.document(run.kind), run.keys)
    step = step_of(run).deployment
    found["deployment"] = {
        **found["deployment"],
        "phase": "decode",
        "batch_per_gpu": step.batch_per_gpu,
        "context_tokens": step.context_tokens,
    }
    return {"title": f"Planned: {layout_words(run.scenario)}"} | {
        k: v for k, v in found.items() if k != "name"
    }


def _launch(run: Run, question: Question) -> dict[str, Any] | None:
    """Contract: engine, version, command, what it cannot say."""
    found: tuple[Launch, ...] = launches(run.scenario, question.model)
    if not found:
        return None
    deployment = run.scenario.deployment
    cannot = list(dict.fromkeys(text for one in found for text in one.cannot))
    p = deployment.precision
    cannot.append(f"weights: the checkpoint of {question.model} must be in {p.linear} (experts {p.experts})")
    return {
        "engine": deployment.engine,
        "version": deployment.engine_version,
        "command": "\n".join(one.command for one in found),
        "cannot": cannot,
        "replicas": [
            {"role": one.role, "replicas": one.replicas, "command": one.command, "file": one.file}
            for one in found
        ],
        "sources": list(dict.fromkeys(source for one in found for source in one.sources)),
    }


def _more_traffic(run: Run, question: Question) -> dict[str, Any] | None:
    """The deployment under so many times the traffic."""
    if question.traffic.trace:
        return None
    more = question.traffic.times(MORE_TRAFFIC)
    scenario = run.scenario.model_copy(update={"workload": Workload.model_validate(workload_of(more))})
    try:
        served = serve(scenario, core=run.served.core)
    except InfeasibleError:
        return None
    figures = figures_of(served, scenario, question.limits)
    names = ("ttft_at_s", "tpot_at_s", "usd_per_million_output_tokens", "output_tokens_per_s_per_gpu")
    return {
        "times": MORE_TRAFFIC,
        **{name: figures[name] for name in names},
        "keeps_up": not figures["behind"],
        "meets_limits": bool(figures["ratio"] <= 1.0 and not figures["behind"]),
    }


def _why(keeping: Sequence[Run]) -> tuple[Difference | None, int]:
    """The winner's mean decode step against the best other candidate's, and which that is. A pool that reads prompts
    too is compared with its like alone: what it pays for prompts is in no decode step.
    """
    if not keeping:
        return None, 0
    best = keeping[0]
    alike = [
        k
        for k, run in enumerate(keeping)
        if k and (run.scenario.prefill is None) == (best.scenario.prefill is None)
    ]
    different = [k for k in alike if step_of(keeping[k]).deployment != step_of(best).deployment]
    if not different:
        return None, 0
    named = [
        step_of(run).model_copy(update={"name": name})
        for run, name in ((best, "the winner"), (keeping[different[0]], "the other"))
    ]
    try:
        return difference(*named), different[0]
    except PerfModelError:
        return None, 0


def _warnings(question: Question, best: Run, apart: bool, unknown: str) -> list[str]:
    found = []
    if not apart:
        found.append(
            "the best are not told apart by simulation (within half a per cent, or out of budget): raise --simulate "
            "and --seconds, or take the simplest of them"
        )
    if unknown:
        found.append(f"no intervals and no probability of being best: {unknown}")
    stated = best.scenario.deployment.precision
    if {stated.linear, stated.experts} & {"fp4", "int4"} or stated.kv_cache == "fp8":
        found.append(
            "number formats change what a model answers, which is not modelled: narrow them with --space"
        )
    mtp = best.scenario.deployment.mtp
    if (best.scenario.model.mtp is not None or mtp.drafter) and not mtp.accepts:
        found.append(
            "drafts were left out: state how often they are accepted, e.g. --set deployment.mtp.acceptance=0.8"
        )
    return found


def _of(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    tell = progress
    return lambda done, total: tell(stage, done, total)


def _plain(value: Any) -> Any:
    """As JSON can hold it, lists too."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return plain(value)
