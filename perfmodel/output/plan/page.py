"""``perfmodel plan`` as a page: every candidate a point, the ranking, why, and the command."""

from pathlib import Path

from perfmodel.explore.plan.answer import PlanAnswer
from perfmodel.files import atomic_write
from perfmodel.output.charts.plan import plan_chart
from perfmodel.output.formats import duration, percent, significant, usd
from perfmodel.output.pages import embed, render

TEMPLATE = Path(__file__).with_name("plan.html.j2")
ROWS = 20
BUTTONS = (("zoom2d", "pan2d", "resetScale2d"),)


def write_plan_html(answer: PlanAnswer, path: Path) -> None:
    """Write the page.

    Raises:
        DataError: it can't be written there.
    """
    atomic_write(path, plan_html(answer))


def plan_html(answer: PlanAnswer) -> str:
    """The page as text."""
    values = answer.values
    simulated = [one for one in values["candidates"] if one["simulated"]]
    charts = [
        embed(
            plan_chart(answer.screened, simulated, values["pareto"], money=money),
            "money" if money else "rate",
            buttons=BUTTONS,
        )
        for money in (False, True)
    ]
    rows = [
        {
            "layout": one["layout"],
            "kind": one["kind"],
            "gpus": one["num_gpus"],
            "ttft": duration(one["ttft_at_s"]),
            "tpot": duration(one["tpot_at_s"]),
            "rate": significant(one["output_tokens_per_s_per_gpu"]),
            "usd": usd(one["usd_per_million_output_tokens"]),
            "interval": _interval(one["intervals"].get("usd_per_million_output_tokens")),
            "best": "" if one["probability_best"] is None else percent(one["probability_best"]),
            "keeps": one["meets_limits"],
        }
        for one in simulated[:ROWS]
    ]
    return render(
        TEMPLATE,
        {
            "values": values,
            "limits": answer.question.limits,
            "charts": charts,
            "rows": rows,
            "usd": usd,
            "duration": duration,
        },
    )


def _interval(bounds: list[float] | None) -> str:
    return f"{significant(bounds[0])} to {significant(bounds[1])}" if bounds else ""
