"""How long gradients take next to what they are gradients of: ``data/kernels/gradients.csv`` from public timings.

    python -m calibrate.tables.gradients

Sources: SimuMax's measured shapes (``training_kernels.csv``: GEMMs in TN, NN and NT with accumulation in FP32,
grouped GEMMs by stage, attention forward and backward, on B200 and A100-PCIe), FlashAttention-3's figures on H100
(``training_attention.csv``) and DeepGEMM's of FP8 products on Hopper (``training_fp8.csv``). A gradient's factor is
the median over shapes of its time over the forward's, the spread the standard deviation of its logarithm. Hopper has
no BF16 GEMM rows by stage: the geometric mean of the two others, flagged, with the wider spread; in FP8 it has weight
gradients, beside forwards of the same three sizes.
"""

import csv
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

from perfmodel.kernels.achievable import FOLDER, read_rows

KERNELS, ATTENTION, FP8 = "training_kernels.csv", "training_attention.csv", "training_fp8.csv"
RESULT = "gradients.csv"
FIELDS = ("kernel", "way", "architecture", "dtype", "factor", "log_std", "num_rows", "source", "flag")
DEVICES = {"B200-SXM": "blackwell", "A100-PCIe": "ampere"}
SOURCE = "https://github.com/MooreThreads/SimuMax (v1.2, Apache-2.0), measured shapes of configs/system"
FP8_SOURCE = (
    "https://github.com/deepseek-ai/DeepGEMM pull requests 74 (forwards) and 95 (weight gradients), issue 107"
)
BACKWARD_FLOPS = 2.5
"""FLOPs of attention's backward over its forward's, by which the tables' backward rates are stated: five products of
the same size instead of two, the first computed again."""
MLA_FLOPS = (3 * 192 + 2 * 128) / (192 + 128)
"""The same with queries and keys of 192 and values of 128: three of the five products are as wide as queries."""
LEAST_SEQUENCE = 2048
"""FlashAttention-3's rates settle from here on."""

Row = dict[str, str]


def gradient_rows() -> list[Row]:
    """The rows of ``gradients.csv``."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for device, architecture in DEVICES.items():
        own = [row for row in read_rows(KERNELS) if row["device"] == device]
        for (kernel, way), ratios in {**_gemms(own), **_grouped(own), **_attention(own)}.items():
            found[kernel, way, architecture] = ratios
    rows = [_row(*key, ratios, f"measured: {SOURCE}") for key, ratios in sorted(found.items())]
    for kernel in ("gemm", "grouped_gemm"):
        for way in ("input", "weight"):
            others = [row for row in rows if (row["kernel"], row["way"]) == (kernel, way)]
            factor = math.exp(statistics.mean(math.log(float(row["factor"])) for row in others))
            spread = max(float(row["log_std"]) for row in others)
            rows.append(_derived(kernel, way, factor, spread, "mean of Ampere's and Blackwell's"))
    rows += [*_hopper_attention(), *_hopper_fp8()]
    return sorted(rows, key=lambda row: (row["kernel"], row["way"], row["architecture"], row["dtype"]))


def _shape(row: Mapping[str, str]) -> dict[str, str]:
    return dict(part.split("=") for part in row["shape"].split(", "))


def _gemms(rows: Iterable[Row]) -> dict[tuple[str, str], list[float]]:
    """A product [m, k] x [k, n] in TN, beside its input gradient [m, n] x [n, k] in NN and its weight gradient [n, m]
    x [m, k] in NT, summed into FP32: all of the same FLOPs, so rates say it all.
    """
    rates: dict[tuple[str, ...], float] = {}
    for row in rows:
        if row["kernel"] == "matmul":
            s = _shape(row)
            key = (s["layout"], s["b"], s["m"], s["k"], s["n"], s["out_dtype"])
            rates[key] = float(row["tflops"])
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (layout, b, m, k, n, _), rate in rates.items():
        if layout != "TN":
            continue
        inputs = rates.get(("NN", b, m, n, k, "bf16"))
        weights = rates.get(("NT", b, n, m, k, "fp32"))
        if inputs:
            ratios["gemm", "input"].append(rate / inputs)
        if weights:
            ratios["gemm", "weight"].append(rate / weights)
    return dict(ratios)


def _grouped(rows: Iterable[Row]) -> dict[tuple[str, str], list[float]]:
    by_shape: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["kernel"] == "group_matmul":
            s = _shape(row)
            by_shape[s["ng"], s["M"], s["N"], s["K"], s["dtype"]][s["stage"]] = float(row["tflops"])
    stages = {"input": "bwd_grad_act", "weight": "bwd_grad_w"}
    return {
        ("grouped_gemm", way): [
            own["fwd"] / own[stage] for own in by_shape.values() if "fwd" in own and stage in own
        ]
        for way, stage in stages.items()
    }


def _attention(rows: Iterable[Row]) -> dict[tuple[str, str], list[float]]:
    """MLA's widths (192 and 128) and equal ones apart."""
    by_shape: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["kernel"].startswith("sdp_"):
            by_shape[row["shape"]][row["kernel"]] = float(row["tflops"])
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for shape, own in by_shape.items():
        kernel = "mla_prefill" if "qk_head_dim=192" in shape else "gqa_prefill"
        ratios[kernel, "input"].append(BACKWARD_FLOPS * own["sdp_fwd"] / own["sdp_bwd"])
    return dict(ratios)


def _hopper_attention() -> list[Row]:
    """FlashAttention-3 with heads of 128; MLA's widths have no figures of their own on H100."""
    rates: dict[tuple[str, str], float] = {}
    source = ""
    for row in read_rows(ATTENTION):
        same = (
            row["device"] == "H100-SXM5" and row["kernel"] == "FlashAttention-3" and row["head_dim"] == "128"
        )
        if same and row["seq"].isdigit() and int(row["seq"]) >= LEAST_SEQUENCE and row["tflops"] != "OOM":
            rates[row["pass"].split()[-1], row["seq"]] = float(row["tflops"])
            source = row["source"]
    ratios = [
        BACKWARD_FLOPS * rate / rates["backward", seq]
        for (way, seq), rate in rates.items()
        if way == "forward"
    ]
    own = _row("gqa_prefill", "input", "hopper", ratios, f"measured: {source}")
    wider = {
        "kernel": "mla_prefill",
        "factor": f"{float(own['factor']) * MLA_FLOPS / BACKWARD_FLOPS:.4g}",
        "log_std": "0.15",
        "source": f"derived: times the FLOPs of heads of 192 and 128, 2.6 for 2.5 ({source})",
        "flag": "heads of 192 and 128: FlashAttention-3's of 128",
    }
    return [{**own, "log_std": "0.1"}, {**own, **wider}]


FEW_LOG_STD = 0.2
"""Spread of a factor of a handful of pairs, at least: dense ones reach from 0.85 to 1.48."""


def _hopper_fp8() -> list[Row]:
    """DeepGEMM's weight gradients over its forwards of the same three sizes: weight gradients scale both operands by
    128 elements of a row, and are summed into FP32.
    """
    forwards: dict[tuple[str, ...], float] = {}
    weights: dict[tuple[str, ...], float] = {}
    for row in read_rows(FP8):
        into, order = (forwards, ("m", "n", "k")) if row["way"] == "forward" else (weights, ("k", "n", "m"))
        into[row["kernel"], row["groups"], *_ends(row, order)] = float(row["tflops"])
    found = []
    for kernel in ("gemm", "grouped_gemm"):
        ratios = [
            forwards[key] / rate for key, rate in weights.items() if key[0] == kernel and key in forwards
        ]
        own = _row(kernel, "weight", "hopper", ratios, f"measured: {FP8_SOURCE}")
        spread = max(float(own["log_std"]), FEW_LOG_STD)
        flag = f"{kernel} weight gradient in FP8 on hopper: {len(ratios)} pairs of DeepGEMM's figures"
        found.append({**own, "dtype": "fp8", "log_std": f"{spread:.4g}", "flag": flag})
    return found


def _ends(row: Row, order: tuple[str, ...]) -> tuple[str, ...]:
    """(tokens, and the two widths, whichever comes first)."""
    tokens, *widths = (row[name] for name in order)
    return (tokens, *sorted(widths))


def _row(kernel: str, way: str, architecture: str, ratios: list[float], source: str) -> Row:
    return {
        "kernel": kernel,
        "way": way,
        "architecture": architecture,
        "dtype": "",
        "factor": f"{statistics.median(ratios):.4g}",
        "log_std": f"{statistics.pstdev(math.log(ratio) for ratio in ratios):.4g}",
        "num_rows": str(len(ratios)),
        "source": source,
        "flag": "",
    }


def _derived(kernel: str, way: str, factor: float, spread: float, what: str) -> Row:
    return {
        "kernel": kernel,
        "way": way,
        "architecture": "hopper",
        "dtype": "",
        "factor": f"{factor:.4g}",
        "log_std": f"{spread:.4g}",
        "num_rows": "0",
        "source": f"derived: {what} ({SOURCE})",
        "flag": f"{kernel} {way} gradient on hopper: no timings by stage, {what}",
    }


def main() -> None:
    """Write the table."""
    with (FOLDER / RESULT).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(gradient_rows())


if __name__ == "__main__":
    main()
