"""Bytes that communication puts on one GPU's link and on its share of the network.

Every function returns what the *busier direction* carries. Links are full duplex: a GPU whose experts are
popular receives more than it sends, so the functions of expert parallelism take ``load``, the tokens this
rank's experts receive relative to the mean over ranks, and return max(1, load) times the balanced figure
(dispatch: ingress is load x the mean, egress 1 x; combine: the reverse). All arguments may be arrays.

A *domain* is the set of GPUs that reach each other over the link: a node, or a rack. A group of ``ranks``
GPUs covers min(ranks, domain) GPUs of each domain; where ranks is not a multiple of domain the split is that
of full domains.
"""

from dataclasses import dataclass

from perfmodel.numeric import Num, ceil_div, maximum, minimum
from perfmodel.routing.destinations import Destinations
from perfmodel.spec.formats import BYTES_PER_ELEMENT

SCALE_BLOCK = 128
"""Channels that share one FP32 scale in an FP8 payload (DeepEP)."""
SCALE_BYTES = 4.0
LOW_LATENCY_HEADER_BYTES = 16.0
"""One int4 in front of each DeepEP low-latency dispatch message: the token's index at its source."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one collective on one GPU, in the busier direction."""

    link_bytes: Num
    """On the intra-node link (or rack-scale domain)."""
    network_bytes: Num
    """On this GPU's share of the network between domains."""

    def __add__(self, other: "Traffic") -> "Traffic":
        """One collective after the other."""
        return Traffic(self.link_bytes + other.link_bytes, self.network_bytes + other.network_bytes)

    def scaled(self, factor: Num) -> "Traffic":
        """``factor`` times the bytes."""
        return Traffic(self.link_bytes * factor, self.network_bytes * factor)


# --- expert parallelism: DeepEP -------------------------------------------------------------------------


def payload_bytes(hidden: Num, dtype: str) -> Num:
    """Bytes of one token's hidden vector: 2 x hidden in BF16, hidden + 4 x hidden / 128 in FP8."""
    scales = SCALE_BYTES * hidden / SCALE_BLOCK if dtype == "fp8" else 0.0 * hidden
    return BYTES_PER_ELEMENT[dtype] * hidden + scales


def low_latency_dispatch_bytes(hidden: Num, dtype: str) -> Num:
    """Bytes of one DeepEP low-latency dispatch message: payload + 16.

    [deepseek-ai/DeepEP csrc/legacy/config.hpp at dd758ca.] DeepEP's own test counts the FP8 message so, and
    leaves the 16 out of a BF16 one (0.1 %).
    """
    return payload_bytes(hidden, dtype) + LOW_LATENCY_HEADER_BYTES


def low_latency_combine_bytes(hidden: Num, dtype: str) -> Num:
    """Bytes of one DeepEP low-latency combine message: the payload, as DeepEP's test counts it."""
    return payload_bytes(hidden, dtype)


def deepep_low_latency(
    tokens: Num, experts_per_token: Num, message_bytes: Num, ranks: Num, domain: Num, *, load: Num = 1.0
) -> Traffic:
    """Dispatch or combine of DeepEP low-latency: one message per token and real expert, never deduplicated.

    tokens x experts_per_token messages spread evenly over ``ranks``; with d = min(domain, ranks)
        own rank          1 / ranks            no wire (a copy in device memory)
        own domain        (d - 1) / ranks      link
        other domains     (ranks - d) / ranks  network
    DeepEP's quoted "RDMA bandwidth" divides *all* messages, own rank and own node included, by the time: 98
    GB/s at EP8 is no network figure at all. Zero-computation experts send nothing: pass the mean of real
    experts.
    """
    messages = tokens * experts_per_token * message_bytes * maximum(1.0, load)
    near = minimum(domain, ranks)
    return Traffic(
        link_bytes=messages * (near - 1.0) / ranks, network_bytes=messages * (ranks - near) / ranks
    )


def deepep_normal(
    tokens: Num, message_bytes: Num, reached: Destinations, ranks: Num, domain: Num, *, load: Num = 1.0
) -> Traffic:
    """Dispatch or combine of DeepEP normal: once per remote node on the network, then over the link per rank.

    network = tokens x distinct remote nodes x message. On arrival the GPU with the sender's index in its node
    forwards the token to each chosen rank of the node; in the sender's own node copies go over the link at
    once. Of the distinct-rank copies 1/d need no wire (d = min(domain, ranks); they are for the forwarder, or
    the sender, itself), so link = tokens x distinct ranks x message x (d - 1) / d, which is also what the
    average forwarder sends. Combine mirrors it: the forwarder sums its node's copies and sends one back.

    DeepEP's quoted bandwidths count more: *all* distinct nodes (own included) as RDMA, *all* distinct ranks
    as NVLink. The token's routing metadata (8 + 12 bytes per expert, about 1 %) is left out; fitted fractions
    contain it. ``load`` multiplies the link, whose hot rank is in one node; forwarding spreads a hot rank's
    network bytes over its node's NICs, so the network carries the balanced figure.
    """
    near = minimum(domain, ranks)
    return Traffic(
        link_bytes=tokens * reached.ranks * message_bytes * (near - 1.0) / near * maximum(1.0, load),
        network_bytes=tokens * reached.remote_nodes * message_bytes,
    )


def one_sided_all_to_all(
    tokens: Num, message_bytes: Num, reached: Destinations, *, load: Num = 1.0
) -> Traffic:
    """All-to-all in one link domain, a token once per distinct remote rank (TRT-LLM's one-sided)."""
    return Traffic(tokens * reached.remote_ranks * message_bytes * maximum(1.0, load), 0.0 * tokens)


def low_latency_buffer_bytes(max_tokens_per_rank: Num, hidden: Num, num_ranks: Num, num_experts: Num) -> Num:
    """Device memory of DeepEP low-latency's buffers, bytes per GPU.

    Double-buffered send, receive and signal areas [get_low_latency_rdma_size_hint, deepseek-ai/DeepEP
    csrc/legacy/config.hpp at dd758ca]: with
        dispatch message  16 + max(2 hidden, hidden + 4 hidden/128)
        combine message   2 hidden + 4 hidden/128   (room for per-block minimum and maximum)
    send = max(tokens x dispatch, experts x tokens x combine), receive = experts x tokens x the larger
    message, signals = 4 bytes per expert rounded up to 128; twice their sum, then up to the next multiple of
    128. It does not depend on the number of ranks, because every rank keeps a slot for every expert of the
    group.
    """
    scales = SCALE_BYTES * hidden / SCALE_BLOCK
    dispatch = LOW_LATENCY_HEADER_BYTES + maximum(2.0 * hidden, hidden + scales)
    combine = 2.0 * hidden + scales
    slots = num_experts * max_tokens_per_rank
    send = maximum(max_tokens_per_rank * dispatch, slots * combine)
    receive = slots * maximum(dispatch, combine)
    signals = 128.0 * ceil_div(4.0 * num_experts, 128.0)
    total = 2.0 * (send + receive + signals) + 0.0 * num_ranks
    return (total // 128.0 + 1.0) * 128.0


# --- expert parallelism without all-to-all ----------------------------------------------------------------


def all_gather_dispatch(
    tokens: Num, hidden: Num, bytes_per_element: float, ranks: Num, domain: Num
) -> Traffic:
    """Dispatch by all-gather (vLLM, SGLang without all-to-all): every rank gets every rank's tokens.

    Independent of routing, so a hot rank receives no more than the others.
    """
    return all_gather(tokens * ranks * hidden * bytes_per_element, ranks, domain)


def reduce_scatter_combine(
    tokens: Num, hidden: Num, bytes_per_element: float, ranks: Num, domain: Num
) -> Traffic:
    """Combine by reduce-scatter: each rank's partial sums for all tokens, the mirror of the all-gather."""
    return reduce_scatter(tokens * ranks * hidden * bytes_per_element, ranks, domain)


# --- collectives on a hierarchical network --------------------------------------------------------------


def all_gather(total_bytes: Num, ranks: Num, domain: Num) -> Traffic:
    """All-gather whose *result* has ``total_bytes`` on every rank, S.

    With d = min(domain, ranks) GPUs in each of m = ranks / d domains: same-index GPUs exchange their shards
    between domains, (m - 1) x S / ranks on the network, then each domain gathers, S (d - 1) / d on the link.
    In one domain that is the ring's S (n - 1) / n.
    """
    near = minimum(domain, ranks)
    domains = ranks / near
    return Traffic(
        link_bytes=total_bytes * (near - 1.0) / near,
        network_bytes=total_bytes * (domains - 1.0) / ranks,
    )


def reduce_scatter(total_bytes: Num, ranks: Num, domain: Num) -> Traffic:
    """Reduce-scatter whose *input* has ``total_bytes`` on every rank: the mirror of :func:`all_gather`."""
    return all_gather(total_bytes, ranks, domain)


def all_reduce(total_bytes: Num, ranks: Num, domain: Num) -> Traffic:
    """All-reduce of ``total_bytes``: reduce-scatter + all-gather, 2 S (n - 1) / n in one domain.

    Reduction in the switch (NVLS) puts fewer bytes on the wire; NCCL's rows are fitted against this figure
    ("bus bandwidth"), so its fraction contains that gain.
    """
    return all_gather(total_bytes, ranks, domain).scaled(2.0)


def all_to_all(bytes_per_rank: Num, ranks: Num, domain: Num, *, load: Num = 1.0) -> Traffic:
    """Each rank sends ``bytes_per_rank`` in equal parts to all ranks, itself included (NCCL's alltoall)."""
    return deepep_low_latency(1.0, 1.0, bytes_per_rank, ranks, domain, load=load)


def send_recv(num_bytes: Num, *, same_domain: bool) -> Traffic:
    """One GPU sends ``num_bytes`` to one other."""
    if same_domain:
        return Traffic(num_bytes, 0.0 * num_bytes)
    return Traffic(0.0 * num_bytes, num_bytes)


# --- the report -----------------------------------------------------------------------------------------


def report_all_to_all(tokens: Num, experts_per_token: Num, hidden: Num, bytes_per_element: float) -> Traffic:
    """Dispatch or combine as LongCat-Flash's report counts it in its Table 7 (arXiv 2509.01322).

    tokens x mean real experts x hidden x bytes per element: no scales, no deduplication, all of it remote.
    """
    return Traffic(0.0 * tokens, tokens * experts_per_token * hidden * bytes_per_element)
