"""Suite ``deepseek``: published steps of DeepSeek-V3 and a few others, from ``serving.csv``.

DeepSeek's production averages and profile on H800, SGLang on 96 H100, and points of other stacks with what they state.
"""

from perfmodel.validation import roles
from perfmodel.validation.measured import identities
from perfmodel.validation.names import SYSTEMS, gpu_in
from perfmodel.validation.rows import Row
from perfmodel.validation.serving import Gain, predict_rows
from perfmodel.validation.suites import Progress

NAME = "deepseek"
FILE = "serving.csv"
IN_SITU = "ds_profile_dispatch_layer"
"""The row that bounds how much longer a low-latency transfer takes beside compute (``calibrate.tables.in_situ``): it
can't judge what it has set."""

_DECODE = {
    "phase": "decode",
    "framework": "SGLang",
    "attn_parallel": "DP72",
    "moe_parallel": "EP72 TBO",
    "isl_or_kv": "2000",
    "osl": "100",
    "mtp": "no",
}
_PREFILL = {
    **_DECODE,
    "phase": "prefill",
    "attn_parallel": "DP32",
    "moe_parallel": "EP32 TBO",
    "isl_or_kv": "4096",
    "batch_per_gpu": "16384 tok",
}
_OFF = {"moe_parallel": "EP72 no TBO"}
GAINS = {
    "lmsys_h100_tbo_decode_gain_bs32": Gain(
        {**_DECODE, "batch_per_gpu": "32"}, _OFF, "context not given: that of lmsys_h100_decode_256"
    ),
    "lmsys_h100_tbo_decode_gain_bs256": Gain(
        {**_DECODE, "batch_per_gpu": "256"}, _OFF, "context not given: that of lmsys_h100_decode_256"
    ),
    "lmsys_h100_tbo_decode_gain_sim_mtp_bs128": Gain(
        {**_DECODE, "batch_per_gpu": "128", "isl_or_kv": "4000", "mtp": "simulated, 60% accept"},
        _OFF,
        "simulated MTP, acceptance 0.6, context 4000",
    ),
    "lmsys_h100_tbo_prefill_gain_low": Gain(
        _PREFILL,
        {"moe_parallel": "EP32 no TBO"},
        "batch and prompt not given: those of lmsys_h100_prefill_4096; no target",
    ),
    "lmsys_h100_eplb_gain_prefill": Gain(
        {**_PREFILL, "moe_parallel": "EP32 TBO EPLB(32 redundant)"},
        {"moe_parallel": "EP32 TBO"},
        "batch and prompt not given: those of lmsys_h100_prefill_4096; the routing skew is fitted on this row",
    ),
    "lmsys_h100_eplb_gain_decode": Gain(
        {**_DECODE, "batch_per_gpu": "256", "moe_parallel": "EP72 TBO EPLB(32 redundant)"},
        {"moe_parallel": "EP72 TBO no EPLB(32 redundant)"},
        "batch and context not given: those of lmsys_h100_decode_256; without EPLB the 32 redundant slots that EP72 "
        "needs hold the first experts again",
    ),
}
"""Ratios whose two sides are known."""


def calibrations() -> tuple[str, ...]:
    """Ids of the calibrations that predictions rest on."""
    return identities(gpu_in(cluster) for cluster in SYSTEMS.values())


def rows(progress: Progress | None = None) -> list[Row]:
    """The suite's rows."""
    records = roles.read_published(FILE)
    committed = roles.committed()
    return predict_rows(
        records,
        suite=NAME,
        role=lambda record: "comparison" if record["id"] == IN_SITU else committed[FILE, record["id"]],
        gains=GAINS,
        progress=progress,
    )
