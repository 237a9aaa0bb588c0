"""What an answer's time rests on: timings of this GPU's kernels, of others', derivations, conventions, constants.

A step's time is that of its critical path, so each op counts with its seconds there, and the parts add up to the step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from perfmodel.kernels.calibration import INSIDE, Calibration, mismatches
from perfmodel.kernels.timing import Timing
from perfmodel.numeric import some
from perfmodel.ops.op import Op, Stream
from perfmodel.overlap.analysis import critical_path, slowest_rank
from perfmodel.spec.scenario import Scenario
from perfmodel.step import Place, Step
from perfmodel.units import PERCENT

KINDS = {
    "timed": "timed on this GPU",
    "other_gpu": "timed on another GPU",
    "other_engine": "timed with another engine's kernels",
    "derived": "derived from timings",
    "convention": "by convention (bytes over bandwidth)",
    "engine": "an engine's constants",
    "given": "given by the scenario",
    "waiting": "waiting",
}
"""Kind of what a share of the time rests on -> words, of a GPU (:func:`kind_words`)."""
ARCHITECTURES = ("ampere", "hopper", "blackwell")
"""Those that rows of fitted fractions are named after."""
LEAST_LISTED = 1e-6
"""Share below which a kind is rounding."""
LEAST_SHOWN = 0.005
"""Share below which a kind is not told in words."""


@dataclass(frozen=True, slots=True)
class Use:
    """One op of a step (or of several), and what of the time it is on the critical path."""

    step: Step = field(repr=False)
    op: Op
    timing: Timing
    kind: str
    """One of KINDS."""
    share: float
    """Of the time, 0 to 1; 0 where something else hides it."""
    kernels_of: str
    """Engine whose kernels were timed for it; empty: no engine's in particular, or not timed."""
    place: int = 0
    """Which of its step's places it runs in."""

    @property
    def calibration(self) -> str:
        """Name of the calibration of where it runs; empty: none."""
        used = self.step.places[self.place].calibration
        return used.name if used else ""


@dataclass(frozen=True, slots=True)
class Rest:
    """What the time of one step, or of several with their weights, rests on."""

    steps: tuple[tuple[Step, float], ...] = field(repr=False)
    """Steps with their shares of the time, which add up to 1."""
    uses: tuple[Use, ...] = field(repr=False)
    whose: str = "the step's time"
    """Whose time the shares are of, in words."""

    @property
    def fractions(self) -> dict[str, float]:
        """Share of the time by kind; they add up to 1."""
        found = dict.fromkeys(KINDS, 0.0)
        for use in self.uses:
            found[use.kind] += use.share
        found["waiting"] = max(1.0 - sum(found.values()), 0.0)
        return found

    @property
    def step(self) -> Step:
        """The first of the steps: the one that the answer is about, or a run's decode step."""
        return self.steps[0][0]


def rest_of(steps: Iterable[tuple[Step, float]], whose: str = "the step's time") -> Rest:
    """What the time of ``steps`` rests on, each with its share of the time (in any unit)."""
    weighted = tuple(steps)
    total = sum(weight for _, weight in weighted)
    own = tuple((step, weight / total) for step, weight in weighted)
    return Rest(own, tuple(use for step, weight in own for use in _uses(step, weight)), whose)


def basis(rest: Rest) -> dict[str, Any]:
    """``basis`` of an answer: ``fractions`` of the time by kind, and ``text``, one line."""
    return {"fractions": rest.fractions, "text": _sentence(rest)}


def operations(rest: Rest) -> list[dict[str, Any]]:
    """A row per kind that takes time, largest first: ``kind`` in words, ``share``, ``ops`` by their share of it."""
    by_kind: dict[str, dict[str, float]] = {}
    for use in rest.uses:
        own = by_kind.setdefault(use.kind, {})
        own[use.op.name] = own.get(use.op.name, 0.0) + use.share
    words = kind_words(rest.step.scenario)
    rows = [
        {"kind": words[kind], "share": share, "ops": _largest(by_kind.get(kind, {}))}
        for kind, share in rest.fractions.items()
        if share > LEAST_LISTED
    ]
    return sorted(rows, key=lambda row: -row["share"])


def kind_words(scenario: Scenario) -> dict[str, str]:
    """KINDS, of the device that the scenario has."""
    device = scenario.cluster.gpu.kind
    return {kind: words.replace("GPU", device) for kind, words in KINDS.items()}


def percent_of_time(share: float) -> str:
    """``12 %``; little is told as such."""
    return f"{PERCENT * share:.0f} %" if share >= LEAST_SHOWN else "under 1 %"


def device_of(calibration: Calibration) -> str:
    """What the calibration's kernels ran on, as the file says it."""
    environment = calibration.document.get("environment", {})
    return str(environment.get("device_name") or environment.get("cpu") or calibration.gpu)


def _uses(step: Step, weight: float) -> Iterable[Use]:
    on_path: dict[tuple[int, int], float] = {}
    for item in critical_path(step.timeline, slowest_rank(step.timeline)):
        if item.span is not None:
            key = (item.span.segment, item.span.task)
            on_path[key] = on_path.get(key, 0.0) + item.end_s - item.start_s
    scale = weight / step.step_time_s if step.step_time_s else 0.0
    places = step.places
    rescaled = [is_rescaled(one) for one in places]
    for number, segment in enumerate(step.segments):
        for place, (task, timing) in enumerate(zip(segment.tasks, segment.timings, strict=True)):
            at = step.place_of(task.op)
            kernels_of = _kernels_of(places[at], task.op, timing)
            kind = _kind(step, places[at], task.op, timing, kernels_of, rescaled=rescaled[at])
            share = scale * on_path.get((number, place), 0.0)
            gap = float(np.mean(timing.gap_s / timing.seconds)) if some(timing.gap_s) else 0.0
            if gap:
                constant = replace(timing, flag="", calibrated=False, source="given")
                yield Use(step, task.op, constant, "engine", share * gap, "", at)
            if gap < 1.0:
                yield Use(step, task.op, timing, kind, share * (1.0 - gap), kernels_of, at)


def _kernels_of(place: Place, op: Op, timing: Timing) -> str:
    if place.calibration is None or not timing.calibrated or timing.source.startswith(INSIDE):
        return ""
    curve = place.calibration.curve(op)
    return curve.engine if curve is not None else ""


def _kind(step: Step, place: Place, op: Op, timing: Timing, kernels_of: str, *, rescaled: bool) -> str:
    used, gpu = place.calibration, place.cluster.gpu
    engine = step.scenario.deployment.engine
    if op.stream == Stream.HOST:
        return "engine" if engine else "given"
    if timing.source == "given":
        return "given"
    if timing.calibrated and used is not None:
        if used.gpu != gpu.name:
            return "other_gpu"
        if engine and kernels_of not in ("", engine):
            return "other_engine"
        derived = rescaled or any(word in timing.flag for word in DERIVED)
        return "derived" if derived else "timed"
    if names_another_architecture(timing, gpu.architecture):
        return "other_gpu"
    return "derived" if timing.source.startswith(("fitted:", "measured:")) else "convention"


DERIVED = (
    "derived:",
    " is above the timed ",
    " is below the timed ",
    " is scaled from the timed ",
    " was timed over the ",
)
"""What a flag says of a calibration's time that was not timed as it is used."""


def is_rescaled(place: Place) -> bool:
    """Whether the calibration's GPU is asked with other figures than it was timed with: a what-if."""
    used, cluster = place.calibration, place.cluster
    if used is None or used.gpu != cluster.gpu.name:
        return False
    return any("made with another" in text for text in mismatches(used, cluster, used.perfmodel))


def names_another_architecture(timing: Timing, own: str) -> bool:
    """Whether a fitted fraction comes from another architecture's row."""
    said = f"{timing.source} {timing.flag}".lower()
    return any(other in said for other in ARCHITECTURES if other != own)


def _sentence(rest: Rest) -> str:
    scenario = rest.step.scenario
    if scenario.costs == "report":
        return "Nothing of this is timed: FLOPs over peaks and bytes over bandwidths, as the report's Table 7 counts."
    found, words = rest.fractions, kind_words(scenario)
    told = [
        f"{percent_of_time(found['timed']) if found['timed'] else '0 %'} of {rest.whose} is {words['timed']}"
    ]
    others = sorted(
        ((share, words[kind]) for kind, share in found.items() if kind != "timed" and share >= LEAST_SHOWN),
        key=lambda item: -item[0],
    )
    told += [f"{percent_of_time(share)} {words}" for share, words in others]
    text = ", ".join(told)
    # prefill replicas and FFNs on another GPU have a calibration of their own
    used = [place.calibration for step, _ in rest.steps for place in step.places]
    all_used = {one.id: one for one in used if one is not None}
    if not all_used:
        return f"{text}; no calibration."
    named = (f"{one.name}-{one.id}, timed on {device_of(one)}" for one in all_used.values())
    return f"{text}; calibration {', and '.join(named)}."


def _largest(shares: Mapping[str, float]) -> list[str]:
    return [name for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share > 0.0]


def listed(names: Sequence[str], most: int = 4) -> str:
    """``a, b, c, d and 3 more``, each once."""
    unique = list(dict.fromkeys(names))
    more = len(unique) - most
    return ", ".join(unique[:most]) + (f" and {more} more" if more > 0 else "")
