"""What the public tables' timings hold already, per class and collector: launch, gap, caches.

So that nothing is counted twice: a cost per launch belongs to what is timed in a graph only where an engine launches
eagerly; a gap between a graph's nodes only where the table has none. Read off the collectors at
https://github.com/ai-dynamo/aiconfigurator/tree/095f58a51c4ca8e61b66ec108d86f223f8d559ce/collector: ``helper.py``
(``benchmark_with_power`` captures the kernel in a CUDA graph and times replays back to back between two events) and the
collector of each table. docs/import_tables.md prints :data:`TIMED`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Timed:
    """How the rows of one class by one collector were timed."""

    kernels: tuple[str, ...]
    """Kernel classes, as in ``Op.kernel``."""
    engines: tuple[str, ...]
    """Whose collectors; empty: one for all."""
    timed: Literal["graph", "eager", "kernel"]
    """graph: replayed; eager: launched one by one, the host may show in short rows; kernel: a profiler's kernel times,
    without any launch."""
    gap: Literal["node", "replay", "launch", "none"]
    """What lies between two executions in the time: a graph's next node; a graph's next replay, which is at least a
    node's; the host's next launch where the kernel is shorter; nothing."""
    weights: Literal["cold", "warm", "mixed", "none"]
    """Whether weights or KV came from HBM. mixed: cold above a size, see ``note``; none: nothing is kept."""
    note: str


TIMED = (
    Timed(
        ("gemm",),
        ("sglang",),
        "graph",
        "node",
        "mixed",
        "up to 6 copies of the layer in turn in one graph: warm "
        "only where 6 copies fit L2 (below 8 MB each on Hopper, 20 MB on Blackwell). Quantising is inside",
    ),
    Timed(
        ("gemm",),
        ("trtllm",),
        "graph",
        "node",
        "cold",
        "as many copies as fill L2, at most 5. Quantising is inside; "
        "per-tensor FP8 less the search for the scale, NVFP4 left out: timed without the engine's autotuner",
    ),
    Timed(
        ("gemm",),
        ("vllm",),
        "graph",
        "replay",
        "mixed",
        "6 copies of bf16 and fp8-tensor; NVFP4 one copy: warm up to "
        "the whole L2 (50 MB on Hopper, 126 MB on Blackwell). Quantising is inside",
    ),
    Timed(("bmm", "quantise"), (), "graph", "replay", "warm", "one kernel, the same operands"),
    Timed(
        ("mla_decode", "gqa_decode"),
        (),
        "graph",
        "replay",
        "mixed",
        "one cache, read again: warm up to the L2's size. "
        "Cache write inside; SGLang's MLA without RoPE and norm, TensorRT-LLM's with both",
    ),
    Timed(
        ("mla_prefill", "gqa_prefill"), (), "graph", "replay", "none", "compute counts; keys are just written"
    ),
    Timed(
        ("mla_module_decode",),
        ("trtllm",),
        "graph",
        "replay",
        "mixed",
        "one layer's weights, 90 MB in FP8 per attention "
        "of 128 heads: cold there, warm with few heads. From the first projection to the last",
    ),
    Timed(
        ("mla_module_decode",),
        ("sglang",),
        "graph",
        "replay",
        "mixed",
        "as TensorRT-LLM's; 0.5.10's own collector is no "
        "longer public: read off its floors, which are the sums of graphed parts",
    ),
    Timed(
        ("grouped_gemm",),
        ("sglang",),
        "graph",
        "node",
        "mixed",
        "five runs of one layer in one graph: warm where the experts hit fit L2",
    ),
    Timed(
        ("grouped_gemm",),
        ("trtllm", "vllm"),
        "graph",
        "replay",
        "mixed",
        "one run, after the autotuner; warm where the experts hit fit L2",
    ),
    Timed(
        ("dsa_module_decode", "dsa_glm_module_decode", "dsa_glm_skip_module_decode"),
        (),
        "graph",
        "replay",
        "mixed",
        "one layer's weights, caches of synthetic values; from the first projection to the last. SGLang's above 256 "
        "requests, and TensorRT-LLM's on Hopper, are eager: left out",
    ),
    Timed(
        (
            "csa_flash_module_decode",
            "csa_pro_module_decode",
            "hca_flash_module_decode",
            "hca_pro_module_decode",
            "msa_module_decode",
            "msa_module_prefill",
        ),
        (),
        "graph",
        "replay",
        "mixed",
        "one layer's weights, caches of synthetic values, whose scores are equal: what SGLang's top-k takes longer "
        "over them is taken off. From the first projection to the last; SGLang's above 256 requests are eager",
    ),
    Timed(
        ("index_logits", "index_topk", "mla_sparse_prefill", "hca_decode", "hca_prefill"),
        (),
        "graph",
        "replay",
        "mixed",
        "one kernel, warm up to the L2's size, which every decode row of the scores is: what a key costs is read off "
        "modules",
    ),
    Timed(
        (
            "gdn_decode",
            "gdn_prefill",
            "kda_decode",
            "kda_prefill",
            "conv_update",
            "conv_prefill",
            "mhc_pre",
            "mhc_post",
        ),
        (),
        "graph",
        "replay",
        "mixed",
        "one kernel, the same state and operands: warm up to the L2's size, where GDN's decode (L40S, RTX PRO 6000) "
        "and KDA's are replaced by what a state costs beyond it",
    ),
    Timed(
        ("all_reduce",),
        ("sglang", "trtllm", "vllm"),
        "graph",
        "node",
        "none",
        "five in one graph; ranks start together, so no straggler is waited for. Eager rows are left out",
    ),
    Timed(
        ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
        (),
        "eager",
        "launch",
        "none",
        "nccl-tests, launched back to back: the host shows where a collective is shorter than its launch",
    ),
    Timed(
        ("dispatch", "combine"),
        (),
        "kernel",
        "none",
        "none",
        "DeepEP's own benchmark: kernel times of a profiler, "
        "return_recv_hook off: receiving, laying out by expert and the sum over top-k rows are "
        "inside; the wait for the "
        "slowest rank is, as far as ranks of a benchmark differ; notify is added for the normal kernels",
    ),
)
"""Norms, RoPE, activations, top-k and sampling were not timed: docs/import_tables.md says what they cost."""


def table() -> str:
    """TIMED as a Markdown table."""
    lines = ["| class | by | timed | gap | weights or cache | |", "|---|---|---|---|---|---|"]
    for row in TIMED:
        cells = (
            ", ".join(row.kernels),
            ", ".join(row.engines) or "all",
            row.timed,
            row.gap,
            row.weights,
            row.note,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
