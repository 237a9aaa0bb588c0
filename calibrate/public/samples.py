"""What a reader of tables hands to the fit: measured times of one kernel class, by the variables of perfmodel's ops."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]


@dataclass(frozen=True)
class Samples:
    """Timings of one kernel class in one number format, by one engine's kernels."""

    kernel: str
    """As ``Op.kernel``: gemm, bmm, grouped_gemm, mla_decode, mla_prefill, gqa_decode, gqa_prefill, all_reduce,
    dispatch, combine, all_gather, reduce_scatter, all_to_all, or a memory-bound class."""
    dtype: str
    """As ``Op.dtype``: bf16, fp8 (128-block scales), fp8-tensor (per-tensor scales), fp4 (NVFP4), int4 (weight-only);
    for attention the KV cache's format; ``any`` where it does not matter."""
    backend: str
    """As ``Op.backend``: nccl, custom, deepep-low-latency, deepep-normal, trtllm-one-sided for communication; for
    grouped_gemm: fused (an engine's fused experts), masked (DeepGEMM after DeepEP low-latency), contiguous (DeepGEMM
    after DeepEP normal). Else empty."""
    engine: str
    """sglang, trtllm, vllm, or empty: whoever asks."""
    axes: tuple[str, ...]
    """Columns of ``frame`` that a table interpolates over, the densest first; time never falls as one grows."""
    frame: "pd.DataFrame"
    """One row per measured shape: the axes, ``match`` columns and ``seconds``."""
    source: str
    """Package, system folder, engine version, table, kernel_source."""
    match: tuple[str, ...] = ()
    """Columns that select one of several tables (model dimensions); the nearest is taken and scaled by ``scale_by``."""
    scale_by: tuple[str, ...] = ()
    """Columns of ``match`` to whose product time is proportional when the nearest table is not of the same shape."""
    exact: tuple[str, ...] = ()
    """Columns of ``match`` that must be the op's own (the size of a group): another table does not answer for it."""
    of_model: tuple[str, ...] = ()
    """Columns of ``match`` that say whose rows they are: see ``TableCurve.of_model``."""
    between: str = ""
    """Column of ``match`` along which tables are interpolated: see ``TableCurve.between``."""
    slices: Mapping[str, "pd.Series"] = field(default_factory=dict)
    """Name -> boolean mask over ``frame``: whole slices (an N,K family, a batch range) to be left out together."""
    includes: tuple[str, ...] = ()
    """Other kernel classes inside the measured span (an engine's fused experts: activation, permute, unpermute)."""
    flag: str = ""
    """Why to trust it less (derived, partly covered); empty: measured."""
    note: str = ""
    """What the rows are, and their limits."""
    least_log_std: float = 0.0
    """Spread that the curve has at least, for what its rows can't show."""
