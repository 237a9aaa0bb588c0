"""A line of the planner's page: a model on a kind of GPU, as rows, points and words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboard.names import cluster_title, model_title
from dashboard.plan_asked import PlanAsked
from dashboard.plan_runs import Box, Planned, box_of
from dashboard.results import Failed
from perfmodel.errors import PerfModelError
from perfmodel.explore.plan.offers import Carried, Need, Offer
from perfmodel.explore.plan.question import Question
from perfmodel.output.formats import duration, significant, usd
from perfmodel.output.report.figure import dollars
from perfmodel.report.money import HOURS_PER_MONTH
from perfmodel.spec.messages import number_of


@dataclass(frozen=True)
class Line:
    """A model on a kind of GPU, and what is known of it so far."""

    model: str
    cluster: str
    name: str
    question: Question | None
    """None: the controls make none."""
    box: Box
    refused: str
    """Why it has no answer; empty: it has, or will have."""
    simulate: int

    @property
    def lacks(self) -> str:
        """The next stage."""
        return "" if self.question is None else self.box.lacks(self.simulate)

    @property
    def offers(self) -> tuple[Offer, ...]:
        """Points of its line in the chart."""
        found = self.box.screened
        if isinstance(found, Need):
            return found.front
        return tuple(offer for _, offer in found.front) if isinstance(found, Carried) else ()

    @property
    def best(self) -> Offer | None:
        """The screen's answer."""
        found = self.box.screened
        return None if found is None or isinstance(found, Failed) else found.best

    @property
    def winner(self) -> Mapping[str, Any] | None:
        """The simulated answer; None: none yet, or none that keeps the limits."""
        planned = self.box.planned
        if isinstance(planned, Planned) and not planned.miss:
            winner: Mapping[str, Any] = planned.values["candidates"][0]
            return winner
        return None


def line_of(asked: PlanAsked, model: str, cluster: str) -> Line:
    """The line, with its box."""
    several = len(asked.models) > 1
    name = f"{model_title(model)} on {cluster_title(cluster)}" if several else cluster_title(cluster)
    try:
        question = asked.question(model, cluster)
    except PerfModelError as error:
        return Line(model, cluster, name, None, Box(), str(error), int(asked.simulate))
    box, refused = box_of(question, asked.mode), ""
    if isinstance(box.screened, Failed):
        refused = box.screened.text
    elif box.screened is not None and box.screened.best is None:
        refused = _out_of_reach(box.screened)
    elif isinstance(box.planned, Failed):
        refused = f"can't be simulated: {box.planned.text}"
    return Line(model, cluster, name, question, box, refused, int(asked.simulate))


def _out_of_reach(found: Need | Carried) -> str:
    (kind,) = found.question.kinds
    text = f"no layout of up to {kind.gpus} GPUs keeps the limits"
    nearest = found.nearest if isinstance(found, Need) else None
    if nearest is not None:
        text += (
            f"; the nearest, on {number_of(nearest.gpus, 'GPU')}, gives "
            f"{significant(nearest.tokens_per_s_per_user)} tokens/s per user and the first token after "
            f"{duration(nearest.ttft_at_s)}"
        )
    return text


# --- figures ---------------------------------------------------------------------------------------------------------


def gpus_of(line: Line) -> int | None:
    """GPUs of the answer: simulated, else the screen's."""
    if line.winner is not None:
        return int(line.winner["num_gpus"])
    return None if line.best is None else line.best.gpus


def usd_per_month(line: Line, gpus: float) -> float:
    """Of so many GPUs around the clock."""
    assert line.best is not None
    return gpus * line.best.usd_per_hour / line.best.gpus * HOURS_PER_MONTH


def month_of(line: Line) -> float | None:
    """$ a month of the answer."""
    gpus = gpus_of(line)
    return None if gpus is None else usd_per_month(line, gpus)


def rank(line: Line) -> tuple[float, float]:
    """The cheapest first, of equals the faster."""
    month = month_of(line)
    if month is None or line.best is None:
        return float("inf"), 0.0
    return month, float(line.winner["tpot_at_s"]) if line.winner is not None else line.best.tpot_at_s


def bounds_of(line: Line) -> tuple[int, int] | None:
    """80 % interval of the GPUs, the answer's own among them."""
    gpus, found = gpus_of(line), line.box.interval
    return None if found is None or gpus is None else (min(found[0], gpus), max(found[1], gpus))


def traffic_of(asked: PlanAsked, line: Line, times: float = 1.0) -> float:
    """Of the question "carry": users at once, or requests per second."""
    assert line.question is not None
    base = line.question.traffic
    return (base.users or 0) * times if asked.unit == "users" else (base.rate or 0.0) * times


def heading(asked: PlanAsked, lines: Sequence[Line]) -> str:
    """The answer in a sentence."""
    known = [line for line in lines if line.best is not None]
    waiting = any(line.lacks == "screened" for line in lines)
    if not known:
        return (
            "Looking at every layout of every kind of GPU..." if waiting else "Nothing here keeps the limits."
        )
    several = len({line.model for line in lines}) > 1
    if asked.mode == "carry":
        return _carry_heading(asked, known)
    best = min(known, key=rank)
    gpus, month, bounds = gpus_of(best), month_of(best), bounds_of(best)
    assert month is not None
    text = f"{'So far, the' if waiting else 'The'} cheapest: {gpus} x {cluster_title(best.cluster)}"
    text += f" for {model_title(best.model)}" if several else ""
    text += f", {dollars(month)} a month"
    if bounds and bounds[0] != bounds[1]:
        low, high = (dollars(usd_per_month(best, one)) for one in bounds)
        text += f" (80 %: {low} to {high})"
    return f"{text}, {_what(asked, best)}."


def _what(asked: PlanAsked, line: Line) -> str:
    """What users get of it."""
    at = f"{asked.percentile:g} of 100 requests"
    if line.winner is not None:
        return (
            f"at {significant(1.0 / line.winner['tpot_at_s'])} tokens/s and a first token within "
            f"{duration(line.winner['ttft_at_s'])} for {at}, simulated"
        )
    assert line.best is not None
    return (
        f"at {significant(line.best.tokens_per_s_per_user)} tokens/s and a first token within "
        f"{duration(line.best.ttft_at_s)} for {at}, not simulated yet"
    )


def _carry_heading(asked: PlanAsked, known: Sequence[Line]) -> str:
    best = max(known, key=lambda line: _carried(asked, line))
    unit = "users at once" if asked.unit == "users" else "requests per second"
    assert best.question is not None
    return (
        f"Most traffic: {significant(_carried(asked, best))} {unit} on {gpus_of(best)} x "
        f"{cluster_title(best.cluster)}, {dollars(month_of(best))} a month, {_what(asked, best)}."
    )


def _carried(asked: PlanAsked, line: Line) -> float:
    found = line.box.question
    assert found is not None
    return float(found.traffic.users or 0) if asked.unit == "users" else float(found.traffic.rate or 0.0)


def rows_of(asked: PlanAsked, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The table, from the best on."""
    if asked.mode == "need":
        known = sorted(lines, key=rank)
    else:
        known = sorted(lines, key=lambda line: -_carried(asked, line) if line.best is not None else 0.0)
    return [_row(asked, line) for line in known if line.best is not None]


def _row(asked: PlanAsked, line: Line) -> dict[str, Any]:
    bounds, gpus, winner = bounds_of(line), gpus_of(line), line.winner
    month = month_of(line)
    assert line.best is not None
    row: dict[str, Any] = {"GPUs of": line.name}
    if asked.mode == "carry":
        what = "users at once" if asked.unit == "users" else "requests/s"
        row[what.capitalize()] = significant(_carried(asked, line))
    row["GPUs"] = f"{gpus} ({bounds[0]} to {bounds[1]})" if bounds else f"{gpus}"
    row["$ a month"] = dollars(month)
    if bounds and bounds[0] != bounds[1]:
        row["$ a month"] += " ({} to {})".format(*(dollars(usd_per_month(line, one)) for one in bounds))
    if winner is None:
        planned = line.box.planned
        state = "screened" if planned is None else "misses when simulated"
        figures = (
            line.best.tokens_per_s_per_user,
            line.best.ttft_at_s,
            line.best.usd_per_million_output_tokens,
        )
        row |= {
            "Tokens/s per user": significant(figures[0]),
            "First token": duration(figures[1]),
            "$ per M output": usd(figures[2]),
        }
        layout = layout_of(line.best)
    else:
        state, own = "simulated", winner["intervals"]
        speeds = [1.0 / bound for bound in own.get("tpot_at_s", ())][::-1]
        row |= {
            "Tokens/s per user": significant(1.0 / winner["tpot_at_s"]) + _between(speeds, significant),
            "First token": duration(winner["ttft_at_s"]) + _between(own.get("ttft_at_s", ()), duration),
            "$ per M output": usd(winner["usd_per_million_output_tokens"]),
        }
        layout = str(winner["layout"])
    return row | {"How": state, "Layout": layout, "id": f"{line.model}|{line.cluster}|best"}


def _between(bounds: Sequence[float], text: Any) -> str:
    return f" ({text(bounds[0])} to {text(bounds[1])})" if bounds else ""


def layout_of(offer: Offer) -> str:
    """A screened layout in words."""
    from perfmodel.explore.plan.answer import keys_words

    return keys_words(offer.keys)


def chart_lines(asked: PlanAsked, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Lines of the chart."""
    found = []
    for line in lines:
        points: list[dict[str, Any]] = []
        times = [t for t, _ in line.box.screened.front] if isinstance(line.box.screened, Carried) else []
        for number, offer in enumerate(line.offers):
            month = offer.usd_per_hour * HOURS_PER_MONTH
            traffic = traffic_of(asked, line, times[number]) if times else 0.0
            points.append(
                {
                    "speed": offer.tokens_per_s_per_user,
                    "usd_per_month": month,
                    "traffic": traffic,
                    "id": f"{line.model}|{line.cluster}|{number}",
                    "chosen": line.best is not None and offer.keys == line.best.keys,
                    "hover": _hover(
                        line, offer, month, f"{significant(traffic)} {asked.unit}" if times else ""
                    ),
                }
            )
        points.sort(key=lambda point: float(point["speed"]))
        found.append({"name": line.name, "points": points})
    return found


def _hover(line: Line, offer: Offer, month: float, traffic: str) -> str:
    return "<br>".join(
        filter(
            None,
            [
                f"<b>{offer.gpus} x {line.name}</b>, {dollars(month)} a month",
                traffic,
                f"{significant(offer.tokens_per_s_per_user)} tokens/s per user, first token after "
                f"{duration(offer.ttft_at_s)}",
                layout_of(offer).replace("; decode", ";<br>decode"),
            ],
        )
    )
