"""The charts of a report, drawn from its values: one place for what the page shows and what a test compares."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perfmodel.economics.utilisation import usd_at_utilisation
from perfmodel.output.charts.base import Figure
from perfmodel.output.charts.money import (
    break_even_chart,
    money_chart,
    speed_cost_chart,
    tornado_chart,
    waterfall_chart,
)
from perfmodel.output.charts.shares import breakdown_chart
from perfmodel.units import MS, PERCENT

if TYPE_CHECKING:
    import pandas as pd

LEAST_PCT = 2
"""Where the cost curve begins: below, it is off any chart."""


def scenario_charts(values: Mapping[str, Any]) -> dict[str, Figure]:
    """Charts of one entry of ``scenarios``, by name; money's are left out where GPUs have no price."""
    step, money = values["step"], values["money"]
    priced = money["usd_per_gpu_hour"] > 0.0
    found = {"time": breakdown_chart(step["breakdown_s"], unit="ms", scale=MS)}
    if priced:
        found["money"] = money_chart(money["usd_by_op_class"])
    if values["sensitivity"]["levers"]:
        found["tornado"] = tornado(values)
    if priced and money["usd_per_million_output_tokens"] is not None and step["phase"] != "prefill":
        found["break_even"] = break_even(values)
    return found


def lever_frame(sensitivity: Mapping[str, Any], key: str) -> "pd.DataFrame":
    """A tornado's rows, the widest first; ``key`` is usd_per_million_tokens or tpot_s."""
    import pandas as pd

    rows = [
        {
            "name": lever["lever"],
            "low": lever["low"][key],
            "high": lever["high"][key],
            "low_label": lever["low"]["label"],
            "high_label": lever["high"]["label"],
        }
        for lever in sensitivity["levers"]
    ]
    frame = pd.DataFrame(rows)
    return frame.iloc[(frame["high"] - frame["low"]).abs().argsort(kind="stable")[::-1]].reset_index(
        drop=True
    )


def tornado(values: Mapping[str, Any]) -> Figure:
    """What moves the cost of a scenario's tokens; the time per token where GPUs have no price."""
    found, step = values["sensitivity"], values["step"]
    bounds = step.get("intervals", {})
    kind = "input" if step["phase"] == "prefill" else "output"
    if found["usd_per_million_tokens"] > 0.0:
        return tornado_chart(
            lever_frame(found, "usd_per_million_tokens"),
            base=found["usd_per_million_tokens"],
            title=f"USD per million {kind} tokens",
            interval=bounds.get(f"usd_per_million_{kind}_tokens"),
        )
    return tornado_chart(
        lever_frame(found, "tpot_s"),
        base=found["tpot_s"],
        title="time per output token",
        interval=bounds.get("tpot_s"),
        is_money=False,
    )


def break_even(values: Mapping[str, Any]) -> Figure:
    """What idle GPUs cost per token, and where a stated price is met."""
    import numpy as np
    import pandas as pd

    usd = values["money"]["usd_per_million_output_tokens"]
    at: Any = np.arange(LEAST_PCT, PERCENT + 1.0)
    frame = pd.DataFrame({"utilisation_pct": at, "usd": usd_at_utilisation(usd, at)})
    bounds = values["step"].get("intervals", {}).get("usd_per_million_output_tokens")
    if bounds:
        frame["low"], frame["high"] = (usd_at_utilisation(bound, at) for bound in bounds)
    found = values["break_even"]
    if found is None:
        return break_even_chart(frame)
    return break_even_chart(
        frame,
        api_usd=found["api_usd_per_million_output_tokens"],
        utilisation_pct=found["utilisation_pct"],
        interval_pct=found["interval_pct"],
    )


def comparison_chart(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Scenarios that decode, by speed and cost; None where fewer than two do."""
    import pandas as pd

    decoding = [row for row in rows if row["tokens_per_s_per_user"] is not None]
    if len(decoding) < 2:
        return None
    frame = pd.DataFrame(
        {
            "name": row["name"],
            "speed": row["tokens_per_s_per_user"],
            "usd": row["usd_per_million_output_tokens"],
            **_ends("speed", row["intervals"]["tokens_per_s_per_user"]),
            **_ends("usd", row["intervals"]["usd_per_million_output_tokens"]),
        }
        for row in decoding
    )
    return speed_cost_chart(frame)


def _ends(name: str, bounds: Sequence[float] | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def difference_charts(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Waterfalls of a difference: money, and time per output token where there is one."""
    import pandas as pd

    frame = pd.DataFrame(found["rows"])
    ends = {"start_label": found["name_a"], "end_label": found["name_b"]}
    charts = {}
    if found["usd_a"] or found["usd_b"]:
        kind = "input" if found["phase"] == "prefill" else "output"
        charts["usd"] = waterfall_chart(
            frame.rename(columns={"delta_usd": "delta"}),
            start=found["usd_a"],
            end=found["usd_b"],
            title=f"USD per million {kind} tokens",
            **ends,
        )
    if found["tpot_a_s"] is not None:
        charts["tpot"] = waterfall_chart(
            frame.rename(columns={"delta_tpot_s": "delta"}),
            start=found["tpot_a_s"],
            end=found["tpot_b_s"],
            title="time per output token",
            is_money=False,
            **ends,
        )
    return charts
