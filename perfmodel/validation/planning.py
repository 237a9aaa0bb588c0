"""Suite ``planning``: would the predictions have chosen what measured best?

A set is all measured closed loops of one model, GPU, engine and lengths, of four configurations or more: layout,
number formats, GPUs, users. A planner ranks them by output per GPU, U x osl / (TTFT + (osl - 1) TPOT) / GPUs, and takes
the best that keeps a limit on TPOT. Every measured TPOT of the set is that limit once. Per set, each with 1 for "as the
measurements have it":

- ``kendall_tau``: agreement of the two rankings by output per GPU (tau-b).
- ``kendall_tau_same_load``: of pairs with as many users alone: what more users do to the output is no secret.
- ``throughput_kept``: measured output of the choice over the best measured one, mean over limits; 1 - it is the regret.
  The choice is among what was measured within the limit: this is the ranking alone.
- ``throughput_kept_by_tpot``: the same where the limit too is judged by the predicted TPOT. A choice that then measures
  slower than the limit is compared with what is as fast as it; one that is timid loses what it left.
- ``limits_kept``: the share of limits that those choices keep when measured, if only just.

The predictions are those of the silicon suites, of the same run or on record: nothing is simulated here. Sets that hold
a row from which constants were fitted have role ``fit`` (mixed), the others ``check``. The peer's figures are of sets
whose rows it predicts all.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfmodel.validation import roles
from perfmodel.validation.duplicates import SET_UP
from perfmodel.validation.evidence import APART
from perfmodel.validation.names import gpu_named
from perfmodel.validation.recorded import recorded_results
from perfmodel.validation.rows import Row
from perfmodel.validation.silicon import calibrations as calibrations

NAME = "planning"
FILES = {
    "silicon": "silicon_serving.csv",
    "silicon-field": "silicon_2026_field.csv",
    "silicon-2026": "silicon_2026.csv",
}
"""Suites whose rows are ranked, and their files."""
LEAST = 4
"""Configurations of a set, and pairs of a rank correlation."""
SET = ("model", "system", "backend", "isl", "osl")
CONFIGURATION = tuple(name for name in SET_UP if name not in (*SET, "backend_version"))
LEFT_OUT = tuple(end for end in APART if end != "-cold")
"""Parts that are not ranked. Runs without a warm-up are: their TPOT is as good as any."""

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


class Figures(NamedTuple):
    """Of the configurations of a set, (configurations,) each."""

    tpot_s: Array
    output_per_gpu: Array
    """Tokens/s."""

    @classmethod
    def of(cls, tpot_s: Array, ttft_s: Array, records: Sequence[Mapping[str, str]]) -> "Figures":
        """What a closed loop gives whose requests take TTFT and osl - 1 further tokens."""
        users, osl, gpus = (
            np.array([float(one[name]) for one in records]) for name in ("concurrency", "osl", "gpus")
        )
        return cls(tpot_s, users * osl / (ttft_s + (osl - 1.0) * tpot_s) / gpus)


def rows(before: Sequence[Row] = ()) -> list[Row]:
    """The suite's rows.

    Args:
        before: what the suites that run before this one found; the record stands in where they did not run.
    """
    return [row for records in _sets(_predictions(before)) for row in _rows_of(records)]


class _Run(NamedTuple):
    """A configuration: figures are means where it was measured more than once."""

    record: Mapping[str, str]
    tpot: tuple[float, float, float]
    """Measured, predicted, by the peer (nan: it has none); s."""
    ttft: tuple[float, float, float]
    fitted: bool
    """Whether a fit has seen one of its rows."""


def _predictions(before: Sequence[Row]) -> dict[tuple[str, str, str], Row]:
    """(file, id, quantity) -> row, of those that are ranked."""
    own = {row.suite for row in before}
    found = before if own >= set(FILES) else recorded_results().rows
    ours = [row for row in found if not row.suite.endswith(LEFT_OUT)]
    return {
        (file, row.id, row.quantity): row
        for suite, file in FILES.items()
        for row in ours
        if row.suite == suite or row.suite.removeprefix(suite) in ("-cold", "-disaggregated", "-transfer")
    }


def _sets(predictions: Mapping[tuple[str, str, str], Row]) -> Iterator[list[_Run]]:
    """The configurations of each set that has enough of them."""
    found: defaultdict[tuple[str, ...], defaultdict[tuple[str, ...], list[_Run]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for file in FILES.values():
        for record in roles.read_published(file):
            tpot, ttft = (predictions.get((file, record["id"], name)) for name in ("tpot_s", "ttft_s"))
            if tpot is None or ttft is None or tpot.predicted is None or ttft.predicted is None:
                continue
            key, own = ([record[name] for name in names] for names in (SET, CONFIGURATION))
            run = _Run(record, _three(tpot), _three(ttft), roles.may_fit(file, record))
            found[tuple(key)][tuple(own)].append(run)
    for configurations in found.values():
        if len(configurations) >= LEAST:
            yield [_mean(repeats) for repeats in configurations.values()]


def _three(row: Row) -> tuple[float, float, float]:
    assert row.predicted is not None
    return row.measured, row.predicted, float("nan") if row.peer_predicted is None else row.peer_predicted


def _mean(repeats: Sequence[_Run]) -> _Run:
    def of(values: Sequence[tuple[float, float, float]]) -> Any:
        return tuple(statistics.fmean(column) for column in zip(*values, strict=True))

    tpot, ttft = of([run.tpot for run in repeats]), of([run.ttft for run in repeats])
    return _Run(repeats[0].record, tpot, ttft, any(run.fitted for run in repeats))


def _rows_of(runs: Sequence[_Run]) -> Iterator[Row]:
    records = [run.record for run in runs]
    tpots, ttfts = (np.array(values).T for values in ([r.tpot for r in runs], [r.ttft for r in runs]))
    measured, ours, peer = (Figures.of(tpots[i], ttfts[i], records) for i in range(3))
    load = np.array([float(one["concurrency"]) for one in records])
    first = records[0]
    common: dict[str, Any] = {
        "suite": NAME,
        "id": "-".join(first[name] for name in SET),
        "model": first["model"],
        "unit": "1",
        "measured": 1.0,
        "role": "fit" if any(run.fitted for run in runs) else "check",
        "source": "; ".join(dict.fromkeys(one["source"] for one in records)),
        "system": gpu_named(first["system"]),
        "engine": first["backend"],
        "settings": f"{len(runs)} configurations",
    }
    theirs = _scores(measured, peer, load) if np.isfinite(peer.output_per_gpu).all() else {}
    for quantity, value in _scores(measured, ours, load).items():
        if value is not None:
            yield Row(quantity=quantity, predicted=value, peer_predicted=theirs.get(quantity), **common)


def _scores(measured: Figures, said: Figures, load: Array) -> dict[str, float | None]:
    """By quantity; None where there are too few pairs."""
    outputs = measured.output_per_gpu, said.output_per_gpu
    return {
        "kendall_tau": tau(*outputs),
        "kendall_tau_same_load": tau(*outputs, within=load),
        "throughput_kept": kept(measured, Figures(measured.tpot_s, said.output_per_gpu)),
        "throughput_kept_by_tpot": kept(measured, said),
        "limits_kept": limits_kept(measured, said),
    }


def tau(one: Array, other: Array, within: Array | None = None) -> float | None:
    """Kendall's tau-b of two rankings (n,): -1 reversed, 0 unrelated, 1 the same.

    Args:
        one: values, larger is better.
        other: of the same things.
        within: only pairs that are equal in this.

    Returns:
        None with fewer than LEAST pairs, or where a ranking ties them all.
    """
    first, second = np.triu_indices(one.size, 1)
    if within is not None:
        same = within[first] == within[second]
        first, second = first[same], second[same]
    ours, theirs = np.sign(one[first] - one[second]), np.sign(other[first] - other[second])
    apart = float(np.abs(ours).sum() * np.abs(theirs).sum())
    return float(ours @ theirs) / apart**0.5 if first.size >= LEAST and apart else None


def choices(measured: Figures, said: Figures) -> Ints:
    """What is chosen by ``said``, by limit: (n,) positions. Each measured TPOT is the limit once.

    Chosen is the largest output of what keeps the limit, or the fastest where nothing does.
    """
    keeps = said.tpot_s <= measured.tpot_s[:, None]
    best = np.where(keeps, said.output_per_gpu, -np.inf).argmax(axis=1)
    return np.where(keeps.any(axis=1), best, said.tpot_s.argmin())


def kept(measured: Figures, said: Figures) -> float:
    """Mean over limits of the measured output of the choice by ``said``, over the best measured one's.

    The best is of what is measured within the limit, or no slower than the choice where that breaks it.
    """
    chosen = choices(measured, said)
    as_fast = measured.tpot_s <= np.maximum(measured.tpot_s, measured.tpot_s[chosen])[:, None]
    best = np.where(as_fast, measured.output_per_gpu, 0.0).max(axis=1)
    return float((measured.output_per_gpu[chosen] / best).mean())


def limits_kept(measured: Figures, said: Figures) -> float:
    """Share of limits that the choice by ``said`` keeps when measured."""
    return float((measured.tpot_s[choices(measured, said)] <= measured.tpot_s).mean())
