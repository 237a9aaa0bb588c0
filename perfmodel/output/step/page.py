"""One step as a single HTML page that opens offline: results, timelines, where the time goes, memory, ops."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from perfmodel.answers.caveats import condition
from perfmodel.answers.step import StepAnswer
from perfmodel.files import atomic_write
from perfmodel.ops.memory import usable_bytes
from perfmodel.output.charts.shares import breakdown_chart, memory_chart
from perfmodel.output.charts.timeline import timeline_chart
from perfmodel.output.colours import EXPOSED, MEMORY_COLOURS, OP_CLASS_COLOURS, memory_name, op_class_name
from perfmodel.output.formats import count, duration, percent, scaled, significant, usd
from perfmodel.output.pages import embed, render
from perfmodel.output.scenario.reproduce import scenario_title, step_command
from perfmodel.output.step.spans import OpRun, op_runs
from perfmodel.output.step.windows import (
    Window,
    exposed_rows,
    lanes_of,
    layer_rows,
    layer_window,
    marks_text,
    op_rows,
    stage_rows,
    step_window,
)
from perfmodel.overlap.analysis import slowest_rank
from perfmodel.overlap.schedules import STAGES
from perfmodel.spec.messages import number_of
from perfmodel.spec.prices import Prices
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, MS, PERCENT, US

TEMPLATE = Path(__file__).with_name("step.html.j2")

SCHEDULES = {
    "sequential": "one op after another, nothing overlapped",
    "sbo": "single-batch overlap (sbo)",
    "sbo-engine": "single-batch overlap as the released engine does it (sbo-engine)",
    "tbo": "two-batch overlap (tbo)",
    "tbo-report": "two-batch overlap as the report's Table 7 counts it (tbo-report)",
}
"""Schedule -> what a reader is told it is."""

BUTTONS = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
"""What plotly offers above a timeline."""

LONG_LAYER_S = 5 * MS
"""From here on a layer is drawn in milliseconds."""

Cell = dict[str, Any]


def write_step_html(answer: StepAnswer, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: the path can't be written.
    """
    atomic_write(path, step_html(answer))


def step_html(answer: StepAnswer) -> str:
    """The page as text; the same answer gives the same bytes."""
    return render(TEMPLATE, page(answer))


def page(answer: StepAnswer) -> dict[str, Any]:
    """What the template shows, numbers already in words."""
    scenario, values, step = answer.scenario, answer.values, answer.step
    rank = slowest_rank(step.timeline)
    runs = op_runs(step, rank)
    command, is_exact = step_command(scenario)
    return {
        "title": scenario_title(scenario),
        "question": question(scenario),
        "condition": condition(scenario),
        "headline": headline(values),
        "facts": facts(values),
        "figures": _figures(answer, runs),
        "layer": _layer_text(answer, runs, rank),
        "stages": _stages(answer),
        "breakdown": _breakdown(values),
        "memory": _memory(answer),
        "memory_text": _memory_text(answer),
        "ops": _ops(values["ops"]),
        "sources": list(_sources(values["ops"])),
        "basis": values["basis"]["text"],
        **caveat_blocks(values),
        "provenance": _provenance(answer),
        "command": command,
        "is_exact": is_exact,
        "exposed_colour": EXPOSED,
    }


def caveat_blocks(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Dangers, notes and standing caveats, as caveats.html.j2 shows them."""
    dangers = set(values["dangers"])
    return {
        "dangers": values["dangers"],
        "notes": [text for text in values["warnings"] if text not in dangers],
        "caveats": values["caveats"],
    }


def question(scenario: Scenario) -> str:
    """What the page answers, in one sentence."""
    d = scenario.deployment
    verb = {"decode": "decode", "prefill": "prefill", "mixed": "decode and prefill in one batch"}[d.phase]
    gpus = number_of(d.num_gpus, f"{scenario.gpu_names} {scenario.cluster.gpu.kind}")
    work = []
    if d.phase != "prefill":
        context = number_of(d.context_tokens, "token")
        work.append(
            f"{number_of(d.batch_per_gpu, 'request')} per {d.batch_gpu} and {context} of context each"
        )
    if d.phase != "decode":
        work.append(
            f"{count(d.prefill_requests_per_gpu)} x {number_of(d.prefill_tokens, 'prompt token')} per {d.batch_gpu}"
        )
    drafts = d.mtp.draft_tokens if d.phase != "prefill" else 0
    if drafts:
        work.append(f"{number_of(drafts, 'draft token')} {d.mtp.words}")
    return (
        f"How fast does {scenario.model.name} {verb} on {gpus} with {', '.join(work)}, under {SCHEDULES[d.overlap]}, "
        f"and what does it cost at {usd(scenario.replica_usd_per_gpu_hour)} per GPU hour?"
    )


def headline(values: Mapping[str, Any]) -> list[Cell]:
    """The figures that answer the question; those that the phase does not have are left out."""
    cells = [
        _cell(values, "tokens_per_s_per_user", "tokens/s per user", significant),
        _cell(values, "output_tokens_per_s_per_gpu", "output tokens/s per GPU", significant),
        _cell(values, "input_tokens_per_s_per_gpu", "input tokens/s per GPU", significant),
        _cell(values, "usd_per_million_output_tokens", "per million output tokens", usd),
        _cell(values, "usd_per_million_input_tokens", "per million input tokens", usd),
        _cell(values, "step_time_s", "step time", duration),
        _cell(values, "tpot_s", "TPOT: step time over tokens per step", duration),
        _cell(values, "ttft_s", "TTFT, queueing left out", duration),
        _cell(values, "num_gpus", "GPUs", count),
    ]
    if values["ttft_s"] is not None:
        cells = [cell for cell in cells if cell["key"] != "step_time_s"]
    return [cell for cell in cells if cell["value"] is not None]


def facts(values: Mapping[str, Any]) -> list[Cell]:
    """Figures that explain the headline."""
    return [
        _cell(
            values, "overlap_pct", "of communication hidden behind compute", lambda v: percent(v / PERCENT)
        ),
        _cell(values, "exposed_communication_s", "exposed communication per step", duration),
        _cell(values, "mfu", "MFU: FLOPs over peak, by number format", percent),
        _cell(values, "mbu", "MBU: HBM bytes over peak bandwidth", percent),
        _cell(values, "max_batch_per_gpu", "requests per GPU would fit", count),
    ]


def _cell(values: Mapping[str, Any], key: str, label: str, text: Any) -> Cell:
    value, bounds = values[key], values.get("intervals", {}).get(key)
    return {
        "key": key,
        "label": label,
        "value": value,
        "text": None if value is None else text(value),
        "interval": f"80 %: {text(bounds[0])} to {text(bounds[1])}" if bounds else "",
    }


def _figures(answer: StepAnswer, runs: Sequence[OpRun]) -> dict[str, str]:
    """The page's charts, each as a piece of HTML."""
    values, scenario = answer.values, answer.scenario
    layer = layer_window(answer.step.segments, runs)
    return {
        "layer": embed(layer_figure(layer), "layer", buttons=BUTTONS),
        "step": embed(step_figure(step_window(runs)), "step", buttons=BUTTONS),
        "breakdown": embed(breakdown_chart(values["breakdown_s"], unit="ms", scale=MS), "breakdown"),
        "memory": embed(
            memory_chart(
                values["memory_bytes"],
                usable=float(usable_bytes(scenario)),
                device=float(scenario.cluster.gpu.memory_bytes),
                unit="GB",
                scale=GB,
            ),
            "memory",
        ),
    }


def layer_figure(window: Window) -> Any:
    """The timeline of one layer (or of two, where they carry over), with the schedule's stages."""
    unit_s, unit = (US, "µs") if window.seconds < LONG_LAYER_S else (MS, "ms")
    strips = stage_rows(window, unit_s)
    one_batch = len({run.launch.micro_batch for run in window.runs}) == 1
    return timeline_chart(
        op_rows(window, unit_s, detailed=True),
        lanes=lanes_of(window, strips),
        end=window.seconds / unit_s,
        unit=unit,
        exposed=exposed_rows(window, unit_s),
        strip=strips,
        bands=strips if one_batch else (),
    )


def step_figure(window: Window) -> Any:
    """The timeline of the whole step, every op."""
    strips = layer_rows(window, MS)
    return timeline_chart(
        op_rows(window, MS, detailed=False),
        lanes=lanes_of(window, strips),
        end=window.seconds / MS,
        unit="ms",
        exposed=exposed_rows(window, MS),
        strip=strips,
        slider=True,
    )


def _layer_text(answer: StepAnswer, runs: Sequence[OpRun], rank: int) -> Cell:
    """Words around the one-layer picture."""
    window = layer_window(answer.step.segments, runs)
    shown = list(dict.fromkeys(run.place for run in window.runs if not window.neighbour(run)))
    num_ranks = answer.step.timeline.num_ranks
    return {
        "title": " and ".join(shown).capitalize() if len(shown) <= 2 else "One layer",
        "time": duration(window.end_s - window.start_s),
        "num_layers": answer.scenario.model.num_layers,
        "num_shown": len(window.shown),
        "marks": marks_text(window),
        "rank": f"Rank {rank}, the slowest of {count(num_ranks)}" if num_ranks > 1 else "",
        "stages": [
            text for key, text in STAGES.items() if any(run.launch.stage == key for run in window.runs)
        ],
    }


def _stages(answer: StepAnswer) -> list[Cell]:
    repeats = {segment.name: segment.repeat for segment in answer.step.segments}
    total = answer.step.step_time_s
    return [
        {
            "name": STAGES.get(row["stage"], row["stage"]),
            "segment": row["segment"] if row["segment"] != row["stage"] else "",
            "each": duration(row["seconds"] / repeats[row["segment"]]),
            "count": count(repeats[row["segment"]]),
            "seconds": row["seconds"],
            "time": duration(row["seconds"]),
            "share": percent(row["seconds"] / total),
        }
        for row in answer.values["stages_s"]
        if row["seconds"] > 0
    ]


def _breakdown(values: Mapping[str, Any]) -> list[Cell]:
    return [
        {
            "key": name,
            "name": op_class_name(name),
            "colour": OP_CLASS_COLOURS[name],
            "seconds": seconds,
            "time": duration(seconds),
            "share": percent(seconds / values["step_time_s"]),
        }
        for name, seconds in values["breakdown_s"].items()
    ]


def _memory(answer: StepAnswer) -> list[Cell]:
    device = answer.scenario.cluster.gpu.memory_bytes
    return [
        {
            "key": name,
            "name": memory_name(name),
            "colour": MEMORY_COLOURS[name],
            "bytes": size,
            "size": scaled(size, "B"),
            "share": percent(size / device),
        }
        for name, size in answer.values["memory_bytes"].items()
    ]


def _memory_text(answer: StepAnswer) -> str:
    scenario = answer.scenario
    used = sum(answer.values["memory_bytes"].values())
    usable, device = float(usable_bytes(scenario)), float(scenario.cluster.gpu.memory_bytes)
    fits = (
        f"{scaled(used, 'B')} of {scaled(usable, 'B')} usable"
        if used <= usable
        else (f"{scaled(used, 'B')} needed, {scaled(usable, 'B')} usable: this could not run")
    )
    text = (
        f"{fits}; usable is {PERCENT * usable / device:.0f}% of the device's {scaled(device, 'B')}, the "
        f"rest the engine keeps from the cache (1 GB = 1e9 bytes)."
    )
    ffns = answer.values.get("ffn_memory_bytes")
    if ffns is None:
        return text
    own = scaled(float(scenario.ffn_cluster.gpu.memory_bytes), "B")
    return f"{text} A GPU of FFNs holds {scaled(sum(ffns.values()), 'B')} of its {own}."


def _sources(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The sources of the ops' times, numbered from 1."""
    names = dict.fromkeys(row["source"] for row in rows if row["time_s"])
    return {name: number for number, name in enumerate(names, start=1)}


def _ops(rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """The op table: text to show and value to sort by, column by column."""
    sources = _sources(rows)
    return [
        {
            "name": row["name"],
            "op_class": op_class_name(row["op_class"]),
            "colour": OP_CLASS_COLOURS[row["op_class"]],
            "stream": row["stream"],
            "stage": row["stage"],
            "micro_batch": row["micro_batch"],
            "numbers": _op_numbers(row),
            "bound": row["bound"],
            "kind": row["source"].partition(":")[0],
            "source": sources[row["source"]],
            "flag": row["flag"],
        }
        for row in rows
        if row["time_s"]
    ]


def _op_numbers(row: Mapping[str, Any]) -> list[tuple[float, str]]:
    sent = row["link_bytes"] + row["network_bytes"]
    total = row["time_s"] * row["count"]
    communicates = row["stream"] in ("link", "network")
    return [
        (row["count"], count(row["count"])),
        (row["time_s"], duration(row["time_s"])),
        (total, duration(total)),
        (row["flops"], scaled(row["flops"], "FLOP") if row["flops"] else ""),
        (row["bytes"], scaled(row["bytes"], "B") if row["bytes"] else ""),
        (sent, scaled(sent, "B") if sent else ""),
        (row["mfu"] or 0.0, "" if communicates or not row["mfu"] else percent(row["mfu"])),
        (row["mbu"] or 0.0, "" if communicates or not row["mbu"] else percent(row["mbu"])),
    ]


def _provenance(answer: StepAnswer) -> list[tuple[str, str]]:
    """What the answer rests on, as name and text; unknown is left out."""
    scenario, found = answer.scenario, answer.values["provenance"]
    cluster, ffns = scenario.cluster, scenario.ffn_cluster
    rows = [
        ("scenario", f"{scenario.name}, hash {found['scenario_hash']}"),
        ("scenario's source", scenario.source),
        ("layout", _layout(scenario)),
        ("GPU", f"{cluster.gpu.name}: {cluster.gpu.source}" if cluster.gpu.source else cluster.gpu.name),
        ("cluster", f"{cluster.name}: {cluster.source}" if cluster.source else cluster.name),
        ("GPU and cluster of FFNs", f"{ffns.gpu.name}, {ffns.name}" if scenario.two_clusters else ""),
        ("price", _price(scenario.prices)),
        ("price of FFNs' GPUs", _price(scenario.ffn_side.prices) if scenario.ffns else ""),
        ("calibration", found["calibration"]),
        ("calibration of FFNs", found["ffns"]["calibration"] if scenario.ffns else ""),
        ("perfmodel", found["perfmodel"]),
        ("seed", str(found["seed"])),
    ]
    return [(name, text) for name, text in rows if text]


def _price(prices: Prices) -> str:
    amount = f"{usd(prices.usd_per_gpu_hour)} per GPU hour"
    return ", ".join(part for part in (amount, prices.term, prices.date, prices.source) if part)


def _layout(scenario: Scenario) -> str:
    d, p = scenario.deployment, scenario.deployment.precision
    parts = [f"attention DP{d.attention_dp} TP{d.attention_tp}", f"dense TP{d.dense_tp}", f"EP{d.ep}"]
    parts += [f"expert TP{d.moe_tp}"] * (d.moe_tp > 1) + [f"PP{d.pp}"] * (d.pp > 1) + d.division_words
    formats = f"linear {p.linear}, experts {p.experts}, attention {p.attention}, KV cache {p.kv_cache}"
    return f"{', '.join(parts)}; {formats}; dispatch {p.dispatch}, combine {p.combine}; {d.backend}"
