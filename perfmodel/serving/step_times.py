"""How long a step takes, asked thousands of times a second: the twin on a grid, and interpolation between.

A step of a rank has n decoding requests with K tokens in their caches together, and p prompt tokens that attend to m
tokens each on average. Its time is multilinear between grid points in (n, K / n, p, m). All ranks step together: the
one with most of each sets attention, dense layers and what it sends, while experts get what all ranks bring. So times
also depend on ``even``, the tokens of the mean rank over those of the fullest.

A step of a pipeline of p stages is a turn: each of its p micro-batches passes all stages once. Requests are spread over
them evenly, prompts fill one micro-batch after the other up to its budget. In a flow shop whose jobs come again, take
equally long on each stage and are no more than there are stages, a turn takes as long as its slowest job alone takes
through all stages (the largest mean of a circuit in max-plus algebra), so that is what a step takes: a prompt in one
micro-batch holds all others back by the bubble that it makes. That is also one step as :mod:`perfmodel.step` has it.
"""

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from perfmodel.ops.routed import rank_load
from perfmodel.ops.work import step_work, tokens_per_step
from perfmodel.overlap.schedules import num_micro_batches
from perfmodel.serving.grid import Grid
from perfmodel.serving.sharing import STRETCHES, Sharing, Wire
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.scenario import Scenario
from perfmodel.step import predict_steps, sending_s

Array = NDArray[np.float64]

SHORTEST_CONTEXT = 32.0
SMALLEST_PROMPT = 1.0
LEAST_ATTENDED = 0.5
"""A prompt of one token attends to half a token on average, itself."""
LONGEST_CONTEXT = 1 << 20
EVEN = (0.1, 0.3, 1.0)
"""Evenness of the grid, beside that of a single busy rank."""
MIXED_BATCHES = 7
"""Decode batches of the grid of mixed steps, which has four dimensions."""


class StepTimes(Protocol):
    """Seconds of an engine's steps."""

    def decode_s(self, requests: int, tokens: float, even: float, stretch: float = 1.0) -> float:
        """A step in which ``requests`` decode, with ``tokens`` in their caches together; what it sends takes
        ``stretch`` times as long, for caches on the same wire (:mod:`perfmodel.serving.sharing`).
        """
        ...

    def decode_run_s(
        self, requests: int, tokens: float, growth: float, steps: int, even: float, stretch: float = 1.0
    ) -> float:
        """``steps`` such steps, the caches growing by ``growth`` tokens from step to step."""
        ...

    def prompt_s(self, prompt: float, attended: float, requests: int, tokens: float, even: float) -> float:
        """A step with ``prompt`` new tokens that attend to ``attended`` pairs, beside ``requests`` decodes."""
        ...

    def room(self, requests: int, even: float) -> float:
        """Share of their wire that caches have beside decode steps."""
        ...


class GridStepTimes:
    """Step times by interpolation on grids (:class:`Grid`): of decodes over (even, requests, context), of prompts over
    (even, prompt, attended), of both together over (even, requests, context, prompt, attended), the mean contexts and
    the tokens attended to each per request or prompt token.
    """

    def __init__(
        self, decode: Grid, prompt: Grid, mixed: Grid | None = None, sharing: Sharing | None = None
    ) -> None:
        """``mixed`` is None where no step has both, ``sharing`` where no caches come over a wire that steps use."""
        self.decode, self.prompt, self.sharing = decode, prompt, sharing
        self._mixed = mixed

    def mixed(self) -> Grid:
        """Of steps with prompts and decodes."""
        assert self._mixed is not None, "this engine does not mix"
        return self._mixed

    def decode_s(self, requests: int, tokens: float, even: float = 1.0, stretch: float = 1.0) -> float:
        """See :class:`StepTimes`."""
        return self._step_s(requests, tokens / requests, even, stretch)

    def _step_s(self, requests: int, context: float, even: float, stretch: float) -> float:
        if stretch == 1.0:
            return self.decode.at((even, requests, context))
        assert self.sharing is not None, "nothing shares a wire with these steps"
        return self.sharing.decode.at((stretch, even, requests, context))

    def room(self, requests: int, even: float) -> float:
        """See :class:`StepTimes`."""
        return 1.0 if self.sharing is None else self.sharing.room.at((even, requests, 0.0))

    def decode_run_s(
        self,
        requests: int,
        tokens: float,
        growth: float,
        steps: int,
        even: float = 1.0,
        stretch: float = 1.0,
    ) -> float:
        """See :class:`StepTimes`: times are linear in the context between grid points, so a run inside one cell takes
        ``steps`` times its middle step. A run over several cells is cut at their borders.
        """
        borders = self.decode.axes[2]
        total, done = 0.0, 0
        while done < steps:
            context, more = (tokens + growth * done) / requests, steps - done
            at = bisect_right(borders, context)
            if growth > 0.0 and at < len(borders):  # steps that start before the next border, at least one
                more = min(more, max(1, int((borders[at] - context) * requests / growth)))
            middle = context + growth * (more - 1) / 2.0 / requests
            total += more * self._step_s(requests, middle, even, stretch)
            done += more
        return total

    def prompt_s(
        self, prompt: float, attended: float, requests: int, tokens: float, even: float = 1.0
    ) -> float:
        """See :class:`StepTimes`."""
        mean = attended / prompt
        if not requests:
            return self.prompt.at((even, prompt, mean))
        return self.mixed().at((even, requests, tokens / requests, prompt, mean))


class TwinStepTimes(GridStepTimes):
    """Step times of a scenario's deployment, by the vectorised twin."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        most_requests: int,
        most_prompt: int,
        most_context: int,
        chunk: int | None = None,
        shared: Wire = "",
    ) -> None:
        """Asks the twin for every grid point at once.

        Args:
            scenario: model, cluster, deployment; its batch and lengths are replaced.
            most_requests: decoding requests of one rank.
            most_prompt: prompt tokens of one step and rank.
            most_context: tokens of one request.
            chunk: prompt tokens that a pipeline's micro-batch carries at most; None: all.
            shared: the wire over which caches come in, where steps use it too.

        Raises:
            UnsupportedError: the model has a part whose run time is not modelled.
        """
        self.per_gpu = 1.0 / scenario.deployment.attention_tp
        self.stages, self.chunk = scenario.deployment.pp, float(chunk or most_prompt)
        deployment = scenario.deployment.model_copy(update={"ranks": "representative"})
        self.scenario = scenario.model_copy(update={"deployment": deployment})
        ranks = deployment.attention_dp
        even = sorted({1.0 / ranks, *(share for share in EVEN if share * ranks > 1.0)})
        contexts = _geometric(SHORTEST_CONTEXT, min(float(most_context), LONGEST_CONTEXT), 2.0)
        batches = _batches(most_requests)
        if self.stages > 1:  # as many requests as micro-batches take as long as one
            per_batch = _batches(-(-most_requests // self.stages))
            batches = sorted({1.0, *(self.stages * size for size in per_batch)})
        prompts = _geometric(SMALLEST_PROMPT, float(most_prompt), 2.0)
        attended = _geometric(LEAST_ATTENDED, min(float(most_context), LONGEST_CONTEXT), 4.0)
        super().__init__(
            Grid.of((even, batches, contexts), self._decode_times),
            Grid.of((even, prompts, attended), self._prefill_times),
        )
        if shared:
            self.sharing = self._sharing(shared, (even, batches, contexts))
        self._mixed_axes = (
            even,
            _thinned(batches, MIXED_BATCHES),
            _thinned(contexts, 4),
            _thinned(prompts, 9),
            _thinned(attended, 6),
        )

    def mixed(self) -> Grid:
        """Asked of the twin when it is first asked for: many engines never mix."""
        if self._mixed is None:
            self._mixed = Grid.of(self._mixed_axes, self._mixed_times)
        return self._mixed

    def _decode_times(self, even: Array, requests: Array, context: Array, **changed: Any) -> Array:
        leaves = decode_leaves(self._each(requests) * self.per_gpu, context)
        return self._times("decode", leaves, even, **changed)

    def _sharing(self, wire: Literal["link", "network"], axes: tuple[list[float], ...]) -> Sharing:
        """Steps with a slower wire, and what they leave of it where caches take half: 1 - c / T(2)."""
        slow = self.scenario.deployment.slowdown
        levels = [np.asarray(self.decode.values)]
        for stretch in STRETCHES[1:]:
            slower = slow.model_copy(update={wire: getattr(slow, wire) * stretch})
            own = Grid.of(axes, partial(self._decode_times, slowdown=slower))
            levels.append(np.asarray(own.values))

        def sent(even: Array, requests: Array, context: Array) -> Array:
            leaves = decode_leaves(self._each(requests) * self.per_gpu, context)
            busy = sending_s(self._steps("decode", leaves, even), wire)
            return np.broadcast_to(np.asarray(busy, dtype=float), even.shape)

        own_axes = (*axes[:2], axes[2][:1])
        busy = np.asarray(Grid.of(own_axes, sent).values)
        return Sharing(
            decode=Grid((STRETCHES, *axes), np.stack(levels)),
            room=Grid(own_axes, np.clip(1.0 - busy / levels[-1][:, :, :1], 0.5, 1.0)),
        )

    def _prefill_times(self, even: Array, prompt: Array, attended: Array) -> Array:
        return self._times("prefill", prompt_leaves(self._part(prompt), attended, self.per_gpu), even)

    def _mixed_times(
        self, even: Array, requests: Array, context: Array, prompt: Array, attended: Array
    ) -> Array:
        values = decode_leaves(self._each(requests) * self.per_gpu, context) | prompt_leaves(
            self._part(prompt), attended, self.per_gpu
        )
        return self._times("mixed", values, even)

    def _each(self, requests: Array) -> Array:
        """Decoding requests of a rank's largest micro-batch."""
        return requests if self.stages == 1 else np.ceil(requests / self.stages)

    def _part(self, prompt: Array) -> Array:
        """Prompt tokens of a rank's largest micro-batch."""
        return prompt if self.stages == 1 else np.minimum(prompt, self.chunk)

    def _steps(self, phase: str, values: dict[str, Array], even: Array, **changed: Any) -> Scenario:
        """Steps of uneven ranks, of a deployment with something ``changed``. The busiest one's load of experts may be
        below 1, while nobody sends less than the fullest rank does.
        """
        changed["phase"] = phase
        if phase != "prefill":  # prompts alone are divided
            changed["context_parallel"] = 1
        if phase == "decode":  # several steps per scheduling share its gap
            host = self.scenario.deployment.host
            shared = host.prepare_us / self.scenario.serving.scheduler_steps
            changed["host"] = host.model_copy(update={"prepare_us": shared})
        deployment = self.scenario.deployment.model_copy(update=changed)
        scenario = with_arrays(self.scenario.model_copy(update={"deployment": deployment}), values)
        return with_uneven_ranks(scenario, even)

    def _times(self, phase: str, values: dict[str, Array], even: Array, **changed: Any) -> Array:
        """How long they take, s."""
        times = np.asarray(predict_steps(self._steps(phase, values, even, **changed)).step_time_s)
        deployment = self.scenario.deployment
        if phase != "prefill":
            requests = values["deployment.batch_per_gpu"] * even * deployment.request_gpus
            sent = self.scenario.serving.front_end.streaming_s(requests, tokens_per_step(deployment))  # type: ignore[arg-type]
            times = np.maximum(times, sent)
        return times


def with_uneven_ranks(scenario: Scenario, even: Any) -> Scenario:
    """The scenario with the busiest expert-parallel rank's load at what even ranks would give it times ``even``.

    GPUs that compute FFNs alone have all their tokens from the mean rank: as many as ``even`` times the attention GPUs
    would send that are all as full as the fullest.
    """
    moe, deployment = scenario.model.moe, scenario.deployment
    if deployment.ffn_gpus:
        senders = deployment.model_copy(update={"attention_gpus": deployment.attention_gpus * even})
        return scenario.model_copy(update={"deployment": senders})
    if moe is None or deployment.attention_dp == 1 or deployment.ep == 1:
        return scenario
    tokens = step_work(deployment).tokens / num_micro_batches(deployment.overlap)
    load = rank_load(moe, tokens, scenario) * even
    routing = scenario.routing.model_copy(update={"rank_loads": (load,)})
    return scenario.model_copy(update={"routing": routing})


def decode_leaves(batch_per_gpu: Array, context: Array) -> dict[str, Array]:
    """Leaves of a scenario whose steps decode."""
    return {"deployment.batch_per_gpu": batch_per_gpu, "deployment.context_tokens": context}


def prompt_leaves(prompt: Array, attended: Array, per_gpu: float | Array) -> dict[str, Array]:
    """Leaves of a scenario whose steps have prompt tokens that attend to ``attended`` tokens each, as equal requests.

    A prompt of l tokens without a cache attends to l / 2 each: several short ones where that is more than is wanted,
    else one with what is missing in its cache.
    """
    length = np.minimum(prompt, 2.0 * attended)
    return {
        "deployment.prefill_requests_per_gpu": prompt / length * per_gpu,
        "deployment.prefill_tokens": length,
        "deployment.prefill_cached_tokens": np.maximum(attended - length / 2.0, 0.0),
    }


def _geometric(first: float, last: float, factor: float) -> list[float]:
    """``first``, .. in steps of about ``factor``, and ``last``; one point where they are equal."""
    if last <= first:
        return [max(first, last)]
    count = max(1, round(np.log(last / first) / np.log(factor)))
    return [float(value) for value in np.geomspace(first, last, count + 1)]


def _batches(most: int) -> list[float]:
    """1, 2, 3, 4, 6, 8, 12, .. and ``most``."""
    sizes = {float(most)}
    base = 1
    while base < most:
        sizes |= {float(base), float(min(most, base * 3 // 2 or 1))}
        base *= 2
    return sorted(sizes)


def _thinned(axis: Sequence[float], most: int) -> list[float]:
    """At most ``most`` of an axis's points, its ends among them."""
    if len(axis) <= most:
        return list(axis)
    return [axis[i] for i in sorted({round(i) for i in np.linspace(0, len(axis) - 1, most)})]
