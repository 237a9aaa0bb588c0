"""Tables for a terminal: one step and its ops. Values come in SI and are scaled here."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.answers.step import StepAnswer
from perfmodel.ops.memory import usable_bytes
from perfmodel.output.console import console
from perfmodel.output.formats import count, number
from perfmodel.output.scenario.reproduce import scenario_title
from perfmodel.output.tables import table_of, titled
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, GIGA, MEGA, MS, PERCENT, US

BAR_CELLS = 24
MIN_WIDTH = 60
MOST_RUNS = 4
"""Runs of equal layers that are shown apart; of more, their stages are summed up."""


def print_step(answer: StepAnswer, *, ops: bool = False) -> None:
    """Print one step's answer: results, where the time goes, communication, memory; with ``ops`` every op."""
    out = console()
    scenario, values = answer.scenario, answer.values
    out.print(Text(scenario_title(scenario), style="bold"))
    out.print(_subtitle(answer))
    out.print(_results(scenario, values))
    out.print(_breakdown(values))
    out.print(_stages(answer))
    out.print(_memory(answer))
    if ops:
        out.print(_ops(values["ops"]))
    else:
        out.print(
            "[dim]--ops lists every op; --html FILE draws the timeline; --json gives everything in SI units[/]"
        )


def _subtitle(answer: StepAnswer) -> str:
    scenario, d = answer.scenario, answer.scenario.deployment
    layout = f"attention DP{d.attention_dp} TP{d.attention_tp}, dense TP{d.dense_tp}, EP{d.ep}"
    layout += f" x TP{d.moe_tp}" if d.moe_tp > 1 else ""
    layout += "".join(f", {part}" for part in [f"PP{d.pp}"] * (d.pp > 1) + d.division_words)
    work = (
        [f"batch {d.batch_per_gpu:g} per {d.batch_gpu}, context {d.context_tokens:,.0f}"]
        if d.phase != "prefill"
        else []
    )
    if d.phase != "decode":
        work.append(
            f"{d.prefill_requests_per_gpu:g} x {number_of(d.prefill_tokens, 'prompt token')} per {d.batch_gpu}"
        )
    if d.lora_adapters:
        work.append(f"{number_of(d.lora_adapters, 'LoRA adapter')} of rank {d.lora_rank}")
    drafts = d.mtp.draft_tokens
    if drafts and d.phase != "prefill":
        often = d.mtp.words if d.mtp.listed else f"accepted with {d.mtp.acceptance:.0%}"
        by = f" by {d.mtp.drafter.name or d.mtp.drafter.model.name}" if d.mtp.drafter else ""
        work.append(f"{number_of(drafts, 'draft token')}{by} {often}")
    return (
        f"{scenario.model.name} | {d.phase} on {scenario.replica_words} | {layout} | "
        f"{d.overlap} | {'; '.join(work)} | ${scenario.replica_usd_per_gpu_hour:g} per GPU hour"
    )


def _results(scenario: Scenario, values: dict[str, Any]) -> Table:
    table = table_of(titled("Result", scenario), "quantity", "value", "")
    rows = [
        ("tokens/s per user", "tokens_per_s_per_user", 1.0, "1 / TPOT"),
        ("output tokens/s per GPU", "output_tokens_per_s_per_gpu", 1.0, ""),
        ("input tokens/s per GPU", "input_tokens_per_s_per_gpu", 1.0, ""),
        ("$ per million output tokens", "usd_per_million_output_tokens", 1.0, ""),
        ("$ per million input tokens", "usd_per_million_input_tokens", 1.0, ""),
        ("step time (ms)", "step_time_s", MS, ""),
        ("TPOT (ms)", "tpot_s", MS, "step time / tokens per step"),
        ("TTFT without queueing (ms)", "ttft_s", MS, ""),
        ("tokens per step and request", "tokens_per_step", 1.0, ""),
        ("exposed communication (ms)", "exposed_communication_s", MS, "nothing computes meanwhile"),
        ("communication hidden (%)", "overlap_pct", 1.0, "of communication time"),
    ]
    intervals = values.get("intervals", {})
    for name, key, scale, note in rows:
        if values[key] is None:
            continue
        if key in intervals:
            low, high = (number(bound / scale) for bound in intervals[key])
            note = f"{low} to {high} with 80 % probability" + (f"; {note}" if note else "")
        table.add_row(name, number(values[key] / scale), note)
    experts, active = values["real_experts"], values["active_parameters"]
    if experts and experts["std"]:
        low, high = (number(active[key] / GIGA) for key in ("least", "most"))
        table.add_row(
            "real experts per token",
            number(experts["mean"]),
            f"standard deviation {number(experts['std'])}; {number(active['mean'] / GIGA)} B of the model's weights, "
            f"from {low} to {high} B",
        )
    if values["over_steps"]:
        times, loads = (values["over_steps"][key] for key in ("step_time_s", "imbalance"))
        table.add_row(
            "busiest rank's load",
            number(loads["mean"]),
            f"of the mean rank's, over layers and steps; p99 {number(loads['p99'])}",
        )
        table.add_row(
            "step time over steps (ms)", number(times["p50"] / MS), f"median; p99 {number(times['p99'] / MS)}"
        )
    shares = f"{PERCENT * values['mfu']:.1f}, {PERCENT * values['mbu']:.1f}"
    table.add_row("MFU, MBU (%)", shares, "of peak FLOP/s by number format, of peak HBM bandwidth")
    return table


def _breakdown(values: dict[str, Any]) -> Table:
    table = table_of("Where the step's time goes (critical path)", "class", "ms", "share", "")
    total = values["step_time_s"]
    for name, seconds in values["breakdown_s"].items():
        share = seconds / total
        table.add_row(name.replace("_", " "), number(seconds / MS), f"{PERCENT * share:.1f} %", _bar(share))
    table.add_row("step", number(total / MS), "100 %", "")
    return table


def _stages(answer: StepAnswer) -> Table:
    table = table_of("Parts of the schedule (critical path)", "part", "us per layer", "layers", "ms per step")
    repeats = {segment.name: segment.repeat for segment in answer.step.segments}
    runs = [name for name in repeats if name.startswith("layers")]
    parts: dict[str, tuple[float, int]] = {}
    for row in answer.values["stages_s"]:
        run = row["segment"]
        layers = repeats[run] if run in runs else 0
        shown = "unlike layers" if layers and len(runs) > MOST_RUNS else run
        name = row["stage"] if row["stage"] == run else f"{shown}: {row['stage']}"
        seconds, before = parts.get(name, (0.0, 0))
        parts[name] = (seconds + row["seconds"], before + layers)
    for name, (seconds, layers) in parts.items():
        per_layer = number(seconds / layers / US) if layers else ""
        table.add_row(name, per_layer, str(layers or ""), number(seconds / MS))
    return table


def _memory(answer: StepAnswer) -> Table:
    scenario, values = answer.scenario, answer.values
    device = float(scenario.cluster.gpu.memory_bytes)
    table = table_of("Memory per GPU", "class", "GB", "of device", "")
    classes = values["memory_bytes"]
    for name, size in classes.items():
        table.add_row(
            name.replace("_", " "), number(size / GB), f"{PERCENT * size / device:.1f} %", _bar(size / device)
        )
    total = sum(classes.values())
    table.add_row("needed", number(total / GB), f"{PERCENT * total / device:.1f} %", _bar(total / device))
    usable = float(usable_bytes(scenario))
    most, gpu = count(values["max_batch_per_gpu"]), scenario.deployment.batch_gpu
    note = f"largest batch that fits: {most} per {gpu} ({values['max_batch_bound_by']})"
    table.add_row("usable", number(usable / GB), f"{PERCENT * usable / device:.1f} %", note)
    if "ffn_memory_bytes" in values:
        used, own = sum(values["ffn_memory_bytes"].values()), float(scenario.ffn_cluster.gpu.memory_bytes)
        table.add_row(
            "on a GPU of FFNs", number(used / GB), f"{PERCENT * used / own:.1f} %", _bar(used / own)
        )
    return table


def _ops(rows: Sequence[dict[str, Any]]) -> Table:
    table = table_of(
        "Ops, each alone",
        "op",
        "stream",
        "runs",
        "us",
        "GFLOP",
        "MB HBM",
        "MB sent",
        "bound by",
        "MFU",
        "MBU",
        "source",
    )
    for row in rows:
        sent = row["link_bytes"] + row["network_bytes"]
        table.add_row(
            row["name"],
            row["stream"],
            str(row["count"]),
            number(row["time_s"] / US),
            number(row["flops"] / GIGA),
            number(row["bytes"] / MEGA),
            number(sent / MEGA),
            row["bound"],
            "" if not row["mfu"] else f"{PERCENT * row['mfu']:.0f} %",
            "" if row["mbu"] is None else f"{PERCENT * row['mbu']:.0f} %",
            row["source"].split(":")[0] + ("*" if row["flag"] else ""),
        )
    table.caption = "* outside what was timed, derived or by convention: --why"
    return table


def _bar(share: float) -> str:
    cells = round(min(max(share, 0.0), 1.0) * BAR_CELLS)
    return "█" * cells
