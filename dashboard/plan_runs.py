"""The planner's answers, kept for all sessions: each line is screened, then simulated, then told how sure it is.

One stage of one line is a function of a question alone, so that whoever has processes to spare may run it there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dashboard.cache import kept
from dashboard.plan_asked import SECONDS, key_of
from dashboard.results import Failed
from perfmodel.errors import PerfModelError
from perfmodel.explore.plan.answer import nearest_miss, plan
from perfmodel.explore.plan.grids import Lengths
from perfmodel.explore.plan.offers import Carried, Need, carried, gpus_interval, needed
from perfmodel.explore.plan.question import Kind, Question
from perfmodel.explore.plan.screen import Stepped, screen, stepped

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Planned:
    """What ``perfmodel plan`` said."""

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


@kept(24)
def _stepped(key: str, _question: Question, _kind: Kind, _lengths: Lengths) -> Stepped:
    return stepped(_question, _kind, _lengths)


def steps(question: Question, kind: Kind, lengths: Lengths) -> Stepped:
    """Layouts and step grids, kept: users, rates and limits change none of them."""
    key = repr((question.model, kind, lengths, sorted(question.space.items()), question.overrides))
    found: Stepped = _stepped(key, question, kind, lengths)
    return found


def fill(box: Box, question: Question, mode: str, simulate: int, progress: Progress) -> None:
    """Do the next stage, and put its result into the box."""
    stage = box.lacks(simulate)

    def told(asked: Question, kind: Kind, lengths: Lengths) -> Stepped:
        """At each screen the script can be stopped."""
        progress(f"layouts of up to {kind.gpus} GPUs", 0, 1)
        return steps(asked, kind, lengths)

    try:
        if stage == "screened":
            box.screened = (needed if mode == "need" else carried)(question, steps=told)
            return
        assert box.screened is not None
        assert not isinstance(box.screened, Failed)
        found = box.screened
        if stage == "planned":
            box.planned = planned(found.question, simulate, progress)
        elif stage == "sure":
            assert found.best is not None
            box.interval = gpus_interval(found.question, found.best, steps=told)
            box.sure = True
    except PerfModelError as error:
        if stage == "screened":
            box.screened = Failed(str(error))
        elif stage == "planned":
            box.planned = Failed(str(error))
        else:
            box.sure = True


def planned(question: Question, simulate: int, progress: Progress | None = None) -> Planned:
    """``perfmodel plan``'s answer.

    Raises:
        PerfModelError: there is none.
    """
    found = plan(
        question,
        simulate=simulate,
        seconds=SECONDS,
        progress=progress,
        screened=screen(question, steps=steps),
    )
    miss = str(nearest_miss(found)) if found.winner is None else ""
    return Planned(found.values, found.document, miss, simulate)
