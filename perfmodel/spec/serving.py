"""How an engine forms batches, and how requests find a replica."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, Fraction, NonNegative, Positive, Spec, Speed

if TYPE_CHECKING:  # numpy, which an error is told without
    from perfmodel.numeric import Num


class ExpertDrift(Spec):
    """Tokens come to like other experts than when these were placed, until they are placed anew."""

    share_per_hour: Positive
    """Share of the popularity that moves to other experts in an hour (``routing.drift`` is where it starts)."""
    rebalance_s: Positive | None = None
    """Seconds between two placements; None: experts stay where they are."""


class FrontEnd(Spec):
    """HTTP, tokeniser and streaming in front of an engine: what a request costs outside its steps."""

    latency_s: NonNegative = 0.0
    """From a request's arrival until the engine may schedule it and, after its first token, until a client has that:
    both together, without queueing."""
    request_s: NonNegative = 0.0
    """Time for which one server process is busy with a request (parsing, tokenising, handing it over) before the engine
    may schedule it: requests that come together pass one after the other."""
    chunk_s: NonNegative = 0.0
    """Time for which one server process is busy with a chunk of output (detokenising, serialising, sending it): it
    streams 1 / ``chunk_s`` chunks per second, and beyond that outputs queue."""
    servers: Count = 1
    """Server processes per replica (vLLM's ``--api-server-count``)."""
    stream_interval: Annotated[Count, Field(le=10_000)] = 1
    """Tokens per chunk that a client receives; the first token is always sent at once."""

    def streaming_s(self, requests: "Num", tokens_per_step: "Num" = 1.0) -> "Num":
        """Seconds that a replica's server processes need to stream one decode step of ``requests``, each of which gets
        ``tokens_per_step`` tokens (an accepted draft's tokens come as one chunk).

        Beyond that outputs back up, and in the long run steps come no faster than they are sent. What waits meanwhile
        is not followed.
        """
        from perfmodel.numeric import minimum

        chunks = minimum(tokens_per_step / self.stream_interval, 1.0)
        return requests * chunks * (self.chunk_s / self.servers)


class Offload(Spec):
    """How memories below the GPU's are filled and read."""

    write: Literal["auto", "write-through", "write-back"] = "auto"
    """write-through: what is computed is copied down at once. write-back: what a memory lets go moves to the one below
    it, and what is read from the host moves up again. auto: as the engine does."""
    load: Literal["auto", "layer-wise", "before"] = "auto"
    """layer-wise: a layer's cache is read while the layers before it compute, so that a step takes as long as the
    longer of both. before: a step begins when all is there. auto: as the engine does."""
    prefetch: bool | None = None
    """Whether storage is read from as soon as a request waits at its rank. None: as the engine does."""
    host_node_gb_per_s: Speed | None = None
    """What all GPUs of a node together read from its host memory. None: each as its own link allows
    (``cluster.gpu.host_gb_per_s``)."""
    storage: Literal["remote", "local"] = "remote"
    """remote: one storage for all ranks. local: each node has its own."""
    storage_gb_per_s: Speed | None = None
    """What a node reads from storage (its network, or its disks); needed where there is one."""
    storage_latency_ms: NonNegative = 0.0
    """Of one request's reading from storage."""


class Serving(Spec):
    """Batching policy of every replica, its KV blocks, and the router before them.

    Where attention is data-parallel each rank has a queue, a cache and budgets of its own, and all step together.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"host_cache_tokens", "host_cache_gb", "storage_cache_tokens", "storage_cache_gb", "offload"}
    )

    replicas: Annotated[Count, Field(le=10_000)] = 1
    """Copies of the deployment, each on GPUs of its own."""
    router: Literal["central", "round-robin", "least-tokens", "prefix-aware"] = "least-tokens"
    """Which replica takes a request: the first that can (they wait in one queue), the next in turn, the one with the
    fewest tokens of unfinished requests, or the one that has more than half of its prompt cached (in GPU or host
    memory)."""
    rank_router: Literal["round-robin", "least-tokens", "prefix-aware"] = "least-tokens"
    """Which data-parallel rank of a replica takes it."""
    prefix_cache: bool = True
    """Whether a rank keeps what it has computed, for prompts that begin alike."""
    checkpoint_tokens: Count = 256
    """Of models with a state (linear attention, state-space layers): prompts can go on from multiples of so many tokens
    of what the prefix cache has (SGLang's ``--mamba-track-interval``)."""
    policy: Literal["mixed", "prefill-first"] = "mixed"
    """Whether prompts join decodes in one step (chunked prefill), or run alone while decodes wait."""
    max_batched_tokens: Count = 8192
    """Most tokens of one step and rank that carries prompts (decodes beside them included); longer prompts are cut in
    chunks."""
    whole_prompts: bool = False
    """Whether prompts are never cut in chunks: one that is longer than ``max_batched_tokens`` has a step of its own."""
    hold_steps: Annotated[CountOrZero, Field(le=100_000)] = 0
    """Prompts wait until every data-parallel rank has one, at most so many decode steps (TensorRT-LLM's attention-DP
    balance); 0: they run as they come."""
    max_running: Count = 1024
    """Most requests of one rank that are being prefilled or decode; fewer where DeepEP low-latency's buffers hold
    fewer."""
    block_tokens: Count = 64
    """Tokens of one KV block."""
    kv_tokens: Count | None = None
    """Tokens that one rank's cache holds. None: what memory leaves beside weights, activations and buffers."""
    host_cache_tokens: CountOrZero = 0
    """Tokens that one rank's share of the host's memory keeps of what its prefix cache lets go; 0: none."""
    host_cache_gb: NonNegative = 0.0
    """The same as GB of one node's host memory, shared evenly by its GPUs; 0: none."""
    storage_cache_tokens: Annotated[int, Field(ge=0, le=10**12)] = 0
    """Tokens that a storage below keeps, all ranks' together (of each node's own where it is local); 0: none."""
    storage_cache_gb: NonNegative = 0.0
    """The same in GB; 0: none."""
    offload: Offload = Offload()
    """How these memories are filled and read."""
    preemption: Literal["recompute", "swap"] = "recompute"
    """What becomes of a request that loses its KV blocks: it is computed again, or its cache is copied to the host's
    memory and back (``cluster.gpu.host_gb_per_s``)."""
    watermark: Fraction = 0.01
    """Share of the blocks that must stay free when a request is taken in."""
    scheduler_steps: Annotated[Count, Field(le=1000)] = 1
    """Decode steps that are launched per scheduling (multi-step scheduling): requests that come meanwhile wait for the
    last of them, and the host's gap counts once."""
    graph_batches: tuple[Count, ...] | None = None
    """Batch sizes of captured graphs, ascending: a smaller decode batch is padded to the next. None: no padding."""

    front_end: FrontEnd = FrontEnd()
    """What stands between users and the engine."""
    expert_drift: ExpertDrift | None = None
    """How the experts' load moves away from their placement over time; needs ``routing.popularity``. None: it stays."""

    @model_validator(mode="after")
    def _ascending(self) -> "Serving":
        sizes = self.graph_batches
        if sizes is not None and (not sizes or list(sizes) != sorted(set(sizes))):
            msg = f"graph_batches = {list(sizes)} must be sizes in ascending order, at least one"
            raise ValueError(msg)
        for tier in ("host", "storage"):
            tokens, size = getattr(self, f"{tier}_cache_tokens"), getattr(self, f"{tier}_cache_gb")
            if tokens and size:
                msg = f"{tier}_cache_tokens and {tier}_cache_gb: state one of them, both say how much is kept"
                raise ValueError(msg)
        if self.has_tiers and not self.prefix_cache:
            msg = "host_cache and storage_cache keep what the prefix cache lets go: prefix_cache must be true"
            raise ValueError(msg)
        if (self.storage_cache_tokens or self.storage_cache_gb) and self.offload.storage_gb_per_s is None:
            msg = "storage_cache needs offload.storage_gb_per_s, what a node reads from it"
            raise ValueError(msg)
        return self

    @property
    def has_tiers(self) -> bool:
        """Whether memories below the GPU's keep anything."""
        host = self.host_cache_tokens or self.host_cache_gb
        return bool(host or self.storage_cache_tokens or self.storage_cache_gb)
