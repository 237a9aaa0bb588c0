"""A training run for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from perfmodel.answers.train import TrainAnswer
from perfmodel.output.caveats import folded
from perfmodel.output.colours import op_class_name
from perfmodel.output.console import console
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.scenario.reproduce import step_command
from perfmodel.output.tables import table_of
from perfmodel.output.train.differences import told
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, HOUR, MEGA, MS, TERA

MOST_RANKS = 8
"""Pipeline ranks whose memory is listed; of more, the first, the last and the fullest between."""
FEW_DAYS = 3.0
PARTS = 8
"""Parts of a difference that are listed."""


def print_train(answer: TrainAnswer) -> None:
    """Print one training run: what it takes, where a step's time goes, memory by pipeline rank."""
    out, values = console(), answer.values
    out.print(Text(train_title(answer.step.scenario), style="bold"))
    out.print(Text(layout_words(answer)))
    out.print(_results(answer))
    out.print(_breakdown(values))
    out.print(_memory(answer))
    if "difference" in values:
        found = values["difference"]
        out.print(difference_table(found, f"{found['name_b']} (b) against {found['name_a']} (a)"))
    if "sensitivity" in values:
        out.print(_levers(values["sensitivity"]))
    out.print("[dim]--html FILE draws the pipeline; --trace FILE opens in Perfetto; --json: SI units[/]")


def difference_table(why: Mapping[str, Any], title: str) -> Table:
    """A difference between two training tokens."""
    found = told(why, PARTS)
    table = table_of(title, found.unit, "a", "b", "difference")
    for row in found.rows:
        table.add_row(*row)
    return table


def _levers(found: Mapping[str, Any]) -> Table:
    """What moves a token's cost, the widest first; left out what the run does not have."""
    base = usd(found["usd_per_million_tokens"])
    table = table_of(
        f"What moves {base} per million tokens",
        "lever",
        "own",
        "low",
        "$/M",
        "high",
        "$/M",
        "why so far",
    )
    for one in found["levers"]:
        low, high = one["low"], one["high"]
        table.add_row(
            one["lever"],
            one["base_label"],
            low["label"],
            usd(low["usd_per_million_tokens"]),
            high["label"],
            usd(high["usd_per_million_tokens"]),
            Text(one["reason"], justify="left"),
        )
    return table


def print_caveats(values: dict[str, Any], *, why: bool) -> None:
    """Print the standing caveats, or how many there are."""
    out = console()
    if not why:
        out.print(Text(folded(values["caveats"]), style="dim"))
        return
    for text in values["caveats"]:
        out.print(Text(f"- {text}"))


def train_title(scenario: Scenario) -> str:
    """The scenario's own title, unless overrides may have made it untrue."""
    if scenario.title and "--set" not in step_command(scenario)[0]:
        return scenario.title
    assert scenario.training is not None, "answered"
    return f"{scenario.model.name}: training on {scenario.training.num_gpus:,} x {scenario.cluster.gpu.name}"


def train_command(scenario: Scenario) -> str:
    """The command that repeats it."""
    return step_command(scenario)[0].replace("perfmodel step", "perfmodel train", 1)


def layout_words(answer: TrainAnswer) -> str:
    """``2,048 h800-sxm: PP16 x DP128, EP64; dualpipe, 120 micro-batches of 1 x 4,096 tokens``."""
    t = answer.step.training
    sizes = {"TP": t.tp, "CP": t.cp, "PP": t.pp, "DP": t.dp}
    layout = " x ".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "one GPU"
    experts = {"EP": t.ep, "ETP": t.etp, "EDP": t.expert_dp}
    held = ", ".join(f"{name}{size}" for name, size in experts.items() if size > 1)
    moe = f"; experts {held}" if held and answer.step.scenario.model.moe else ""
    chunks = f", {t.virtual_stages} chunks per rank" if t.virtual_stages > 1 else ""
    return (
        f"{t.num_gpus:,} {answer.step.scenario.cluster.gpu.name}: {layout}{moe}; {t.schedule}{chunks}, "
        f"{t.micro_batches} micro-batches of {t.micro_batch_sequences} x {t.sequence_tokens:,} tokens, {t.precision}"
    )


def result_rows(answer: TrainAnswer) -> list[tuple[str, str, str]]:
    """(what, value, interval) of the headline figures."""
    values, intervals = answer.values, answer.values["intervals"]

    def between(name: str, form: Any) -> str:
        own = intervals.get(name)
        return f"{form(own[0])} to {form(own[1])} with 80 % probability" if own else ""

    per_gpu = "tokens_per_s_per_gpu"
    rows = [
        ("step time", duration(values["step_time_s"]), between("step_time_s", duration)),
        ("tokens/s per GPU", _whole(values[per_gpu]), between(per_gpu, _whole)),
        ("tokens/s", count(round(values["tokens_per_s"])), ""),
        (
            "model TFLOP/s per GPU",
            f"{values['model_flops_per_s_per_gpu'] / TERA:.0f}",
            "causal mask, recomputation left out",
        ),
        (
            "MFU",
            percent(values["mfu"]),
            f"of the BF16 peak; {percent(values['mfu_full_mask'])} with the full mask",
        ),
        ("bubble", percent(values["bubble_fraction"]), "of the step, mean over pipeline ranks"),
        (
            "exposed communication",
            percent(values["exposed_communication_fraction"]),
            exposed_words(values),
        ),
    ]
    if "offload" in values:
        rows.append(("host memory per GPU", *_on_host(values["offload"])))
    if "capacity" in values:
        found = values["capacity"]
        words = (
            f"room for {found['room_tokens']:,} tokens of a rank per expert; rows computed over chosen pairs"
        )
        rows.append(
            ("dropped pairs", percent(found["dropped_fraction"]), f"{words} {found['rows_over_pairs']:.3g}")
        )
    if "power_cap" in values:
        found = values["power_cap"]
        slower = percent(found["step_time_over_uncapped"] - 1.0)
        clock = percent(found["clock_fraction"])
        rows.append(("power cap", f"{slower} slower", f"products at {clock} of the clock they were timed at"))
    if "batch_ramp" in values:
        rows.append(("batch ramp", *_ramp(values["batch_ramp"])))
    if values["days"] is not None:
        failures = values["failures"]
        rows += [
            ("days", _days(values["days"]), between("days", _days)),
            ("GPU hours", _whole(values["gpu_hours"]), ""),
            ("$", usd_total(values["usd"]), between("usd", usd_total)),
            (
                "availability",
                percent(values["availability"]),
                f"{failures['mean']:.1f} failures; p10 to p90 of finishing: {_days(failures['days_p10'])} to "
                f"{_days(failures['days_p90'])} days",
            ),
        ]
        if values["energy_j"] is not None:
            rows.append(
                (
                    "energy",
                    f"{significant(values['energy_j'] / HOUR / MEGA)} MWh",
                    f"boards; {power_words(values)}",
                )
            )
        if values["checkpoints"]["interval_s"]:
            rows.append(
                (
                    "checkpoint every",
                    duration(values["checkpoints"]["interval_s"]),
                    _tiers(values["checkpoints"]),
                )
            )
    return rows


def _tiers(found: Mapping[str, Any]) -> str:
    """Size and times of checkpoints by tier; nothing where none are stated."""
    if "bytes_per_gpu" not in found:
        return ""
    words = f"{found['bytes_per_gpu'] / GB:.1f} GB per GPU, {duration(found['stall_s'])} each"
    if "storage_write_s" in found:
        every, write = duration(found["storage_interval_s"]), duration(found["storage_write_s"])
        words += f"; to storage every {every}, {write} in the background"
    return words


def _on_host(found: Mapping[str, Any]) -> tuple[str, str]:
    """(what the host holds, what of the update the GPU waits for)."""
    held = found["host_bytes_per_gpu"]
    parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in held.items() if size)
    waits = f"; the GPU waits {duration(found['host_update_s'])} for its update" if held["optimizer"] else ""
    return f"{sum(held.values()) / GB:.1f} GB", f"{parts}{waits}"


def _ramp(found: Mapping[str, Any]) -> tuple[str, str]:
    """(steps of smaller batches, what they add)."""
    levels = found["levels"]
    first = levels[0]
    return (
        f"{sum(one['steps'] for one in levels):,.0f} steps",
        f"from {first['global_batch_sequences']:,} sequences ({percent(first['bubble_fraction'])} bubble); "
        f"{duration(found['more_s'])} more than full batches",
    )


def power_words(values: Mapping[str, Any]) -> str:
    """What a GPU draws, and a token takes."""
    return (
        f"{values['power_w_per_gpu']:.0f} W per GPU in a step, {values['energy_j_per_token']:.3g} J per token"
    )


def usd_total(value: float) -> str:
    """Dollars of a run."""
    return f"{value / MEGA:,.2f} M" if value >= MEGA else usd(value)


def _whole(value: float) -> str:
    return count(round(value))


def _days(value: float) -> str:
    return f"{value:.2f}" if value < FEW_DAYS else f"{value:.1f}"


def exposed_words(values: dict[str, Any]) -> str:
    """Exposed communication by kind, as shares of the step."""
    step = values["step_time_s"]
    parts = [
        f"{name} {percent(one / step)}" for name, one in values["exposed_s"].items() if one > 0.0005 * step
    ]
    return ", ".join(parts)


def breakdown_rows(values: dict[str, Any]) -> list[tuple[str, float]]:
    """(part, seconds) of the step, mean over pipeline ranks."""
    return [
        (name if name.startswith("exposed") or name == "bubble" else op_class_name(name), seconds)
        for name, seconds in values["breakdown_s"].items()
    ]


def _results(answer: TrainAnswer) -> Any:
    table = table_of("Training", "", "", "")
    for name, value, interval in result_rows(answer):
        table.add_row(name, Text(value), Text(interval))
    return table


def _breakdown(values: dict[str, Any]) -> Any:
    table = table_of("Where a step's time goes (mean over pipeline ranks)", "part", "ms", "share")
    for name, seconds in breakdown_rows(values):
        table.add_row(name, f"{seconds / MS:,.0f}", percent(seconds / values["step_time_s"]))
    return table


def _memory(answer: TrainAnswer) -> Any:
    rows = answer.values["memory_by_stage"]
    device = answer.step.scenario.cluster.gpu.memory_bytes
    classes = list(answer.values["memory_bytes"])
    table = table_of(
        f"Memory by pipeline rank, GB of {device / GB:.1f}",
        "rank",
        "layers",
        *(name.replace("_", " ") for name in classes),
        "total",
    )
    shown = rows
    if len(rows) > MOST_RANKS:
        fullest = max(rows, key=lambda row: row["total"])
        shown = sorted((rows[0], rows[1], fullest, rows[-1]), key=lambda row: row["rank"])
        shown = [row for i, row in enumerate(shown) if row not in shown[:i]]
    for row in shown:
        layers = "+".join(str(number) for number in row["layers"])
        table.add_row(
            str(row["rank"]),
            layers,
            *(f"{row[name] / GB:.1f}" for name in classes),
            f"{row['total'] / GB:.1f}",
        )
    return table
