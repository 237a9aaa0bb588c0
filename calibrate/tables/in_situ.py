"""How much longer a transfer takes beside compute: DeepSeek's training trace against the same transfer alone.

The trace (deepseek-ai/profile-data, train.json: H800, EP64, 4096 tokens per GPU, top-8 of 256 experts in 4 of 8
groups) times DeepEP normal's kernels while GEMMs and attention run beside them: dispatch, the dispatch of the backward
pass, and two combines per layer. Alone they would take what ``communication.csv`` says. The ratio of the sums is the
stretch. What the notify kernels wait for other ranks is left out, and DeepSeek's 20 SMs against the 24 of the timings
alone are in it (about 10 %). It was measured for training, on H800, in one shape: everything else takes it over.

Of the low-latency kernels one figure is public: about 170 us per dispatch in DeepSeek's decode profile (LMSYS's
reading; its own run on H100 measured as much), where the same transfer alone takes what the calibration says. Whether
the profile's 170 us hold 64 tokens or both micro-batches' 128 is not said; with 128 there is nothing to explain. So
all that is known is a range, from 1 to their ratio: its middle (of the logarithm) counts, and its width is a spread.
"""

import csv
import math
from dataclasses import replace

from calibrate.tables.collective_samples import cluster_of
from perfmodel.engines.profile import kernels_of
from perfmodel.kernels.achievable import FOLDER
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import Stretch, collective_seconds, lookup_collective
from perfmodel.kernels.cost import cost
from perfmodel.load import load_scenario
from perfmodel.ops import communication as wire
from perfmodel.routing.destinations import destinations
from perfmodel.spec import catalogue
from perfmodel.step import step_segments
from perfmodel.units import US
from perfmodel.validation import roles

PROFILE = FOLDER.parent / "published" / "deepseek_v3_train_profile.csv"
RANKS, TOKENS, HIDDEN, TOP_K = 64, 4096, 7168, 8
"""Of the trace: its README and the facts of DeepSeek-V3."""
TIMED = {
    "ep dispatch (first)": ("dispatch", "fp8", 1),
    "ep dispatch (cached, in combine backward)": ("dispatch", "fp8", 1),
    "ep combine": ("combine", "bf16", 2),
}
"""Kernel class of the trace -> (kernel, payload, times per layer)."""
HYBRID_LOG_STD = 0.1
DECODE_ROW = "ds_profile_dispatch_layer"
FIELDS = ("backend", "architecture", "stretch", "log_std", "source", "note")


def rows() -> list[Stretch]:
    """The rows of in_situ.csv."""
    return [stretch_row(), low_latency_row(), hybrid_row()]


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
        log_std=0.0,
        source="measured: https://github.com/deepseek-ai/profile-data/blob/main/train.json",
        note="DeepSeek's training trace on H800, EP64, 4096 tokens, against communication.csv's times alone",
    )


def hybrid_row() -> Stretch:
    """HybridEP's stretch beside compute: nobody published one, DeepEP normal's stands in."""
    return replace(
        stretch_row(),
        backend="hybrid-ep",
        log_std=HYBRID_LOG_STD,
        source=f"derived: deepep-normal's ({stretch_row().source.removeprefix('measured: ')})",
        note="hybrid-ep beside compute: no public timings, DeepEP normal's stretch on H800",
    )


def low_latency_row() -> Stretch:
    """The stretch of DeepEP low-latency beside compute: the middle of what is possible, uniform in its logarithm."""
    (row,) = (one for one in roles.read_published("serving.csv") if one["id"] == DECODE_ROW)
    scenario = load_scenario("deepseek-v3-h800")
    calibration = load_calibration(scenario.calibration, kernels_of(scenario.deployment.engine))
    op = next(
        task.op
        for segment in step_segments(scenario)
        for task in segment.tasks
        if task.op.kernel == "dispatch" and task.op.backend == "deepep-low-latency"
    )
    alone = float(cost(op, scenario.cluster, calibration=calibration).seconds)
    widest = math.log(float(row["value"]) * US / alone)
    return Stretch(
        backend="deepep-low-latency",
        architecture="hopper",
        stretch=float(f"{math.exp(widest / 2.0):.4g}"),
        log_std=float(f"{widest / math.sqrt(12.0):.3g}"),
        source=f"derived: {row['source']}",
        note="low-latency transfers beside compute: between their time alone and 170 us where that gives "
        f"{alone / US:.0f} (one published figure, of which the tokens are not certain)",
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
