"""How much longer a transfer takes beside compute: DeepSeek's training trace against the same transfer alone.

The trace (deepseek-ai/profile-data, train.json: H800, EP64, 4096 tokens per GPU, top-8 of 256 experts in 4 of 8
groups) times DeepEP normal's kernels while GEMMs and attention run beside them: dispatch, the dispatch of the backward
pass, and two combines per layer. Alone they would take what ``communication.csv`` says. The ratio of the sums is the
stretch. What the notify kernels wait for other ranks is left out, and DeepSeek's 20 SMs against the 24 of the timings
alone are in it (about 10 %). It was measured for training, on H800, in one shape: everything else takes it over.
"""

import csv

from calibrate.tables.communication import cluster_of
from perfmodel.kernels.achievable import FOLDER
from perfmodel.kernels.communication import Stretch, collective_seconds, lookup_collective
from perfmodel.ops import communication as wire
from perfmodel.routing.destinations import destinations
from perfmodel.spec import catalogue
from perfmodel.units import US

PROFILE = FOLDER.parent / "published" / "deepseek_v3_train_profile.csv"
RANKS, TOKENS, HIDDEN, TOP_K = 64, 4096, 7168, 8
"""Of the trace: its README and the facts of DeepSeek-V3."""
TIMED = {
    "ep dispatch (first)": ("dispatch", "fp8", 1),
    "ep dispatch (cached, in combine backward)": ("dispatch", "fp8", 1),
    "ep combine": ("combine", "bf16", 2),
}
"""Kernel class of the trace -> (kernel, payload, times per layer)."""
FIELDS = ("backend", "architecture", "stretch", "source", "note")


def stretch_row() -> Stretch:
    """The measured stretch of DeepEP normal beside compute."""
    with PROFILE.open(newline="", encoding="utf-8") as file:
        measured = {row["kernel_class"]: float(row["mean_us"]) * US for row in csv.DictReader(file)}
    beside = sum(count * measured[name] for name, (_, _, count) in TIMED.items())
    alone = sum(count * _alone_s(kernel, dtype) for kernel, dtype, count in TIMED.values())
    return Stretch(
        backend="deepep-normal",
        architecture="hopper",
        stretch=float(f"{beside / alone:.4g}"),
        source="measured: https://github.com/deepseek-ai/profile-data/blob/main/train.json",
        note="DeepSeek's training trace on H800, EP64, 4096 tokens, against communication.csv's times alone",
    )


def _alone_s(kernel: str, dtype: str) -> float:
    """Time of one transfer of the trace's shape alone, s."""
    cluster = cluster_of("H800-SXM")
    moe = next(layer.moe for layer in catalogue.model("deepseek-v3").layers if layer.moe)
    reached = destinations(moe, RANKS, cluster.node.link_domain_gpus, mean_real_experts=TOP_K)
    message = wire.payload_bytes(HIDDEN, dtype)
    traffic = wire.deepep_normal(TOKENS, message, reached, RANKS, cluster.node.link_domain_gpus)
    row = lookup_collective("deepep-normal", kernel, cluster.gpu.architecture)
    return float(collective_seconds(traffic, row, cluster, same_rail=True).seconds)
