"""``perfmodel plan-train`` as a page: every layout a point, the winner's pipeline, why the next one loses, flags."""

from pathlib import Path
from typing import Any

import numpy as np

from perfmodel.explore.plan_training.answer import CLOSE, Candidate, TrainPlan, layout_words
from perfmodel.explore.plan_training.screen import Screened
from perfmodel.files import atomic_write
from perfmodel.output.charts.plan_training import Points, layouts_chart
from perfmodel.output.formats import count, duration, percent, significant, usd
from perfmodel.output.pages import embed, render
from perfmodel.output.plan_training.table import left_out
from perfmodel.output.train.differences import told
from perfmodel.output.train.html import BUTTONS, held_figure, pipeline_figure
from perfmodel.output.train.table import usd_total
from perfmodel.training.layout import training_of
from perfmodel.training.run import DAY
from perfmodel.units import GB, MEGA

TEMPLATE = Path(__file__).with_name("plan_training.html.j2")
ROWS = 20
MOST_POINTS = 5_000
"""Layouts that are drawn; of more, every so many-th by rank."""


def write_plan_html(answer: TrainPlan, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: it can't be written there.
    """
    atomic_write(path, plan_html(answer))


def plan_html(answer: TrainPlan) -> str:
    """The page as text."""
    values, best = answer.values, answer.candidates[0]
    own = best.answer.values
    figures = {
        "layouts": embed(_against_memory(answer), "layouts", buttons=BUTTONS),
        "pipeline": embed(pipeline_figure(best.answer), "pipeline", buttons=BUTTONS),
        "memory": embed(held_figure(best.answer), "memory", buttons=BUTTONS),
    }
    if len(answer.screened) > 1:
        figures["days"] = embed(_days_against_usd(answer), "days", buttons=BUTTONS)
    return render(
        TEMPLATE,
        {
            "values": values,
            "tiles": _tiles(best),
            "winner": layout_words(best.keys),
            "left_out": left_out(values),
            "runner_up": values["why"]["name_b"] if values["why"] else "",
            "close": percent(CLOSE),
            "drawn": min(values["considered"]["legal"], MOST_POINTS),
            "rows": [_row(one) for one in answer.candidates[:ROWS]],
            "has_days": own["days"] is not None,
            "several": len(answer.screened) > 1,
            "figures": figures,
            "launches": values["launch"].values(),
            "why": told(values["why"]) if values["why"] else None,
            "shown_gb": f"{_shown_gb(answer):,.0f}",
            "notes": own["warnings"],
        },
    )


def _tiles(best: Candidate) -> list[dict[str, Any]]:
    values = best.answer.values
    usd_key, memory = best.usd_per_million_tokens, _memory(best)
    cells = [
        ("usd_per_million_tokens", usd_key, usd(usd_key), "per million tokens"),
        ("step_time_s", values["step_time_s"], duration(values["step_time_s"]), "step time"),
        (
            "tokens_per_s_per_gpu",
            values["tokens_per_s_per_gpu"],
            count(round(values["tokens_per_s_per_gpu"])),
            "tokens/s per GPU",
        ),
        ("mfu", values["mfu"], percent(values["mfu"]), "MFU (causal mask, BF16 peak)"),
        ("memory_bytes", memory, f"{memory / GB:.1f} GB", "memory of the fullest GPU"),
    ]
    if values["days"] is not None:
        cells.insert(1, ("days", values["days"], significant(values["days"]), "days"))
        cells.insert(2, ("usd", values["usd"], dollars(values["usd"]), "of the run"))
    return [{"key": key, "value": value, "text": text, "label": label} for key, value, text, label in cells]


def dollars(value: float) -> str:
    """Dollars of a run, with their sign."""
    text = usd_total(value)
    return text if text.startswith("$") else f"${text}"


def _memory(one: Candidate) -> float:
    return float(max(rank["total"] for rank in one.answer.values["memory_by_stage"]))


def _row(one: Candidate) -> dict[str, Any]:
    values = one.answer.values
    return {
        "layout": layout_words(one.keys),
        "kind": one.kind.words,
        "step": duration(values["step_time_s"]),
        "rate": count(round(values["tokens_per_s_per_gpu"])),
        "mfu": percent(values["mfu"]),
        "bubble": percent(max(0.0, values["bubble_fraction"])),
        "exposed": percent(values["exposed_communication_fraction"]),
        "memory": f"{_memory(one) / GB:.1f}",
        "usd": usd(one.usd_per_million_tokens),
        "days": "" if values["days"] is None else significant(values["days"]),
    }


def _chosen(screened: Screened, share: float) -> np.ndarray:
    """Layouts that are drawn: all, or every so many-th from the best to the worst."""
    order: np.ndarray = np.argsort(screened.step_s, kind="stable")
    if share >= 1.0 or not len(order):
        return order
    every: np.ndarray = order[np.unique((np.arange(max(1, int(share * len(order)))) / share).astype(int))]
    return every


def _columns(answer: TrainPlan, x: Any, y: Any) -> tuple[Points, Points]:
    """(layouts that do not fit, those that do), with ``x`` and ``y`` of (screened, layout)."""
    share = MOST_POINTS / max(1, sum(len(one.layouts) for one in answer.screened))
    found: tuple[dict[str, list[Any]], ...] = tuple({"x": [], "y": [], "hover": []} for _ in range(2))
    for screened in answer.screened:
        fits = screened.fits
        for i in _chosen(screened, share).tolist():
            into = found[int(fits[i])]
            into["x"].append(float(f"{x(screened, i):.4g}"))
            into["y"].append(float(f"{y(screened, i):.4g}"))
            into["hover"].append(_hover(screened, i))
    return found[0], found[1]


def _hover(screened: Screened, i: int) -> str:
    memory, dollars = screened.memory[i] / GB, float(screened.usd_per_token[i]) * MEGA
    kind = f"{screened.kind.words}\n" if screened.kind.cluster else ""
    return (
        f"{kind}{layout_words(screened.layouts[i])}\n{duration(float(screened.step_s[i]))} per step, {memory:.1f} GB, "
        f"{usd(dollars)} per million tokens"
    )


def _simulated(answer: TrainPlan, x: Any, y: Any) -> Points:
    rows = answer.candidates
    return {
        "x": [x(one) for one in rows],
        "y": [y(one) for one in rows],
        "hover": [
            f"{layout_words(one.keys)}\n{duration(one.answer.values['step_time_s'])} per step, "
            f"{_memory(one) / GB:.1f} GB, {usd(one.usd_per_million_tokens)} per million tokens"
            for one in rows
        ],
    }


def _shown_gb(answer: TrainPlan) -> float:
    """Memory that is shown at first, GB: a quarter more than the largest of the devices has."""
    return 1.25 * max(one.scenario.cluster.gpu.memory_bytes for one in answer.screened) / GB


def _against_memory(answer: TrainPlan) -> Any:
    """Tokens per dollar against memory of the fullest GPU."""
    rest, fitting = _columns(
        answer, lambda one, i: one.memory[i] / GB, lambda one, i: 1.0 / one.usd_per_token[i] / MEGA
    )
    simulated = _simulated(
        answer, lambda one: _memory(one) / GB, lambda one: 1.0 / one.usd_per_million_tokens
    )
    devices = {one.scenario.cluster.gpu.memory_bytes for one in answer.screened}
    device = devices.pop() / GB if len(devices) == 1 else None
    return layouts_chart(
        rest,
        fitting,
        simulated,
        x="memory of the fullest GPU, GB",
        y="million tokens per $",
        shown=_shown_gb(answer),
        limit=None if device is None else (device, f"device: {device:.1f} GB"),
    )


def _days_against_usd(answer: TrainPlan) -> Any:
    """Days of the run (or of a trillion tokens) against its dollars, of several kinds or numbers of GPUs."""
    tokens = training_of(answer.screened[0].scenario).tokens or 1e12
    dearest = max(float(one.usd_per_token.max(initial=0.0)) for one in answer.screened) * tokens
    unit, name = (MEGA, "million $") if dearest >= MEGA else (1.0, "$")

    def days(one: Screened, i: int) -> float:
        return float(one.step_s[i] * tokens / training_of(one.scenario).step_tokens / DAY)

    rest, fitting = _columns(answer, lambda one, i: one.usd_per_token[i] * tokens / unit, days)
    simulated = _simulated(
        answer,
        lambda one: one.usd_per_million_tokens * tokens / MEGA / unit,
        lambda one: tokens / one.answer.values["tokens_per_s"] / DAY,
    )
    return layouts_chart(
        rest,
        fitting,
        simulated,
        x=f"{name} of {tokens:.3g} tokens",
        y="days, failures left out",
        limit=None,
    )
