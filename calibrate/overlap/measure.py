"""The measurements of the overlap experiment, calibration and measurement in turn.

A run is a few passes over the rates. In each visit to a rate rounds follow each other while there is time. A round is

1. the block in one form,
2. exchanges of two sizes near the block's,
3. the block in the other form (which form comes first alternates),
4. compute beside an exchange,
5. some kernels of the compute calibration.

So whatever the machine does for seconds or minutes falls on what is predicted and on what it is predicted from alike.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibrate.device.case import Case
from calibrate.device.environment import ForeignLoad
from calibrate.overlap.ranks import RankPair
from calibrate.overlap.workload import NUM_RANKS, Workload, exchange_rows, kernel_cases
from perfmodel.units import BITS_PER_BYTE, MEGA

PASSES = 3
SIZES = (0.6, 1.3, 0.8, 1.6, 0.5, 1.15, 0.7, 1.45, 0.9, 2.0)
"""Exchanges are timed at these multiples of the block's rows, two in a round: around it, never at it."""
SIZES_PER_ROUND = 2
MIN_ROUNDS = 3
"""Of each rate and pass: two exchanges a round, so at least six a visit."""
KERNEL_SHARE = 0.4
"""Kernels are timed for at most this share of a visit; what is left over is timed at the end of the pass."""
CONTENTION_S = 0.15
"""The exchange that compute is timed beside is the block's, cut where it would take longer than this."""
PILOT_ROUNDS = 5
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BlockRun:
    """One run of the block; tuples are by rank."""

    rate: float
    """Of the link, bit/s; infinite on the loopback interface."""
    round: int
    overlapped: bool
    seconds: tuple[float, ...]
    probe_s: tuple[float, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExchangeRun:
    """One dispatch and one combine, alone; the slower rank's times."""

    rate: float
    round: int
    rows: int
    dispatch_s: float
    combine_s: float


@dataclass(frozen=True, slots=True)
class ContentionRun:
    """A slice of compute alone and beside an exchange; means over ranks."""

    rate: float
    round: int
    rows: int
    alone_s: float
    together_s: float
    """NaN where the exchange was over before a slice."""
    exchange_s: float


@dataclass(frozen=True, slots=True)
class KernelRun:
    """One kernel, timed on both ranks at once, each normalised by its probe: s by rank."""

    case: Case
    seconds: tuple[float, ...]
    spread: float


@dataclass(slots=True)
class Measured:
    """Everything that a run measured."""

    workload: Workload
    environment: dict[str, Any]
    reference_probe_s: float
    """Probe time on a machine as fast as the normalised times are for, s."""
    rates: tuple[float, ...] = ()
    blocks: list[BlockRun] = field(default_factory=list)
    exchanges: list[ExchangeRun] = field(default_factory=list)
    contention: list[ContentionRun] = field(default_factory=list)
    kernels: list[KernelRun] = field(default_factory=list)
    foreign_load: dict[float, list[float]] = field(default_factory=dict)
    """Rate -> share of the machine that other processes took, one figure for each visit."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how finely to measure."""

    seconds_per_rate: float
    passes: int = PASSES
    kernel_samples: int = 5
    seed: int = 0


def measure(pair: RankPair, rates: Sequence[float], plan: Plan, progress: Progress) -> Measured:
    """Visit every rate, bit/s, as often as the plan says.

    Raises:
        DataError: a rank failed.
    """
    found = _begin(pair)
    found.rates = tuple(rates)
    cases = iter(kernel_cases(pair.workload, plan.seed))
    shares = len(rates) * plan.passes
    total = len(kernel_cases(pair.workload, plan.seed))
    for number in range(shares):
        rate = rates[number % len(rates)]
        progress(f"pass {number // len(rates) + 1}/{plan.passes}: {describe_rate(rate)}")
        pair.set_rate(None if math.isinf(rate) else rate)
        with ForeignLoad() as load:
            left = total * (number + 1) // shares - len(found.kernels)
            _visit(pair, found, rate, plan, cases, left, last=number >= shares - len(rates))
        found.foreign_load.setdefault(rate, []).append(load.share)
    return found


def pilot_rates(pair: RankPair, ratios: Sequence[float]) -> tuple[float, ...]:
    """Rates, bit/s to two digits, at which communication takes about these multiples of compute's time.

    Compute is the block's fastest sequential run over the unshaped link, whose own time is small beside it.
    """
    pair.set_rate(None)
    workload = pair.workload
    runs = [pair.ask("block", turn=turn, overlapped=False) for turn in range(PILOT_ROUNDS)]
    compute_s = min(max(answer["seconds"] for answer in run) for run in runs)
    wire_bits = 2 * BITS_PER_BYTE * workload.remote_rows * workload.row_bytes
    return tuple(_two_digits(wire_bits / (ratio * compute_s)) for ratio in sorted(ratios, reverse=True))


def describe_rate(rate: float) -> str:
    """A rate, bit/s, for people."""
    return "loopback, not shaped" if math.isinf(rate) else f"{rate / MEGA:g} Mbit/s"


def _begin(pair: RankPair) -> Measured:
    first = pair.greetings[0]
    return Measured(pair.workload, first["environment"], first["reference_probe_s"])


def _visit(
    pair: RankPair, found: Measured, rate: float, plan: Plan, cases: Iterator[Case], left: int, *, last: bool
) -> None:
    """Rounds at one rate until its time is up, and ``left`` kernels among them."""
    start, kernel_s = time.monotonic(), 0.0
    end = start + plan.seconds_per_rate / plan.passes
    while True:
        began = time.monotonic()
        number = sum(run.rate == rate for run in found.contention)
        _round(pair, found, rate, number)
        while left > 0 and kernel_s < KERNEL_SHARE * (time.monotonic() - start):
            once = time.monotonic()
            _kernel(pair, found, next(cases), plan.kernel_samples)
            left, kernel_s = left - 1, kernel_s + time.monotonic() - once
        round_s = time.monotonic() - began
        enough = not last or number + 1 >= MIN_ROUNDS
        if enough and time.monotonic() + round_s / 2 > end:
            break
    for _ in range(left):
        _kernel(pair, found, next(cases), plan.kernel_samples)


def _round(pair: RankPair, found: Measured, rate: float, number: int) -> None:
    """Both forms of one block, and what they are predicted from in between."""
    first = bool(number % 2)
    _block(pair, found, rate, number, overlapped=first)
    sizes = [SIZES[(SIZES_PER_ROUND * number + i) % len(SIZES)] for i in range(SIZES_PER_ROUND)]
    for rows in exchange_rows(pair.workload, sizes):
        answers = pair.ask("exchange_rows", rows=rows)
        slowest = [max(answer[name] for answer in answers) for name in ("dispatch_s", "combine_s")]
        found.exchanges.append(ExchangeRun(rate, number, rows, *slowest))
    _block(pair, found, rate, number, overlapped=not first)
    rows = _contention_rows(pair.workload, rate)
    answers = pair.ask("contention", rows=rows)
    means = [float(np.mean([a[name] for a in answers])) for name in ("alone_s", "together_s", "exchange_s")]
    found.contention.append(ContentionRun(rate, number, rows, *means))


def _block(pair: RankPair, found: Measured, rate: float, number: int, *, overlapped: bool) -> None:
    answers = pair.ask("block", turn=number, overlapped=overlapped)
    fields = (tuple(answer[name] for answer in answers) for name in ("seconds", "probe_s", "digest"))
    found.blocks.append(BlockRun(rate, number, overlapped, *fields))


def _kernel(pair: RankPair, found: Measured, case: Case, samples: int) -> None:
    answers = pair.ask("kernel", case=case, samples=samples)
    seconds = tuple(answer["seconds"] for answer in answers)
    found.kernels.append(KernelRun(case, seconds, float(np.mean([a["spread"] for a in answers]))))


def _contention_rows(workload: Workload, rate: float) -> int:
    """The block's rows, fewer where the link would carry them too long."""
    if math.isinf(rate):
        return workload.remote_rows
    longest = rate * CONTENTION_S / BITS_PER_BYTE / workload.row_bytes
    return int(max(1, min(workload.remote_rows, longest)))


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


assert NUM_RANKS == 2, "rows to the other rank are all that is remote"
