"""Step times of many layouts on one grid, by the vectorised twin: what the screen interpolates in.

Three tables per layout, at the traffic's mean lengths: decode steps over the batch of a rank; prompt steps over the
new tokens of the fullest rank; steps with both. Prompts rarely come to all ranks at once while all wait for the
fullest, so the last two are asked twice: with one rank that has prompts, and with all (``even`` of
:mod:`perfmodel.serving.step_times`, whose grids have the same meaning and more points).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import UnsupportedError
from perfmodel.explore.plan.layouts import Layout
from perfmodel.explore.plan.stacked import stacked_step_times
from perfmodel.ops.work import tokens_per_step
from perfmodel.overlap.graph import Segment
from perfmodel.serving.step_times import decode_leaves, prompt_leaves, with_uneven_ranks
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.scenario import Scenario
from perfmodel.step import has_contention, step_segments

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

BATCHES: Array = np.float64(2.0) ** np.arange(11)
"""Decoding requests of a rank."""
MIXED_BATCHES: Array = np.float64(4.0) ** np.arange(6)
"""Of steps that carry prompts, too: fewer, for the prompt's share hardly depends on them."""
PROMPTS = 5
"""Numbers of prompt tokens."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean lengths of the traffic, tokens."""

    input: float
    output: float
    cached: float = 0.0
    """Of the input, in a prefix cache already."""

    @property
    def context(self) -> float:
        """Tokens in the cache of a request that decodes, on average over its life."""
        return self.input + self.output / 2.0


@dataclass(frozen=True, slots=True)
class Grids:
    """Seconds of steps, one row per layout."""

    prompts: Array
    """(prompt,) new tokens of the fullest rank."""
    decode_s: Array
    """(layout, batch)."""
    prompt_s: Array
    """(layout, 2, prompt): one rank has prompts, all have."""
    mixed_s: Array
    """(layout, 2, batch of MIXED_BATCHES, prompt); NaN where a layout's engine does not mix."""
    asked: int
    """Points that the twin was asked for."""

    def decode(self, row: Ints, batch: Array) -> Array:
        """Seconds of a decode step of ``batch`` requests per rank."""
        i, share = _cell(batch, BATCHES)
        return _between(self.decode_s[row, i], self.decode_s[row, i + 1], share)

    def prompt(self, row: Ints, tokens: Array, even: Array) -> Array:
        """Seconds of a step with prompts alone."""
        j, share = _cell(tokens, self.prompts)
        one, every = (_between(self.prompt_s[row, e, j], self.prompt_s[row, e, j + 1], share) for e in (0, 1))
        return one + even * (every - one)

    def mixed(self, row: Ints, batch: Array, tokens: Array, even: Array) -> Array:
        """Seconds of a step with prompts beside decodes."""
        i, across = _cell(batch, MIXED_BATCHES)
        j, along = _cell(tokens, self.prompts)

        def at(e: int) -> Array:
            low, high = (
                _between(self.mixed_s[row, e, i + k, j], self.mixed_s[row, e, i + k, j + 1], along)
                for k in (0, 1)
            )
            return _between(low, high, across)

        one, every = at(0), at(1)
        return one + even * (every - one)


def grids_of(
    layouts: Sequence[Layout],
    lengths: Lengths,
    chunks: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> Grids:
    """The tables of layouts; ``progress`` is told how many are looked at, and how many there are.

    Raises:
        UnsupportedError: no layout, or a model with a part whose run time is not modelled.
    """
    new = max(1.0, lengths.input - lengths.cached)
    least, most = min(new, *chunks), max(new, *chunks)
    prompts = np.geomspace(max(1.0, least), max(most, least * 1.01), PROMPTS)
    if not layouts:
        raise UnsupportedError("no layout to ask step times of")
    questions: list[_Question] = []
    for number, one in enumerate(layouts):
        if progress is not None:
            progress(number, len(layouts))
        questions += _questions(one.scenario, lengths, prompts)
    answers = stacked_step_times(
        [question.segments for question in questions],
        [question.even.size for question in questions],
        [question.contention for question in questions],
    )
    decode = np.zeros((len(layouts), len(BATCHES)))
    prompt = np.zeros((len(layouts), 2, PROMPTS))
    mixed = np.full((len(layouts), 2, len(MIXED_BATCHES), PROMPTS), np.nan)
    tables = {"decode": decode, "prefill": prompt, "mixed": mixed}
    row, asked = -1, 0
    for question, times in zip(questions, answers, strict=True):
        row += question.phase == "decode"
        table = tables[question.phase]
        table[row] = np.maximum(times, question.sent_s).reshape(table.shape[1:])
        asked += times.size
    return Grids(prompts, decode, prompt, mixed, asked)


class _Question(NamedTuple):
    """Steps of one layout and phase, of which times are asked."""

    phase: str
    segments: tuple[Segment, ...]
    even: Array
    sent_s: Array
    """What the front end takes to stream what they make, which no step is shorter than."""
    contention: bool


def _questions(scenario: Scenario, lengths: Lengths, prompts: Array) -> Iterator[_Question]:
    """Decode steps first."""
    deployment, serving = scenario.deployment, scenario.serving
    per_gpu, context = 1.0 / deployment.attention_tp, lengths.context
    attended = lengths.cached + max(1.0, lengths.input - lengths.cached) / 2.0
    even = np.array([1.0 / deployment.attention_dp, 1.0])
    stages = deployment.pp  # a pipeline's step is a turn: its requests and prompts over its micro-batches

    def each(values: Array) -> Array:
        return values if stages == 1 else np.maximum(values / stages, 1.0)

    ones = np.ones(BATCHES.shape)
    yield _question(scenario, "decode", decode_leaves(each(BATCHES) * per_gpu, context * ones), ones)
    e, p = (x.ravel() for x in np.meshgrid(even, prompts, indexing="ij"))
    yield _question(scenario, "prefill", prompt_leaves(each(p), np.full(p.shape, attended), per_gpu), e)
    if serving.policy == "mixed":
        e, b, p = (x.ravel() for x in np.meshgrid(even, MIXED_BATCHES, prompts, indexing="ij"))
        leaves = prompt_leaves(each(p), np.full(p.shape, attended), per_gpu)
        decodes = decode_leaves(each(b) * per_gpu, np.full(b.shape, context))
        yield _question(scenario, "mixed", decodes | leaves, e)


def _question(scenario: Scenario, phase: str, leaves: dict[str, Array], even: Array) -> _Question:
    changed: dict[str, Any] = {"phase": phase, "ranks": "representative"}
    if phase != "prefill":  # prompts alone are divided
        changed["context_parallel"] = 1
    deployment = scenario.deployment.model_copy(update=changed)
    own = with_arrays(scenario.model_copy(update={"deployment": deployment}), leaves)
    sent = np.zeros(even.shape)
    if phase != "prefill":
        requests = leaves["deployment.batch_per_gpu"] * deployment.request_gpus
        sent += scenario.serving.front_end.streaming_s(requests, tokens_per_step(deployment))  # type: ignore[arg-type]
    return _Question(phase, step_segments(with_uneven_ranks(own, even)), even, sent, has_contention(scenario))


def _cell(values: Array, axis: Array) -> tuple[Ints, Array]:
    """Cell of an axis with equal ratios between its points, and the share of the way to the next one;
    beyond its ends the last cell's slope goes on, below them the first value stays.
    """
    found = np.maximum(values, axis[0])
    i = np.clip(np.searchsorted(axis, found, side="right") - 1, 0, len(axis) - 2)
    return i, (found - axis[i]) / (axis[i + 1] - axis[i])


def _between(low: Array, high: Array, share: Array) -> Array:
    return low + share * (high - low)
