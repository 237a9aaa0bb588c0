"""Number formats: what an element takes in memory, and what the tensor cores multiply."""

from typing import Literal

Dtype = Literal["fp32", "bf16", "fp8", "fp8-tensor", "mxfp8", "int8", "fp4", "mxfp4", "int4"]
ExpertDtype = Dtype
"""Of experts."""

BYTES_PER_ELEMENT = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "fp8-tensor": 1.0,
    "mxfp8": 1.0 + 1 / 32,
    "int8": 1.0,
    "fp4": 0.5 + 1 / 16,
    "int4": 0.5 + 1 / 16,
    "mxfp4": 0.5 + 1 / 32,
}
"""Storage per element. fp8 has one FP32 scale per 128 x 128 block of weights (0.02 %, left out), fp8-tensor one for the
whole matrix, int8 (INT8 weights and activations, W8A8) one per output channel. FP4 (NVFP4) has an FP8 scale for each 16
elements, weight-only INT4 a BF16 scale for each 32 (Kimi-K2), MXFP4 and MXFP8 an 8-bit exponent for each 32 (OCP
Microscaling Formats 1.0)."""
MULTIPLIES_AS = {"fp8-tensor": "fp8", "mxfp8": "fp8", "int8": "fp8", "int4": "bf16", "mxfp4": "fp4"}
"""Number format -> that of the tensor core's multiply, where they differ: weight-only INT4 multiplies in BF16, INT8 at
FP8's rate (on H100, H200, B200, L40S and RTX PRO 6000; B300's and GB300's INT8 has a thirtieth of it)."""
STAND_INS = {"mxfp4": ("fp4", "int4"), "mxfp8": ("fp8",), "int8": ("fp8-tensor", "fp8")}
"""Number format -> formats whose kernels' times stand for it where a calibration has none of its own, the nearest
first: MXFP4 weights are multiplied in FP4 on Blackwell, as NVFP4's are, and in BF16 before, as INT4's (Marlin)."""
STAND_IN_SPREAD = 0.18
"""Standard deviation of the logarithm of a time that another format's kernel stands for: vLLM 0.25.0's MXFP4 experts
take 1.13 times its NVFP4 ones of the same shapes on B200 and B300, with 0.13 around that (2,106 shapes each, PyPI
package aisimulate 0.13.0.dev202610270000000085)."""
