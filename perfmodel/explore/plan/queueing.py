"""What traffic makes of step times, in the mean and roughly at a percentile: for arrays of candidates, without
simulation.

Written per replica: R ranks, L decode steps per request, B requests that decode, a prompt of s tokens in chunks of c.
Of every decode step f = B / L requests end, and in a closed loop are replaced at once, so f prompts come per step;
under open traffic of rate r they are f = r x (time per step).

**Prompts stop decodes** (prefill-first): k prompts run together in ceil(s / c) steps of t_p, so that the time per step
is T = t_d(B) + f t_p / k. In a closed loop k is the mean of a Poisson number of mean f, given that it is not 0; under
open traffic of what came during the step before, which is one with prompts as often as anybody comes during those.
**Prompts join decodes** (mixed): a share min(1, f s / (k c')) of steps carries k prompts' chunks: T = t_d + share
(t_m - t_d), and no more than R c tokens of prompts per step: B is at most L R c / s. **Apart**: T = t_d; prompts queue
at servers of their own.

Who decodes follows from Little's law: of U users, B = U x L T / (TTFT + L T), or what the cache or ``max_running``
allows: the others wait, and TTFT = U / X - L T with X = B / (L T) requests per second. Under open traffic B = r L T;
where that exceeds what a replica can run, the queue grows and the candidate is marked as overloaded.

**At a percentile** with z standard deviations: a request meets a Poisson number M = L f / k of prompt steps, each of
which adds t_p, so TPOT = mean + z sqrt(M) t_p / (tokens); the first token waits for k + z sqrt(k) prompts instead of
k, and a queue's wait is taken as exponential under open traffic, as its mean times QUEUE in a closed loop.

How far off this is against simulation: docs/plan.md.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from perfmodel.explore.plan.grids import Array, Grids, Ints, Lengths

ITERATIONS = 40
DAMPING = 0.5
QUEUE = 1.3
"""Percentile of the wait over its mean, where users wait because replicas take no more: they wait nearly alike."""
BATCHED = 3
"""Passes in which the prompts that are read together, and how long that takes, are found."""
FULL = 0.98
"""Utilisation of a server of prompts beyond which its queue is taken to grow."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Settings of replicas, one entry each (candidate,)."""

    row: Ints
    """Of the layout that decodes."""
    chunk: Array
    """Most prompt tokens of a rank and step."""
    cap: Array
    """Most requests of one rank, by cache, buffers and scheduler."""
    replicas: Array
    ranks: Array
    gpus: Array
    """Of all replicas, those that read prompts too."""
    tokens_per_step: Array
    mixes: NDArray[np.bool_]
    """Whether prompts join decodes."""
    usd_per_gpu_hour: Array
    front_s: Array
    """Latency of the front end."""
    prompt_row: Ints | None = None
    """Of the layout that reads prompts, where apart."""
    prompt_ranks: Array | None = None
    prompt_replicas: Array | None = None
    transfer_s: Array | None = None
    """To send one request's cache."""


@dataclass(frozen=True, slots=True)
class Screened:
    """What the approximation says of each candidate."""

    tpot_s: Array
    """Mean."""
    tpot_at_s: Array
    """At the percentile."""
    ttft_s: Array
    ttft_at_s: Array
    requests_per_s: Array
    running: Array
    """Requests that decode on a rank."""
    overloaded: NDArray[np.bool_]
    """Requests come faster than they are served."""


def screened(
    found: Candidates,
    grids: Grids,
    lengths: Lengths,
    *,
    users: float | None,
    rate: float | None,
    percentile: float,
    prompt_grids: Grids | None = None,
) -> Screened:
    """The approximation for every candidate at once.

    Args:
        found: candidates.
        grids: of the layouts that decode.
        lengths: of requests.
        users: of a closed loop, over all replicas; or
        rate: requests per second, over all replicas.
        percentile: of TTFT and TPOT, in per cent.
        prompt_grids: of the layouts that read prompts, where apart.
    """
    z = NormalDist().inv_cdf(min(max(percentile, 0.1), 99.9) / 100.0)
    tail = -math.log(1.0 - min(percentile, 99.9) / 100.0)
    new = max(1.0, lengths.input - lengths.cached)
    steps = (lengths.output - 1.0) / found.tokens_per_step
    apart = found.prompt_row is not None
    load = (users if users is not None else rate) / found.replicas  # type: ignore[operator]
    most = found.cap * found.ranks
    if not apart:
        most = np.where(found.mixes, np.minimum(most, steps * found.ranks * found.chunk / new), most)
    most = np.maximum(most, 1e-9)
    running = np.minimum(most, load if users is not None else found.ranks.astype(float))
    overloaded = np.zeros(found.row.shape, dtype=bool)
    for _ in range(ITERATIONS):
        one = _Step.of(found, grids, prompt_grids, new, steps, running, None if users is not None else load)
        decode = steps * one.mean_s
        if users is not None:
            limit = np.minimum(most, one.most_per_s * decode)
            wanted = np.minimum(limit, load * decode / (one.first_s + decode))
        else:
            wanted = load * decode
            overloaded = (wanted > most) | (load > FULL * one.most_per_s)
            wanted = np.minimum(wanted, most)
        running = running + DAMPING * (wanted - running)
    one = _Step.of(found, grids, prompt_grids, new, steps, running, None if users is not None else load)
    decode = steps * one.mean_s
    if users is not None:
        per_s = running / decode
        waits = np.maximum(load / per_s - decode - one.first_s, 0.0)
        wait_at = QUEUE * waits
    else:
        per_s = np.minimum(load, running / decode)
        busy = np.minimum(load / np.maximum(one.most_per_s, 1e-12), FULL)
        waits = busy / (1.0 - busy) * one.serve_s / 2.0
        wait_at = tail * waits
    met = steps * one.prompts_per_step / one.together
    tokens = np.maximum(lengths.output - 1.0, 1.0)
    tpot = decode / tokens
    bursts = 1.0 + max(z, 0.0) / np.sqrt(one.together)
    return Screened(
        tpot_s=tpot,
        tpot_at_s=tpot + z * np.sqrt(met) * one.stop_s / tokens,
        ttft_s=one.first_s + waits,
        ttft_at_s=np.maximum(one.first_s - one.serve_s, 0.0) + one.serve_s * bursts + one.rest_s + wait_at,
        requests_per_s=per_s * found.replicas,
        running=running / found.ranks,
        overloaded=overloaded,
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """The mean decode step under prompts, per candidate."""

    mean_s: Array
    """From one decode step of a request to its next."""
    prompts_per_step: Array
    together: Array
    """Prompts that run together."""
    serve_s: Array
    """To read a prompt once it is its turn."""
    stop_s: Array
    """By how much one reading of prompts delays the decodes beside it."""
    first_s: Array
    """From arrival to first token, nobody waiting."""
    rest_s: Array
    """What of a step an arrival finds running, at most."""
    most_per_s: Array
    """Requests per second whose prompts one replica can read."""

    @staticmethod
    def of(
        c: Candidates,
        grids: Grids,
        prompt_grids: Grids | None,
        new: float,
        steps: Array,
        running: Array,
        rate: Array | None,
    ) -> "_Step":
        decode_s = grids.decode(c.row, running / c.ranks)
        if c.prompt_row is not None and prompt_grids is not None:
            return _Step._apart(c, prompt_grids, new, steps, running, decode_s)
        chunks = np.ceil(new / c.chunk)
        fit = np.maximum(1.0, np.floor(c.chunk / new)) * c.ranks
        come = running / steps
        together = np.minimum(_at_least_one(come), fit)
        tokens, even = _fullest(together, c.ranks, new, c.chunk)
        prompt_s = grids.prompt(c.row, tokens, even)
        for _ in range(BATCHED):
            if rate is None:  # nobody comes while prompts are read
                break
            during = rate * prompt_s * chunks
            follows = -np.expm1(-during)  # share of prompt steps that are followed by one at once
            after = _at_least_one(rate * decode_s)
            together = np.minimum(follows * _at_least_one(during) + (1.0 - follows) * after, fit)
            tokens, even = _fullest(together, c.ranks, new, c.chunk)
            prompt_s = grids.prompt(c.row, tokens, even)
        read_s = prompt_s * chunks
        full_tokens, full_even = _fullest(fit, c.ranks, new, c.chunk)
        most_first = fit / (grids.prompt(c.row, full_tokens, full_even) * chunks)
        mixed_s = np.where(c.mixes, np.nan_to_num(grids.mixed(c.row, running / c.ranks, tokens, even)), 0.0)
        carry = np.minimum(1.0, come * chunks / together)
        mixed_mean = decode_s + carry * np.maximum(mixed_s - decode_s, 0.0)
        alone_mean = decode_s + come * read_s / together
        mean = np.where(c.mixes, mixed_mean, alone_mean)
        serve = np.where(c.mixes, mixed_s * chunks, read_s)
        rest = decode_s if rate is not None else np.zeros_like(decode_s)
        return _Step(
            mean_s=mean,
            prompts_per_step=come,
            together=together,
            serve_s=serve,
            stop_s=np.where(c.mixes, np.maximum(mixed_s - decode_s, 0.0) * chunks, read_s),
            first_s=c.front_s + serve + rest / 2.0,
            rest_s=rest,
            most_per_s=np.where(c.mixes, fit / np.maximum(mixed_s * chunks, 1e-12), most_first),
        )

    @staticmethod
    def _apart(
        c: Candidates, prompt_grids: Grids, new: float, steps: Array, running: Array, decode_s: Array
    ) -> "_Step":
        assert c.prompt_row is not None
        assert c.prompt_ranks is not None
        assert c.prompt_replicas is not None
        assert c.transfer_s is not None
        chunks = np.ceil(new / c.chunk)
        fit = np.maximum(1.0, np.floor(c.chunk / new)) * c.prompt_ranks
        tokens, even = _fullest(fit, c.prompt_ranks, new, c.chunk)
        full_s = prompt_grids.prompt(c.prompt_row, tokens, even) * chunks
        share = c.prompt_replicas / c.replicas  # servers of prompts per decoding replica
        most = share * fit / full_s
        per_s = running / (steps * decode_s)
        tokens, even = _fullest(np.ones_like(fit), c.prompt_ranks, new, c.chunk)
        one_s = prompt_grids.prompt(c.prompt_row, tokens, even) * chunks
        busy = np.minimum(per_s / most, FULL)
        read = one_s + busy * (full_s - one_s)
        return _Step(
            mean_s=decode_s,
            prompts_per_step=running / steps,
            together=np.maximum(1.0, busy * fit),
            serve_s=read,
            stop_s=np.zeros_like(read),
            first_s=c.front_s + read + busy / (1.0 - busy) * read / 2.0 + c.transfer_s,
            rest_s=read,
            most_per_s=most,
        )


def _at_least_one(mean: Array) -> Array:
    """Mean of a Poisson number, given that it is not 0."""
    return np.asarray(np.where(mean > 1e-6, mean / -np.expm1(-np.maximum(mean, 1e-6)), 1.0))


def _fullest(together: Array, ranks: Array, new: float, chunk: Array) -> tuple[Array, Array]:
    """(prompt tokens of the fullest rank in a step, the mean rank's share of them with 0 for one rank alone)."""
    own = np.maximum(1.0, together / ranks)
    even = np.where(
        ranks > 1.0, (together / (ranks * own) - 1.0 / ranks) / np.maximum(1.0 - 1.0 / ranks, 1e-9), 1.0
    )
    return np.minimum(own * new, np.maximum(chunk, 1.0)), np.clip(even, 0.0, 1.0)
