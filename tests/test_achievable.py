"""Achievable fractions: the fit reproduces what ships, time is monotone, every row is sourced."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.tables import achievable as fits
from calibrate.tables import communication as collective_fits
from calibrate.tables import in_situ, measured, mixers, roofline_fit
from perfmodel.errors import DataError
from perfmodel.kernels.achievable import FOLDER, lookup, read_rows, table
from perfmodel.spec import catalogue


@pytest.fixture(scope="module")
def fitted():
    return fits.fitted_rows()


def close(shipped: str, again: str) -> bool:
    """Equal text, or numbers within 1 % (fits stop within that on other linear algebra)."""
    try:
        return abs(float(shipped) - float(again)) <= 0.01 * abs(float(again)) + 1e-6
    except ValueError:
        return shipped == again


def test_refitting_reproduces_achievable_csv(fitted):
    again = fits.records(fitted, fits.FIELDS)
    shipped = read_rows("achievable.csv")
    assert len(again) == len(shipped)
    for old, new in zip(shipped, again, strict=True):
        assert all(close(old[name], new[name]) for name in fits.FIELDS), (old, new)


def test_refitting_reproduces_communication_csv():
    again = fits.records(collective_fits.fitted_rows(), collective_fits.FIELDS)
    shipped = read_rows("communication.csv")
    assert len(again) == len(shipped)
    for old, new in zip(shipped, again, strict=True):
        assert all(close(old[name], new[name]) for name in collective_fits.FIELDS), (old, new)


def test_refitting_reproduces_in_situ_csv():
    made = fits.records(in_situ.rows(), in_situ.FIELDS)
    for shipped, again in zip(read_rows("in_situ.csv"), made, strict=True):
        assert all(close(shipped[name], again[name]) for name in in_situ.FIELDS)


def test_the_time_alone_is_what_deepeps_readme_says():
    """DeepEP's README: dispatch at EP64 moves 51 GB/s by RDMA, counting every node that a token goes to, its own too:
    nearly four of eight.
    """
    bytes_out = in_situ.TOKENS * (in_situ.HIDDEN * (1 + 4 / 128)) * 3.98
    assert in_situ._alone_s("dispatch", "fp8") == pytest.approx(bytes_out / 51e9, rel=0.15)


def test_regenerating_writes_the_same_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fits, "FOLDER", tmp_path)
    assert fits.main() == 0
    assert "deepep-low-latency" in capsys.readouterr().out
    for name in ("achievable.csv", "communication.csv", "in_situ.csv"):
        assert len((tmp_path / name).read_text().splitlines()) == len(
            (FOLDER / name).read_text().splitlines()
        )
    assert not list(tmp_path.glob("*.tmp"))


def test_rows_are_physical_and_sourced():
    for row in table().values():
        assert 0 < row.compute_fraction <= 1
        assert 0 < row.memory_fraction <= 1
        assert 0.5 <= row.latency_us <= 25.0, "several launches at most"
        assert row.log_std > 0
        assert row.source.startswith(("fitted:", "measured:", "derived:"))
        assert row.num_rows or row.flag, row
        assert row.note


def test_every_kernel_class_has_an_answer_on_every_architecture():
    kernels = {
        "gemm",
        "grouped_gemm",
        "bmm",
        "mla_decode",
        "mla_prefill",
        "gqa_decode",
        "gqa_prefill",
        "elementwise",
        "select",
        *(median.kernel for median in mixers.MEDIANS),
        *mixers.LIKE,
        "mla_sparse_decode",
        "mla_sparse_prefill",
        "scan_prefill",
    }
    assert {row.kernel for row in table().values()} == kernels
    for kernel in kernels:
        for dtype in ("bf16", "fp8", "fp4"):
            for architecture in ("ampere", "hopper", "blackwell", "rubin"):
                assert lookup(kernel, dtype, architecture).compute_fraction > 0


def test_stand_ins_say_so():
    assert lookup("gemm", "bf16", "hopper").flag == ""
    assert lookup("gemm", "fp8", "hopper").flag == ""
    assert "hopper's fp8" in lookup("gemm", "fp4", "hopper").flag
    assert "ampere's bf16" in lookup("gemm", "fp8", "ampere").flag
    assert "hopper's bf16" in lookup("gemm", "bf16", "rubin").flag
    assert "FP8-cache rows" in lookup("mla_decode", "fp8", "hopper").flag
    assert lookup("mla_decode", "fp8", "blackwell").flag == ""
    assert "convention" in lookup("elementwise", "bf16", "hopper").flag
    with pytest.raises(DataError, match="'conv' has no achievable fractions"):
        lookup("conv", "bf16", "hopper")


def test_our_byte_count_is_deepgemms():
    """DeepGEMM prints TFLOPS and GB/s of one run: with our FLOPs and bytes one gives the other."""
    checks = measured.bandwidth_check()
    assert len(checks) == 28
    for label, ours, printed in checks:
        assert ours == pytest.approx(printed, rel=0.01), label


# Error of the cost model on its own rows, percent: (median, largest), just above what was found. The largest
# of the GEMMs are a few microseconds at one row, or shapes that sglang had not tuned.
CEILINGS = {
    ("gemm", "bf16", "hopper"): (7, 35),
    ("gemm", "fp8", "hopper"): (13.5, 98),
    ("grouped_gemm", "fp8", "hopper"): (5, 14),
    ("mla_decode", "bf16", "hopper"): (5, 19),
    ("gemm", "bf16", "blackwell"): (9, 83),
    ("gemm", "fp8", "blackwell"): (11, 65),
    ("grouped_gemm", "fp4", "blackwell"): (14, 31),
    ("mla_decode", "bf16", "blackwell"): (2.5, 14),
    ("mla_decode", "fp8", "blackwell"): (3, 18),
}


def samples_of(kernel, dtype, architecture):
    gpus = roofline_fit.HOPPER if architecture == "hopper" else roofline_fit.BLACKWELL
    if kernel == "gemm":
        return measured.gemm_samples(gpus, dtype)
    if kernel == "mla_decode":
        return measured.mla_decode_samples(gpus, dtype)
    return measured.grouped_gemm_samples() if dtype == "fp8" else measured.expert_samples(gpus, dtype)


@pytest.mark.parametrize("key", CEILINGS, ids="-".join)
def test_measured_kernels_stay_below_their_ceilings(key):
    row, samples = table()[key], samples_of(*key)
    assert row.num_rows == len(samples)
    seconds = np.array([sample.seconds for sample in samples])
    predicted = roofline_fit.predicted_seconds(
        samples, row.compute_fraction, row.memory_fraction, row.latency_us
    )
    errors = 100 * np.abs(predicted / seconds - 1)
    median, largest = CEILINGS[key]
    assert np.median(errors) <= median
    assert errors.max() <= largest
    assert np.sqrt(np.mean(np.log(predicted / seconds) ** 2)) == pytest.approx(row.log_std, rel=0.01)


def test_another_librarys_experts_are_a_check_not_a_fit():
    """TensorRT-LLM's CUTLASS experts on Hopper, from DeepGEMM's fractions: 31 % median error."""
    row = table()["grouped_gemm", "fp8", "hopper"]
    samples = measured.expert_samples({"h100-sxm", "h200-sxm"}, "fp8")
    assert len(samples) == 50
    seconds = np.array([sample.seconds for sample in samples])
    predicted = roofline_fit.predicted_seconds(
        samples, row.compute_fraction, row.memory_fraction, row.latency_us
    )
    assert np.median(np.abs(predicted / seconds - 1)) <= 0.32


def test_no_timed_kernel_beats_the_memory_bound():
    ceiling = roofline_fit.memory_ceiling()
    assert 0.85 < ceiling < 0.95
    for row in table().values():
        assert row.memory_fraction <= ceiling + 1e-3


def test_slow_fp8_decode_rows_are_not_fitted():
    """FlashAttention-3's FP8-cache rows exist in the table and are left out of every Hopper fit."""
    rows = [r for r in read_rows("measured_kernels.csv") if r["dtype"] == "kv fp8" and "h100" in r["gpu"]]
    assert rows
    row = table()["mla_decode", "fp8", "hopper"]
    assert (row.num_rows, row.memory_fraction) == (0, table()["mla_decode", "bf16", "hopper"].memory_fraction)


@given(
    flops=st.floats(0, 1e15), moved=st.floats(0, 1e12), more=st.floats(0, 1e15), index=st.integers(0, 10**6)
)
def test_more_work_is_never_faster(flops, moved, more, index):
    rows = list(table().values())
    row = rows[index % len(rows)]
    gpu = catalogue.gpu("b200-sxm")
    peak = row.compute_fraction * gpu.peak_flops(row.dtype)

    def seconds(f, b):
        return row.latency_s + max(f / peak, b / (row.memory_fraction * gpu.hbm_bytes_per_s))

    before = seconds(flops, moved)
    assert seconds(flops + more, moved) >= before
    assert seconds(flops, moved + more) >= before


def test_measured_tables_carry_their_sources():
    for name in ("measured_kernels.csv", "measured_collectives.csv"):
        rows = read_rows(name)
        assert rows
        assert all(row["source"] for row in rows)
    with pytest.raises(DataError, match=r"nothing\.csv"):
        read_rows("nothing.csv")
