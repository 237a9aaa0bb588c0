"""The charts of a report as SVG, drawn from its values, each mark with its place in ``--json``."""

from collections.abc import Mapping, Sequence
from typing import Any

from perfmodel.output.colours import OP_CLASS_COLOURS, op_class_name
from perfmodel.output.formats import duration, usd
from perfmodel.output.report.decision_words import amount
from perfmodel.output.svg import bars, lines


def scenario_drawings(values: Mapping[str, Any], at: str) -> dict[str, str]:
    """Charts of one entry of ``scenarios`` (whose place is ``at``), by name; money's are left out where GPUs have no
    price.
    """
    step, money = values["step"], values["money"]
    priced = money["usd_per_gpu_hour"] > 0.0
    found = {
        "time": _shares(step["breakdown_s"], "time on the critical path", duration, f"{at}.step.breakdown_s")
    }
    if priced:
        found["money"] = _shares(
            money["usd_by_op_class"], "USD per million tokens", usd, f"{at}.money.usd_by_op_class"
        )
    if values["sensitivity"]["levers"]:
        found["tornado"] = _tornado(values, at)
    if priced and money["usd_per_million_output_tokens"] is not None and step["phase"] != "prefill":
        found["break_even"] = _utilisation(values, at)
    if values["decision"] is not None and values["decision"]["gpus"]["usd_per_month"]:
        found |= _decision(values["decision"], f"{at}.decision")
    return found


def _shares(by_class: Mapping[str, float], title: str, text: Any, at: str) -> str:
    parts = [
        bars.Part(op_class_name(name), value, OP_CLASS_COLOURS[name], f"{at}.{name}")
        for name, value in by_class.items()
    ]
    return bars.share_chart(parts, title=title, text=text)


def _tornado(values: Mapping[str, Any], at: str) -> str:
    """What moves the cost of a scenario's tokens; the time per token where GPUs have no price."""
    found, step = values["sensitivity"], values["step"]
    bounds = step.get("intervals", {})
    kind = "input" if step["phase"] == "prefill" else "output"
    priced = found["usd_per_million_tokens"] > 0.0
    key = "usd_per_million_tokens" if priced else "tpot_s"
    swings = [
        bars.Swing(
            one["lever"],
            one["low"][key],
            one["high"][key],
            one["low"]["label"],
            one["high"]["label"],
            f"{at}.sensitivity.levers.{number}",
        )
        for number, one in enumerate(found["levers"])
    ]
    return bars.tornado_chart(
        swings,
        base=found[key],
        title=f"USD per million {kind} tokens" if priced else "time per output token",
        text=usd if priced else duration,
        interval=bounds.get(f"usd_per_million_{kind}_tokens" if priced else "tpot_s"),
    )


def _utilisation(values: Mapping[str, Any], at: str) -> str:
    found = values["break_even"]
    return lines.utilisation_chart(
        values["money"]["usd_per_million_output_tokens"],
        interval=values["step"].get("intervals", {}).get("usd_per_million_output_tokens"),
        broken=None
        if found is None
        else lines.Break(
            found["api_usd_per_million_output_tokens"], found["utilisation_pct"], found["interval_pct"]
        ),
        text=usd,
        key=f"{at}.money.usd_per_million_output_tokens",
    )


def _decision(found: Mapping[str, Any], at: str) -> dict[str, str]:
    """The months, and the way from the price of full batches to that of this traffic."""
    months = found["months"]

    def course(name: str) -> list[float] | None:
        return None if months[0][name] is None else [month[name]["usd"] for month in months]

    drawn = {
        "months": lines.months_chart(
            course("expected") or [],
            course("low"),
            course("peak"),
            title="USD a month",
            text=amount,
            key=f"{at}.months",
        )
    }
    if found["bridge"]:
        start, *steps = found["bridge"]
        drawn["bridge"] = bars.waterfall_chart(
            [
                bars.Change(row["component"], row["usd"], f"{at}.bridge.{n}.usd")
                for n, row in enumerate(steps, 1)
            ],
            start=start["usd"],
            end=found["usd_per_million_tokens"],
            names=("full batches", "this traffic"),
            title="USD per million tokens, input and output together",
            text=usd,
        )
    return drawn


def comparison_drawing(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Scenarios that decode, by speed and cost; None where fewer than two do."""
    points = [
        lines.Point(
            row["name"],
            row["tokens_per_s_per_user"],
            row["usd_per_million_output_tokens"],
            row["intervals"]["tokens_per_s_per_user"],
            row["intervals"]["usd_per_million_output_tokens"],
            f"comparison.{number}.usd_per_million_output_tokens",
        )
        for number, row in enumerate(rows)
        if row["tokens_per_s_per_user"] is not None
    ]
    return lines.speed_cost_chart(points, text=usd) if len(points) > 1 else None


def difference_drawings(found: Mapping[str, Any], at: str) -> dict[str, str]:
    """Waterfalls of a difference (whose place is ``at``): money, and time per output token where there is one."""
    names = (found["name_a"], found["name_b"])
    drawn = {}
    if found["usd_a"] or found["usd_b"]:
        kind = "input" if found["phase"] == "prefill" else "output"
        drawn["usd"] = _waterfall(found, at, "usd", names, f"USD per million {kind} tokens", usd)
    if found["tpot_a_s"] is not None:
        drawn["tpot"] = _waterfall(found, at, "tpot", names, "time per output token", duration)
    return drawn


def _waterfall(
    found: Mapping[str, Any], at: str, what: str, names: tuple[str, str], title: str, text: Any
) -> str:
    key, start, end = (
        ("delta_usd", found["usd_a"], found["usd_b"])
        if what == "usd"
        else ("delta_tpot_s", found["tpot_a_s"], found["tpot_b_s"])
    )
    changes = [
        bars.Change(row["component"], row[key], f"{at}.rows.{n}.{key}") for n, row in enumerate(found["rows"])
    ]
    return bars.waterfall_chart(changes, start=start, end=end, names=names, title=title, text=text)
