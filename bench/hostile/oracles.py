"""What no answer may say, whatever was asked."""

import copy
import json
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

BELOW_ZERO = ("_pct", "bubble", "closed_form", "in_situ_s", "difference")
"""Parts of keys whose figures may be negative: shares of change, and differences."""
SLACK = 1.01
"""Schedules are no more monotone than this (Graham's anomalies, DESIGN.md)."""


def wrong_scenario(scenario: Any) -> str | None:
    """Why a scenario should have been refused."""
    moe, network = scenario.model.moe, scenario.cluster.network
    if network.spine_oversubscription < 1.0:
        return "faster than a network without oversubscription"
    if scenario.deployment.context_tokens > scenario.model.max_context_tokens:
        return "a context beyond the model's positions"
    if moe and not moe.num_zero_experts and scenario.mean_real_experts < moe.top_k * 0.999:
        return "fewer real experts than the router picks"
    if moe and moe.num_groups > 1 and moe.top_k > moe.num_experts // moe.num_groups * moe.top_groups:
        return "more picks than the chosen groups hold"
    loads = scenario.routing.rank_loads or ()
    if moe and max(loads, default=0.0) > scenario.deployment.ep:
        return "a load that no router gives"
    return None


def wrong_values(values: Mapping[str, Any]) -> str | None:
    """Why figures can't be: not strict JSON, not finite, negative, or an interval that is upside down."""
    try:
        if json.loads(json.dumps(values, allow_nan=False)) is None:
            return "nothing"
    except (ValueError, TypeError, RecursionError) as error:
        return f"no strict JSON: {error}"
    for path, number in _numbers(values, ""):
        if not math.isfinite(number):
            return f"{path} = {number}"
        if number < 0.0 and not any(part in path for part in BELOW_ZERO):
            return f"{path} = {number} is negative"
    for key, bounds in (values.get("intervals") or {}).items():
        if isinstance(bounds, list) and len(bounds) == 2 and bounds[0] > bounds[1]:
            return f"intervals.{key} = {bounds} is upside down"
    return None


def wrong_step(scenario: Any, values: Mapping[str, Any]) -> str | None:
    """Why a step can't be: beyond the roofline's peak, not in memory, tokens that do not add up."""
    found = wrong_scenario(scenario) or wrong_values(values)
    if found or scenario.costs == "report":  # counts what a report counts, on whatever hardware, and says so
        return found or ("" if values["warnings"] else "no warning of a report's costs")
    for key in ("mfu", "mbu"):
        if (values.get(key) or 0.0) > 1.0 + 1e-9:
            return f"{key} = {values[key]}: faster than the hardware"
    if not values["step_time_s"] > 0.0:
        return f"step_time_s = {values['step_time_s']}"
    memory = sum(values["memory_bytes"].values())
    if memory > scenario.cluster.gpu.memory_bytes:
        return f"{memory} bytes in {scenario.cluster.gpu.memory_bytes}"
    for op in values["ops"]:
        if (op["mfu"] or 0.0) > 1.0 + 1e-6:
            return f"op {op['name']}: mfu = {op['mfu']}: faster than the hardware"
    per_gpu, user = values["output_tokens_per_s_per_gpu"], values["tokens_per_s_per_user"]
    if per_gpu and user and values["batch_per_gpu"]:
        stages = scenario.deployment.pp
        if per_gpu > user * values["batch_per_gpu"] * SLACK * stages:
            return f"{per_gpu} tokens/s of {values['batch_per_gpu']} users at {user}"
    return None


def wrong_serve(scenario: Any, values: Mapping[str, Any]) -> str | None:
    """Why a served run can't be: figures that are none, or percentiles out of order."""
    found = wrong_scenario(scenario) or wrong_values(values)
    if found:
        return found
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        figures = values.get(name)
        if isinstance(figures, Mapping):
            ranked = [figures[key] for key in ("p50", "p90", "p95", "p99") if figures.get(key) is not None]
            if ranked != sorted(ranked):
                return f"{name}: percentiles out of order: {ranked}"
    return None


def wrong_records(served: Any) -> str | None:
    """Why the records of a run can't be: a request that is lost, tokens that are, or times that run backwards."""
    from perfmodel.serving.serve import as_columns

    columns = as_columns(served.records)
    asked = served.scenario.workload.num_requests
    count = len(columns["arrival_s"])
    if asked is not None and not served.scenario.workload.trace and count != asked:
        return f"{count} records of {asked} requests"
    for first, then in (("arrival_s", "first_token_s"), ("first_token_s", "end_s")):
        if first in columns and then in columns and bool((columns[then] < columns[first] - 1e-9).any()):
            return f"{then} before {first}"
    return None


def ignored_key(document: Mapping[str, Any], values: Mapping[str, Any], answer: Any) -> str | None:
    """Whether a key that says nothing changes an answer: another title and another order of keys, nothing else."""
    other = dict(reversed(list(copy.deepcopy(dict(document)).items()))) | {"title": "another title"}
    found = answer(other)
    left_out = ("scenario", "provenance")
    for key in values:
        if key not in left_out and found.get(key) != values[key]:
            return f"{key} changed with the title and the order of keys"
    return None


def monotone(scenario: Any, values: Mapping[str, Any], chance: random.Random) -> str | None:
    """Whether more work takes less time, or another price does not change the cost alone."""
    from perfmodel.answers.step import answer_step
    from perfmodel.errors import PerfModelError

    kind = chance.choice(["context", "price"])
    deployment, prices = scenario.deployment, scenario.prices
    if kind == "context":
        more = deployment.model_copy(update={"context_tokens": deployment.context_tokens * 1.5})
        changed = scenario.model_copy(update={"deployment": more})
    else:
        changed = scenario.model_copy(
            update={"prices": prices.model_copy(update={"usd_per_gpu_hour": prices.usd_per_gpu_hour * 2})}
        )
    if wrong_scenario(changed):
        return None
    try:
        found = answer_step(changed, over_steps=False).values
    except PerfModelError:
        return None
    if kind == "context" and found["step_time_s"] * SLACK < values["step_time_s"]:
        return f"1.5 times the context: {found['step_time_s']} instead of {values['step_time_s']} s"
    if kind == "price":
        for key in ("usd_per_million_output_tokens", "usd_per_million_input_tokens"):
            before, after = values.get(key), found.get(key)
            if before and after and abs(after / before - 2.0) > 1e-9:
                return f"twice the price: {key} {before} -> {after}"
        if found["step_time_s"] != values["step_time_s"]:
            return "another price changes the step's time"
    return None


def _numbers(value: Any, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _numbers(child, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for number, child in enumerate(value):
            yield from _numbers(child, f"{path}.{number}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)
