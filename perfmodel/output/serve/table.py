"""``perfmodel serve`` as tables for a terminal: latencies, rates and money, intervals, the fleet, what faults cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.answers.serve import ServeAnswer
from perfmodel.economics.quantiles import percentiles_with
from perfmodel.output.console import console
from perfmodel.output.formats import count, number, scaled, significant, with_unit
from perfmodel.output.scenario.reproduce import scenario_title
from perfmodel.output.serve.fleet_words import fleet_sizes
from perfmodel.output.tables import table_of, titled
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.units import MEGA, PERCENT


def print_serve(answer: ServeAnswer) -> None:
    """Print a serving run: latencies, rates and money, what the engine was busy with."""
    out, values = console(), answer.values
    scenario = answer.scenario
    out.print(Text(scenario_title(scenario), style="bold"))
    cap = answer.run.requests.max_concurrency
    traffic = f"at most {cap:,} in flight" if cap is not None else "open loop"
    out.print(
        Text(
            f"{values['model']} | {_replicas(values, scenario)} | "
            f"{values['policy']} | {_counted(values)} over {with_unit(values['duration_s'], 's')}, "
            f"{traffic} | "
            f"KV cache {values['kv_tokens_per_rank']:,} tokens per rank",
            style="dim",
        )
    )
    parts = ("mean", *percentiles_with(scenario.workload.percentiles))
    latency = table_of(titled("Latency per request", scenario), "", *parts, "what it is")
    for name, key, unit, what in _LATENCIES:
        found = values[key]
        if found is not None:
            cells = (with_unit(found[part], unit) for part in parts)
            latency.add_row(name, *(Text(cell) for cell in cells), Text(what, style="dim"))
    out.print(latency)
    rates = table_of("Throughput and cost", "quantity", "value")
    for name, text, note in _serve_rates(values, scenario):
        rates.add_row(name, text, Text(note, style="dim"))
    out.print(rates)
    if values["without_faults"] is not None:
        out.print(_fault_table(values, has_slo=scenario.slo != Slo()))
    if "intervals" in values:
        out.print(_serve_intervals(values, parts, has_slo=scenario.slo != Slo()))
    if "fleet" in values:
        out.print(_fleet(values))


def _fault_table(values: Mapping[str, Any], *, has_slo: bool) -> Table:
    """What faults cost: the same traffic with and without them."""
    table, healthy = table_of("What the faults cost", "", "with them", "without"), values["without_faults"]
    for name, key, part in (
        ("TTFT mean", "ttft_s", "mean"),
        ("TTFT p99", "ttft_s", "p99"),
        ("TPOT mean", "tpot_s", "mean"),
        ("E2E p99", "e2e_s", "p99"),
    ):
        if values[key] is not None:
            table.add_row(name, with_unit(values[key][part], "s"), with_unit(healthy[key][part], "s"))
    for name, key in (
        *GOODPUT[:has_slo],
        ("$ per million output tokens", "usd_per_million_output_tokens"),
    ):
        table.add_row(name, significant(values[key]), significant(healthy[key]))
    return table


GOODPUT = (("requests/s within the SLO", "goodput_requests_per_s"),)
"""A row where the scenario states an objective."""


def _counted(values: Mapping[str, Any]) -> str:
    """``950 requests (50 more left out)``."""
    left_out = values["left_out_requests"]
    return number_of(values["requests"], "request") + (f" ({left_out:,} more left out)" if left_out else "")


def _serve_intervals(values: Mapping[str, Any], parts: Sequence[str], *, has_slo: bool) -> Table:
    """How far off the figures are if step times are."""
    found = values["intervals"]
    table = table_of("80 % intervals of the model", "", *parts)
    for name, key, unit, _ in _LATENCIES:
        if f"{key}.mean" in found:
            table.add_row(name, *(Text(_range(found[f"{key}.{part}"], unit)) for part in parts))
    for name, key in (
        ("requests/s", "requests_per_s"),
        *GOODPUT[:has_slo],
        ("output tokens/s per GPU", "output_tokens_per_s_per_gpu"),
        ("$ per million output tokens", "usd_per_million_output_tokens"),
        ("$ per million tokens", "usd_per_million_total_tokens"),
    ):
        table.add_row(name, Text(_range(found[key], "")))
    repeats = number_of(values["interval_draws"]["repeats"], "repeat")
    table.caption = f"{repeats} with step times drawn from the model's spread"
    return table


def _range(bounds: Sequence[float], unit: str) -> str:
    return " to ".join(with_unit(bound, unit) for bound in bounds)


def _fleet(values: Mapping[str, Any]) -> Table:
    """Replicas for a day's traffic; with intervals those of the replicas by the objectives."""
    fleet = values["fleet"]
    replicas = values.get("intervals", {}).get("fleet.by_slo.replicas")
    table = table_of(
        f"{fleet['requests_per_day']:,.0f} requests per day "
        f"({significant(fleet['tokens_per_day'] / MEGA)} million tokens), peak {fleet['peak_to_mean']:g} "
        f"times the mean: {number(fleet['peak_requests_per_s'])} requests/s",
        "", "requests/s per replica", "replicas", "GPUs", "$ per day", "$ per month", "what it is",
    )  # fmt: skip
    for key, name, size, what in fleet_sizes(fleet, values["capacity_used_pct"]):
        if key == "by_slo" and replicas is not None:
            what += f"; {replicas[0]:,} to {replicas[1]:,} replicas with 80 % probability"
        cells = (
            "-" if size[own] is None else show(size[own])
            for own, show in (
                ("requests_per_s_per_replica", number),
                ("replicas", count),
                ("num_gpus", count),
                ("usd_per_day", number),
                ("usd_per_month", number),
            )
        )
        table.add_row(name, *cells, Text(what, style="dim"))
    return table


_LATENCIES = (
    ("TTFT", "ttft_s", "s", "arrival to first token"),
    ("queue", "queue_s", "s", "of it, until a step works on it"),
    ("transfer", "transfer_s", "s", "of it, from the prompt's end until its cache has arrived"),
    ("TPOT", "tpot_s", "s", "per token after the first"),
    ("ITL", "itl_s", "s", "gap between outputs, pooled"),
    ("E2E", "e2e_s", "s", "arrival to last token"),
    ("tokens/s per user", "tokens_per_s_per_user", "", "1 / TPOT"),
    ("client's wait", "client_wait_s", "s", "for a slot of max_concurrency, before TTFT begins"),
)
"""Rows of the latency table: label, key, unit, meaning."""


def _replicas(values: Mapping[str, Any], scenario: Scenario) -> str:
    """``2 x 16 + 1 x 128 x h800-sxm``."""
    own, prefill = f"{values['replicas']} x {scenario.deployment.num_gpus}", scenario.prefill
    if scenario.two_clusters:
        own, side = f"{values['replicas']} x ({scenario.replica_words})", scenario.prefill_side
        apart = f"{side.serving.replicas} x {side.replica_words} for prefill and " if side is not None else ""
        return f"{apart}{own}{' for decode' if apart else ''}"
    if prefill is None:
        return f"{own} x {values['gpu']}"
    apart = f"{prefill.serving.replicas} x {prefill.deployment.num_gpus}"
    if prefill.cluster is not None:
        return f"{apart} x {prefill.cluster.gpu.name} for prefill and {own} x {values['gpu']} for decode"
    return f"{apart} for prefill and {own} for decode, {values['gpu']}"


def _serve_rates(values: Mapping[str, Any], scenario: Scenario) -> list[tuple[str, str, str]]:
    good = f"{significant(values['goodput_requests_per_s'])} within the SLO"
    return [
        (
            "requests/s",
            significant(values["requests_per_s"]),
            good if scenario.slo != Slo() else "no objective is stated (slo.ttft_ms, slo.tpot_ms)",
        ),
        ("output tokens/s per GPU", f"{values['output_tokens_per_s_per_gpu']:,.0f}", "all GPUs counted"),
        ("input tokens/s per GPU", f"{values['input_tokens_per_s_per_gpu']:,.0f}", ""),
        (
            "$ per million output tokens",
            significant(values["usd_per_million_output_tokens"]),
            "all cost on the output",
        ),
        (
            "$ per million tokens",
            significant(values["usd_per_million_total_tokens"]),
            "input and output alike",
        ),
        ("GPU hours", significant(values["gpu_hours"]), number_of(values["num_gpus"], "GPU")),
        *(
            (name, f"{significant(values[key], 2)} %", note)
            for name, key, note in _CAPACITY
            if values[key] is not None
        ),
        (
            "time with a step",
            f"{values['busy_pct']:.0f} %",
            f"however full it is; {values['prompt_steps_pct']:.0f} % of it in steps with prompts",
        ),
        *(
            [("time with a prompt step", f"{values['prefill_busy_pct']:.0f} %", "the prefill replicas")]
            if values["prefill_busy_pct"] is not None
            else []
        ),
        ("prompt tokens cached", f"{values['cache_hit_pct']:.1f} %", _where_cached(values)),
        ("preemptions", f"{values['preemptions']:,}", "requests that lost their KV blocks for a while"),
        *([("retries", f"{values['retries']:,}", "after a replica was lost")] if values["retries"] else []),
        (
            "MFU, MBU",
            ", ".join(f"{significant(values[key] * PERCENT, 2)} %" for key in ("mfu", "mbu")),
            "of the peaks, mean over GPUs and the whole span",
        ),
        *_serve_energy(values),
    ]


def _where_cached(values: Mapping[str, Any]) -> str:
    tiers = values.get("cache_hits_by_tier_pct")
    if tiers is None:
        return "found in a prefix cache"
    return "found in memories: " + ", ".join(f"{name} {share:.1f} %" for name, share in tiers.items())


_CAPACITY = (
    ("capacity used", "capacity_used_pct", "of the GPUs' time, were this work done in full steps"),
    ("capacity used, prompts", "prefill_capacity_used_pct", "the same of the prefill replicas"),
)


def _serve_energy(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Rows about power; none where it is unknown (a warning says why)."""
    energy = values["energy_j"]
    if energy is None:
        return []
    parts = {name: part / energy for name, part in values["energy_parts_j"].items()}
    shares = ", ".join(f"{name} {share * PERCENT:.0f} %" for name, share in parts.items())
    return [
        (
            "power per GPU",
            with_unit(values["power_w_per_gpu"], "W"),
            "boards alone, a coarse model (docs/power.md)",
        ),
        ("energy", scaled(energy, "J"), shares),
        ("energy per output token", with_unit(values["energy_j_per_output_token"], "J"), ""),
    ]
