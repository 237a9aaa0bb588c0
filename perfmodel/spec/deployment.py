"""How a model is laid out over GPUs and what one step processes."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, NonNegative, Positive, PositiveFraction, Spec
from perfmodel.spec.drafts import MtpDeployment
from perfmodel.spec.formats import BYTES_PER_ELEMENT, Dtype, ExpertDtype
from perfmodel.spec.host import Host

Schedule = Literal["sequential", "tbo", "sbo", "sbo-engine", "tbo-report"]
AllToAll = Literal[
    "auto", "deepep-low-latency", "deepep-normal", "trtllm-one-sided", "all-gather", "all-to-all"
]


class Precision(Spec):
    """Number formats, by what they are used for."""

    linear: Dtype = "fp8"
    """Attention projections and dense FFNs (weights and multiply)."""
    attention_output: Dtype | None = None
    """Attention's output projection; None: as ``linear``."""
    dense: Dtype | None = None
    """Dense FFNs; None: as ``linear``."""
    experts: ExpertDtype = "fp8"
    """Routed and shared experts."""
    shared: ExpertDtype | None = None
    """Shared experts; None: as ``experts``."""
    attention: Literal["fp32", "bf16", "fp8"] = "bf16"
    """The attention core's multiply."""
    kv_cache: Literal["fp32", "bf16", "fp8"] = "bf16"
    """KV cache. FP8 with MLA stores the latent part in FP8 and the RoPE part in the activations' type."""
    index_cache: Literal["fp32", "bf16", "fp8"] = "fp8"
    """Cached index keys of a sparse attention, whatever ``kv_cache`` is: FP8 with one FP32 scale per key (132 bytes per
    token of 128 elements), BF16 or FP32."""
    state: Literal["fp32", "bf16"] = "fp32"
    """State of linear attention and state-space layers (SGLang's ``--mamba-ssm-dtype``, vLLM's
    ``--mamba-ssm-cache-dtype``); the tails that their convolutions keep are in the activations' type."""
    router: Literal["fp32", "bf16"] = "bf16"
    """The router is never quantised; its logits are FP32."""
    embedding: Literal["fp32", "bf16"] = "bf16"
    """Embedding and head."""
    activations: Literal["fp32", "bf16"] = "bf16"
    """What kernels hand to each other, what MLA's absorbed products multiply and what tensor parallelism exchanges."""
    dispatch: Literal["fp32", "bf16", "fp8"] = "fp8"
    """Payload of the dispatch."""
    combine: Literal["fp32", "bf16", "fp8"] = "bf16"
    """Payload of the combine."""

    @property
    def output_dtype(self) -> Dtype:
        """Of attention's output projection."""
        return self.attention_output or self.linear

    @property
    def dense_dtype(self) -> Dtype:
        """Of dense FFNs."""
        return self.dense or self.linear

    @property
    def shared_dtype(self) -> ExpertDtype:
        """Of shared experts."""
        return self.shared or self.experts

    @property
    def activation_bytes(self) -> float:
        """Bytes of one element of an activation."""
        return BYTES_PER_ELEMENT[self.activations]


class Slowdown(Spec):
    """How much slower the slowest GPU is than a healthy one. All others wait for it, in every layer."""

    kernels: Positive = Field(default=1.0, ge=1.0, le=1000.0)
    """Time of its kernels over a healthy GPU's."""
    link: Positive = Field(default=1.0, ge=1.0, le=1000.0)
    """Time of bytes on its intra-node link over a healthy one's."""
    network: Positive = Field(default=1.0, ge=1.0, le=1000.0)
    """Time of bytes through its network adapter over a healthy one's."""


class Deployment(Spec):
    """Parallelism, precision, schedule and the work of one step.

    Attention runs on ``attention_dp`` groups of ``attention_tp`` GPUs, experts on ``ep`` groups of ``moe_tp`` GPUs:
    the same GPUs, so moe_tp x ep = attention_tp x attention_dp. The whole is repeated for each pipeline stage.
    """

    later: ClassVar[frozenset[str]] = frozenset(
        {"lora_adapters", "lora_rank", "lora_targets", "attention_gpus", "ffn_gpus", "ffn_micro_batches"}
        | {"uneven_experts", "context_parallel", "cp_exchange", "decode_context_parallel"}
    )

    phase: Literal["decode", "prefill", "mixed"] = "decode"
    """What a step does: decode, prefill, or both in one batch (chunked prefill beside decode)."""
    attention_dp: Count = 1
    """Data-parallel attention groups."""
    attention_tp: Count = 1
    """Tensor parallelism of attention."""
    dense_tp: Count = 1
    """Tensor parallelism of dense FFNs and of shared experts that are not replicated; a file may leave it out: as
    ``attention_tp``."""
    ep: Count = 1
    """Expert parallelism: groups among which routed experts are divided. A file may leave one of ``ep`` and ``moe_tp``
    out, which follows from the other, or both: the engine's default."""
    moe_tp: Count = 1
    """Tensor parallelism inside each expert."""
    attention_gpus: CountOrZero = 0
    """GPUs that compute attention, where FFNs and experts have GPUs of their own (AFD): attention_tp x attention_dp. A
    file may leave attention_dp out. 0: all GPUs do both."""
    ffn_gpus: CountOrZero = 0
    """GPUs that compute FFNs and experts then: moe_tp x ep, and dense FFNs over ``dense_tp`` of them."""
    ffn_micro_batches: Annotated[Count, Field(le=16)] = 3
    """Parts of a batch that take turns on the two (Step-3 and MegaScale-Infer: three hide transfers and both sides)."""
    redundant_experts: CountOrZero = 0
    """Copies of hot experts, in addition to the routed ones."""
    uneven_experts: bool = False
    """Whether ranks may hold unequal numbers of experts where these don't divide over ``ep``: the first ranks one more
    (vLLM's linear placement). False: such a layout is refused, unless ``redundant_experts`` make up for it."""
    pp: Count = 1
    """Pipeline stages."""
    context_parallel: Count = 1
    """Of the attention group's GPUs, those among which each prompt's tokens are divided (SGLang's ``--attn-cp-size``,
    vLLM's ``--prefill-context-parallel-size``, whose GPUs ``attention_tp`` counts too); heads are sliced over
    attention_tp / context_parallel. Of steps that compute prompts alone (phase prefill)."""
    cp_exchange: Literal["all-gather", "ring"] = "all-gather"
    """How the ranks that divide a prompt see each other's keys and values: gathered before attention (SGLang's and
    vLLM's), or in a ring, block by block behind the attention on the block at hand (Meta's pass-KV, arXiv 2411.01783);
    each rank then keeps its own part of the cache alone."""
    decode_context_parallel: Count = 1
    """GPUs of an attention group among which each request's cache is divided by tokens (``-dcp``): queries of their
    heads are gathered before the core, and partial outputs merged after it."""
    precision: Precision = Precision()
    """Number formats."""
    overlap: Schedule = "sequential"
    """How communication hides behind compute."""
    all_to_all: AllToAll = "auto"
    """How tokens reach experts. auto: DeepEP low-latency in decode, DeepEP normal else; all-gather with expert TP.
    trtllm-one-sided: one message per distinct rank inside one link domain (GB200 NVL72). all-to-all:
    torch.distributed's, a row per token and real expert, packed before and put in order after (the reference
    model's)."""
    tp_collectives: Literal["auto", "nccl", "nvls", "custom"] = "auto"
    """Library of tensor parallelism's collectives: NCCL, kernels that reduce in the NVLink switch (LongCat's nvls), or
    the engine's own all-reduce (custom; other collectives are NCCL's then). auto: custom where an engine is named, else
    NCCL."""
    fused_norms: bool = False
    """Whether the engine's all-reduce adds the residual and normalises too (layouts where every GPU has all tokens)."""
    shared_experts: Literal["in-line", "own-stream"] = "in-line"
    """Where shared experts run under the sequential schedule: before the routed ones, or beside them."""
    expert_kernel: Literal["auto", "cutlass", "deepgemm"] = "auto"
    """Kernel of fused experts where an engine has several; auto: its default."""
    engine: Literal["", "atom", "deepseek", "sglang", "trtllm", "vllm"] = ""
    """Serving engine: its defaults fill in what a scenario leaves open (``perfmodel show engines``), and a calibration
    answers with its kernels, where it has several. Empty: none in particular."""
    engine_version: str = Field(default="", max_length=40)
    """Version of the engine whose defaults count. Empty: the one that was read at last."""
    contention: bool = True
    """Whether ops that run together slow each other; False: each takes its solo time."""
    ranks: Literal["representative", "all"] = "representative"
    """Simulate one rank with the largest load, or every rank of the expert-parallel group with its own."""
    mtp: MtpDeployment = MtpDeployment()
    """Speculative decoding."""
    lora_adapters: Annotated[CountOrZero, Field(le=10_000)] = 0
    """LoRA adapters that are loaded, among which requests are spread evenly (vLLM's --max-loras); 0: none. A prompt's
    beginning is cached for its own adapter alone."""
    lora_rank: Annotated[Count, Field(le=1024)] = 16
    """Rank of every adapter (vLLM's --max-lora-rank)."""
    lora_targets: tuple[Literal["attention", "dense", "experts"], ...] = ("attention", "dense", "experts")
    """Products that have adapters: attention's projections, dense FFNs and shared experts, routed experts."""
    batch_per_gpu: NonNegative = 1
    """Decoding requests per GPU (both micro-batches together)."""
    context_tokens: NonNegative = 4096
    """Average tokens in a decoding request's KV cache."""
    prefill_requests_per_gpu: NonNegative = 1
    """Prefilling requests per GPU (phases prefill and mixed)."""
    prefill_tokens: Positive = 2048
    """New tokens per prefilling request in this step: the prompt, or a chunk of it."""
    prefill_cached_tokens: NonNegative = 0
    """Tokens of a prefilling request that are already in the KV cache (earlier chunks, cached prefix)."""
    memory_utilization: PositiveFraction | None = None
    """The engine's own setting: vLLM's gpu_memory_utilization, SGLang's mem_fraction_static, TensorRT-LLM's
    free_gpu_memory_fraction; without an engine the share of device memory that may be used. None: the engine's default,
    without one all but what the runtime takes."""
    low_latency_max_tokens_per_gpu: Count = 256
    """Tokens per GPU for which DeepEP low-latency's buffers are sized."""
    slowdown: Slowdown = Slowdown()
    """What is wrong with the slowest GPU."""
    host: Host = Host()
    """What launches the kernels."""
    step_log_std: NonNegative = 0.0
    """Spread of step times around what is modelled: standard deviation of the log residual on published runs of the
    engine (filled in by it)."""

    @model_validator(mode="after")
    def _consistent(self) -> "Deployment":
        problem = self._problem()
        if problem:
            raise ValueError(problem)
        return self

    def _problem(self) -> str | None:
        group = self.attention_dp * self.attention_tp
        if self.ffn_gpus or self.attention_gpus:
            return self._apart_problem(group)
        if self.moe_tp * self.ep != group:
            return (
                f"moe_tp x ep = {self.moe_tp} x {self.ep} = {self.moe_tp * self.ep} must equal attention_tp x "
                f"attention_dp = {self.attention_tp} x {self.attention_dp} = {group}: experts and attention share GPUs"
            )
        for name in ("context_parallel", "decode_context_parallel"):
            size = getattr(self, name)
            if self.attention_tp % size:
                return f"{name} = {size} must divide attention_tp = {self.attention_tp}: its GPUs are of that group"
        if self.context_parallel > 1 and self.phase != "prefill":
            return (
                f"context_parallel = {self.context_parallel} divides prompts and needs phase: prefill, not "
                f"{self.phase}: state it of prefill.deployment; a cache is divided by decode_context_parallel"
            )
        if self.passes_keys and (self.overlap == "tbo" or self.decode_context_parallel > 1):
            return (
                "cp_exchange = ring is modelled with decode_context_parallel = 1 and without overlap = tbo, whose half "
                "batches would share the ring: change these, or use all-gather"
            )
        if group % self.dense_tp:
            return f"dense_tp = {self.dense_tp} must divide attention_tp x attention_dp = {group}"
        return self._work_problem()

    def _apart_problem(self, group: int) -> str | None:
        """What does not fit where FFNs have GPUs of their own, or None."""
        if not (self.ffn_gpus and self.attention_gpus):
            return (
                f"attention_gpus = {self.attention_gpus} and ffn_gpus = {self.ffn_gpus}: state both, or neither (each "
                "GPU then does both)"
            )
        if group != self.attention_gpus:
            return (
                f"attention_gpus = {self.attention_gpus} must equal attention_tp x attention_dp = "
                f"{self.attention_tp} x {self.attention_dp} = {group}"
            )
        if self.moe_tp * self.ep != self.ffn_gpus or self.ffn_gpus % self.dense_tp:
            return (
                f"ffn_gpus = {self.ffn_gpus} must equal moe_tp x ep = {self.moe_tp} x {self.ep}, and dense_tp = "
                f"{self.dense_tp} must divide it"
            )
        for name, one, only in (
            ("overlap", self.overlap, "sequential"),
            ("all_to_all", self.all_to_all, "auto"),
            ("pp", self.pp, 1),
            ("context_parallel", self.context_parallel, 1),
            ("decode_context_parallel", self.decode_context_parallel, 1),
            ("ranks", self.ranks, "representative"),
        ):
            if one != only:
                return f"{name} = {one}: where FFNs have GPUs of their own (ffn_gpus) only {only} is modelled"
        if self.mtp.draft_tokens and self.mtp.drafter is not None:
            return (
                f"mtp.drafter = {self.mtp.drafter.kind}: where FFNs have GPUs of their own (ffn_gpus) only the model's "
                "own MTP layer drafts: leave mtp.drafter out"
            )
        return self._work_problem()

    def _work_problem(self) -> str | None:
        if self.moe_tp > 1 and self.all_to_all not in ("auto", "all-gather"):
            return f"all_to_all = {self.all_to_all} needs moe_tp = 1, not {self.moe_tp}: use all-gather"
        if self.phase != "prefill" and self.batch_per_gpu == 0:
            return f"batch_per_gpu = 0 must be greater than 0 in phase {self.phase}"
        if not self.lora_targets or len(set(self.lora_targets)) < len(self.lora_targets):
            return "lora_targets must name attention, dense or experts, each once and at least one of them"
        if self.phase != "decode" and self.prefill_requests_per_gpu == 0:
            return f"prefill_requests_per_gpu = 0 must be greater than 0 in phase {self.phase}"
        return None

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline stage; those of attention where FFNs have their own."""
        return self.attention_dp * self.attention_tp

    def most_slots(self, num_experts: int) -> float:
        """Experts that a rank holds, copies included; of unequal ranks the fullest."""
        return -(-(num_experts + self.redundant_experts) // self.ep) * 1.0

    @property
    def division_words(self) -> list[str]:
        """How layers and requests are divided beside the usual, in words: FFNs on GPUs of their own, ``CP8`` of
        prompts, ``DCP8`` of caches.
        """
        parts = self.ffn_micro_batches
        apart = f"{self.attention_gpus} GPUs of attention, {self.ffn_gpus} of FFNs, {parts} micro-batches"
        prompts = "ring CP" if self.passes_keys else "CP"
        sizes = ((prompts, self.context_parallel), ("DCP", self.decode_context_parallel))
        return [apart] * bool(self.ffn_gpus) + [f"{name}{size}" for name, size in sizes if size > 1]

    @property
    def batch_gpu(self) -> str:
        """What ``batch_per_gpu`` is per, in words."""
        return "attention GPU" if self.ffn_gpus else "GPU"

    @property
    def passes_keys(self) -> bool:
        """Whether keys and values of a divided prompt go round in a ring."""
        return self.context_parallel > 1 and self.cp_exchange == "ring" and self.phase == "prefill"

    @property
    def cache_shards(self) -> int:
        """GPUs of an attention group among which each request's cache is divided by tokens."""
        return self.context_parallel if self.passes_keys else self.decode_context_parallel

    @property
    def head_tp(self) -> int:
        """GPUs over which heads are sliced, so that each has its own part of a cache's heads."""
        return self.attention_tp // self.context_parallel if self.phase == "prefill" else self.attention_tp

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica."""
        return self.request_gpus + self.ffn_gpus

    @property
    def request_gpus(self) -> int:
        """GPUs of one replica that ``batch_per_gpu`` counts: all, or those of attention where FFNs have their own."""
        return self.stage_gpus * self.pp

    def gpu_share(self, *, ffn: bool) -> float:
        """Share of a replica's GPUs that compute FFNs, or attention; where all do both, 1."""
        if not self.ffn_gpus:
            return 1.0
        return (self.ffn_gpus if ffn else self.attention_gpus) / self.num_gpus

    @property
    def ffn_side(self) -> "Deployment":
        """FFNs and experts as their own GPUs have them: every token once, spread evenly."""
        crowd = self.attention_gpus / self.ffn_gpus
        changed = {
            "attention_gpus": 0,
            "ffn_gpus": 0,
            "attention_tp": 1,
            "attention_dp": self.ffn_gpus,
            "batch_per_gpu": self.batch_per_gpu * crowd,
            "prefill_requests_per_gpu": self.prefill_requests_per_gpu * crowd,
            "all_to_all": "auto" if self.moe_tp == 1 else "all-gather",
        }
        return self.model_copy(update=changed)

    @property
    def drafting(self) -> "Deployment":
        """As a draft model of its own is laid out: on the same GPUs, divided as the model is, in its own format."""
        assert self.mtp.drafter is not None, "asked of deployments with one"
        own = self.mtp.drafter.precision
        formats = {"linear": own, "experts": own, "attention_output": None, "dense": None, "shared": None}
        changed = {
            "precision": self.precision.model_copy(update=formats),
            "mtp": MtpDeployment(),
            "redundant_experts": 0,
            "lora_adapters": 0,
            "pp": 1,
        }
        return self.model_copy(update=changed)

    @property
    def backend(self) -> str:
        """How tokens reach experts: ``all_to_all`` with auto resolved, ``none`` on a replicated layout, or ``m-to-n``
        from attention's GPUs to those of experts.
        """
        if self.ffn_gpus:
            return "m-to-n"
        if self.replicated:
            return "none"
        if self.all_to_all != "auto":
            return self.all_to_all
        if self.moe_tp > 1:
            return "all-gather"
        return "deepep-low-latency" if self.phase == "decode" else "deepep-normal"

    def tp_library(self, kernel: str) -> str:
        """Library of one of tensor parallelism's collectives: ``tp_collectives`` with auto resolved."""
        library = self.tp_collectives
        if library == "auto":
            library = "custom" if self.engine else "nccl"
        return "nccl" if library == "custom" and kernel != "all_reduce" else library

    @property
    def expert_layout(self) -> str:
        """How the experts' tokens lie: masked, contiguous, or fused (``Op.backend`` of grouped GEMMs); the last by
        ``expert_kernel`` where that is stated.
        """
        layouts = {"deepep-low-latency": "masked", "deepep-normal": "contiguous", "all-to-all": "contiguous"}
        if self.stage_gpus == 1:
            layouts = {}
        fused = "fused" if self.expert_kernel == "auto" else self.expert_kernel
        return layouts.get(self.backend, fused)

    @property
    def dispatches(self) -> bool:
        """Whether tokens are sent to the ranks of their experts, rather than to all ranks."""
        return self.backend not in ("none", "all-gather")

    @property
    def replicated(self) -> bool:
        """Whether every GPU of the group holds every token: no data parallelism, one tensor-parallel group.

        Engines then all-reduce after attention and after each FFN, and experts need no dispatch.
        """
        return bool(self.attention_dp == 1)
