"""Suite ``serving-2026``: what public runs of 2025-26 state beside the mean TTFT and TPOT of a closed loop.

Steps of a stated batch (speeds per user, tokens/s and GPU) are predicted as in suite ``deepseek``; medians and output
rates of loops and bursts come from the loop that :mod:`perfmodel.validation.silicon` simulates for the run. Figures
that stand in ``silicon_2026_field.csv`` are judged there. Rows of stacks that the file calls old or broken are summed
up apart (``-noted``), and so are bursts (``-bursts``).
"""

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from perfmodel.errors import PerfModelError
from perfmodel.serving.records import Records
from perfmodel.serving.serve import serve
from perfmodel.serving.window import counted
from perfmodel.units import MS
from perfmodel.validation import roles, serving
from perfmodel.validation.names import gpu_named
from perfmodel.validation.rows import Row
from perfmodel.validation.runs import scenario_of, unknown
from perfmodel.validation.setups import setup_of
from perfmodel.validation.silicon import calibrations as calibrations
from perfmodel.validation.steps import predict_step

NAME = "serving-2026"
FILE = "serving_2026.csv"
FIELD = "silicon_2026_field.csv"
Progress = Callable[[str, int, int], None]


def _ttft(records: Records) -> np.ndarray:
    return records.first_token_s - records.arrival_s


def _tpot(records: Records) -> np.ndarray:
    several = records.output_tokens > 1
    times = records.end_s[several] - records.first_token_s[several]
    return times / (records.output_tokens[several] - 1)


def _median_gap(records: Records) -> float:
    order = np.argsort(records.gap_s)
    counts = np.cumsum(records.gap_count[order])
    return float(records.gap_s[order][np.searchsorted(counts, counts[-1] / 2.0)])


def _rate(records: Records) -> float:
    return float(records.output_tokens.sum() / (records.end_s.max() - records.arrival_s.min()))


FIGURES: Mapping[str, tuple[str, Callable[[Records], float]]] = {
    "ttft_mean": ("ttft_s", lambda records: float(_ttft(records).mean())),
    "ttft_median": ("ttft_median_s", lambda records: float(np.median(_ttft(records)))),
    "tpot_mean": ("tpot_s", lambda records: float(_tpot(records).mean())),
    "tpot_median": ("tpot_median_s", lambda records: float(np.median(_tpot(records)))),
    "inter_token_latency_median": ("itl_median_s", _median_gap),
    "output_tok_s_total": ("output_tokens_per_s_per_gpu", _rate),
}
"""Metric of a run -> (quantity, the figure of a simulated one); tokens/s are of all GPUs."""
QUANTITIES = {
    **{metric: quantity for metric, (quantity, _) in serving.METRICS.items()},
    **{metric: quantity for metric, (quantity, _) in FIGURES.items()},
}


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows: one per figure that does not stand in the columns of ``silicon_serving.csv``."""
    committed, found = roles.committed(), []
    records = [record for record in roles.read_published(FILE) if not stands_in_field(record)]
    for number, record in enumerate(records):
        if progress is not None:
            progress(NAME, number, len(records))
        found.append(_row_of(record, committed[FILE, record["id"]]))
    return found


def stands_in_field(record: Mapping[str, str]) -> bool:
    """Whether the figure is one that suite ``silicon-field`` judges: the mean, or the median of a run without one."""
    what, _, kind = record["metric"].partition("_")
    run = _field().get(roles.run_of(record), {})
    if kind not in ("mean", "median") or run.get(f"{what}_ms") != record["value"]:
        return False
    return kind == "mean" or f"{run['id']}__{what}_mean" not in _ids()


def _row_of(record: Mapping[str, str], role: str) -> Row:
    quantity = QUANTITIES.get(record["metric"], record["metric"])
    common: dict[str, Any] = {
        "suite": NAME + _kind(record),
        "id": record["id"],
        "model": record["model"],
        "quantity": quantity,
        "unit": {"ms": "s", "1": "1"}.get(record["unit"], "tokens/s"),
        "measured": _measured(record, quantity),
        "role": role,
        "source": record["source"],
        "system": gpu_named(record["system"]),
        "engine": serving.known_engine(record["framework"]),
    }
    try:
        if record["phase"].startswith("end-to-end"):
            predicted, low, high = _of_a_run(record, quantity), None, None
        else:
            predicted, low, high = _of_a_step(record, quantity)
    except PerfModelError as error:
        return Row(predicted=None, reason=str(error), **common)
    return Row(predicted=predicted, low=low, high=high, **common)


def _kind(record: Mapping[str, str]) -> str:
    if any(word in record["kind"] for word in ("OLD engine", "BROKEN")):
        return "-noted"
    return "-bursts" if record["phase"] == "end-to-end burst" else ""


def _measured(record: Mapping[str, str], quantity: str) -> float:
    """The figure in SI; output tokens/s of a whole run, over its GPUs."""
    value = float(record["value"])
    if record["unit"] == "ms":
        return value * MS
    return value / float(record["gpus"]) if record["metric"] == "output_tok_s_total" else value


def _of_a_run(record: Mapping[str, str], quantity: str) -> float:
    """A figure of a simulated loop or burst.

    Raises:
        PerfModelError: the run can't be predicted.
    """
    if record["metric"] not in FIGURES:
        raise PerfModelError(f"metric {record['metric']}: not a figure of a run")
    cells = _field().get(roles.run_of(record)) or silicon_cells(record)
    figure = FIGURES[record["metric"]][1](_served(tuple(cells.items()), _at_once(record), _chunk(record)))
    return figure / float(record["gpus"]) if quantity == "output_tokens_per_s_per_gpu" else figure


def _of_a_step(record: Mapping[str, str], quantity: str) -> tuple[float, float | None, float | None]:
    """(predicted, low, high) of a step of a stated batch.

    Raises:
        PerfModelError: the row describes none.
    """
    if record["phase"] == "not expressible":
        raise PerfModelError(f"no deployment of perfmodel: {record['kind'].partition('; ')[2]}")
    reason = serving.missing(record)
    if reason:
        raise PerfModelError(reason)
    formats = {
        path: value
        for path, value in setup_of(silicon_cells(record)).settings.items()
        if path.startswith("deployment.precision")
    }
    return serving.quantity_of(predict_step(serving.scenario_of(record, formats)), quantity)


def silicon_cells(record: Mapping[str, str]) -> dict[str, str]:
    """A run in the columns of ``silicon_serving.csv``; without a load where none is stated."""
    layout = {
        name: re.search(rf"\b{name}(\d+)", f"{record['attn_parallel']} {record['moe_parallel']}")
        for name in ("TP", "DP", "EP", "moe_tp")
    }
    load = re.search(r"(\d+) (in flight|requests at once)", record["routing"])
    size = {name: match[1] if match else "1" for name, match in layout.items()}
    return {
        "id": record["id"],
        "model": record["model"],
        "system": record["system"],
        "backend": serving.known_engine(record["framework"]),
        "backend_version": record["framework"].partition(" ")[2],
        "precision": record["precision"],
        "mode": "agg",
        "isl": record["isl_or_kv"],
        "osl": record["osl"],
        "concurrency": load[1] if load else "",
        "gpus": record["gpus"],
        "parallel_or_prefill": f"tp{size['TP']} dp{size['DP']} moe_tp{size['moe_tp']} ep{size['EP']}",
        "decode": "",
        "origin": "",
        "note": "",
    }


def _at_once(record: Mapping[str, str]) -> bool:
    return "at once" in record["routing"]


def _chunk(record: Mapping[str, str]) -> float | None:
    """The token budget of a step, where the row states it."""
    stated = re.search(r"max_num_tokens (\d+)", record["kind"])
    return float(stated[1]) if stated else None


@cache
def _served(cells: tuple[tuple[str, str], ...], at_once: bool, chunk: float | None) -> Records:
    """The run's requests, simulated once for all of its figures."""
    record, stated = dict(cells), {}
    reason = setup_of(record).not_predicted or unknown(record)
    if reason:
        raise PerfModelError(reason)
    if at_once:
        stated["workload.num_requests"] = record["concurrency"]
    if chunk is not None:
        stated["serving.max_batched_tokens"] = f"{chunk:.0f}"
    scenario = scenario_of(record, stated)
    return counted(serve(scenario).records, scenario.workload)


@cache
def _field() -> dict[str, dict[str, str]]:
    return {record["id"]: record for record in roles.read_published(FIELD)}


@cache
def _ids() -> frozenset[str]:
    return frozenset(record["id"] for record in roles.read_published(FILE))
