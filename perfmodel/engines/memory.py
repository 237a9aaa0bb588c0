"""What an engine takes of a GPU's memory besides what a step needs, and the share that it gives to the cache.

The figures are data (``data/engines/memory.yaml``), each with its source. A deployment without an engine has the
runtime's part and no share: all that is left is the cache's.
"""

from functools import cache
from typing import Literal, NamedTuple

from perfmodel.numeric import Num, minimum
from perfmodel.spec.base import Count, NonNegative, PositiveFraction, Spec
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.scenario import Scenario

FILE = DATA / "engines" / "memory.yaml"
MIB = float(2**20)


class Part(Spec):
    """One thing that takes memory."""

    mib: NonNegative
    """MiB; of graphs, per request of the largest captured batch."""
    most_requests: Count = 1
    """Requests of the largest captured batch."""
    source: str
    """Where it was read."""


class Runtime(Spec):
    """What is taken whatever the model."""

    context: Part
    groups: Part
    nvshmem: Part
    graphs: Part


class Formula(Spec):
    """SGLang's estimate of what it must not give to weights and cache, MiB."""

    fixed_mib: NonNegative
    per_prompt_token_mib: NonNegative
    least_prompt_tokens: Count
    per_graph_request_mib: NonNegative
    per_gpu_mib: NonNegative
    per_graph_request_and_rank_mib: NonNegative
    more_above_300_mib: NonNegative
    least_mib: NonNegative
    least_from_mib: NonNegative
    drafts_mib: NonNegative
    graph_requests_from_tp4: Count
    graph_requests: Count
    graph_requests_above_mib: NonNegative
    most_ranks: Count
    """Data-parallel ranks up to which it is meant."""


class Share(Spec):
    """How an engine sizes its cache."""

    of: Literal["device", "started", "free"]
    """device: weights, cache and steps share ``share`` of the device. started: weights and cache share ``share`` of
    what is free once the process is up. free: the cache gets ``share`` of what everything else leaves."""
    share: PositiveFraction
    formula: Formula | None = None
    """What gives the share instead, where it applies."""
    source: str
    """Where it was read."""


class Engines(Spec):
    """Runtime and shares."""

    runtime: Runtime
    share: dict[str, Share]


@cache
def engines() -> Engines:
    """The figures as they ship."""
    return Engines.model_validate(read_document(FILE))


class RuntimeBytes(NamedTuple):
    """What the runtime takes of one GPU, bytes."""

    start: float
    """Context and process groups: taken before weights are loaded."""
    later: float
    """NVSHMEM's granule and pools of captured graphs."""


def runtime_bytes(scenario: Scenario) -> RuntimeBytes:
    """What context, process groups, NVSHMEM and captured graphs take; nothing on a CPU."""
    if scenario.cluster.gpu.architecture == "cpu":
        return RuntimeBytes(0.0, 0.0)
    parts, deployment = engines().runtime, scenario.deployment
    start = parts.context.mib + (parts.groups.mib if deployment.num_gpus > 1 else 0.0)
    later = parts.graphs.mib * min(parts.graphs.most_requests, scenario.serving.max_running)
    if scenario.model.moe and deployment.ep > 1 and deployment.backend.startswith("deepep"):
        later += parts.nvshmem.mib
    return RuntimeBytes(start * MIB, later * MIB)


def static_share(scenario: Scenario, share: Share) -> float:
    """SGLang's mem_fraction_static for this GPU, chunk and layout, or the share of its large recipe."""
    formula, deployment = share.formula, scenario.deployment
    if formula is None or deployment.attention_dp > formula.most_ranks:
        return share.share
    device = scenario.cluster.gpu.memory_bytes / MIB
    many = deployment.stage_gpus >= 4 or device >= formula.graph_requests_above_mib
    graph = formula.graph_requests_from_tp4 if many else formula.graph_requests
    ranks = deployment.attention_dp
    chunk = scenario.serving.max_batched_tokens
    mib = formula.fixed_mib + max(chunk, formula.least_prompt_tokens) * formula.per_prompt_token_mib
    mib += graph * formula.per_graph_request_mib + deployment.num_gpus * formula.per_gpu_mib
    if ranks > 1:
        mib += graph * ranks * formula.per_graph_request_and_rank_mib
        mib += graph * ranks * formula.more_above_300_mib if graph > 300 else 0.0
    if device > formula.least_from_mib:
        mib = max(mib, formula.least_mib)
    if deployment.mtp.draft_tokens:
        mib += formula.drafts_mib
    return max(round((device - mib) / device, 3), 0.0)


def cache_room(scenario: Scenario, weights: Num, steps: Num) -> Num:
    """Bytes that the engine leaves to the cache of one GPU, beside ``weights`` and what ``steps`` need (activations and
    the all-to-all's buffers); negative where they alone do not fit.

    ``deployment.memory_utilization``, where stated, is the engine's own setting (vLLM's gpu_memory_utilization,
    SGLang's mem_fraction_static, TensorRT-LLM's free_gpu_memory_fraction); without an engine a share of the device.
    """
    device, stated = float(scenario.cluster.gpu.memory_bytes), scenario.deployment.memory_utilization
    start, later = runtime_bytes(scenario)
    free = device - start - later - weights - steps
    known = engines().share.get(scenario.deployment.engine)
    if known is None:
        return free if stated is None else minimum(free, stated * device - weights - steps)
    if known.of == "device":
        return minimum(free, (stated or known.share) * device - weights - steps)
    if known.of == "started":
        share = static_share(scenario, known) if stated is None else stated
        return minimum(free, share * (device - start) - weights)
    return (stated or known.share) * free
