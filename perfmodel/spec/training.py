"""A training run: what is trained, on which layout, with which schedule, optimizer, formats and recomputation.

Attention and dense layers are divided over tp x cp x dp GPUs of each pipeline stage, experts over etp x ep x edp of
the same GPUs ("parallel folding", arXiv 2504.14960): the two products must agree, nothing else.
"""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from perfmodel.spec.base import Count, CountOrZero, Fraction, NonNegative, Positive, Spec, Speed

Recomputed = Literal[
    "attention_core", "mla_up_projection", "norms", "activations", "experts", "every_second_product"
]
"""What of a layer may be computed again in its backward instead of being kept. Megatron-Core's names are core_attn,
mla_up_proj, layernorm, moe_act (and mlp), moe; every_second_product is torchtitan's recomputation by operation."""
PipelineSchedule = Literal[
    "gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipe-v"
]
Format = Literal["bf16", "fp8", "mxfp8", "nvfp4"]


class Optimizer(Spec):
    """What updates the weights, and in which number formats its state is kept."""

    kind: Literal["adamw", "muon"] = "adamw"
    """adamw has two moments per weight, muon one; muon's matrix iterations are counted as BF16 products."""
    master: Literal["none", "fp32"] = "fp32"
    """Master copy of the weights; none: the BF16 weights are updated themselves."""
    moments: Literal["fp32", "bf16", "fp8"] = "fp32"
    """Number format of the moments."""
    gradients: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are summed over micro-batches and reduced."""
    clip: bool = True
    """Whether gradients are clipped by their global norm, for which all pipeline ranks wait once per step."""


class Checkpoints(Spec):
    """How the run saves itself: at once, or into its hosts' memory and from there, in the background and less often, to
    storage that outlives a node.
    """

    later: ClassVar[frozenset[str]] = frozenset({"memory_gb_per_s", "storage_gb_per_s", "storage_interval_s"})

    interval_s: Positive | None = None
    """Time between checkpoints; None: the one that loses least, sqrt(2 x stall x mean time between failures) [Young
    1974]."""
    stall_s: NonNegative = 0.0
    """How long training stands still for one (asynchronous ones: the copy to host memory)."""
    memory_gb_per_s: Speed | None = None
    """Bandwidth of one GPU into its host's memory, GB/s: where it is stated and ``stall_s`` is not, training stands
    still for what the GPU holds over it; only one of the two. None: ``stall_s`` says it."""
    storage_gb_per_s: Speed | None = None
    """Bandwidth of one GPU's part to storage, GB/s; written in the background. None: every checkpoint outlives its
    nodes at once."""
    storage_interval_s: Positive | None = None
    """Time between checkpoints that go on to storage, beside ``storage_gb_per_s``; not shorter than one takes there."""

    @model_validator(mode="after")
    def _tiers(self) -> "Checkpoints":
        if (self.storage_gb_per_s is None) != (self.storage_interval_s is None):
            raise ValueError(
                "storage_gb_per_s and storage_interval_s belong together: state both, or neither"
            )
        if self.stall_s and self.memory_gb_per_s is not None:
            raise ValueError(
                f"stall_s = {self.stall_s:g} and memory_gb_per_s both say how long training stands still: state one "
                "(stall_s: 0 leaves it to memory_gb_per_s)"
            )
        return self


class Failures(Spec):
    """What goes wrong during a run, and how long it takes to go on."""

    per_gpu_day: NonNegative = 0.0
    """Interruptions per GPU and day; Llama 3: 419 in 54 days of 16,384 GPUs, 4.74e-4."""
    detection_s: NonNegative = 0.0
    """From the failure to its detection."""
    restart_s: NonNegative = 0.0
    """From detection to the first new step, a spare node being there."""
    spare_nodes: CountOrZero | None = None
    """Nodes that stand by; None: as many as are needed."""
    repair_hours: NonNegative = 24.0
    """How long a failed node is away; with no spare left the run waits for it."""
    node_lost: Fraction = 1.0
    """Share of failures that take their node's memory along, so that the run goes back to storage
    (``checkpoints.storage_gb_per_s``); after the others it goes on from its hosts' memory."""

    later: ClassVar[frozenset[str]] = frozenset({"node_lost"})


MOST_RAMP_LEVELS = 1000


class BatchRamp(Spec):
    """Batches that grow at the start of a run (Megatron-LM's --rampup-batch-size start increment samples)."""

    start_sequences: Count
    """Sequences of the first steps, over all GPUs."""
    increment_sequences: Count
    """By how many they grow each time, up to ``global_batch_sequences``."""
    ramp_sequences: Count
    """Sequences over which they grow, each batch taking an equal part of them (Megatron-LM's samples)."""

    def levels(self, global_batch: int) -> int:
        """Batches below the full one."""
        return (global_batch - self.start_sequences) // self.increment_sequences

    def batches(self, global_batch: int) -> range:
        """Sequences of every batch below the full one."""
        return range(self.start_sequences, global_batch, self.increment_sequences)

    def problem(self, global_batch: int, per_pass: int) -> str | None:
        """Why a run of full batches of ``global_batch``, ``per_pass`` sequences in one pass of all GPUs, can't begin
        so, or None.
        """
        grows = global_batch - self.start_sequences
        if grows <= 0:
            return f"start_sequences = {self.start_sequences} must be below global_batch_sequences = {global_batch}"
        if grows % self.increment_sequences:
            return (
                f"increment_sequences = {self.increment_sequences} must divide global_batch_sequences - "
                f"start_sequences = {global_batch} - {self.start_sequences} = {grows}"
            )
        if self.levels(global_batch) > MOST_RAMP_LEVELS:
            return (
                f"{self.levels(global_batch):,} batches below the full one; must be at most {MOST_RAMP_LEVELS:,}: a "
                f"larger increment_sequences"
            )
        for name in ("start_sequences", "increment_sequences"):
            if getattr(self, name) % per_pass:
                return f"{name} = {getattr(self, name)} must be a multiple of dp x micro_batch_sequences = {per_pass}"
        return None


class Capacity(Spec):
    """Experts that take no more than so many tokens; the others are dropped."""

    factor: Positive = Field(le=1000.0)
    """Room of an expert over the mean number of tokens per expert, of each rank's own tokens (Megatron-Core's
    --moe-expert-capacity-factor)."""
    pad: bool = False
    """Whether experts compute as many rows as they have room for, full or not (--moe-pad-expert-input-to-capacity)."""
    drop: Literal["probs", "position"] = "probs"
    """Which are dropped: those that the router likes least, or those that come last (--moe-token-drop-policy): as many,
    so no time hangs on it."""


class Offload(Spec):
    """What lies in the host's memory instead of the GPU's."""

    optimizer_fraction: Fraction = 0.0
    """Share of the optimizer state that the host holds, and updates itself (Megatron-Core's --optimizer-cpu-offload
    with --optimizer-offload-fraction; DeepSpeed's offload_optimizer with ratio)."""
    overlap: bool = False
    """Whether gradients go down and weights come up while the host updates others (Megatron-Core's
    --overlap-cpu-optimizer-d2h-h2d), instead of one after the other."""
    activations_fraction: Fraction = 0.0
    """Share of what layers keep for their backward that is copied to the host beside the forward, and back beside the
    backward (Megatron-Core's --cpu-offloading-num-layers over the layers, fine-grained activation offloading)."""
    host_memory_gb_per_s: Speed | None = None
    """Bandwidth of a node's main memory, all sockets together, GB/s; None: that of the servers in which the GPU is
    sold, where they are known."""


class Training(Spec):
    """Everything of a training step and run that is not the model, the cluster or the price."""

    later: ClassVar[frozenset[str]] = frozenset(
        {
            "attention_kernels",
            "loss_kernels",
            "batch_ramp",
            "capacity",
            "dp_replicate",
            "offload",
            "power_cap_w",
        }
    )

    tokens: Positive | None = None
    """Tokens of the whole run; None: only a step is asked."""
    sequence_tokens: Count = 4096
    """Tokens of one sequence."""
    global_batch_sequences: Count
    """Sequences of one step, over all GPUs."""
    batch_ramp: BatchRamp | None = None
    """Smaller batches at the start of the run; None: all steps are alike."""
    micro_batch_sequences: Count = 1
    """Sequences that pass the pipeline together, per data-parallel rank."""
    tp: Count = 1
    """Tensor parallelism of attention and dense FFNs, with sequence parallelism around it."""
    cp: Count = 1
    """Context parallelism: ranks that share a sequence."""
    dp: Count = 1
    """Data parallelism of everything but the experts."""
    pp: Count = 1
    """Pipeline ranks."""
    ep: Count = 1
    """Expert parallelism."""
    etp: Count = 1
    """Tensor parallelism inside each expert."""
    edp: Count | None = None
    """Data parallelism of the experts; None: what is left, tp x cp x dp / (ep x etp)."""
    virtual_stages: Count = 1
    """Chunks of layers per pipeline rank."""
    stage_layers: tuple[CountOrZero, ...] | None = Field(default=None, max_length=4096)
    """Layers of each stage (pp x virtual_stages of them, in the order of the model); None: as even as can be, first
    and last stage, which hold embedding and head, with the fewer ones."""
    schedule: PipelineSchedule = "1f1b"
    """Order of the micro-batches through the pipeline."""
    post_validation: bool = False
    """Whether the optimizer checks the gradients' norm afterwards (arXiv 2401.10241), so that no rank waits for the
    others before its update."""
    moe_overlap: Literal["none", "two-chunks", "forward-backward"] = "none"
    """How dispatch and combine hide: not at all; tokens in two chunks, the first beside the dense path
    (LongCat-Flash's report, its Figure 8(c)); one micro-batch's forward beside another's backward (DualPipe;
    Megatron-Core's 1F1B overlap)."""
    delay_weights: bool = True
    """With ``moe_overlap: forward-backward``, whether a part's weight gradients stand behind its input gradients, where
    they fill what exchanges leave (DualPipe; Megatron-Core's delay_wgrad_compute); false: exchanges wait for both."""
    zero: Literal[0, 1, 2, 3] = 1
    """What is divided over data-parallel ranks: nothing; optimizer state; gradients too; weights too (FSDP)."""
    dp_replicate: Count = 1
    """Groups of data-parallel ranks that each hold all of what ``zero`` divides, and sum their gradients afterwards:
    hybrid sharding (torchtitan's data_parallel_replicate_degree, Megatron-Core's
    --num-distributed-optimizer-instances)."""
    offload: Offload = Offload()
    """What lies in the host's memory."""
    optimizer: Optimizer = Optimizer()
    """The optimizer."""
    precision: Format = "bf16"
    """Number format of the products of attention, dense FFNs and experts; attention's core, head and router stay
    BF16."""
    bf16_parts: tuple[Literal["attention", "dense_ffn", "experts", "shared"], ...] = ()
    """Products that stay BF16 whatever ``precision`` says."""
    dispatch: Literal["bf16", "fp8"] = "bf16"
    """Payload of the dispatch, of gradients in combine's backward too."""
    keep_inputs: Literal["bf16", "fp8"] | None = None
    """Number format in which inputs of products are kept for their weight gradients; None: FP8 where ``precision``
    is, else BF16."""
    keep_gate_up: Literal["bf16", "fp8"] = "bf16"
    """Number format in which gate and up are kept for SwiGLU's backward (DeepSeek-V3: FP8)."""
    fp8_kernels: Literal["calibrated", "deepseek-2024"] = "calibrated"
    """Which kernels FP8 products are on Hopper: the GPU's calibration's, or DeepSeek-V3's own of 2024, by its authors'
    figures (DeepGEMM's first tables and pull request 95, both over what they say they gained on those kernels), with
    the casts of its recipe as kernels of their own and grids that leave the SMs of dispatch and combine alone. In other
    formats than FP8 and on other GPUs it is ``calibrated``."""
    kernels: Literal["fused", "eager", "pytorch-compiled", "pytorch-eager"] = "fused"
    """Whose kernels lie between the products, and keep what: a training framework's fused ones, those that
    ``torch.compile`` makes, or PyTorch's one by one as torchtitan runs them; ``eager`` are the reference model's, for
    memory alone."""
    loss_kernels: Literal["fused", "pytorch-compiled", "pytorch-eager"] = "fused"
    """Whose kernels the loss's are: fused holds 8 bytes per logit, compiled 4, and PyTorch's one by one, on FP32
    logits, 12."""
    attention_kernels: Literal["calibrated", "flash-attention-2", "cudnn"] = "calibrated"
    """Which kernels attention's core is on Hopper: the GPU's calibration's (FlashAttention-3's), FlashAttention-2's or
    cuDNN's by their published figures, which PyTorch's ``scaled_dot_product_attention`` chooses from. On other GPUs it
    is ``calibrated``."""
    placeholder_gradients: bool = False
    """Whether a BF16 gradient of every distinct shape of weights is kept beside the main gradients, as Transformer
    Engine's fused accumulation does under Megatron-LM."""
    early_probabilities: bool = True
    """Whether the router's weights are applied before the experts' second product, so that its output need not be
    kept."""
    recompute: Literal["none", "full"] | tuple[Recomputed, ...] = "none"
    """What is computed again in the backward instead of being kept: nothing, whole layers (with their communication),
    or some parts."""
    cp_exchange: Literal["ring", "all-gather", "ulysses"] = "ring"
    """How ranks of a sequence exchange keys and values; ring hides behind attention's core."""
    cp_mla: Literal["heads", "latents"] = "heads"
    """What of latent attention they exchange: every head's keys and values, or the latents (and expand all of them)."""
    all_to_all: Literal["deepep-normal", "hybrid-ep", "all-to-all"] = "deepep-normal"
    """Library of dispatch and combine."""
    overlap_gradients: bool = True
    """Whether gradients are reduced beside the backward of the last micro-batch."""
    overlap_parameters: bool = True
    """Whether updated weights are gathered beside the forward of the first one."""
    mtp: bool = False
    """Whether the multi-token prediction layer is trained."""
    balanced: bool = True
    """Whether every expert-parallel rank gets the mean load (as benchmarks force it); false: as ``routing`` says."""
    capacity: Capacity | None = None
    """A capacity of the experts; with ``balanced`` every expert is chosen as often on average, and some pairs are
    dropped by chance all the same. None: nothing is dropped."""
    deterministic: bool = False
    """Whether attention's backward is deterministic: 0.95 times as fast (LongCat-Flash's report)."""
    slowest_rank: Positive = Field(default=1.0, ge=1.0, le=100.0)
    """How many times as long the slowest pipeline rank takes as a healthy one."""
    power_cap_w: Positive | None = None
    """What a GPU may draw, W (nvidia-smi --power-limit): kernels that would draw more run at a lower clock. None: the
    clocks at which kernels were timed."""
    checkpoints: Checkpoints = Checkpoints()
    """How the run saves itself."""
    failures: Failures = Failures()
    """What goes wrong."""

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        problem = self._problem()
        if problem:
            raise ValueError(problem)
        return self

    def _problem(self) -> str | None:
        stage = self.stage_gpus
        if stage % (self.ep * self.etp):
            return (
                f"ep x etp = {self.ep} x {self.etp} = {self.ep * self.etp} must divide tp x cp x dp = {self.tp} x "
                f"{self.cp} x {self.dp} = {stage}: experts and attention share a stage's GPUs"
            )
        if self.edp is not None and self.ep * self.etp * self.edp != stage:
            return (
                f"etp x ep x edp = {self.etp} x {self.ep} x {self.edp} = {self.etp * self.ep * self.edp} must equal tp "
                f"x cp x dp = {stage}; leave edp out and it follows"
            )
        per_pass = self.dp * self.micro_batch_sequences
        if self.global_batch_sequences % per_pass:
            return (
                f"global_batch_sequences = {self.global_batch_sequences} must be a multiple of dp x "
                f"micro_batch_sequences = {self.dp} x {self.micro_batch_sequences} = {per_pass}"
            )
        if self.sequence_tokens % (self.cp * self.tp):
            return (
                f"sequence_tokens = {self.sequence_tokens} must be a multiple of cp x tp = {self.cp} x {self.tp}: "
                "context and sequence parallelism cut sequences into equal pieces"
            )
        ramp = self.batch_ramp and self.batch_ramp.problem(self.global_batch_sequences, per_pass)
        if ramp:
            return f"batch_ramp: {ramp}"
        if self.failures.node_lost < 1.0 and self.checkpoints.storage_gb_per_s is None:
            return (
                f"failures.node_lost = {self.failures.node_lost:g} does nothing without storage to go back to: state "
                "checkpoints.storage_gb_per_s and checkpoints.storage_interval_s"
            )
        if self.capacity and self.capacity.pad and self.all_to_all == "deepep-normal" and self.etp == 1:
            return "capacity.pad: DeepEP sends no empty rows; use all_to_all: all-to-all"
        return self._divided_problem() or self._offload_problem()

    def _divided_problem(self) -> str | None:
        """What of the division over data-parallel ranks does not fit together, or None."""
        groups = self.dp_replicate
        if groups == 1:
            return None
        if self.zero == 0:
            return f"dp_replicate = {groups} needs something that is divided: zero of at least 1"
        for name, ranks in (("dp x cp", self.dp * self.cp), ("edp", self.expert_dp)):
            if ranks % groups:
                return (
                    f"dp_replicate = {groups} must divide {name} = {ranks}, ranks that hold the same weights"
                )
        return None

    def _offload_problem(self) -> str | None:
        """What of the offload other keys do not allow, or None."""
        offload = self.offload
        if offload.optimizer_fraction and self.zero == 0:
            return "offload.optimizer_fraction needs a divided optimizer: zero of at least 1"
        if offload.optimizer_fraction and self.optimizer.kind != "adamw":
            return (
                f"offload.optimizer_fraction: optimizer.kind = {self.optimizer.kind} is not updated on a host, whose "
                "processors would take its matrix products; use adamw"
            )
        if offload.activations_fraction and self.recompute == "full":
            return (
                "offload.activations_fraction: recompute = full keeps no more than layers' inputs; use a list"
            )
        return None

    @property
    def stage_gpus(self) -> int:
        """GPUs of one pipeline rank: all that hold its layers, or a part of them."""
        return self.tp * self.cp * self.dp

    @property
    def num_gpus(self) -> int:
        """GPUs of the run, spares left out."""
        return self.stage_gpus * self.pp

    @property
    def expert_dp(self) -> int:
        """GPUs that hold the same experts."""
        return self.stage_gpus // (self.ep * self.etp)

    @property
    def stage_copies(self) -> int:
        """Pipeline ranks that hold the same stage: with DualPipe two, whose gradients are one sum, so they are
        data-parallel ranks of its weights.
        """
        return 2 if self.schedule == "dualpipe" else 1

    @property
    def shards(self) -> int:
        """Parts into which ``zero`` divides what the ranks of dense weights hold."""
        return self.dp * self.cp * self.stage_copies // self.dp_replicate

    @property
    def expert_shards(self) -> int:
        """The same of experts."""
        return self.expert_dp * self.stage_copies // self.dp_replicate

    @property
    def own_fp8_kernels(self) -> bool:
        """Whether products are DeepSeek-V3's kernels of 2024: FP8 alone is."""
        return self.fp8_kernels == "deepseek-2024" and self.precision == "fp8"

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one data-parallel rank and step: expert parallelism is not in it, it lives inside tp x cp
        x dp.
        """
        return self.global_batch_sequences // (self.dp * self.micro_batch_sequences)

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.global_batch_sequences * self.sequence_tokens

    @property
    def tokens_per_gpu(self) -> float:
        """Tokens of one micro-batch that one GPU holds between tensor-parallel regions."""
        return self.micro_batch_sequences * self.sequence_tokens / (self.cp * self.tp)

    def recomputes(self, part: str) -> bool:
        """Whether a part of a layer is computed again."""
        return self.recompute == "full" or part in self.recompute
