"""How many steps an output takes when drafts are accepted by chance."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.spec.drafts import MtpDeployment

Ints = NDArray[np.int64]

MTP_STREAM = 41
BLOCK = 1_000_000
"""Output tokens whose steps are drawn together."""
Acceptance = float | tuple[float, ...]
"""Of each draft, given those before; or the probabilities that the first is accepted, the first two are, ..."""
SEARCHED = 1.0 / 3.0
"""From this chance of a rejection on numpy draws geometric numbers by adding up chances."""


def acceptance_for(mtp: MtpDeployment) -> Acceptance:
    """How often a deployment's drafts are accepted."""
    return mtp.survival(mtp.draft_tokens) if mtp.listed else mtp.acceptance


def decode_steps(output_tokens: Ints, draft_tokens: int, acceptance: Acceptance, seed: int) -> Ints:
    """Decode steps (n,) after each request's first token, which comes from its prefill.

    A step gives 1 token and as many drafts as were accepted one after the other, each with its ``acceptance``
    given those before. Steps are drawn until the output is whole; surplus tokens of the last one are dropped.
    """
    return np.concatenate(list(decode_steps_of([output_tokens], draft_tokens, acceptance, seed)))


def decode_steps_of(
    outputs: Iterable[Ints], draft_tokens: int, acceptance: Acceptance, seed: int
) -> Iterator[Ints]:
    """:func:`decode_steps` of requests that are told a piece at a time, in pieces of other sizes: the same numbers."""
    rng = np.random.default_rng([seed, MTP_STREAM])
    never, always = _certain(acceptance)
    left, before = np.zeros(0, dtype=np.int64), 0
    for output in outputs:
        new = np.maximum(np.asarray(output, dtype=np.int64) - 1, 0)
        if not draft_tokens or never:
            yield new
        elif always:
            yield -(-new // (1 + draft_tokens))
        else:
            # what is drawn together ends where a block of tokens does, and the last one may go on in the next piece
            wanted = np.concatenate([left, new])
            block = (before + np.cumsum(wanted)) // BLOCK
            whole = int(np.searchsorted(block, block[-1])) if len(block) else 0
            yield _drawn(rng, wanted[:whole], block[:whole], draft_tokens, acceptance)
            left, before = wanted[whole:], before + int(wanted[:whole].sum())
    if len(left):
        yield _drawn(rng, left, np.zeros(len(left)), draft_tokens, acceptance)


def _certain(acceptance: Acceptance) -> tuple[bool, bool]:
    """Whether no draft is ever accepted, and whether all are."""
    if isinstance(acceptance, tuple):
        return not any(acceptance), all(share == 1.0 for share in acceptance)
    return acceptance == 0.0, acceptance == 1.0


def _drawn(
    rng: np.random.Generator, wanted: Ints, block: NDArray[Any], draft_tokens: int, acceptance: Acceptance
) -> Ints:
    """Steps of some requests, block by block; one that wants none has none, and no part in a block."""
    steps = np.zeros(len(wanted), dtype=np.int64)
    rows = np.flatnonzero(wanted)
    for own in np.split(rows, np.flatnonzero(np.diff(block[rows])) + 1):
        steps[own] = _steps(rng, wanted[own], draft_tokens, acceptance)
    return steps


def _steps(rng: np.random.Generator, wanted: Ints, draft_tokens: int, acceptance: Acceptance) -> Ints:
    """Steps of some requests: one long row of them, of which each takes as many as it needs, never more than a token
    each.
    """
    count, most = int(wanted.sum()), 1 + draft_tokens
    made = np.zeros(count + 1, dtype=np.int64)  # tokens of all steps before
    np.cumsum(1 + _accepted(rng, count, draft_tokens, acceptance), dtype=np.int64, out=made[1:])
    steps, at, before = [], 0, made.data
    for tokens in wanted.tolist():
        end = bisect_left(before, before[at] + tokens, at + -(-tokens // most), at + tokens)
        steps.append(end - at)
        at = end
    return np.array(steps)


def _accepted(
    rng: np.random.Generator, count: int, draft_tokens: int, acceptance: Acceptance
) -> NDArray[np.int16]:
    """Drafts that each of ``count`` steps accepts: ``min(rng.geometric(1 - acceptance) - 1, draft_tokens)``.

    numpy rounds exponential numbers up to get geometric ones where drafts are likely to be accepted, and asks for the
    logarithm each time: that takes twice as long.
    """
    if isinstance(acceptance, tuple):  # the probabilities fall: so many of them lie above a uniform number
        rising = -np.array(acceptance)
        return np.searchsorted(rising, -rng.random(count), side="left").astype(np.int16)
    if 1.0 - acceptance >= SEARCHED:
        return np.minimum(rng.geometric(1.0 - acceptance, size=count) - 1, draft_tokens).astype(np.int16)
    x = rng.standard_exponential(count)
    x /= -math.log1p(-(1.0 - acceptance))
    np.ceil(x, out=x)
    np.minimum(x, 1.0 + draft_tokens, out=x)
    return x.astype(np.int16) - np.int16(1)
