"""DeepSeek-V3's kernel profile by what kernels do, ours beside the published one: four layers forwards, four backwards.

Times are those of kernels on compute streams, each alone in ours but for the SMs that exchanges hold. Weight gradients
of experts run two at a time in the trace, so their sum there counts some time twice.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping

from perfmodel.ops.backward import CORES, Kernel
from perfmodel.spec.catalogue import DATA
from perfmodel.training.step import StepBuilder
from perfmodel.units import US

FILE = DATA / "published" / "deepseek_v3_train_profile.csv"
PUBLISHED = {
    "grouped gemm fp8": "products",
    "dense gemm fp8": "products",
    "wgrad gemm fp8": "weight gradients",
    "attention fwd": "attention",
    "attention bwd": "attention",
    "attention bwd aux": "attention",
    "quant": "quantisation",
    "norm": "norms",
    "moe unpermute": "permutations",
    "moe permute": "permutations",
    "swiglu": "activations",
    "rope": "rotation, router and the rest",
    "other": "rotation, router and the rest",
}
"""Class in the profile -> part."""
OURS = {
    "norm": "norms",
    "latent_norm": "norms",
    "permute": "permutations",
    "unpermute": "permutations",
    "activation": "activations",
    "reorder": "quantisation",
    "gemm": "products",
    "grouped_gemm": "products",
    **dict.fromkeys(CORES, "attention"),
}
"""Kernel class -> part; weight gradients, and what is no kernel of these, apart."""


def published_s() -> tuple[Mapping[str, float], str]:
    """(time of each part in the profile, its source)."""
    found: dict[str, float] = defaultdict(float)
    source = ""
    with FILE.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["kernel_class"] in PUBLISHED:
                found[PUBLISHED[row["kernel_class"]]] += float(row["total_us"]) * US
                source = row["source"]
    return dict(found), source


def predicted_s(builder: StepBuilder, layers: int) -> Mapping[str, float]:
    """Time of each part of so many of the model's last layers, forwards and backwards."""
    parts = builder.layer_chain(builder.scenario.model.layers[-1]).layers[0]
    found: dict[str, float] = defaultdict(float)
    for part in parts.in_sequence():
        for kernel in (*part.forward, *part.input, *part.weight):
            if not kernel.op.is_communication:
                found[_part(kernel)] += layers * float(builder.costing.beside(kernel).seconds)
    return dict(found)


def _part(kernel: Kernel) -> str:
    if kernel.op.name.startswith("router."):
        return "rotation, router and the rest"
    if kernel.way == "weight":
        return "weight gradients"
    return OURS.get(kernel.base.kernel, "rotation, router and the rest")
