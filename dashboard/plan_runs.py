"""The planner's answers, kept for all sessions: each line is screened, then simulated, then told how sure it is.

Stages run in the pool's processes; what they give is put into a box, so that a page can show what is there already.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from dashboard.cache import Kept, kept
from dashboard.plan_asked import SECONDS, key_of
from dashboard.pool import pooled
from dashboard.results import Failed
from perfmodel.errors import PerfModelError
from perfmodel.explore.plan.answer import nearest_miss, plan
from perfmodel.explore.plan.grids import Lengths
from perfmodel.explore.plan.offers import Carried, Need, Offer, carried, gpus_interval, needed
from perfmodel.explore.plan.question import Kind, Question
from perfmodel.explore.plan.screen import Stepped, screen, stepped

Progress = Callable[[int, int], None]
TRIES, LESS = 4, 0.8
"""Amounts of traffic that are simulated until the limits are kept, each so much of the one before."""


def _silent(done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class Planned:
    """What ``perfmodel plan`` said."""

    question: Question
    values: dict[str, Any]
    """Its JSON."""
    document: dict[str, Any] | None
    """The winner as a scenario, or the nearest miss."""
    miss: str
    """Why there is no winner; empty: there is one."""
    simulate: int


@dataclass
class Box:
    """Where the results of one line are put, each once."""

    screened: Need | Carried | Failed | None = None
    planned: Planned | Failed | None = None
    interval: tuple[int, int] | None = None
    """GPUs, 80 %; None beside ``sure``: not known."""
    sure: bool = False
    """Whether the interval was asked for."""

    @property
    def question(self) -> Question | None:
        """What was planned in the end; None: nothing yet."""
        if isinstance(self.planned, Planned):
            return self.planned.question
        return None if self.screened is None or isinstance(self.screened, Failed) else self.screened.question

    def lacks(self, simulate: int) -> str:
        """The next stage: screened, planned, sure, or none."""
        if self.screened is None:
            return "screened"
        if isinstance(self.screened, Failed) or self.screened.best is None:
            return ""
        if self.planned is None or (isinstance(self.planned, Planned) and self.planned.simulate < simulate):
            return "planned"
        return "" if self.sure or isinstance(self.screened, Carried) else "sure"


@kept(128)
def _box(key: str) -> Box:
    return Box()


def box_of(question: Question, mode: str) -> Box:
    """The line's box, the same one for all who ask."""
    return _box(f"{mode} {key_of(question)}")


def fill(box: Box, question: Question, mode: str, simulate: int, progress: Progress) -> None:
    """Do the next stage, and put its result into the box."""
    stage, found = box.lacks(simulate), box.screened
    if stage == "screened":
        box.screened = screened(question, mode, progress=progress)
    elif isinstance(found, (Need, Carried)):
        if stage == "planned":
            box.planned = planned(found.question, simulate, mode == "carry", progress=progress)
        elif stage == "sure" and found.best is not None:
            sure = how_sure(found.question, found.best, progress=progress)
            box.interval, box.sure = sure.gpus, True


def _key(question: Question, *more: Any) -> tuple[Any, ...]:
    return (key_of(question), *more)


@pooled(64, slow=True, key=_key)
def screened(question: Question, mode: str, *, progress: Progress = _silent) -> Need | Carried | Failed:
    """What the screen offers, or why there is nothing."""
    try:
        return (needed if mode == "need" else carried)(question, steps=_watched(progress))
    except PerfModelError as error:
        return Failed(str(error))


@pooled(64, slow=True, key=_key)
def planned(
    question: Question, simulate: int, less: bool, *, progress: Progress = _silent
) -> Planned | Failed:
    """``perfmodel plan``'s answer, or why there is none; with ``less`` of less traffic where limits are missed."""
    found: Planned | None = None
    for _ in range(TRIES if less else 1):
        try:
            found = _planned(question, simulate, progress)
        except PerfModelError as error:
            return found or Failed(str(error))
        if not found.miss:
            break
        question = replace(question, traffic=question.traffic.times(LESS))
    assert found is not None
    return found


def _planned(question: Question, simulate: int, progress: Progress) -> Planned:
    found = plan(
        question,
        simulate=simulate,
        seconds=SECONDS,
        progress=lambda _, done, total: progress(done, total),
        screened=screen(question, steps=_watched(progress)),
    )
    miss = str(nearest_miss(found)) if found.winner is None else ""
    return Planned(question, found.values, found.document, miss, simulate)


@dataclass(frozen=True)
class Sure:
    """80 % interval of the cheapest's GPUs; None: not known."""

    gpus: tuple[int, int] | None


@pooled(64, slow=True, key=lambda question, best: (key_of(question),))
def how_sure(question: Question, best: Offer, *, progress: Progress = _silent) -> Sure:
    """How many GPUs it would be with slow and with fast kernels."""
    try:
        return Sure(gpus_interval(question, best, steps=_watched(progress)))
    except PerfModelError:
        return Sure(None)


_stepped = Kept(16)
"""Of the process that screens: users, rates and limits change neither layouts nor step grids."""


def steps_here(question: Question, kind: Kind, lengths: Lengths) -> Stepped:
    """Layouts and step grids, kept."""
    key = repr((question.model, kind, lengths, sorted(question.space.items()), question.overrides))
    known: Stepped | None = _stepped.get(key)
    return known if known is not None else _stepped.put(key, stepped(question, kind, lengths))


def _watched(progress: Progress) -> Callable[[Question, Kind, Lengths], Stepped]:
    """The same; at each screen the page is told that work goes on."""

    def steps(question: Question, kind: Kind, lengths: Lengths) -> Stepped:
        progress(0, 1)
        return steps_here(question, kind, lengths)

    return steps
