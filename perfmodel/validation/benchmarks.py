"""A user's measured runs against their scenario: each run's own traffic is simulated on it, request by request.

What the file states replaces the scenario's traffic (:mod:`perfmodel.spec.benchmarks`); what it leaves open is the
scenario's, and is listed.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from perfmodel.answers.serve import ServeAnswer, answer_serve
from perfmodel.answers.serve_intervals import REPEATS
from perfmodel.economics.quantiles import spread
from perfmodel.economics.requests import latencies
from perfmodel.errors import PerfModelError
from perfmodel.load import build_scenario
from perfmodel.serving.window import counted
from perfmodel.spec.benchmarks.measured import Benchmark
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.traces.trace import Floats
from perfmodel.spec.workload import DEFAULT_INPUT, DEFAULT_OUTPUT, DEFAULT_REQUESTS
from perfmodel.stated import document_of_file, with_overrides
from perfmodel.units import MS
from perfmodel.validation.differences import Difference, differences
from perfmodel.validation.figures import FIGURES, RATE, RUN_FIGURES
from perfmodel.validation.rows import Row
from perfmodel.validation.user_data import SCENARIO, settings_in

LEAST = 5.0
"""Percentile of the TTFT that stands for requests that hardly wait."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run beside its simulation."""

    id: str
    """The file's name, and which of its runs."""
    benchmark: Benchmark
    rows: tuple[Row, ...]
    model: str = ""
    num_gpus: int | None = None
    requests: int = 0
    """That were simulated."""
    assumed: tuple[str, ...] = ()
    """What the file leaves open and how it was taken, in words."""
    differences: tuple[Difference, ...] = ()
    simulated: Mapping[str, float] = field(default_factory=dict)
    """Key of a figure -> the simulation's, whether it was measured or not."""
    samples: Mapping[str, Floats] = field(default_factory=dict)
    """Quantity -> what each simulated request sees (n,), s; of those that were measured so."""
    calibration: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """For ``--json``: all but the rows, which stand among the others."""
        return {
            "id": self.id,
            "writer": self.benchmark.writer,
            "label": self.benchmark.label,
            "requests": self.requests,
            "assumed": list(self.assumed),
            "suggests": [{"cause": one.cause, "text": one.text} for one in self.differences],
        }


def compare(
    benchmark: Benchmark,
    id_: str,
    scenario: str,
    overrides: Sequence[str] = (),
    *,
    suite: str,
    executor: Executor | None = None,
) -> Comparison:
    """Simulate a run on a scenario (catalogue name or file) with ``key.path=value`` overrides over all else; rows whose
    figure the simulation does not give keep their place with the reason.
    """
    try:
        built, assumed = scenario_of(benchmark, scenario, overrides)
        answer = answer_serve(built, repeats=REPEATS, executor=executor)
    except PerfModelError as error:
        return Comparison(id_, benchmark, _rows(benchmark, id_, suite, reason=str(error)))
    simulated, samples = _simulated(answer)
    intervals = answer.values.get("intervals", {})
    least = _least(benchmark.samples)
    cap = answer.served.requests.max_concurrency
    return Comparison(
        id_,
        benchmark,
        _rows(benchmark, id_, suite, built, simulated, intervals),
        model=built.model.name,
        num_gpus=built.fleet_gpus,
        requests=answer.values["requests"],
        assumed=assumed,
        differences=tuple(differences({**benchmark.figures, **least}, simulated, max_concurrency=cap)),
        simulated=simulated,
        samples={quantity: samples[quantity] for quantity in benchmark.samples if quantity in samples},
        calibration=str(answer.values["provenance"]["calibration"] or ""),
    )


def scenario_of(
    benchmark: Benchmark, scenario: str, overrides: Sequence[str] = ()
) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario that a run measured, and what had to be assumed.

    Raises:
        PerfModelError: the scenario can't be read, or does not go with the run.
    """
    document, folder = document_of_file(scenario)
    own = document.get("workload", {})
    kept = _kept(own if isinstance(own, Mapping) else {}, benchmark.workload)
    document = {**document, "workload": {**kept, **benchmark.workload}}
    document = with_overrides(document, [f"{key}={value}" for key, value in benchmark.settings.items()])
    built = build_scenario(with_overrides(document, overrides, from_here=True), folder=folder)
    assumed = list(benchmark.assumed)
    later = {text.partition("=")[0].strip() for text in overrides} | benchmark.settings.keys()
    kept = {key: one for key, one in kept.items() if f"workload.{key}" not in later}
    if kept:
        stated_by = ", ".join(f"{key}: {_short(one)}" for key, one in kept.items())
        assumed.append(f"the scenario's, as the run does not state them: {stated_by}")
    if "trace" not in document["workload"]:
        missing = {
            key for key in DEFAULTS if key not in document["workload"] and f"workload.{key}" not in later
        }
        assumed += [f"{key}: {DEFAULTS[key]:,.0f}, as nobody states it" for key in DEFAULTS if key in missing]
    stated = benchmark.num_gpus
    if stated and stated != built.fleet_gpus:
        assumed.append(
            f"the file says {stated} GPUs, the scenario has {built.fleet_gpus}: the scenario's are simulated"
        )
    return built, tuple(assumed)


LENGTHS = frozenset({
    "input_tokens", "output_tokens", "prefix_tokens", "num_prefixes", "turns", "turn_tokens", "tool_pause_s",
    "max_context_tokens", "trace", "trace_format", "columns", "time_unit", "hash_block_tokens", "turn_inputs",
    "result_index", "start_s", "duration_s", "num_requests",
})  # fmt: skip
"""Keys of a workload that say what requests are, rather than when they come."""
LOAD = frozenset({"request_rate", "burstiness", "ramp", "max_concurrency", "think_time_s", "time_scale"})
"""Those that say when they come."""
DEFAULTS = {
    "input_tokens": DEFAULT_INPUT.value,
    "output_tokens": DEFAULT_OUTPUT.value,
    "num_requests": DEFAULT_REQUESTS,
}
"""What a workload has where nobody states it."""


def _kept(own: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scenario's traffic holds beside what a run states. Load is one thing: a run that states a rate or a cap
    has no other; so are the requests of a trace. A run that states one length alone keeps the scenario's other.
    """
    dropped: set[str] = set(LOAD) if LOAD & stated.keys() else set()
    if "trace" in stated or {"input_tokens", "output_tokens"} <= stated.keys():
        dropped |= LENGTHS
    elif LENGTHS & stated.keys() - {"num_requests"}:
        dropped |= LENGTHS - {
            "input_tokens",
            "output_tokens",
            "prefix_tokens",
            "num_prefixes",
            "num_requests",
        }
    if "trace" in stated:
        dropped |= LOAD
    return {key: one for key, one in own.items() if key not in dropped and key not in stated}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


MOST_SHOWN = 60


def _simulated(answer: ServeAnswer) -> tuple[dict[str, float], dict[str, Floats]]:
    """Figures by key, and what each request sees."""
    records = counted(answer.served.records, answer.scenario.workload)
    ttft, tpot, e2e = latencies(records)
    samples = {"ttft_s": ttft, "tpot_s": tpot[np.isfinite(tpot)], "e2e_s": e2e}
    sections = {**answer.values, "tpot_incl_s": spread(e2e / records.output_tokens)}
    found: dict[str, float] = {"ttft_s.p5": float(np.percentile(ttft, LEAST))}
    for key, value in sections.items():
        if isinstance(value, float):
            found[key] = value
        elif isinstance(value, dict) and "mean" in value:
            found |= {f"{key}.{part}": one for part, one in value.items()}
    return found, samples


def _least(samples: Mapping[str, Floats]) -> dict[str, float]:
    ttft = samples.get("ttft_s")
    return {} if ttft is None else {"ttft_s.p5": float(np.percentile(ttft, LEAST))}


def _rows(
    benchmark: Benchmark,
    id_: str,
    suite: str,
    scenario: Scenario | None = None,
    simulated: Mapping[str, float] | None = None,
    intervals: Mapping[str, Any] | None = None,
    *,
    reason: str | None = None,
) -> tuple[Row, ...]:
    found = []
    for key, measured in benchmark.figures.items():
        figure = RUN_FIGURES[key]
        predicted = (simulated or {}).get(key)
        low, high = (intervals or {}).get(key, (None, None))
        found.append(
            Row(
                suite=suite,
                id=id_,
                model=scenario.model.name if scenario else "",
                quantity=figure.quantity,
                unit=figure.unit,
                measured=measured,
                predicted=predicted,
                role="user",
                source=benchmark.writer,
                low=low if predicted is not None else None,
                high=high if predicted is not None else None,
                reason=reason or (None if predicted is not None else f"{key}: the simulation has none"),
                system=scenario.cluster.gpu.name if scenario else "",
                engine=(scenario.deployment.engine or "") if scenario else "",
                settings="; ".join(f"workload.{name}={one}" for name, one in benchmark.workload.items()),
            )
        )
    return tuple(found)


def benchmark_of(record: Mapping[str, str]) -> Benchmark:
    """A row of a CSV file of runs (:data:`perfmodel.validation.user_data.RUNS`): its columns replace what the scenario
    says of traffic, one by one.
    """
    workload: dict[str, Any] = {}
    for ours, name in (("input_tokens", "isl"), ("output_tokens", "osl")):
        if record[f"{name}_min"]:
            workload[ours] = {"min": _whole(record[f"{name}_min"]), "max": _whole(record[f"{name}_max"])}
        elif record[name]:
            workload[ours] = _whole(record[name])
    for ours, name in (
        ("max_concurrency", "concurrency"), ("num_requests", "num_prompts"), ("warm_up_requests", "warm_up_requests"),
    ):  # fmt: skip
        if record[name]:
            workload[ours] = _whole(record[name])
    for name in ("request_rate", "burstiness"):
        if record[name]:
            workload[name] = "inf" if record[name] == "inf" else float(record[name])
    loaded = {"max_concurrency", "request_rate"} & workload.keys()
    if loaded and "request_rate" not in workload:
        workload["request_rate"] = "inf"
    if "num_requests" in workload:
        workload["num_requests"] += workload.get("warm_up_requests", 0)
    figures = {
        "output_tokens_per_s" if column == RATE else f"{figure.key}.{figure.statistic}": float(record[column])
        * (1.0 if column == RATE else MS)
        for column, figure in FIGURES.items()
        if record[column]
    }
    return Benchmark(
        writer=record["source"] or "CSV",
        label=record["id"],
        figures=figures,
        workload=workload,
        settings=settings_in(record["set"]),
        scenario=record[SCENARIO],
    )


def _whole(text: str) -> int:
    return int(float(text))
