"""What makes an answer less certain, by weight: dangers, notes, and standing caveats that every such answer has.

A danger can make the figure wrong by more than its interval says; a note is worth a look; a standing caveat is true of
every answer of its kind and is folded away. What is about ops says of how much of the time.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

import perfmodel
from perfmodel.answers.basis import Rest, Use, listed, percent_of_time
from perfmodel.answers.flags import Beyond, beyond_of, op_words, other_texts, words_of
from perfmodel.economics.rates import streamed_s
from perfmodel.engines.profile import WITHOUT_ROWS, profile
from perfmodel.kernels.calibration import INSIDE, mismatches
from perfmodel.ops.memory import step_memory
from perfmodel.overlap.schedules import overlaps
from perfmodel.spec import catalogue
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.messages import number_of
from perfmodel.spec.scenario import Scenario
from perfmodel.step import Step, has_contention
from perfmodel.units import GB, MS, PERCENT


class Weight(IntEnum):
    """How much a caveat matters; the smallest comes first."""

    DANGER = 0
    NOTE = 1
    STANDING = 2


NOTED = 0.02
"""Share of the time from which what was not timed as it is used is worth a line."""
DANGEROUS = 0.05
"""Share of the time from which figures of another GPU are a danger."""
CONVENTIONAL = 0.2
"""Share of the time from which what goes by convention, or by fractions of the peaks, is worth a line: the basis says
it anyhow."""
MOSTLY = 0.5
"""Share of the time from which it is a danger."""
FAR = 1.5
"""Times beyond what was timed that are far; nearer is never a danger."""
FAR_FOR_LONG = 0.05
"""Share of the time x log2(times beyond) from which a far extrapolation is a danger: 5 % of the time at twice the
largest that was timed, 2.5 % at four times."""


@dataclass(frozen=True, slots=True)
class Caveat:
    """One thing to know."""

    weight: Weight
    text: str
    share: float = 0.0
    """Of the time, where it is about ops."""
    about: str = ""
    """What it says, without shares and ops: two of different steps that say the same have the same."""


def danger(text: str) -> Caveat:
    """What can make the figures wrong."""
    return Caveat(Weight.DANGER, text)


def note(text: str) -> Caveat:
    """What is worth a look."""
    return Caveat(Weight.NOTE, text)


def standing(text: str) -> Caveat:
    """What is true of every such answer."""
    return Caveat(Weight.STANDING, text)


def caveat_values(caveats: Iterable[Caveat]) -> dict[str, list[str]]:
    """``warnings`` (dangers, then notes), ``dangers`` (those among them) and ``caveats`` (standing) of an answer.

    Within a weight what takes most of the time comes first; else the order stays.
    """
    ordered = sorted(caveats, key=lambda one: (one.weight, -one.share))
    texts = {
        weight: list(dict.fromkeys(one.text for one in ordered if one.weight == weight)) for weight in Weight
    }
    return {
        "dangers": texts[Weight.DANGER],
        "warnings": [*texts[Weight.DANGER], *texts[Weight.NOTE]],
        "caveats": texts[Weight.STANDING],
    }


def merged(values: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, list[str]]:
    """:func:`caveat_values` of two answers in one, each text once, the first answer's first within a weight."""
    dangers = list(dict.fromkeys([*values["dangers"], *more["dangers"]]))
    notes = [text for text in (*values["warnings"], *more["warnings"]) if text not in dangers]
    return {
        "dangers": dangers,
        "warnings": [*dangers, *dict.fromkeys(notes)],
        "caveats": list(dict.fromkeys([*values["caveats"], *more["caveats"]])),
    }


def with_caveats(values: Mapping[str, Any], caveats: Iterable[Caveat]) -> dict[str, Any]:
    """An answer's values with more caveats, each kind after those that are there."""
    return {**values, **merged(values, caveat_values(caveats))}


def step_caveats(rest: Rest) -> list[Caveat]:
    """What makes the times of a step, or of a run's typical steps, less certain."""
    found = [
        *map(note, rest.step.scenario.notes),
        *_devices(rest),
        *_outside(rest),
        *_flagged(rest),
        *_engines(rest),
        *_uncovered(rest),
    ]
    if rest.step.scenario.costs == "report":
        return [*found, *_report(rest.step.scenario)]
    measured = all(step.calibration and step.calibration.contention_measured for step, _ in rest.steps)
    if not measured and any(_overlaps(step) for step, _ in rest.steps):
        found.append(
            standing("contention between ops that run together is a model; it is unmeasured on GPUs")
        )
    found += _streaming(rest.step)
    for step, _ in rest.steps:
        if not _host_counted(step):
            found.append(
                note(
                    "deployment.engine names no engine: no host time is counted, and small batches and short prompts "
                    "come out too fast"
                )
            )
        found += _version(step.scenario.deployment)
        found += _rows(step.scenario)
    return [*found, *routing_caveats(rest.step.scenario)]


def _streaming(step: Step) -> Iterator[Caveat]:
    """A front end that cannot send what the steps make."""
    scenario = step.scenario
    if scenario.deployment.phase == "prefill":
        return
    sent, made = float(np.max(streamed_s(scenario))), step.step_time_s
    if sent <= made:
        return
    yield danger(
        f"the front end sets the pace: it needs {sent / MS:,.1f} ms to stream what a step of {made / MS:,.1f} ms makes "
        "(serving.front_end.chunk_s; servers and stream_interval raise what it can send)"
    )


def _rows(scenario: Scenario) -> Iterator[Caveat]:
    """An engine on GPUs of which no engine's steps are at hand."""
    for gpu in {one.gpu.name: one.gpu for one in (scenario.cluster, scenario.ffn_cluster)}.values():
        if not scenario.deployment.engine or gpu.architecture not in WITHOUT_ROWS:
            continue
        yield note(
            f"{gpu.name}: no published serving row of {gpu.architecture} is at hand: the engine's constants are from "
            "NVIDIA's GPUs and the interval is that of an engine without rows; perfmodel validate --data FILE.csv "
            "takes yours"
        )


def _version(deployment: Deployment) -> Iterator[Caveat]:
    """A version of the engine that nobody read."""
    if deployment.engine:
        text = profile(deployment.engine, deployment.engine_version).version_note
        if text:
            yield note(f"deployment.engine_version: {text}")


IF_EVEN = "if experts are used evenly"
"""Under what an answer holds where nothing is known of the router: a headline says it, not a note alone."""


def condition(scenario: Scenario) -> str:
    """IF_EVEN, where the answer's expert load is neither stated nor known of this router; else empty."""
    routing = scenario.routing
    if scenario.model.moe is None or scenario.costs == "report":
        return ""
    stated = (
        routing.popularity
        or routing.source
        or routing.rank_loads is not None
        or routing.imbalance is not None
    )
    unknown = routing.prior_imbalance > 1.0 or (not stated and scenario.deployment.ep > 1)
    return IF_EVEN if unknown else ""


def routing_caveats(scenario: Scenario) -> Iterator[Caveat]:
    """What is assumed about who is busy."""
    moe, routing = scenario.model.moe, scenario.routing
    if moe is None:
        return
    if routing.prior_imbalance > 1.0:
        yield note(
            f"{IF_EVEN}: nothing is published of this router; intervals hold a busiest rank some "
            f"{PERCENT * (routing.prior_imbalance - 1.0):.0f} % above that, as runs with balanced experts had; a skew "
            "without balancing costs far more (routing.popularity)"
        )
        return
    if not routing.popularity and not routing.source:
        if condition(scenario):
            yield note(f"{IF_EVEN}: routing states no loads, so every rank has the mean")
        return
    if routing.source:
        yield note(f"routing comes from {routing.source}")
    if routing.popularity != "histogram":
        yield standing(
            f"routing.popularity = {routing.popularity} is an assumption about the router, not a measurement"
        )
    if scenario.deployment.redundant_experts and routing.placement == "contiguous":
        yield note(
            "deployment.redundant_experts hold the first experts again: routing.placement = eplb puts them where they "
            "help"
        )


def _devices(rest: Rest) -> Iterator[Caveat]:
    """Another GPU's calibration, another version's, none at all, or one that is asked about other hardware."""
    shares: dict[tuple[Weight, str], float] = {}
    for step, share in rest.steps:
        for weight, text, part in _about_device(rest, step, share):
            shares[weight, text] = shares.get((weight, text), 0.0) + part
    for (weight, text), share in shares.items():
        yield _weighed(rest, weight, share, text) if share else Caveat(weight, text)


def _about_device(rest: Rest, step: Step, share: float) -> Iterator[tuple[Weight, str, float]]:
    """(weight, text, share of the time; 0: not about ops) of one step's calibration."""
    if step.scenario.costs == "report":
        return
    for number, place in enumerate(step.places):
        used, gpu = place.calibration, place.cluster.gpu.name
        own = gpu if gpu in catalogue.names("calibrations") else ""
        key = _calibration_key(rest, step, number)
        uses = [use for use in rest.uses if use.step is step and use.place == number]
        if len(step.places) > 1:
            share = sum(use.share for use in uses)
        if used is None:
            way = f"{key}: {own} holds timings of it" if own else "calibrate profile on it makes one"
            yield Weight.DANGER, f"nothing was timed on {gpu}, for no calibration is named; {way}", share
            continue
        for text in mismatches(used, place.cluster, perfmodel.__version__):
            if "was made on" in text:
                way = f" ({key}: {own} is {gpu}'s)" if own else ""
                foreign = sum(use.share for use in uses if use.timing.calibrated and use.kind == "other_gpu")
                yield Weight.DANGER, f"{text}{way}", foreign
            else:
                yield Weight.NOTE, text, share if "was made with another" in text else 0.0


def _calibration_key(rest: Rest, step: Step, place: int) -> str:
    """Key of the scenario that states the calibration of one of a step's places."""
    if place:
        return "ffns.calibration"
    reads = step.scenario.prefill is None
    prefill = next((one.scenario.prefill for one, _ in rest.steps if one.scenario.prefill), None)
    return "prefill.calibration" if reads and prefill and prefill.cluster else "calibration"


def _outside(rest: Rest) -> Iterator[Caveat]:
    """Shapes that were not timed: one line per weight, what takes most of the time first."""
    groups: dict[tuple[str, str, str], list[tuple[Use, Beyond]]] = {}
    for use in rest.uses:
        for beyond in beyond_of(use.timing.flag, use.op):
            groups.setdefault((words_of(use.op), beyond.name, beyond.side), []).append((use, beyond))
    lines: dict[Weight, list[tuple[float, str]]] = {}
    for (kernels, _, _), found in groups.items():
        share = sum(use.share for use, _ in found)
        furthest = max((beyond for _, beyond in found), key=lambda beyond: beyond.times)
        lines.setdefault(_how_far(share, furthest.times), []).append((share, f"{kernels} ({furthest.words})"))
    for weight, parts in lines.items():
        ordered = sorted(parts, key=lambda part: -part[0])
        texts = [text if len(ordered) == 1 else f"{percent_of_time(share)} {text}" for share, text in ordered]
        said = f"outside what was timed: {', '.join(texts)}"
        whole = _weighed(rest, weight, sum(share for share, _ in ordered), said)
        yield replace(whole, about=", ".join(sorted(text for _, text in parts)))


def _how_far(share: float, times: float) -> Weight:
    doubled = share * float(np.log2(times))
    if times >= FAR and doubled >= FAR_FOR_LONG:
        return Weight.DANGER
    return Weight.NOTE if share >= NOTED else Weight.STANDING


def _flagged(rest: Rest) -> Iterator[Caveat]:
    """Whatever else a time's source says of it, each once, with the ops that it is about."""
    groups: dict[tuple[str, str], list[Use]] = {}
    for use in rest.uses:
        for text in other_texts(use.timing.flag, use.calibration):
            groups.setdefault((text, use.kind), []).append(use)
    for (text, kind), found in groups.items():
        share = sum(use.share for use in found)
        weight = Weight.NOTE if share >= NOTED else Weight.STANDING
        if kind == "other_gpu" and not found[0].timing.calibrated and share >= DANGEROUS:
            weight = Weight.DANGER
        elif kind == "convention":
            weight = Weight.NOTE if share >= CONVENTIONAL else Weight.STANDING
        yield _weighed(rest, weight, share, text, _ops(found))


def _engines(rest: Rest) -> Iterator[Caveat]:
    """Kernels of another engine than the one that is named, where it has none of its own."""
    groups: dict[str, list[Use]] = {}
    for use in rest.uses:
        if use.kind == "other_engine":
            groups.setdefault(use.kernels_of, []).append(use)
    for engine, found in groups.items():
        share = sum(use.share for use in found)
        weight = Weight.NOTE if share >= NOTED else Weight.STANDING
        named = rest.step.scenario.deployment.engine
        text = f"{named} has no timings of these: {engine}'s kernels stand in"
        yield _weighed(rest, weight, share, text, _ops(found))


def _uncovered(rest: Rest) -> Iterator[Caveat]:
    """Ops that the calibration does not cover."""
    for number, place in enumerate(rest.step.places):
        used = place.calibration
        ran = [use for use in rest.uses if use.timing.source != "given" and use.place == number]
        missing = [use for use in ran if not use.timing.calibrated]
        if used is None or not missing:
            continue
        share = sum(use.share for use in missing)
        weight = (
            Weight.DANGER if share >= MOSTLY else Weight.NOTE if share >= CONVENTIONAL else Weight.STANDING
        )
        covered = len(ran) - len(missing)
        yield _weighed(
            rest,
            weight,
            share,
            f"calibration {used.name} covers {covered} of {number_of(len(ran), 'op')}; the rest by roofline",
            _ops(missing),
        )


def _report(scenario: Scenario) -> Iterator[Caveat]:
    yield note("costs: report counts what the report's Table 7 counts, not what a real step takes")
    memory, device = step_memory(scenario).total, scenario.cluster.gpu.memory_bytes
    if memory > device:
        yield danger(
            f"needs {memory / GB:,.1f} GB per GPU, the device has {device / GB:,.1f}: it could not run"
        )


def _overlaps(step: Step) -> bool:
    return has_contention(step.scenario) and overlaps(step.scenario.deployment.overlap)


def _host_counted(step: Step) -> bool:
    """Whether an engine is named, the scenario itself states what its host costs, or timings hold it (on a CPU)."""
    if step.calibration is not None and step.calibration.launch_s > 0.0:
        return True
    if step.scenario.deployment.engine or _states_host(step.scenario.deployment):
        return True
    return any(
        task.op.kernel == "host" and np.any(np.asarray(timing.seconds) > 0.0)
        for segment in step.segments
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    )


def _states_host(deployment: Deployment) -> bool:
    stated = deployment.host.model_dump().values()
    return any(not isinstance(value, (bool, str)) and np.any(np.asarray(value)) for value in stated)


def _weighed(rest: Rest, weight: Weight, share: float, text: str, ops: str = "") -> Caveat:
    named = f" ({ops})" if ops else ""
    return Caveat(weight, f"{percent_of_time(share)} of {rest.whose}: {text}{named}", share, text)


def without_repeats(values: Mapping[str, Any], rest: Rest, of: Rest) -> dict[str, list[str]]:
    """The texts in ``values``, an answer of ``rest``, without those that an answer of ``of`` holds as well, with as
    much weight.
    """
    known = {one.about: one.weight for one in step_caveats(of) if one.about}
    again = {one.text for one in step_caveats(rest) if one.about in known and known[one.about] <= one.weight}
    return {
        key: [text for text in values[key] if text not in again] for key in ("dangers", "warnings", "caveats")
    }


def _ops(uses: Sequence[Use]) -> str:
    """Ops that take time, in words, those that take most first."""
    ordered = sorted(
        (use for use in uses if not use.timing.source.startswith(INSIDE)), key=lambda use: -use.share
    )
    return listed([op_words(use.op.name) for use in ordered])
