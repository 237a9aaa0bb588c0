"""Communication ops: tensor parallelism's collectives, dispatch and combine, pipeline sends. Counts per GPU."""

from collections.abc import Mapping

from perfmodel.numeric import Num
from perfmodel.ops import communication
from perfmodel.ops.communication import Traffic
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.routed import token_destinations
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.hardware import Cluster
from perfmodel.spec.model import Moe
from perfmodel.spec.scenario import Scenario


def all_gather(name: str, rows: Num, hidden: Num, deployment: Deployment, cluster: Cluster, ranks: int) -> Op:
    """Every rank ends up with ``rows`` rows of hidden width."""
    traffic = communication.all_gather(
        rows * hidden * deployment.precision.activation_bytes, ranks, _domain(cluster)
    )
    return _tensor_parallel(name, "all_gather", traffic, deployment, ranks)


def reduce_scatter(
    name: str, rows: Num, hidden: Num, deployment: Deployment, cluster: Cluster, ranks: int
) -> Op:
    """Partial sums of ``rows`` rows on every rank become sums, divided over the ranks."""
    traffic = communication.reduce_scatter(
        rows * hidden * deployment.precision.activation_bytes, ranks, _domain(cluster)
    )
    return _tensor_parallel(name, "reduce_scatter", traffic, deployment, ranks)


def all_reduce(
    name: str, rows: Num, hidden: float, deployment: Deployment, cluster: Cluster, ranks: int
) -> Op:
    """Partial sums of ``rows`` rows on every rank become sums on every rank."""
    traffic = communication.all_reduce(
        rows * hidden * deployment.precision.activation_bytes, ranks, _domain(cluster)
    )
    return _tensor_parallel(name, "all_reduce", traffic, deployment, ranks)


def send_receive(name: str, tokens: Num, hidden: int, scenario: Scenario) -> Op:
    """A stage hands its activations to the next, GPU to GPU; stages are whole groups, so it crosses domains
    unless all stages share one.
    """
    deployment = scenario.deployment
    inside = deployment.num_gpus <= scenario.cluster.node.link_domain_gpus
    traffic = communication.send_recv(
        tokens * hidden * deployment.precision.activation_bytes, same_domain=inside
    )
    return _op(name, OpClass.PIPELINE, "send_recv", "nccl", Stream.NETWORK, traffic, ranks=2)


def ring_pass(name: str, rows: Num, width: Num, deployment: Deployment, cluster: Cluster, ranks: int) -> Op:
    """A rank's ``rows`` rows of ``width`` go to the next one of ``ranks`` while those of the one before arrive; each is
    a tensor-parallel group, whose GPUs have equal-numbered partners. A ring is as slow as its hop between domains.
    """
    inside = ranks * deployment.attention_tp <= cluster.node.link_domain_gpus
    nbytes = rows * width * deployment.precision.activation_bytes
    traffic = communication.send_recv(nbytes, same_domain=inside)
    stream = Stream.LINK if inside else Stream.NETWORK
    return _op(name, OpClass.TP_COMMUNICATION, "send_recv", "nccl", stream, traffic, ranks=2)


def exchange(name: str, op_class: OpClass, nbytes: Num, stream: Stream, scenario: Scenario) -> Op:
    """Bytes between two pools of GPUs, point to point, of the GPU whose adapter has most: over the link where all of
    them are in one domain, else (and always between two clusters) over the network. Costed as NCCL's send and receive
    are, whatever library does it.
    """
    near = scenario.deployment.num_gpus <= scenario.cluster.node.link_domain_gpus
    inside = near and not scenario.two_clusters
    traffic = communication.send_recv(nbytes, same_domain=inside)
    return _op(name, op_class, "send_recv", "nccl", stream, traffic, ranks=2)


def dispatch_ops(moe: Moe, tokens: Num, load: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Tokens go to the ranks of their real experts; nothing where one GPU, or every GPU, has all tokens."""
    return _exchange("dispatch", moe, tokens, load, scenario)


def combine_ops(moe: Moe, tokens: Num, load: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Experts' outputs go back and are summed; on a replicated layout an all-reduce."""
    deployment = scenario.deployment
    if deployment.replicated and deployment.stage_gpus > 1:
        rows = tokens * deployment.stage_gpus
        size = rows * scenario.model.hidden_size * deployment.precision.activation_bytes
        traffic = communication.all_reduce(size, deployment.stage_gpus, _domain(scenario.cluster))
        backend = deployment.tp_library("all_reduce")
        return (
            _op(
                "combine.all_reduce",
                OpClass.COMBINE,
                "all_reduce",
                backend,
                Stream.NETWORK,
                traffic,
                ranks=deployment.stage_gpus,
                barrier=True,
            ),
        )
    return _exchange("combine", moe, tokens, load, scenario)


def _exchange(kernel: str, moe: Moe, tokens: Num, load: Num, scenario: Scenario) -> tuple[Op, ...]:
    """Dispatch or combine by the deployment's backend."""
    deployment = scenario.deployment
    if deployment.replicated or deployment.stage_gpus == 1:
        return ()
    dispatch = kernel == "dispatch"
    dtype = deployment.precision.dispatch if dispatch else deployment.precision.combine
    backend, library_kernel = deployment.backend, kernel
    if backend == "all-gather":
        backend, library_kernel = "nccl", "all_gather" if dispatch else "reduce_scatter"
    elif backend == "all-to-all":
        backend, library_kernel = "nccl", "all_to_all"
    op = _op(
        kernel,
        OpClass.DISPATCH if dispatch else OpClass.COMBINE,
        library_kernel,
        backend,
        Stream.NETWORK,
        _exchange_traffic(kernel, moe, tokens, load, scenario, dtype),
        ranks=deployment.stage_gpus,
        dtype=dtype,
        barrier=True,
        extra={"tokens": tokens, "experts": moe.num_experts + deployment.redundant_experts},
    )
    return (op,)


def _exchange_traffic(
    kernel: str, moe: Moe, tokens: Num, load: Num, scenario: Scenario, dtype: str
) -> Traffic:
    """Bytes of dispatch or combine, by backend."""
    deployment, hidden = scenario.deployment, moe.routed_size(scenario.model.hidden_size)
    ranks, domain = deployment.stage_gpus, _domain(scenario.cluster)
    mean = scenario.mean_real_experts
    if scenario.costs == "report":
        return communication.report_all_to_all(tokens, mean, hidden, BYTES_PER_ELEMENT[dtype])
    if deployment.backend == "all-gather":
        return communication.all_gather_dispatch(tokens, hidden, BYTES_PER_ELEMENT[dtype], ranks, domain)
    if deployment.backend == "deepep-low-latency":
        message = (
            communication.low_latency_dispatch_bytes(hidden, dtype)
            if kernel == "dispatch"
            else communication.low_latency_combine_bytes(hidden, dtype)
        )
        return communication.deepep_low_latency(tokens, mean, message, ranks, domain, load=load)
    if deployment.backend == "all-to-all":  # rows without a header, otherwise low-latency's count
        message = communication.payload_bytes(hidden, dtype)
        return communication.deepep_low_latency(tokens, mean, message, ranks, domain, load=load)
    reached = token_destinations(moe, scenario)
    message = communication.payload_bytes(hidden, dtype)
    if deployment.backend in ("deepep-normal", "hybrid-ep"):
        return communication.deepep_normal(tokens, message, reached, ranks, domain, load=load)
    return communication.one_sided_all_to_all(tokens, message, reached, load=load)


def _tensor_parallel(name: str, kernel: str, traffic: Traffic, deployment: Deployment, ranks: int) -> Op:
    return _op(
        name,
        OpClass.TP_COMMUNICATION,
        kernel,
        deployment.tp_library(kernel),
        Stream.LINK,
        traffic,
        ranks=ranks,
        dtype=deployment.precision.activations,
    )


def _op(
    name: str,
    op_class: OpClass,
    kernel: str,
    backend: str,
    stream: Stream,
    traffic: Traffic,
    *,
    ranks: int,
    dtype: str = "bf16",
    barrier: bool = False,
    extra: Mapping[str, Num] | None = None,
) -> Op:
    """A communication op; what it sends it reads from memory, and what it receives it writes."""
    return Op(
        name,
        op_class,
        kernel,
        stream,
        hbm_bytes=2.0 * (traffic.link_bytes + traffic.network_bytes),
        link_bytes=traffic.link_bytes,
        network_bytes=traffic.network_bytes,
        dtype=dtype,
        backend=backend,
        shape={"ranks": ranks, "bytes": traffic.link_bytes + traffic.network_bytes, **(extra or {})},
        barrier=barrier,
    )


def _domain(cluster: Cluster) -> int:
    return cluster.node.link_domain_gpus
