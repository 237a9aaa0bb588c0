"""Everything that is legal and fits, in arrays: which candidates are worth simulating.

One pool: every layout, chunk size, ``max_running`` and number of replicas. Prefill apart: layouts of either side are
pruned by themselves first (a side that another one beats at every load cannot be part of the best), then every pair
of those left, with every number of replicas of either. What meets the limits comes first, then the objective; what
misses a limit is pushed back by how far, for the approximation is off by as much as docs/plan.md says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan.grids import BATCHES, Array, Grids, Ints, Lengths, grids_of
from perfmodel.explore.plan.layouts import Layout, legal_layouts
from perfmodel.explore.plan.question import Kind, Question, kinds_words
from perfmodel.explore.plan.queueing import Candidates, Screened, screened
from perfmodel.explore.space import CHUNK, REPLICAS, RUNNING, Space
from perfmodel.ops.memory import cached_token_bytes
from perfmodel.ops.work import tokens_per_step
from perfmodel.serving.requests import requests_of
from perfmodel.spec.scenario import Scenario
from perfmodel.units import GB, HOUR, MEGA

SIDES = 10
"""Layouts of either side that are paired."""
MISS = 2.0
"""Power of a limit's ratio by which a miss pushes a candidate back."""
OVERLOADED = 1e3
"""Factor on the objective of a candidate that requests outrun."""
UNFELT = 0.6
"""Share of a stated ``max_running`` below which requests on a rank never meet it."""
DISTANCE = 0.05
"""Prefill layouts whose rate per GPU is this close to a faster one's are left out."""


@dataclass(frozen=True, slots=True)
class Considered:
    """How many candidates each stage saw."""

    legal: int = 0
    """That the engine loads."""
    fit: int = 0
    """Whose weights, and at least one request, fit in memory."""
    screened: int = 0
    """Whose latency, rate and cost were approximated: pairs of prefill and decode replicas are made here."""

    def __add__(self, other: "Considered") -> "Considered":
        return Considered(self.legal + other.legal, self.fit + other.fit, self.screened + other.screened)


@dataclass(frozen=True, slots=True)
class Batch:
    """Candidates of one kind of GPU and engine, one pool or apart, with what the screen says of them."""

    kind: Kind
    layouts: Sequence[Layout]
    candidates: Candidates
    running: Ints
    """Index into the space's choices of ``max_running``."""
    space: Space
    screen: Screened
    score: Array
    """Less is better."""
    ratio: Array
    """Largest of TTFT and TPOT over their limits; 0 without limits."""
    usd: Array
    """Per million output tokens."""
    output_per_gpu: Array
    """Output tokens per second and GPU."""
    readers: "Stepped | None" = None
    """Whose layouts read prompts, where they are apart on GPUs of another kind."""

    @property
    def words(self) -> str:
        """Its GPUs and engine."""
        return kinds_words(self.kind, self.readers.kind if self.readers else None)

    def keys(self, i: int) -> dict[str, Any]:
        """What a candidate states over the question's document."""
        c = self.candidates
        own = self.layouts[int(c.row[i])]
        found = dict(own.keys)
        cap = self.space.keys[RUNNING][int(self.running[i])]
        if cap is not None:
            found[RUNNING] = cap
        found[REPLICAS] = int(c.replicas[i])
        if c.prompt_row is None:
            return found | {CHUNK: int(c.chunk[i])}
        assert c.prompt_replicas is not None
        side = (self.readers.layouts if self.readers else self.layouts)[int(c.prompt_row[i])]
        if self.readers:
            found["prefill.cluster"] = self.readers.kind.cluster
        found |= {f"prefill.{path}": value for path, value in side.keys.items() if _of_prefill(path)}
        return found | {
            f"prefill.{CHUNK}": int(c.chunk[i]),
            f"prefill.{REPLICAS}": int(c.prompt_replicas[i]),
        }

    def structure(self, i: int) -> tuple[Any, ...]:
        """What tells step grids apart: kind and layouts."""
        c = self.candidates
        prompts = None if c.prompt_row is None else int(c.prompt_row[i])
        return (self.words, int(c.row[i]), prompts)


def _of_prefill(path: str) -> bool:
    """Whether prefill replicas state a key of their own: formats follow those that decode, and they draft nothing."""
    return path.startswith("deployment.") and ".precision." not in path and ".mtp." not in path


@dataclass(frozen=True, slots=True)
class Screen:
    """All batches, and the counts."""

    batches: tuple[Batch, ...]
    considered: Considered
    lengths: Lengths
    ranked: tuple[tuple[int, int], ...] = field(default=())
    """(batch, candidate) from the best on, at most RANKED."""
    step_points: int = 0
    """Steps that the twin was asked for."""
    ttft_limit_s: float | None = None
    """The question's."""


RANKED = 5000


@dataclass(frozen=True, slots=True)
class Stepped:
    """One kind's layouts and their steps: what users, rates and limits do not change, and most of a screen's time."""

    kind: Kind
    space: Space
    layouts: Sequence[Layout]
    """Those that fit."""
    grids: Grids | None
    """None: no layout fits."""
    considered: Considered
    reason: str
    """Why there is none."""

    def times(self, factor: float) -> "Stepped":
        """With steps that take so many times as long."""
        if self.grids is None:
            return self
        own = self.grids
        tables = {name: getattr(own, name) * factor for name in ("decode_s", "prompt_s", "mixed_s")}
        return replace(self, grids=replace(own, **tables))


def stepped(
    question: Question,
    kind: Kind,
    lengths: Lengths,
    progress: Callable[[int, int], None] | None = None,
) -> Stepped:
    """The legal layouts of a kind that hold such requests, with their step grids; ``progress``: as for
    :func:`perfmodel.explore.plan.grids.grids_of`.

    Raises:
        SpecError: a bad space.
    """
    space = question.space_of(kind)
    layouts = list(legal_layouts(question, kind, space))
    settings = len(space.keys[CHUNK]) * len(space.keys[RUNNING])
    counts = [settings * _numbers(space, one.gpus, kind.gpus).size for one in layouts]
    reading = bool({"apart", "unlike"} & set(space.pools))
    sides = [
        1 if one.reads_only else ("together" in space.pools) + (1 + one.reads) * reading for one in layouts
    ]
    fits = [
        max(one.kv_tokens) >= lengths.input + (1.0 if one.reads_only else lengths.output) for one in layouts
    ]
    fitting = [one for one, own in zip(layouts, fits, strict=True) if own]
    considered = Considered(
        legal=sum(count * of for count, of in zip(counts, sides, strict=True)),
        fit=sum(count * of for count, of, own in zip(counts, sides, fits, strict=True) if own),
    )
    reason = f"{kind.words}: {f'none of {len(layouts)} layouts fits' if layouts else 'no legal layout'}"
    if not fitting:
        return Stepped(kind, space, (), None, considered, reason)
    grids = grids_of(fitting, lengths, space.keys[CHUNK], progress)
    return Stepped(kind, space, fitting, grids, considered, "")


def screen(question: Question, *, steps: Callable[[Question, Kind, Lengths], Stepped] = stepped) -> Screen:
    """Screen a question's whole space.

    Args:
        question: what is asked.
        steps: where a kind's layouts and steps come from, for who keeps them from question to question.

    Raises:
        InfeasibleError: no layout is legal, or none fits.
        SpecError: a bad space.
    """
    lengths = lengths_of(question)
    batches: list[Batch] = []
    considered, points = Considered(), 0
    reasons, sides = [], []
    for kind in question.kinds:
        own = steps(question, kind, lengths)
        considered += own.considered
        if own.grids is None:
            reasons.append(own.reason)
            continue
        points += own.grids.asked
        sides.append(own)
    made = [one for own in sides for one in _of_one_kind(question, own, lengths)]
    made += [_apart(question, own, other, lengths) for own, other in _unlike(sides)]
    for one in made:
        if one is not None:
            batches.append(one)
            considered += Considered(screened=one.score.size)
    if not batches:
        raise InfeasibleError(
            f"no deployment of {question.model} to consider ({'; '.join(reasons) or 'the space is empty'}): use more "
            "or larger GPUs, shorter prompts, or widen the space"
        )
    ttft = question.limits.ttft_s
    return Screen(tuple(batches), considered, lengths, _ranked(batches), points, ttft)


def _of_one_kind(question: Question, own: Stepped, lengths: Lengths) -> Iterator[Batch | None]:
    assert own.grids is not None
    for pools in own.space.pools:
        if pools == "together":
            yield _together(question, own.kind, own.space, own.layouts, own.grids, lengths)
        elif pools == "apart":
            yield _apart(question, own, own, lengths)


def _unlike(sides: Sequence[Stepped]) -> Iterator[tuple[Stepped, Stepped]]:
    """Pairs of GPUs that decode and others that read prompts for them, under one engine."""
    for own, other in permutations(sides, 2):
        one_engine = own.kind.engine == other.kind.engine
        if one_engine and own.kind.cluster != other.kind.cluster and "unlike" in own.space.pools:
            yield own, other


def lengths_of(question: Question) -> Lengths:
    """Mean lengths of the traffic as it is drawn."""
    asked = _requests(question)
    return Lengths(float(asked.input_tokens.mean()), max(2.0, float(asked.output_tokens.mean())))


def rate_of(question: Question) -> tuple[float | None, float | None]:
    """(users, requests per second): one of the two is None."""
    scenario = question.scenario(question.kinds[0])
    workload = scenario.workload
    if workload.max_concurrency is not None and workload.rate == float("inf"):
        return float(workload.max_concurrency), None
    asked = _requests(question)
    span = float(np.ptp(asked.arrival_s))
    if not span > 0.0:
        return float(asked.num_requests), None
    return None, (asked.num_requests - 1) / span


def _requests(question: Question) -> Any:
    scenario: Scenario = question.scenario(question.kinds[0])
    return requests_of(scenario.workload, scenario.seed)


def _numbers(space: Space, gpus: int, most: int) -> Ints:
    return np.array([n for n in space.keys[REPLICAS] if n * gpus <= most], dtype=np.int64)


def _columns(layouts: Sequence[Layout]) -> dict[str, Array]:
    """What candidates take from their layout, one value per layout."""
    scenarios = [one.scenario for one in layouts]
    return {
        "ranks": np.array([float(s.deployment.attention_dp) for s in scenarios]),
        "stages": np.array([float(s.deployment.pp) for s in scenarios]),
        "gpus": np.array([float(one.gpus) for one in layouts]),
        "tokens": np.array([float(tokens_per_step(s.deployment)) for s in scenarios]),
        "mixes": np.array([s.serving.policy == "mixed" for s in scenarios]),
        "whole": np.array([s.serving.whole_prompts for s in scenarios]),
        "price": np.array([float(s.replica_usd_per_gpu_hour) for s in scenarios]),
        "front": np.array(
            [float(s.serving.front_end.latency_s + s.serving.front_end.request_s) for s in scenarios]
        ),
    }


def _caps(layouts: Sequence[Layout], runnings: Sequence[int | None], lengths: Lengths) -> Array:
    """Most requests of a rank, (layout, chunk, max_running)."""
    kv = np.array([one.kv_tokens for one in layouts], dtype=float)
    of_cache = np.floor(kv / (lengths.input + lengths.output / 2.0))
    most = np.array([float(one.max_requests) for one in layouts])
    stated = np.array([np.inf if one is None else float(one) for one in runnings])
    return np.asarray(
        np.minimum(np.minimum(of_cache[:, :, None], most[:, None, None]), stated[None, None, :])
    )


def _together(
    question: Question, kind: Kind, space: Space, layouts: Sequence[Layout], grids: Grids, lengths: Lengths
) -> Batch | None:
    users, rate = rate_of(question)
    columns, runnings, chunks = _columns(layouts), space.keys[RUNNING], space.keys[CHUNK]
    caps = _caps(layouts, runnings, lengths)
    rows, chunk, running, replicas = [], [], [], []
    for place, one in enumerate(layouts):
        if one.reads_only:
            continue
        numbers = _numbers(space, one.gpus, kind.gpus)
        c, r, n = (
            x.ravel() for x in np.meshgrid(range(len(chunks)), range(len(runnings)), numbers, indexing="ij")
        )
        keep = caps[place, c, r] >= 1.0
        if users is not None and None in runnings:  # a limit that nobody reaches is none
            ends = np.array([runnings[i] is None for i in r], dtype=bool)
            keep &= ends | (caps[place, c, r] * columns["ranks"][place] * n < users)
        rows.append(np.full(keep.sum(), place))
        chunk.append(c[keep])
        running.append(r[keep])
        replicas.append(n[keep])
    if not sum(part.size for part in rows):
        return None
    row, c, r, n = (np.concatenate(parts).astype(np.int64) for parts in (rows, chunk, running, replicas))
    tokens = np.asarray(chunks, dtype=float)[c]
    own = Candidates(
        row=row,
        chunk=columns["stages"][row]
        * np.where(columns["whole"][row] > 0.0, np.maximum(tokens, lengths.input), tokens),
        cap=caps[row, c, r],
        replicas=n.astype(float),
        ranks=columns["ranks"][row],
        gpus=columns["gpus"][row] * n,
        tokens_per_step=columns["tokens"][row],
        mixes=columns["mixes"][row] > 0.0,
        usd_per_gpu_hour=columns["price"][row],
        front_s=columns["front"][row],
    )
    found = screened(own, grids, lengths, users=users, rate=rate, percentile=question.limits.percentile)
    # what a candidate states is its own chunk, whatever a step may carry
    stated = Candidates(**{name: getattr(own, name) for name in Candidates.__slots__} | {"chunk": tokens})
    return _judged(question, kind, space, layouts, stated, r, found, lengths)


def _apart(question: Question, own_side: Stepped, other_side: Stepped, lengths: Lengths) -> Batch | None:
    """Layouts of one side decode, those of the other, which may be the same, read prompts."""
    users, rate = rate_of(question)
    kind, space, layouts, grids = own_side.kind, own_side.space, own_side.layouts, own_side.grids
    sources, prompt_grids = other_side.layouts, other_side.grids
    assert grids is not None
    assert prompt_grids is not None
    like = own_side is other_side
    columns, runnings, chunks = _columns(layouts), space.keys[RUNNING], other_side.space.keys[CHUNK]
    prompts = columns if like else _columns(sources)
    caps = _caps(layouts, runnings, lengths)
    most, most_prompts = (kind.gpus, kind.gpus) if like else (kind.gpus + 1, other_side.kind.gpus + 1)
    decoders = _best_decoders(layouts, grids, caps, most)
    readers = _best_readers(sources, prompts, prompt_grids, chunks, lengths, most_prompts)
    parts: list[tuple[Ints, ...]] = []
    for decoder in decoders:
        for reader, size in readers:
            first, other = layouts[decoder], sources[reader]
            if not _same_formats(first, other, like=like):
                continue
            n_d = _numbers(space, first.gpus, kind.gpus)
            n_p = _numbers(other_side.space, other.gpus, other_side.kind.gpus)
            x, y, r = (a.ravel() for a in np.meshgrid(n_d, n_p, range(len(runnings)), indexing="ij"))
            keep = x * first.gpus + y * other.gpus <= kind.gpus if like else np.ones(x.shape, dtype=bool)
            keep &= caps[decoder, 0, r] >= 1.0
            if users is not None and None in runnings:
                ends = np.array([runnings[i] is None for i in r], dtype=bool)
                keep &= ends | (caps[decoder, 0, r] * columns["ranks"][decoder] * x < users)
            x, y, r = x[keep], y[keep], r[keep]
            parts.append((*(np.full(x.size, i) for i in (decoder, reader, size)), x, y, r))
    if not parts or not sum(part[0].size for part in parts):
        return None
    d, p, c, x, y, r = (np.concatenate(own).astype(np.int64) for own in zip(*parts, strict=True))
    networks = (one[0].scenario.cluster.network.gb_per_s_per_gpu for one in (layouts, sources))
    gb_per_s = min(networks) * GB
    gpus_d, gpus_p = columns["gpus"][d] * x, prompts["gpus"][p] * y
    per_token = np.array([cached_token_bytes(one.scenario) for one in layouts])
    tokens = np.asarray(chunks, dtype=float)[c]
    own = Candidates(
        row=d,
        chunk=prompts["stages"][p]
        * np.where(prompts["whole"][p] > 0.0, np.maximum(tokens, lengths.input), tokens),
        cap=caps[d, 0, r],
        replicas=x.astype(float),
        ranks=columns["ranks"][d],
        gpus=gpus_d + gpus_p,
        tokens_per_step=columns["tokens"][d],
        mixes=np.zeros(d.shape, dtype=np.bool_),
        usd_per_gpu_hour=(columns["price"][d] * gpus_d + prompts["price"][p] * gpus_p) / (gpus_d + gpus_p),
        front_s=prompts["front"][p],
        prompt_row=p,
        prompt_ranks=prompts["ranks"][p],
        prompt_replicas=y.astype(float),
        transfer_s=per_token[d] * lengths.input / gb_per_s,
    )
    found = screened(
        own,
        grids,
        lengths,
        users=users,
        rate=rate,
        percentile=question.limits.percentile,
        prompt_grids=prompt_grids,
    )
    stated = Candidates(**{name: getattr(own, name) for name in Candidates.__slots__} | {"chunk": tokens})
    judged = _judged(question, kind, space, layouts, stated, r, found, lengths)
    return judged if like else replace(judged, readers=other_side)


def _same_formats(decodes: Layout, reads: Layout, *, like: bool) -> bool:
    """Whether both take one checkpoint and one format of caches. What else an engine sets may hang on the GPU."""
    if like:
        return decodes.scenario.deployment.precision == reads.scenario.deployment.precision
    one, other = (side.scenario.deployment.precision for side in (decodes, reads))
    return all(getattr(one, name) == getattr(other, name) for name in ("linear", "experts", "kv_cache"))


def _best_decoders(layouts: Sequence[Layout], grids: Grids, caps: Array, gpus: int) -> list[int]:
    """Layouts that some TPOT is reached with at most output per GPU, the more TPOTs the earlier."""
    fits = [
        i for i, one in enumerate(layouts) if one.gpus < gpus and caps[i].max() >= 1.0 and not one.reads_only
    ]
    if not fits:
        return []
    speeds = np.geomspace(grids.decode_s[fits].min(), grids.decode_s[fits].max(), 24)
    rates = np.zeros((len(fits), speeds.size))
    for k, i in enumerate(fits):
        batch = np.interp(speeds, grids.decode_s[i], BATCHES, left=0.0)
        batch = np.minimum(batch, caps[i].max())
        s = layouts[i].scenario.deployment
        per_s = batch / np.maximum(grids.decode(np.full(speeds.size, i), np.maximum(batch, 1.0)), 1e-12)
        gpus_of_rank = s.num_gpus / s.attention_dp
        rates[k] = np.where(batch > 0.0, per_s * float(tokens_per_step(s)) / gpus_of_rank, 0.0)
    share = rates / np.maximum(rates.max(axis=0), 1e-12)
    order = np.argsort(-(share**8).sum(axis=1), kind="stable")
    leaders = list(dict.fromkeys([int(k) for k in rates.argmax(axis=0)] + [int(k) for k in order]))
    return [fits[k] for k in leaders[:SIDES]]


def _best_readers(
    layouts: Sequence[Layout],
    columns: dict[str, Array],
    grids: Grids,
    chunks: Sequence[int],
    lengths: Lengths,
    gpus: int,
) -> list[tuple[int, int]]:
    """(layout, chunk) that no other beats in both prompts per second and GPU and time for one prompt."""
    found = []
    for i, one in enumerate(layouts):
        if one.gpus >= gpus or one.scenario.deployment.mtp.draft_tokens or not one.reads:
            continue
        for c, chunk in enumerate(chunks):
            if one.kv_tokens[c] < lengths.input + 1.0:
                continue
            size = max(float(chunk), lengths.input) if columns["whole"][i] else float(chunk)
            size *= columns["stages"][i]
            times = np.ceil(lengths.input / size)
            fit, row, ranks = max(1.0, np.floor(size / lengths.input)), np.array([i]), columns["ranks"][i]
            full = float(grids.prompt(row, np.array([min(size, fit * lengths.input)]), np.ones(1))[0]) * times
            alone = float(grids.prompt(row, np.array([min(size, lengths.input)]), np.zeros(1))[0]) * times
            found.append((alone, -ranks * fit / full / one.gpus, i, c))
    found.sort()
    kept: list[tuple[float, float, int, int]] = []
    for pair in found:
        if not kept or pair[1] < kept[-1][1] * (1.0 + DISTANCE):
            kept.append(pair)
    return [(i, c) for _, _, i, c in kept[-SIDES:]]


def _judged(
    question: Question,
    kind: Kind,
    space: Space,
    layouts: Sequence[Layout],
    candidates: Candidates,
    running: Ints,
    found: Screened,
    lengths: Lengths,
) -> Batch:
    limits, gpus = question.limits, candidates.gpus
    output = found.requests_per_s * lengths.output
    usd = candidates.usd_per_gpu_hour * gpus / HOUR / np.maximum(output, 1e-12) * MEGA
    ratio = np.zeros(usd.shape)
    for value, limit in ((found.ttft_at_s, limits.ttft_s), (found.tpot_at_s, limits.tpot_s)):
        if limit is not None:
            ratio = np.maximum(ratio, value / limit)
    worth = {
        "usd": usd,
        "gpus": gpus * (1.0 + 1e-3 * usd / usd.max()),
        "goodput": gpus / np.maximum(found.requests_per_s, 1e-12),
        "ttft": found.ttft_at_s,
        "tpot": found.tpot_at_s,
    }[question.objective]
    score = worth * np.maximum(ratio, 1.0) ** MISS * np.where(found.overloaded, OVERLOADED, 1.0)
    stated = np.array([one is not None for one in space.keys[RUNNING]])[running]
    unlimited = stated & (found.running < UNFELT * candidates.cap) & (None in space.keys[RUNNING])
    score = np.where(unlimited, np.inf, score)  # the same as with the engine's own limit
    return Batch(kind, layouts, candidates, running, space, found, score, ratio, usd, output / gpus)


def _ranked(batches: Sequence[Batch]) -> tuple[tuple[int, int], ...]:
    scores = np.concatenate([batch.score for batch in batches])
    which: NDArray[np.int64] = np.concatenate(
        [np.full(batch.score.size, b) for b, batch in enumerate(batches)]
    )
    inside = np.concatenate([np.arange(batch.score.size) for batch in batches])
    order = np.argsort(scores, kind="stable")[: min(RANKED, int(np.isfinite(scores).sum()))]
    return tuple((int(which[i]), int(inside[i])) for i in order)
