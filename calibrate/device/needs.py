"""What a set of models asks of each kernel class: perfmodel's own ops, built for the corners of the work."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from calibrate.device.case import SHAPES, TRAINING
from perfmodel.errors import SpecError
from perfmodel.ops.backward import Kernel
from perfmodel.ops.op import Op
from perfmodel.spec import catalogue
from perfmodel.spec.deployment import Precision
from perfmodel.spec.documents import read_document
from perfmodel.spec.messages import describe
from perfmodel.spec.model import Model
from perfmodel.spec.models.reader import model_from_config
from perfmodel.spec.scenario import Scenario

if TYPE_CHECKING:
    from perfmodel.training.step import StepBuilder

ROWS = ("norm", "activation", "add", "gather", "reorder", "sample", "permute", "unpermute")
FIXED: Mapping[str, tuple[str, ...]] = {
    "gemm": ("n", "k"),
    "grouped_gemm": ("n", "k"),
    "bmm": ("groups", "n", "k"),
    "mla_decode": ("heads", "latent", "rope"),
    "mla_prefill": ("heads", "nope", "rope", "value"),
    "mla_sparse_decode": ("heads", "latent", "rope"),
    "mla_sparse_prefill": ("heads", "latent", "rope"),
    "index_logits": ("heads", "head_dim"),
    "index_topk": ("top_k",),
    "gqa_decode": ("heads", "kv_heads", "head_dim"),
    "gqa_prefill": ("heads", "kv_heads", "head_dim"),
    "latent_norm": ("width", "latent", "rope"),
    "rope": ("heads", "rope", "latent"),
    "select": ("width", "top_k"),
    **dict.fromkeys(ROWS, ("width",)),
}
FIXED = {
    **{name: FIXED[of] for name, of in TRAINING.items() if of in FIXED},
    **FIXED,
    "gemm_weight": ("m", "n"),
    "gather_weight": ("width", "vocabulary"),
}
"""Variables that a model fixes; the others depend on the step's work."""


@dataclass(slots=True)
class Ranges:
    """What a set of models asks of one kernel class."""

    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    max_flops: float = 0.0
    max_bytes: float = 0.0
    fixed: set[tuple[float, ...]] = field(default_factory=set)
    """Combinations of the variables that the model fixes (widths, heads), in the order of :attr:`fixed_names`."""
    fixed_names: tuple[str, ...] = ()

    def add(self, op: Op, fixed_names: tuple[str, ...]) -> None:
        """Widen the ranges by one op."""
        values = {name: float(op.shape[name]) for name in SHAPES[op.kernel]}
        for name, value in values.items():
            self.low[name] = min(self.low.get(name, value), value)
            self.high[name] = max(self.high.get(name, value), value)
        self.max_flops = max(self.max_flops, float(op.flops))
        self.max_bytes = max(self.max_bytes, float(op.hbm_bytes))
        self.fixed_names = fixed_names
        self.fixed.add(tuple(values[name] for name in fixed_names))


def needed_ranges(
    models: Sequence[Model], dtype: str, max_tokens: int, max_context: int, ranks: int = 1
) -> dict[tuple[str, str], Ranges]:
    """What steps of these models ask of each kernel class and number format, over the corners of the work.

    With several ranks also what expert parallelism over them asks for.
    """
    ranges: dict[tuple[str, str], Ranges] = {}
    for model in models:
        for changes in (*_corners(model, max_tokens, max_context), *_spread(model, max_tokens, ranks)):
            for op in step_ops(model, dtype, **changes):
                if op.kernel in SHAPES and not op.is_communication and op.hbm_bytes:
                    own = ranges.setdefault((op.kernel, op.dtype), Ranges())
                    own.add(op, FIXED.get(op.kernel, ()))
    return ranges


def training_ranges(
    models: Sequence[Model], dtype: str, max_tokens: int, max_context: int, ranks: int = 1
) -> dict[tuple[str, str], Ranges]:
    """What training steps of these models ask of each kernel class and number format: forwards, and gradients under
    their own names; for few and many tokens, short and long sequences, few and all experts; with several ranks for
    their share of a step, too.
    """
    ranges: dict[tuple[str, str], Ranges] = {}
    for model in models:
        longest = min(max_tokens, max_context, model.max_context_tokens)
        top = model.moe.top_k if model.moe else 0
        divided = ranks > 1 and model.moe is not None and model.moe.num_experts % ranks == 0
        for sequences, tokens in (
            (1, min(16, longest)),
            (1, longest),
            (max(max_tokens // 64, 1), min(64, longest)),
        ):
            for experts, own_ranks in itertools.product(
                sorted({min(1, top), top}), {1, ranks if divided else 1}
            ):
                for kernel in training_kernels(model, dtype, sequences, tokens, experts, own_ranks):
                    name = kernel.timed_as if kernel.timed_as in SHAPES else kernel.base.kernel
                    shape = kernel.base.shape
                    if name in SHAPES and not kernel.op.is_communication and set(SHAPES[name]) <= set(shape):
                        own = ranges.setdefault((name, kernel.base.dtype), Ranges())
                        own.add(replace(kernel.base, kernel=name), FIXED.get(name, ()))
    return ranges


def training_kernels(
    model: Model, dtype: str, sequences: int, tokens: int, experts: float, ranks: int = 1
) -> list[Kernel]:
    """Every kernel of a training step of a model on one device, or on one of several that divide its experts."""
    from perfmodel.training.overlap import parts_of

    split = {"ep": ranks, "dp": ranks, "global_batch_sequences": ranks * sequences} if ranks > 1 else {}
    builder = training_builder(model, dtype, sequences, tokens, experts, training=split)
    chains = [builder.first_chain(), *map(builder.layer_chain, model.layers), builder.last_chain()]
    return [
        kernel
        for chain in chains
        for part in parts_of(chain)
        for way in (part.forward, part.input, part.weight)
        for kernel in way
    ]


def training_builder(
    model: Model, dtype: str, sequences: int, tokens: int, experts: float, **sections: Any
) -> "StepBuilder":
    """A training step as the reference model runs it: PyTorch's kernels one by one, ``dtype`` throughout, one
    micro-batch unless ``sections`` say otherwise of ``training``.
    """
    from perfmodel.training.layout import training_of
    from perfmodel.training.step import StepBuilder

    batch = {
        "sequence_tokens": tokens,
        "micro_batch_sequences": sequences,
        "global_batch_sequences": sequences,
    }
    training = {"kernels": "eager", "all_to_all": "all-to-all", **batch, **sections.pop("training", {})}
    routing = {"mean_real_experts": experts} if model.moe else {}
    scenario = reference_scenario(model, dtype, {}, training=training, routing=routing, **sections)
    builder = StepBuilder(scenario, training_of(scenario))
    deployment = builder.inner.deployment.model_copy(update={"precision": scenario.deployment.precision})
    builder.inner = builder.inner.model_copy(update={"deployment": deployment})
    return builder


def _spread(model: Model, max_tokens: int, ranks: int) -> Iterator[dict[str, Any]]:
    """Steps over several ranks, experts divided among them, few and many tokens."""
    if ranks < 2 or model.moe is None or model.moe.num_experts % ranks:
        return
    for batch in (1, max_tokens):
        layout = {"attention_dp": ranks, "ep": ranks, "all_to_all": "all-to-all"}
        yield {"deployment": {"batch_per_gpu": batch, "context_tokens": 1, **layout}}


def load_model(name: str) -> Model:
    """A model by catalogue name, path of a ``config.json``, or size of the reference model.

    Raises:
        SpecError: none of those.
    """
    from reference_model.config import SIZES

    if name in SIZES:
        return model_from_config(SIZES[name].as_hugging_face(), name=f"reference-{name}")
    if name.endswith(".json"):
        return model_from_config(read_document(Path(name)), name=Path(name).stem)
    try:
        return catalogue.model(name)
    except SpecError as error:
        raise SpecError(f"{error}; sizes of the reference model: {', '.join(SIZES)}") from error


def step_ops(model: Model, dtype: str, **sections: Any) -> list[Op]:
    """All ops of one step of a model on one device, in ``dtype`` throughout."""
    from perfmodel.step import step_segments

    scenario = reference_scenario(model, dtype, **sections)
    return [task.op for segment in step_segments(scenario) for task in segment.tasks]


def reference_scenario(model: Model, dtype: str, deployment: Mapping[str, Any], **sections: Any) -> Scenario:
    """A step as the reference model runs it: ``dtype`` throughout, the router in FP32.

    On one device of unknown speed that costs nothing, unless ``sections`` say otherwise.

    Raises:
        SpecError: a value that is not allowed.
    """
    precision = dict.fromkeys(
        [name for name in Precision.model_fields if name != "router"],
        dtype,
    )
    fields = {
        "name": model.name,
        "model": model,
        "cluster": PLACEHOLDER_CLUSTER,
        "prices": {"usd_per_gpu_hour": 0},
        "deployment": {"precision": precision | {"router": "fp32"}, **deployment},
        **sections,
    }
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        raise SpecError(describe(error)) from error


PLACEHOLDER_CLUSTER = {
    "name": "unknown",
    "gpu": {
        "name": "unknown",
        "architecture": "cpu",
        "memory_bytes": 10**15,
        "hbm_gb_per_s": 1,
        "fp32_tflops": 1,
        "num_sms": 1,
    },
    "node": {"link_gb_per_s": 1, "num_gpus": 1, "link_domain_gpus": 1},
    "network": {"gb_per_s_per_gpu": 1},
}
"""Counting ops needs some device; its speed does not matter."""


def _corners(model: Model, max_tokens: int, max_context: int) -> Iterator[dict[str, Any]]:
    """Deployments at the corners of the work: few and many tokens, short and long contexts, both kinds of attention; no
    longer than the model's positions.
    """
    max_context = min(max_context, model.max_context_tokens)
    longest = max(max_context - 8, 1)
    if model.moe:
        few = {"routing": {"mean_real_experts": 1 if model.moe.num_zero_experts else model.moe.top_k}}
        yield {"deployment": {"phase": "decode", "batch_per_gpu": 1, "context_tokens": 1}, **few}
        most = {"routing": {"mean_real_experts": model.moe.top_k}}
        yield {"deployment": {"phase": "decode", "batch_per_gpu": max_tokens, "context_tokens": 1}, **most}
    for batch, context in ((1, 1), (1, longest), (max_tokens, 1), (max(max_tokens // 8, 1), longest)):
        yield {"deployment": {"phase": "decode", "batch_per_gpu": batch, "context_tokens": context}}
    mtp = {"draft_tokens": 3, "acceptance": 0.5} if model.mtp else {}
    drafts = {"batch_per_gpu": max(max_tokens // 4, 1), "context_tokens": min(64, longest), "mtp": mtp}
    yield {"deployment": drafts}
    new = min(max_tokens, max_context)
    half = max(new // 2, 1)
    for requests, tokens, cached in (
        (1, min(16, new), 0),
        (1, new, 0),
        (max(max_tokens // 64, 1), min(64, new), 0),
        (1, half, max(max_context - half, 0)),
    ):
        prefill = {
            "prefill_requests_per_gpu": requests,
            "prefill_tokens": tokens,
            "prefill_cached_tokens": cached,
        }
        yield {"deployment": {"phase": "prefill", **prefill}}
