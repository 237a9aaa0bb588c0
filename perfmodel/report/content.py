"""A report's content: scenarios answered, compared, and judged by how far off perfmodel has been.

:func:`build_report` composes what other modules answer. Its ``values`` are the object that ``perfmodel report --json``
prints (SI units, unknown is None); pages and tables take their numbers from them alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import perfmodel
from perfmodel.answers.step import plain
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.difference import difference
from perfmodel.report.part import Options, Part, answer_part
from perfmodel.report.trust import caveats, validation_lines
from perfmodel.spec.scenario import Scenario
from perfmodel.validation.recorded import recorded_results

MOST_SCENARIOS = 12
"""Of one report: more than a page can compare."""

Progress = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report says."""

    parts: tuple[Part, ...]
    values: dict[str, Any]
    """The keys of ``perfmodel report --json``."""


def build_report(
    scenarios: Sequence[Scenario],
    options: Options | None = None,
    *,
    command: str = "",
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Report:
    """Answer every scenario and compare them with the first that has an answer. An ``executor`` shares out repeats.

    A scenario that can't be answered keeps its place with the reason; if none can, the first one's error is raised.

    Raises:
        SpecError: no scenario, or too many.
        InfeasibleError: none fits.
        UnsupportedError: none is modelled.
    """
    if not 1 <= len(scenarios) <= MOST_SCENARIOS:
        raise SpecError(f"{len(scenarios)} scenarios: a report has from 1 to {MOST_SCENARIOS}")
    options = options or Options()
    labels = labels_of(scenarios)
    parts: list[Part] = []
    for label, scenario in zip(labels, scenarios, strict=True):
        parts.append(
            answer_part(label, scenario, options, progress=_told(progress, label), executor=executor)
        )
    if all(part.error is not None for part in parts):
        raise next(part.error for part in parts if part.error is not None)
    values = {
        "scenarios": [part.values for part in parts],
        "comparison": _comparison(parts),
        "validation": _validation(parts),
        "trust": caveats(recorded_results()),
        **{key: _told_by(parts, key) for key in ("dangers", "warnings", "caveats")},
        "intervals": _intervals(parts),
        "provenance": {
            "perfmodel": perfmodel.__version__,
            "command": command,
            "scenarios": {
                part.label: part.values["step"]["provenance"] if part.values["step"] else None
                for part in parts
            },
        },
    }
    return Report(tuple(parts), _plain(values))


def labels_of(scenarios: Sequence[Scenario]) -> list[str]:
    """Names, numbered where two are the same."""
    seen: dict[str, int] = {}
    labels = []
    for scenario in scenarios:
        number = seen[scenario.name] = seen.get(scenario.name, 0) + 1
        labels.append(scenario.name if number == 1 else f"{scenario.name} ({number})")
    return labels


def _told(progress: Progress | None, label: str) -> Progress | None:
    if progress is None:
        return None
    tell = progress
    return lambda what, done, total: tell(f"{label}, {what}", done, total)


def _comparison(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """One row per scenario with an answer, each with its difference from the first; empty for a single one."""
    answered = [part for part in parts if part.step is not None]
    if len(answered) < 2:
        return []
    return [_compared(answered[0], part) for part in answered]


def _compared(first: Part, part: Part) -> dict[str, Any]:
    assert first.step is not None
    assert part.step is not None
    values = part.step.values
    row = {key: values[key] for key in _COMPARED}
    row |= {"name": part.label, "intervals": {key: values.get("intervals", {}).get(key) for key in _BOUNDED}}
    row |= {"usd_per_gpu_hour": part.values["money"]["usd_per_gpu_hour"]}
    row |= {"difference": None, "difference_reason": None}
    if part is first:
        return row
    try:
        found = difference(first.step, part.step).as_dict()
        return row | {"difference": {**found, "name_a": first.label, "name_b": part.label}}
    except PerfModelError as error:
        return row | {"difference_reason": str(error)}


_COMPARED = (
    "phase",
    "model",
    "gpu",
    "num_gpus",
    "batch_per_gpu",
    "context_tokens",
    "step_time_s",
    "tpot_s",
    "ttft_s",
    "tokens_per_s_per_user",
    "output_tokens_per_s_per_gpu",
    "input_tokens_per_s_per_gpu",
    "usd_per_million_output_tokens",
    "usd_per_million_input_tokens",
    "exposed_communication_s",
    "overlap_pct",
    "mfu",
    "mbu",
)
_BOUNDED = ("tokens_per_s_per_user", "usd_per_million_output_tokens", "usd_per_million_input_tokens")


def _validation(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Errors on record for what the report's steps rest on, each line once, with the scenarios it is about."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in parts:
        if part.step is None:
            continue
        for line in validation_lines(part.step.step):
            own = found.setdefault(tuple(line.values()), {**line, "scenarios": []})
            own["scenarios"].append(part.label)
    return list(found.values())


def _told_by(parts: Sequence[Part], key: str) -> list[str]:
    """Warnings (or caveats) of every part, each once; with several scenarios, whose it is unless it is everyone's."""
    owners: dict[str, list[str]] = {}
    for part in parts:
        for text in part.caveats[key]:
            labels = owners.setdefault(text, [])
            if part.label not in labels:
                labels.append(part.label)
    everyone = len(parts)
    texts = {
        text: text if len(labels) == everyone else f"{', '.join(labels)}: {text}"
        for text, labels in owners.items()
    }
    if key == "warnings":  # dangers of all parts before any note
        dangers = {text for part in parts for text in part.caveats["dangers"]}
        return [texts[text] for text in sorted(texts, key=lambda text: text not in dangers)]
    return list(texts.values())


def _intervals(parts: Sequence[Part]) -> dict[str, Any]:
    """``LABEL.step.QUANTITY`` and ``LABEL.serve.QUANTITY`` -> [low, high]."""
    found: dict[str, Any] = {}
    for part in parts:
        for kind in ("step", "serve"):
            own = (part.values[kind] or {}).get("intervals", {})
            found |= {f"{part.label}.{kind}.{key}": bounds for key, bounds in own.items()}
    return found


def _plain(value: Any) -> Any:
    """Values that JSON can hold, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return plain(value)
