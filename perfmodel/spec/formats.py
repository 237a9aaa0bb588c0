"""Number formats: what an element takes in memory, and what the tensor cores multiply."""

from typing import Literal

Dtype = Literal["fp32", "bf16", "fp8", "fp8-tensor", "fp4", "int4"]
ExpertDtype = Literal[Dtype, "mxfp4"]
"""Of experts: gpt-oss's checkpoints have theirs in MXFP4."""

BYTES_PER_ELEMENT = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8-tensor": 1.0,
    "fp4": 0.5 + 1 / 16,
    "int4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
}
"""Storage per element. fp8 has one FP32 scale per 128 x 128 block of weights (0.02 %, left out), fp8-tensor one for the
whole matrix. FP4 (NVFP4) has an FP8 scale for each 16 elements, weight-only INT4 a BF16 scale for each 32 (Kimi-K2),
MXFP4 an 8-bit exponent for each 32 (OCP Microscaling Formats 1.0)."""
MULTIPLIES_AS = {"fp8-tensor": "fp8", "int4": "bf16"}
"""Number format -> that of the tensor core's multiply, where they differ: weight-only INT4 multiplies in BF16."""


def timed_as(dtype: str, architecture: str) -> str:
    """Number format whose kernels' times stand for one that no table holds: MXFP4 weights are multiplied in BF16 before
    Blackwell, as INT4's are (Marlin), and in FP4 from there on, as NVFP4's.
    """
    if dtype != "mxfp4":
        return dtype
    return "fp4" if architecture == "blackwell" else "int4"
