"""A report in words: questions, answers, and the rows of its tables as (key, label, value, text)."""

from collections.abc import Iterator, Mapping
from typing import Any

from perfmodel.answers.caveats import condition
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.report.decision_words import sentence
from perfmodel.output.report.figure import Figure, dollars, figure_of
from perfmodel.output.serve.fleet_words import fleet_sizes
from perfmodel.output.step.page import question
from perfmodel.report.content import Report
from perfmodel.report.part import Part
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.slo import Slo
from perfmodel.units import MEGA, PERCENT


def report_values(report: Report) -> dict[str, Any]:
    """``perfmodel report --json``: the report's values with each scenario's question and answer in words."""
    scenarios = [
        {
            **part.values,
            "question": question(part.scenario),
            "answer": answer(part),
            "traffic_answer": traffic_answer(part),
            "decision_answer": sentence(part),
        }
        for part in report.parts
    ]
    return {**report.values, "scenarios": scenarios}


def answer(part: Part) -> str:
    """The answer in one sentence, with its 80 % interval."""
    if part.step is None:
        return f"No answer: {part.values['reason']}"
    values, d = part.step.values, part.scenario.deployment
    where = f"on {_gpus(d.num_gpus, part.scenario)}"
    if d.phase == "prefill":
        speed = f"reads {significant(values['input_tokens_per_s_per_gpu'])} prompt tokens/s per GPU {where}"
        kind = "input"
    else:
        speed = f"gives each user {significant(values['tokens_per_s_per_user'])} tokens/s {where}"
        kind = "output"
    key = f"usd_per_million_{kind}_tokens"
    price, even = part.scenario.replica_usd_per_gpu_hour, condition(part.scenario)
    if not price:
        bounds = _said(values.get("intervals", {}).get("step_time_s"), duration)
        step = f"a step taking {duration(values['step_time_s'])}{bounds}"
        text = f"{part.scenario.model.name} {speed}, {step}{f', {even}' if even else ''}"
        return f"{text}; its {part.scenario.cluster.gpu.kind}s have no price."
    bounds = _said(values.get("intervals", {}).get(key), usd)
    full = "if batches are always full" + (f" and{even.removeprefix('if')}" if even else "")
    return (
        f"{part.scenario.model.name} {speed} and costs {usd(values[key])} per million {kind} tokens at "
        f"{usd(price)} per GPU hour{bounds}, {full}."
    )


def _said(bounds: Any, text: Any) -> str:
    if not bounds:
        return " (no interval is known)"
    return f" (80 % interval: {text(bounds[0])} to {text(bounds[1])})"


def _gpus(number: int, scenario: Scenario) -> str:
    return number_of(number, f"{scenario.gpu_names} {scenario.cluster.gpu.kind}")


def traffic_answer(part: Part, *, has_cost: bool = True) -> str:
    """What the traffic costs (left out where a decision says it) and how long it waits, in one sentence; empty where
    it is not simulated.
    """
    if part.serve is None:
        return ""
    values, money = part.serve.values, part.values["money"]
    served = money["served"]
    ttft, e2e = values["ttft_s"], values["e2e_s"]
    text = (
        f"{number_of(values['requests'], 'request')} over {duration(values['duration_s'])} on "
        f"{_gpus(money['num_gpus'], part.scenario)} see a first token after {duration(ttft['p50'])} in the median "
        f"({duration(ttft['p99'])} at p99) and end after {duration(e2e['p50'])} ({duration(e2e['p99'])})"
    )
    if money["usd_per_gpu_hour"] and has_cost:
        text += (
            f"; paid for the whole run, these GPUs cost {usd(served['usd_per_million_total_tokens'])} per million "
            f"tokens, input and output together, and {dollars(money['usd_per_month'])} per month"
        )
    fill = served["output_rate_pct_of_full_batch"]
    if fill is not None:
        text += f"; the traffic asks for {percent(fill / PERCENT)} of the output tokens/s of full batches"
    even = condition(part.scenario)
    return f"{text}{f', {even}' if even else ''}."


# --- figures of one scenario ----------------------------------------------------------------------------------------


def step_figures(part: Part, at: str) -> list[Figure]:
    """Speed and cost of the step; what the phase does not have is left out."""
    return list(_figures(part.values["step"], f"{at}.step", _STEP))


def cost_figures(part: Part, at: str) -> list[Figure]:
    """Money at full batches, and of a month."""
    money = part.values["money"]
    found = list(_figures(money, f"{at}.money", _MONEY))
    notes = {
        "usd_per_million_output_tokens": (
            "full batches, prompts not counted"
            if part.scenario.deployment.phase == "decode"
            else "the prompts of the same steps are charged to the output"
        ),
        "usd_per_million_input_tokens": money["input_basis"],
        "usd_per_month": f"{number_of(money['num_gpus'], 'GPU')} rented all month (365 / 12 days)",
    }
    return [
        Figure(
            one.key,
            one.label,
            one.value,
            one.text,
            one.interval,
            one.interval_text,
            notes.get(one.key.rpartition(".")[2], ""),
        )
        for one in found
    ]


def traffic_figures(part: Part, at: str) -> list[Figure]:
    """Rates and money of the traffic as simulated."""
    if part.serve is None:
        return []
    values, served = part.values["serve"], part.values["money"]["served"]
    rates = [row for row in _SERVE if row[0] != "goodput_requests_per_s" or part.scenario.slo != Slo()]
    priced = part.values["money"]["usd_per_gpu_hour"] > 0.0
    decided = part.values["decision"] is not None  # which has one price, at the load that it sizes for
    costs = [row for row in _SERVED if (priced and not decided) or row[2] is not usd]
    bounded = {**served, "intervals": values.get("intervals", {})}
    return [*_figures(values, f"{at}.serve", rates), *_figures(bounded, f"{at}.money.served", costs)]


def latency_rows(part: Part, at: str) -> list[tuple[str, list[Figure]]]:
    """(name, mean and percentiles) of the traffic's latencies."""
    if part.serve is None:
        return []
    rows = []
    for key, name in (
        ("ttft_s", "TTFT"),
        ("tpot_s", "TPOT"),
        ("e2e_s", "E2E"),
        ("queue_s", "waiting in the queue, of TTFT"),
    ):
        found = part.values["serve"][key]
        if found is not None:
            bounds = part.values["serve"].get("intervals", {})
            cells = [
                figure_of(f"{at}.serve.{key}.{one}", one, found[one], duration, bounds.get(f"{key}.{one}"))
                for one in ("mean", "p50", "p90", "p99")
            ]
            rows.append((name, cells))
    return rows


def fleet_rows(part: Part, at: str) -> list[tuple[str, list[Figure], str]]:
    """(basis, figures, note) of a fleet for a day's traffic."""
    fleet = part.values["money"]["fleet"] if part.serve is not None else None
    if not fleet:
        return []
    rows = []
    for key, name, size, note in fleet_sizes(fleet, part.values["serve"]["capacity_used_pct"]):
        cells = [
            figure_of(f"{at}.money.fleet.{key}.{one}", label, size[one], text)
            for one, label, text in (
                ("requests_per_s_per_replica", "requests/s per replica", significant),
                ("replicas", "replicas", count),
                ("num_gpus", "GPUs", count),
                ("usd_per_day", "per day", dollars),
                ("usd_per_month", "per month", dollars),
            )
            if size[one] is not None
        ]
        if cells:
            rows.append((name, cells, note))
    return rows


def fleet_title(part: Part) -> str:
    """What day the fleet is for."""
    fleet = part.values["money"]["fleet"]
    tokens = significant(fleet["tokens_per_day"] / MEGA)
    return (
        f"A day of {number_of(round(fleet['requests_per_day']), 'request')} ({tokens} million tokens), "
        f"busiest at {fleet['peak_to_mean']:g} times its mean: {significant(fleet['peak_requests_per_s'])} requests/s"
    )


def _figures(values: Mapping[str, Any], at: str, wanted: Any) -> Iterator[Figure]:
    intervals = values.get("intervals", {})
    for key, label, text in wanted:
        if values.get(key) is not None:
            yield figure_of(f"{at}.{key}", label, values[key], text, intervals.get(key))


def _pct(value: float) -> str:
    return percent(value / PERCENT)


_STEP = (
    ("tokens_per_s_per_user", "tokens/s per user", significant),
    ("output_tokens_per_s_per_gpu", "output tokens/s per GPU", significant),
    ("input_tokens_per_s_per_gpu", "input tokens/s per GPU", significant),
    ("tpot_s", "TPOT: time per output token", duration),
    ("ttft_s", "TTFT, queueing left out", duration),
    ("step_time_s", "step time", duration),
    ("exposed_communication_s", "exposed communication per step", duration),
    ("overlap_pct", "of communication hidden behind compute", _pct),
    ("mfu", "MFU: FLOPs over peak", percent),
    ("mbu", "MBU: HBM bytes over peak bandwidth", percent),
    ("max_batch_per_gpu", "requests per GPU would fit", count),
)
_MONEY = (
    ("usd_per_million_output_tokens", "per million output tokens", usd),
    ("usd_per_million_input_tokens", "per million input tokens", usd),
    ("usd_per_month", "per month for these GPUs", dollars),
)
_SERVE = (
    ("requests_per_s", "requests/s", significant),
    ("goodput_requests_per_s", "requests/s that keep the objectives", significant),
    ("output_tokens_per_s_per_gpu", "output tokens/s per GPU", significant),
    ("input_tokens_per_s_per_gpu", "input tokens/s per GPU", significant),
    ("busy_pct", "share of the time in which some step runs, however full", _pct),
    ("capacity_used_pct", "capacity used: share of the time, were this work done in full steps", _pct),
    ("prefill_capacity_used_pct", "the same of the prefill replicas", _pct),
    ("gpu_hours", "GPU hours", significant),
)
_SERVED = (
    ("usd_per_million_total_tokens", "$ per million tokens, input and output together", usd),
    ("usd_per_million_output_tokens", "$ per million output tokens, all cost on them", usd),
    ("usd_per_million_input_tokens", "$ per million input tokens, all cost on them", usd),
    (
        "full_batch_usd_per_million_total_tokens",
        "$ per million tokens in this proportion, were batches full",
        usd,
    ),
    ("input_tokens_per_output_token", "input tokens per output token", significant),
    ("output_rate_pct_of_full_batch", "output tokens/s, of what full batches would give", _pct),
)
