"""Pipeline schedules by name: what each needs, and its orders. Adding one is a row here and a function of (p, m, v)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from perfmodel.errors import SpecError
from perfmodel.training.pipeline.actions import Schedule
from perfmodel.training.pipeline.orders import (
    Rows,
    gpipe,
    interleaved,
    interleaved_paired,
    one_f_one_b,
    one_f_one_b_paired,
    rounds,
    zb_h1,
    zb_h2,
)
from perfmodel.training.pipeline.v_orders import dual_pipe, dual_pipe_v, zb_v


@dataclass(frozen=True, slots=True)
class Rule:
    """What a schedule is made of and what it needs."""

    orders: Callable[[int, int, int], Rows]
    chunks: int | None = 1
    """Chunks per rank; None: any number."""
    problem: Callable[[int, int, int], str | None] = lambda p, m, v: None
    """What of (p, m, v) it does not take, or None."""
    copies: int = 1
    """Copies of the weights that the whole pipeline holds (DualPipe: 2)."""
    pairs: bool = False
    """Whether it runs a forward beside a backward as one."""
    paired: Callable[[int, int, int], Rows] | None = None
    """Orders that do, with a forward more ahead, where the schedule itself does not."""


def _interleaves(p: int, m: int, v: int) -> str | None:
    if m % rounds(p, m):
        return f"micro-batches = {m} must be a multiple of pp = {p}, or of its {rounds(p, m)} rounds"
    return None


def _dual_problem(p: int, m: int, v: int) -> str | None:
    if p % 2:
        return f"pp = {p} must be even: micro-batches enter at both ends"
    if m % 2 or m < 2 * p:
        return f"micro-batches = {m} must be even and at least 2 x pp = {2 * p}"
    return None


def _dual_v_problem(p: int, m: int, v: int) -> str | None:
    return None if m >= 2 * p else f"micro-batches = {m} must be at least 2 x pp = {2 * p}"


RULES: dict[str, Rule] = {
    "gpipe": Rule(gpipe),
    "1f1b": Rule(one_f_one_b, paired=one_f_one_b_paired),
    "interleaved-1f1b": Rule(interleaved, None, _interleaves, paired=interleaved_paired),
    "zb-h1": Rule(zb_h1, None, _interleaves),
    "zb-h2": Rule(zb_h2),
    "zb-v": Rule(zb_v, 2),
    "dualpipe": Rule(dual_pipe, 1, _dual_problem, copies=2, pairs=True),
    "dualpipe-v": Rule(dual_pipe_v, 2, _dual_v_problem, pairs=True),
}
"""Schedule -> its rule. DualPipe's ranks hold two copies of half-pipelines: one chunk each way."""


def schedule_problem(name: str, p: int, m: int, v: int) -> str | None:
    """Why a schedule does not take these numbers, or None."""
    rule = RULES[name]
    if rule.chunks is not None and v != rule.chunks:
        return f"virtual_stages = {v}: schedule {name} has {rule.chunks} per rank"
    return rule.problem(p, m, v)


@lru_cache(maxsize=64)
def schedule(name: str, p: int, m: int, v: int = 1, *, paired: bool = False) -> Schedule:
    """Every rank's order.

    Args:
        name: a key of :data:`RULES`.
        p: pipeline ranks.
        m: micro-batches of one rank and step.
        v: chunks of layers per rank.
        paired: a forward beside each backward, as one, in schedules that do not run so anyway.

    Raises:
        SpecError: no such schedule, or it does not take these numbers.
    """
    if name not in RULES:
        raise SpecError(f"schedule = {name!r}: must be one of {', '.join(RULES)}")
    problem = schedule_problem(name, p, m, v)
    if problem:
        raise SpecError(f"schedule {name}: {problem}")
    rule = RULES[name]
    orders = (rule.paired if paired and rule.paired else rule.orders)(p, m, v)
    return Schedule(name, orders, m, v, p if name == "dualpipe" else p * v)
