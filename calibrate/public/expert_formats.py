"""Experts in MXFP4 (gpt-oss, Kimi-K3, DeepSeek-V4) out of the measured tables of expert computations.

Weights are MXFP4; activations BF16 (``w4a16_mxfp4``) or, on Blackwell, MXFP8 (``w4a8_mxfp4_mxfp8``). Where an engine
has both for a model, its Blackwell kernels take MXFP8 activations: those rows are read. SGLang's rows on Hopper and
Ada are left out: they take what reading the experts in BF16 takes (gpt-oss on H100: 2.3 times a whole step of
vLLM's), and its servers run the OpenAI kernels that vLLM's rows time.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from calibrate.public import experts
from calibrate.public.samples import Samples
from calibrate.public.source import ENGINES, Source

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]

FORMATS = {"w4a16_mxfp4": "mxfp4", "w4a8_mxfp4_mxfp8": "mxfp4"}
MODELS = {
    (2880, 2880, 4, 32),
    (2880, 2880, 4, 128),
    (3584, 3072, 16, 896),
    (4096, 2048, 6, 256),
    (7168, 3072, 6, 384),
}
"""(hidden, expert width, top k, experts): gpt-oss 20B and 120B, Kimi-K3, DeepSeek-V4 Flash and Pro."""
REACH = 1.5
"""A slice of 256 or 896 experts was timed with a few of them hit by one row each, and with all of them from 1.2 rows
on: that line is the others' to go on by. (Without, a whole width left out was 2.7 to 4.4 times too long.)"""
ACTIVATIONS = "w4a8_mxfp4_mxfp8"


def samples(source: Source, system: str) -> list[Samples]:
    """Experts in MXFP4 of a system, by every engine that has them."""
    found = []
    for engine in ENGINES:
        if engine == "sglang" and system not in (*experts.BLACKWELL, "rtx_pro_6000_server"):
            continue
        found += experts.fused(source, system, engine, FORMATS, MODELS, _preferred, REACH)
    # TensorRT-LLM's slices of DeepSeek-V4 on B200 take longer than all of gpt-oss's experts: other kernels
    return [
        replace(one, of_model=("hidden",), between="width", slices={**one.slices, **_widths(one.frame)})
        for one in found
    ]


def _widths(frame: "pd.DataFrame") -> dict[str, "pd.Series"]:
    """Each width of a model that was timed with two others at least, balanced rows: what a further split would be."""
    even = frame["skew"] == 0.0
    found = {}
    for hidden, rows in frame[even].groupby("hidden"):
        widths = sorted(rows["width"].unique())
        for width in widths if len(widths) > 2 else ():
            found[f"hidden {hidden} width {width}"] = (
                even & (frame["hidden"] == hidden) & (frame["width"] == width)
            )
    return found


def _preferred(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Rows in MXFP4; of a model in both forms those with MXFP8 activations."""
    rows = frame[frame["moe_dtype"].isin(list(FORMATS))]
    model = ["hidden_size", "inter_size", "topk", "num_experts"]
    both = rows.groupby(model)["moe_dtype"].transform(lambda found: (found == ACTIVATIONS).any())
    return rows[~both | (rows["moe_dtype"] == ACTIVATIONS)]
