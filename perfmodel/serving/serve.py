"""A scenario's traffic through its replicas: from description to records."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from perfmodel.engines.offload import policy_of
from perfmodel.errors import InfeasibleError, SpecError, UnsupportedError
from perfmodel.kernels.communication import point_to_point
from perfmodel.ops.limits import check_ffn_side, check_layout, no_cache_left, requests_per_rank
from perfmodel.ops.memory import (
    beside_bytes,
    cache_tokens_per_rank,
    cached_token_bytes,
    checkpoint_bytes,
    handed_over_bytes,
    weight_bytes,
)
from perfmodel.ops.work import divided
from perfmodel.serving.batching import Batching, Policy
from perfmodel.serving.cluster import FrontEndTimes, PrefillSide, Progress
from perfmodel.serving.conditions import HEALTHY, Condition, Fleet, changes_of
from perfmodel.serving.cores import Core, chosen, simulate, stream_compiled
from perfmodel.serving.drafts import acceptance_for, decode_steps, decode_steps_of
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.in_order import InOrder, Sums
from perfmodel.serving.pool import Layout
from perfmodel.serving.prefix_cache import Checkpoints
from perfmodel.serving.rank import ROUNDING
from perfmodel.serving.records import Records
from perfmodel.serving.requests import Requests, for_adapters, requests_of
from perfmodel.serving.sharing import Wire, shared_wire
from perfmodel.serving.step_times import StepTimes, TwinStepTimes
from perfmodel.serving.stream import Lengths, RequestStream, lengths_of, portions_of
from perfmodel.serving.tiers import Tiers
from perfmodel.spec.scenario import Scenario
from perfmodel.spec.traces.stated import MAX_REQUESTS
from perfmodel.units import GB, MS


@dataclass(frozen=True, slots=True)
class ServedPool:
    """Replicas of one deployment."""

    scenario: Scenario
    """As they see it."""
    layout: Layout
    batching: Batching
    kv_tokens: int
    """Tokens that one rank's cache holds."""
    times: Callable[..., StepTimes]
    """Step times under a condition."""


@dataclass(frozen=True)
class Run:
    """One simulated run, without what it left."""

    scenario: Scenario
    requests: Requests | RequestStream
    pool: ServedPool
    """The replicas of the scenario's deployment."""
    prefill: ServedPool | None
    """Those that compute prompts only, where there are any."""
    path: KvPath | None
    """Between them."""
    fleet: Fleet
    """What steps took."""
    core: Core
    """Which form of the simulation ran."""


@dataclass(frozen=True)
class Served(Run):
    """One simulated run with all its records."""

    requests: Requests
    records: Records


def serve(
    scenario: Scenario,
    *,
    requests: Requests | None = None,
    progress: Progress | None = None,
    together: bool = True,
    fleet: Fleet | None = None,
    core: Core | None = None,
) -> Served:
    """Serve a scenario's workload (or the given requests), every request from its arrival to its last token.

    ``together = False`` steps the engines one step at a time: the same records, slower. ``fleet``, that of an earlier
    run of the same lengths (:attr:`Served.fleet`, or one :func:`perfmodel.serving.stretch.stretched`), is taken instead
    of asking the twin anew. ``core`` is that of an earlier run, so that all of a study run on one; None:
    the one that is worth it (:mod:`perfmodel.serving.cores`).

    Raises:
        InfeasibleError: weights leave no room for a cache, or a request is longer than the cache.
        DataError: a trace that can't be read.
        UnsupportedError: the model has a part whose run time is not modelled.
    """
    _check_servable(scenario)
    asked = requests_of(scenario.workload, scenario.seed) if requests is None else requests
    if not asked.num_requests:
        raise SpecError("workload: has no requests")
    asked = for_adapters(asked, scenario.deployment.lora_adapters, scenario.seed)
    side, deployment = scenario.prefill_side, scenario.deployment
    lengths = Lengths.of(asked)
    path = _path(scenario)
    pool = _pool_of(scenario, lengths, asked.max_concurrency, shared=path.shared if path else "")
    prefill = _pool_of(side, lengths, asked.max_concurrency) if side is not None else None
    steps = fleet or Fleet(pool.times, prefill.times if prefill else None)
    records, core = simulate(
        core,
        asked,
        lambda _: steps.decode(HEALTHY),
        pool.layout,
        replace(pool.batching, together=together),
        decode_steps(
            asked.output_tokens, deployment.mtp.draft_tokens, acceptance_for(deployment.mtp), scenario.seed
        ),
        prefill=(
            PrefillSide(
                prefill.layout,
                replace(prefill.batching, together=together),
                lambda _: steps.of("prefill")(HEALTHY),
                path,
            )
            if prefill is not None and path is not None
            else None
        ),
        changes=changes_of(scenario, steps, path),
        progress=progress,
        front_end=front_end_of(scenario if side is None else side),
    )
    return Served(scenario, asked, pool, prefill, path, steps, core, records)


def can_stream(scenario: Scenario) -> bool:
    """Whether a run of this scenario need not keep its records: where the compiled core serves it, and those who are
    left out of what is judged are known beforehand.
    """
    workload = scenario.workload
    cut = bool(workload.warm_up_requests or workload.cool_down_requests)
    settled = not cut or (not workload.has_turns and workload.think_time_s.value == 0.0)
    _check_servable(scenario)
    return settled and scenario.prefill is None and chosen(MAX_REQUESTS) == "compiled"


def stream(
    scenario: Scenario,
    asked: Requests | RequestStream,
    sums: Sums,
    *,
    progress: Progress | None = None,
    fleet: Fleet | None = None,
) -> Run:
    """As :func:`serve`, of a scenario that :func:`can_stream`; what requests and steps were goes to ``sums`` and is not
    kept.

    Raises:
        InfeasibleError, UnsupportedError: as said there.
    """
    if isinstance(asked, Requests):
        asked = for_adapters(asked, scenario.deployment.lora_adapters, scenario.seed)
    pool, mtp = _pool_of(scenario, lengths_of(asked), asked.max_concurrency), scenario.deployment.mtp
    steps = fleet or Fleet(pool.times, None)
    outputs = (one.output_tokens for one in portions_of(asked))
    lengths = ((one.input_tokens, one.output_tokens) for one in portions_of(asked))
    workload = scenario.workload
    judged = range(workload.warm_up_requests, asked.num_requests - workload.cool_down_requests)
    notes = InOrder(sums, lengths, judged, whole=len(judged) == asked.num_requests)
    stream_compiled(
        asked,
        lambda _: steps.decode(HEALTHY),
        pool.layout,
        pool.batching,
        decode_steps_of(outputs, mtp.draft_tokens, acceptance_for(mtp), scenario.seed),
        notes,
        changes=changes_of(scenario, steps, None),
        progress=progress,
        front_end=front_end_of(scenario),
    )
    notes.finish()
    return Run(scenario, asked, pool, None, None, steps, "compiled")


def front_end_of(scenario: Scenario) -> FrontEndTimes:
    """What stands before the replicas that take requests in: a server process (or several) per replica."""
    front, replicas = scenario.serving.front_end, scenario.serving.replicas
    return FrontEndTimes(front.latency_s, front.request_s / (front.servers * replicas))


@dataclass(frozen=True, slots=True)
class PoolTimes:
    """Step times of a scenario's replicas under each condition: made when they are first asked for, then kept. A plain
    object, so that it can go to another process with what it has made.
    """

    scenario: Scenario
    most_requests: int
    most_prompt: int
    most_context: int
    chunk: int
    shared: Wire = ""
    """Over which caches come in, where steps use it too."""
    _made: dict[Condition, StepTimes] = field(default_factory=dict, compare=False)

    def __call__(self, condition: Condition = HEALTHY) -> StepTimes:
        """See :class:`perfmodel.serving.step_times.TwinStepTimes`."""
        if condition not in self._made:
            self._made[condition] = TwinStepTimes(
                condition.of(self.scenario),
                most_requests=self.most_requests,
                most_prompt=self.most_prompt,
                most_context=self.most_context,
                chunk=self.chunk,
                shared=self.shared,
            )
        return self._made[condition]


def _pool_of(
    scenario: Scenario, lengths: Lengths, max_concurrency: int | None, shared: Wire = ""
) -> ServedPool:
    """The replicas of a scenario's deployment; step times are made when they are asked for."""
    layout, kv_tokens = layout_of(scenario), kv_tokens_of(scenario)
    batching = batching_of(scenario, longest_prompt=lengths.longest_prompt)
    times = PoolTimes(
        scenario,
        most_requests=_most_requests(lengths, max_concurrency, layout, kv_tokens, scenario),
        most_prompt=min(batching.max_batched_tokens, lengths.prompt_tokens),
        most_context=lengths.longest,
        chunk=batching.max_batched_tokens // scenario.deployment.pp,
        shared=shared,
    )
    return ServedPool(scenario, layout, batching, kv_tokens, times)


def _path(scenario: Scenario) -> KvPath | None:
    apart, side = scenario.prefill, scenario.prefill_side
    if apart is None or side is None:
        return None
    return kv_path(scenario, side, layer_wise=apart.transfer == "layer-wise")


def kv_path(scenario: Scenario, prefill: Scenario, *, layer_wise: bool) -> KvPath:
    """How caches get from a prefill rank to a decode rank: every GPU of the latter receives what it keeps, and the
    former's GPUs share the sending. Over the link where all GPUs are in one domain, else over the network; between two
    clusters over both networks, at whose ends each GPU has what its own adapter achieves. A pipeline's stages send and
    receive their own layers' each.
    """
    cluster, receivers = scenario.cluster, scenario.deployment.attention_tp
    apart = scenario.prefill is not None and scenario.prefill.cluster is not None
    together = not apart and scenario.cluster_gpus <= cluster.node.link_domain_gpus
    wire = point_to_point(cluster, same_domain=together)
    sending = point_to_point(prefill.cluster, same_domain=together) if apart else wire
    return KvPath(
        bytes_per_token=cached_token_bytes(scenario) * receivers,
        send_bytes_per_s=sending.bytes_per_s * prefill.deployment.attention_tp * prefill.deployment.pp,
        receive_bytes_per_s=wire.bytes_per_s * receivers * scenario.deployment.pp,
        latency_s=max(wire.latency_s, sending.latency_s),
        layers=scenario.model.num_layers,
        layer_wise=layer_wise,
        flag="; ".join(dict.fromkeys(flag for flag in (sending.flag, wire.flag) if flag)),
        shared=shared_wire(scenario, one_domain=together),
        beside=handed_over_bytes(scenario).scaled(receivers),
    )


def _check_servable(scenario: Scenario, *, prompts_alone: bool = False) -> None:
    """Refuses what describes single steps only, is not simulated, or would not be loaded.

    ``prompts_alone``: whether these replicas compute prompts only.
    """
    side = scenario.prefill_side
    check_layout(scenario)
    if side is not None:
        try:
            _check_servable(side, prompts_alone=True)
        except SpecError as error:
            raise SpecError(f"prefill.{error}") from error
    clusters = [("cluster", scenario.cluster.num_gpus, scenario.cluster_gpus)]
    if scenario.two_clusters:
        ffns = scenario.deployment.ffn_gpus * scenario.serving.replicas
        clusters.append(("ffns.cluster", scenario.ffn_cluster.num_gpus, ffns))
    for name, available, needed in clusters:
        if available is not None and needed > available:
            raise SpecError(
                f"serving.replicas: all replicas need {needed} GPUs, {name}.num_gpus = {available}"
            )
    if scenario.deployment.context_parallel > 1 and not prompts_alone:
        raise SpecError(
            f"deployment.context_parallel = {scenario.deployment.context_parallel}: replicas that decode too do not "
            "divide prompts here: state it of prefill.deployment"
        )
    if scenario.costs == "report":
        raise SpecError("costs = report counts single steps only: serve with costs = roofline")
    if scenario.given.attention_us is not None:
        raise SpecError(
            "given.attention_us is the time of one batch and context: leave it out, requests come in many"
        )


def layout_of(scenario: Scenario) -> Layout:
    """Replicas and ranks, with the KV blocks of one rank."""
    serving = scenario.serving
    return Layout(
        replicas=serving.replicas,
        ranks=scenario.deployment.attention_dp,
        blocks=kv_tokens_of(scenario) // serving.block_tokens,
        block_tokens=serving.block_tokens,
        max_running=requests_per_rank(scenario),
        watermark=serving.watermark,
        router=serving.router,
        rank_router=serving.rank_router,
        prefix_cache=serving.prefix_cache,
        beside=beside_bytes(scenario).scaled(1.0 / _block_bytes(scenario)),
        checkpoints=_checkpoints_of(scenario),
    )


def _block_bytes(scenario: Scenario) -> float:
    """Bytes of one KV block on each GPU of an attention group."""
    return cached_token_bytes(scenario) * scenario.serving.block_tokens


def _checkpoints_of(scenario: Scenario) -> Checkpoints | None:
    """How the model's states are kept for later prompts; None where it has none."""
    size = checkpoint_bytes(scenario)
    if not size:
        return None
    blocks = math.ceil(size / _block_bytes(scenario) - ROUNDING)
    return Checkpoints(scenario.serving.checkpoint_tokens, blocks)


def batching_of(scenario: Scenario, *, longest_prompt: int = 0) -> Batching:
    """The engine's policy and budgets; where prompts are never cut, a step can carry the longest. A step of a pipeline
    is a turn of all its micro-batches (:mod:`perfmodel.serving.step_times`), each of which has the engine's budget.
    """
    serving, deployment = scenario.serving, scenario.deployment
    stages = deployment.pp
    policy: Policy = serving.policy
    per_decode = 1 + deployment.mtp.draft_tokens
    if policy == "mixed" and serving.max_batched_tokens <= per_decode:
        raise SpecError(
            f"serving.max_batched_tokens = {serving.max_batched_tokens}: must exceed the {per_decode} tokens that one "
            "decoding request adds to a step, or no prompt is ever read"
        )
    swap_s = None
    if serving.preemption == "swap":
        bandwidth = scenario.cluster.gpu.host_gb_per_s
        if bandwidth is None:
            raise SpecError(
                "serving.preemption = swap needs cluster.gpu.host_gb_per_s, which "
                f"{scenario.cluster.gpu.name} does not state"
            )
        swap_s = cached_token_bytes(scenario) / (bandwidth * GB * stages)
    return Batching(
        policy=policy,
        max_batched_tokens=stages
        * max(serving.max_batched_tokens, longest_prompt if serving.whole_prompts else 0),
        tokens_per_decode=per_decode,
        graph_batches=tuple(stages * size for size in serving.graph_batches or ()),
        poll_steps=serving.scheduler_steps,
        hold_steps=serving.hold_steps if deployment.attention_dp > 1 else 0,
        swap_s_per_token=swap_s,
        tiers=tiers_of(scenario),
    )


def tiers_of(scenario: Scenario) -> Tiers | None:
    """Memories below the GPU's, in blocks of one rank; None where nothing is kept there.

    A rank reads over its GPUs' own links, each its share; what a node reads from storage, or from its host's memory,
    is shared by the node's ranks, and a rank that spans nodes has as many nodes' worth. Of a pipeline each stage keeps
    and reads its own layers' part, on the nodes that it stands on.
    """
    serving, tp, node = scenario.serving, scenario.deployment.attention_tp, scenario.cluster.node.num_gpus
    stages, stage = scenario.deployment.pp, scenario.deployment.stage_gpus
    if not serving.has_tiers:
        return None
    each, offload, policy = cached_token_bytes(scenario), serving.offload, policy_of(scenario)
    state = checkpoint_bytes(scenario)
    if state and (policy.states or policy.write == "write-back"):
        why = policy.states or "its checkpoints are modelled write-through alone"
        way = "" if policy.states else "set serving.offload.write = write-through, or "
        raise UnsupportedError(
            f"serving.host_cache, serving.storage_cache: model {scenario.model.name} keeps a state per request: {why}; "
            f"{way}leave them out{', or use sglang or vllm' if policy.states else ''}"
        )
    host = serving.host_cache_tokens or int(serving.host_cache_gb * GB * stages / node / each)
    storage = serving.storage_cache_tokens or int(serving.storage_cache_gb * GB / (each * tp))
    nodes = max(1, math.ceil(tp / node)) * math.ceil(stages * stage / node) / math.ceil(stage / node)

    def shared_s(bandwidth: float | None) -> float:
        return 0.0 if bandwidth is None else each * tp / (bandwidth * GB * nodes)

    link = scenario.cluster.gpu.host_gb_per_s
    found = Tiers(
        host_blocks=host // serving.block_tokens,
        storage_blocks=storage // serving.block_tokens,
        ranks_per_host=max(1, node // tp),
        local=offload.storage == "local",
        write_back=policy.write == "write-back",
        host_s=0.0 if link is None else each / (link * GB * stages),
        node_s=shared_s(offload.host_node_gb_per_s),
        storage_s=shared_s(offload.storage_gb_per_s),
        latency_s=offload.storage_latency_ms * MS,
        overlapped=policy.load == "layer-wise",
        prefetch=policy.prefetch,
        state_tokens=round(state / each),
    )
    return found if found.host_blocks or found.storage_blocks else None


def kv_tokens_of(scenario: Scenario) -> int:
    """Tokens that one rank's cache holds: stated, or what memory leaves.

    Raises:
        InfeasibleError: not even one block.
    """
    serving, decodes = scenario.serving, requests_per_rank(scenario)
    check_ffn_side(scenario, prompt_tokens=serving.max_batched_tokens, decodes=decodes)
    if serving.kv_tokens is not None:
        tokens = serving.kv_tokens
    else:
        tokens = cache_tokens_per_rank(scenario, prompt_tokens=serving.max_batched_tokens, decodes=decodes)
    if tokens < serving.block_tokens:
        weights = weight_bytes(scenario.model, divided(scenario.deployment))
        raise InfeasibleError(no_cache_left(scenario, tokens, float(weights)))
    return tokens


def _most_requests(
    lengths: Lengths, max_concurrency: int | None, layout: Layout, kv_tokens: int, scenario: Scenario
) -> int:
    """Requests that can decode on one rank at once, padded to a captured size."""
    shortest = lengths.shortest_prompt + 1
    most = min(layout.max_running, max(1, kv_tokens // shortest), lengths.num_requests)
    if max_concurrency is not None:
        most = min(most, max_concurrency)
    stages = scenario.deployment.pp
    padded = [stages * size for size in scenario.serving.graph_batches or () if stages * size >= most]
    return max(1, min(padded, default=most))


def as_columns(records: Records) -> dict[str, np.ndarray]:
    """One row per request, for a table or a file: times in seconds, lengths in tokens."""
    outputs = np.maximum(records.output_tokens - 1, 1)
    return {
        "arrival_s": records.arrival_s,
        "scheduled_s": records.scheduled_s,
        "first_token_s": records.first_token_s,
        "end_s": records.end_s,
        "input_tokens": records.input_tokens,
        "output_tokens": records.output_tokens,
        "ttft_s": records.first_token_s - records.arrival_s,
        "tpot_s": np.where(
            records.output_tokens > 1, (records.end_s - records.first_token_s) / outputs, np.nan
        ),
        "e2e_s": records.end_s - records.arrival_s,
        "preemptions": records.preemptions,
        "prefilled_s": records.prefilled_s,
        "retries": records.retries,
        "cached_tokens": records.cached_tokens,
        "replica": records.replica,
        "prefill_replica": records.prefill_replica,
    }
