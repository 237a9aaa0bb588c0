"""A point of a sweep of ``plan``: a scenario read as a question, and the best deployment as figures.

Model, cluster (so many GPUs as it says, or as the scenario's own deployment has), engine, traffic (users or a rate of
requests of some lengths, or a trace), limits (``slo``, at p99) and seed are the question; calibration, prices, power,
routing, costs and the acceptance of drafts hold for every candidate. The layout is what is looked for: what else a
scenario says of its deployment is not read.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perfmodel.engines.profile import leaves
from perfmodel.errors import SpecError
from perfmodel.explore.plan.answer import plan
from perfmodel.explore.plan.question import Kind, Question, limits_of, model_path, traffic_of
from perfmodel.load import build_scenario
from perfmodel.spec.distributions import Distribution
from perfmodel.spec.slo import Slo
from perfmodel.units import MS

SIMULATE = 8
"""Candidates that are simulated at each point: a quarter of what ``plan`` takes for a single question."""
SECONDS = 1e6
"""No point may end by the clock, or its row would depend on the machine."""
KEPT = ("calibration", "prices", "power", "routing", "costs")
"""Sections that hold for every candidate."""
LEFT_OUT = ("miss", "simulated", "replications")


def plan_figures(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Figures of the best deployment (``best.``), how many were looked at (``considered.``), and whether it meets the
    limits; where none does the best is the nearest miss.

    Raises:
        SpecError: the scenario is no question.
        InfeasibleError: no layout is legal or fits.
    """
    values = plan(question_of(document, folder), simulate=SIMULATE, seconds=SECONDS).values
    best = {key: value for key, value in values["candidates"][0].items() if key not in LEFT_OUT}
    return {
        "meets_limits": values["meets_limits"],
        "separated": values["separated"],
        "considered": values["considered"],
        "best": {**best, "scenario": json.dumps(best["scenario"], sort_keys=True)},
    }


def question_of(document: Mapping[str, Any], folder: Path) -> Question:
    """The question that a scenario asks.

    Raises:
        SpecError: a model without a name, or traffic that ``plan`` does not take.
    """
    scenario = build_scenario(document, folder=folder)
    model, model_keys = _named(document["model"], "model")
    cluster, cluster_keys = _named(document["cluster"], "cluster")
    w, slo = scenario.workload, scenario.slo or Slo()
    lengths = None if w.trace else (w.input_tokens, w.output_tokens)
    spreads = set() if lengths is None else {_spread(one) for one in lengths}
    if len(spreads) > 1:
        raise SpecError(
            "workload: plan takes input_tokens and output_tokens that spread alike about their means"
        )
    deployment = scenario.deployment
    return Question(
        model=model_path(str(folder / model) if "/" in model or model.endswith(".json") else model),
        kinds=(Kind(cluster, scenario.cluster.num_gpus or scenario.fleet_gpus, deployment.engine or ""),),
        traffic=traffic_of(
            isl=None if lengths is None else _mean(w.input_tokens),
            osl=None if lengths is None else _mean(w.output_tokens),
            users=None if w.trace else w.max_concurrency,
            rate=None if w.trace or w.request_rate is None else float(w.request_rate),
            trace=w.trace,
            **({"length_spread": spreads.pop()} if spreads else {}),
        ),
        limits=limits_of(_seconds(slo.ttft_ms), _seconds(slo.tpot_ms), 99.0),
        overrides=tuple(_held(document, model_keys, cluster_keys)),
        seed=scenario.seed,
    )


def _held(document: Mapping[str, Any], model: Mapping[str, Any], cluster: Mapping[str, Any]) -> Iterator[str]:
    """What every candidate has, as ``key=value``."""
    for section, keys in (("model", model), ("cluster", cluster)):
        for path, value in leaves(keys):
            if f"{section}.{path}" != "cluster.num_gpus":
                yield f"{section}.{path}={json.dumps(value)}"
    for section in KEPT:
        if section in document:
            yield f"{section}={json.dumps(document[section])}"
    stated = document.get("deployment", {})
    for key, value in stated.get("mtp", {}).items():
        if key != "draft_tokens":
            yield f"deployment.mtp.{key}={json.dumps(value)}"
    if "engine_version" in stated:
        yield f"deployment.engine_version={json.dumps(stated['engine_version'])}"


def _named(section: Any, key: str) -> tuple[str, Mapping[str, Any]]:
    """The name that a section builds on, and its other keys."""
    if isinstance(section, str):
        return section, {}
    if isinstance(section, Mapping) and isinstance(section.get("base"), str):
        return section["base"], {name: value for name, value in section.items() if name != "base"}
    raise SpecError(f"{key}: plan takes a name of the catalogue with keys over it (base: NAME)")


def _mean(lengths: Distribution | None) -> float | None:
    if lengths is None:
        return None
    if lengths.value is not None:
        return lengths.value
    assert lengths.min is not None, "checked"
    assert lengths.max is not None, "checked"
    return 0.5 * (lengths.min + lengths.max)


def _spread(lengths: Distribution | None) -> float:
    """Half the width of uniform lengths over their mean.

    Raises:
        SpecError: other lengths.
    """
    if lengths is None or lengths.value is not None:
        return 0.0
    if lengths.min is None or lengths.max is None or lengths.mean is not None:
        raise SpecError("workload: plan takes lengths that are fixed (value) or uniform (min and max)")
    return round((lengths.max - lengths.min) / (lengths.max + lengths.min), 9)


def _seconds(limit_ms: float | None) -> float | None:
    return None if limit_ms is None else limit_ms * MS
