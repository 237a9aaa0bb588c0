"""Readers of the measured tables of matrix products: what the rows are, and the traps in them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate.public import gemm
from calibrate.public.source import Source
from perfmodel.errors import DataError

PACKAGE = os.environ.get("PERFMODEL_TABLES", "")
"""Folder of the unpacked package, where it is not installed."""


def write(folder, system, family, engine, version, table, frame):
    path = folder / "systems" / "data" / system / family / engine / version
    path.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(path / f"{table}_perf.parquet")


def dense(dtype, kernel, milliseconds, shapes=((1, 128, 128), (64, 128, 256))):
    rows = [
        {"kernel_source": kernel, "gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": milliseconds}
        for m, n, k in shapes
    ]
    return pd.DataFrame(rows).assign(framework="X", version="1.2", device="NVIDIA TEST", op_name="gemm")


@pytest.fixture
def folder(tmp_path):
    bmm = pd.DataFrame(
        [
            {"op_name": op, "bmm_dtype": dtype, "num_tokens": m, "num_heads": h, "latency": 0.001 * m * h}
            for op in ("mla_gen_pre", "mla_gen_post")
            for dtype in ("bfloat16", "fp8")
            for m in (1, 2)
            for h in (64, 128)
        ]
    ).assign(framework="X", version="1.2", device="NVIDIA TEST", kernel_source="bmm")
    scale = pd.DataFrame({"m": [1, 2, 4], "k": 128, "latency": [0.0, 0.002, 0.003]}).assign(
        framework="X",
        version="1.2",
        device="NVIDIA TEST",
        op_name="s",
        kernel_source="q",
        quant_dtype="fp8",
    )
    sglang = [
        dense("bfloat16", "torch", 0.004),
        dense("fp8_block", "deepgemm", 0.005),
        dense("fp8", "s", 0.006),
    ]
    sglang += [dense("nvfp4", "cutedsl", 0.003), dense("int8_wo", "s", 0.001)]
    vllm = [dense("bfloat16", "torch", 0.004), dense("fp8_block", "DeepGemmFp8", 0.09)]
    write(tmp_path, "b200_sxm", "gemm", "sglang", "0.5.9", "gemm", dense("bfloat16", "old", 0.1))
    write(tmp_path, "b200_sxm", "gemm", "sglang", "0.5.14", "gemm", pd.concat(sglang))
    write(tmp_path, "b200_sxm", "gemm", "vllm", "0.24.0", "gemm", pd.concat(vllm))
    write(tmp_path, "b200_sxm", "mla_bmm", "sglang", "0.5.14", "mla_bmm", pd.concat([bmm, bmm]))
    write(tmp_path, "b200_sxm", "quantize", "sglang", "0.5.14", "scale_matrix", scale)
    return tmp_path


def found(source, system="b200_sxm"):
    return {(one.kernel, one.dtype, one.engine): one for one in gemm.samples(source, system)}


def test_number_formats_are_those_of_ops_and_times_are_seconds(folder):
    source = Source.find(folder)
    curves = found(source)
    assert {key for key in curves if key[0] == "gemm"} == {
        ("gemm", "bf16", "sglang"),
        ("gemm", "fp8", "sglang"),
        ("gemm", "fp8-tensor", "sglang"),
        ("gemm", "fp4", "sglang"),
        ("gemm", "bf16", "vllm"),
    }
    own = curves["gemm", "fp8", "sglang"]
    assert own.frame["seconds"].tolist() == pytest.approx([5e-6, 5e-6])
    assert own.axes == ("m", "n", "k")
    assert "includes quantising" in own.note
    assert curves["gemm", "bf16", "sglang"].note == ""


def test_newest_version_is_read_and_cited(folder):
    own = found(Source.find(folder))["gemm", "bf16", "sglang"]
    assert own.frame["seconds"].max() == pytest.approx(4e-6)
    assert "b200_sxm" in own.source
    assert "torch" in own.source


def test_host_bound_table_is_left_out_and_told(folder):
    source = Source.find(folder)
    assert ("gemm", "fp8", "vllm") not in found(source)
    assert gemm.left_out(source, "b200_sxm") == ["gemm fp8 by vllm: bound by the host, not the kernel"]


def test_kernel_that_the_engine_prefers_is_taken_then_the_faster():
    rows = pd.concat(
        [
            dense("fp8_block", "CutlassFp8BlockScaledMMKernel", 0.001),
            dense("fp8_block", "DeepGemmFp8BlockScaledMMKernel", 0.002, shapes=((1, 128, 128),)),
            dense("fp8_block", "CutlassOther", 0.0005),
        ]
    ).rename(columns={"latency": "seconds"})
    chosen = gemm.one_kernel(rows, ("m", "n", "k")).set_index("m")["kernel_source"]
    assert chosen[1] == "DeepGemmFp8BlockScaledMMKernel"
    assert chosen[64] == "CutlassOther"


def test_absorbed_products_have_their_widths_and_heads(folder):
    own = found(Source.find(folder))["bmm", "bf16", "sglang"]
    assert set(zip(own.frame["n"], own.frame["k"], strict=True)) == {(512, 128), (128, 512)}
    assert sorted(own.frame["groups"].unique()) == [64, 128]
    assert len(own.frame) == 8, "each key is there twice and counts once"
    assert own.match == own.scale_by == ("n", "k")
    assert ("bmm", "fp8", "sglang") in found(Source.find(folder))


def test_times_of_zero_in_quantisation_are_no_rows(folder):
    own = found(Source.find(folder))["quantise", "fp8-tensor", "sglang"]
    assert own.frame["m"].tolist() == [2, 4]


def test_slices_lie_over_their_own_rows(folder):
    for one in gemm.samples(Source.find(folder), "b200_sxm"):
        for mask in one.slices.values():
            assert mask.index.equals(one.frame.index)


def test_system_without_tables_has_no_curves(folder):
    assert gemm.samples(Source.find(folder), "h100_sxm") == []
    assert gemm.left_out(Source.find(folder), "h100_sxm") == []


def test_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no systems/data"):
        Source.find(tmp_path)


def test_repeated_timings_tell_how_well_one_repeats(folder):
    frame = pd.DataFrame({"kernel_source": "k", "m": [1, 1, 2], "latency": [2.0, 2.02, 1.0]})
    write(folder, "b200_sxm", "moe", "vllm", "0.24.0", "moe", frame)
    repeats = Source.find(folder).repeats("b200_sxm", "moe", "vllm", "moe")
    assert repeats["seconds"].tolist() == pytest.approx([2e-3])
    assert repeats["log_ratio"].tolist() == pytest.approx([np.log(1.01)])
    assert Source.find(folder).repeats("b200_sxm", "moe", "trtllm", "moe") is None


@pytest.fixture(scope="module")
def package():
    try:
        return Source.find(Path(PACKAGE) if PACKAGE else None)
    except DataError:
        pytest.skip(
            "aiconfigurator-core is not installed: pip install 'perfmodel[tables]', or set PERFMODEL_TABLES"
        )


def test_quantised_rows_of_the_package_include_quantising(package):
    """Reading the FP8 operand alone takes 80 us at 3.35 TB/s; BF16 in, FP8 out and in again takes four times that."""
    frame = package.read("h100_sxm", "gemm", "sglang", "gemm")
    row = frame[(frame["m"] == 32768) & (frame["n"] == 128) & (frame["k"] == 8192)]
    times = row.set_index("gemm_dtype")["seconds"]
    assert times["bfloat16"] < 220e-6
    assert times["fp8"] > 4 * 32768 * 8192 / 3.35e12
    assert times["fp8_block"] > 4 * 32768 * 8192 / 3.35e12


def test_vllm_block_rows_of_the_package_are_host_bound(package):
    for system in ("h100_sxm", "h200_sxm", "b200_sxm", "gb200"):
        untuned = (
            [] if system.startswith("h") else ["gemm fp4 by trtllm: timed without the engine's autotuner"]
        )
        assert gemm.left_out(package, system) == [
            *untuned,
            "gemm fp8 by vllm: bound by the host, not the kernel",
        ]


def test_a_search_for_scales_is_taken_off_by_shape_and_never_below_nothing():
    rows = pd.DataFrame(
        {"m": [1, 1, 2, 4], "n": 8, "k": [64, 128, 64, 64], "seconds": [9e-6, 12e-6, 5e-6, 1e-6]}
    )
    search = pd.DataFrame(
        {"m": [1, 1, 2, 4, 1], "k": [64, 128, 64, 64, 64], "quant_dtype": ["fp8"] * 4 + ["nvfp4"],
         "seconds": [4e-6, 5e-6, 1e-6, 2e-6, 1e-9]}
    )  # fmt: skip
    left = gemm.with_given_scale(rows, search)
    assert left[["m", "k"]].to_numpy().tolist() == [[1, 64], [1, 128], [2, 64]]
    assert left["seconds"].to_numpy() == pytest.approx([5e-6, 7e-6, 4e-6])
    assert gemm.with_given_scale(rows, None) is rows


def test_tensorrt_llms_fp8_linear_with_a_given_scale_takes_what_the_others_take(package):
    """2,048 x 4,096, one row, H200: 16 us with the search, 8 to 10 without, as SGLang and vLLM (8.8, 9.2)."""
    found = {
        s.engine: s.frame
        for s in gemm.samples(package, "h200_sxm")
        if s.dtype == "fp8-tensor" and s.kernel == "gemm"
    }
    shape = {
        engine: frame[(frame["m"] == 1) & (frame["n"] == 2048) & (frame["k"] == 4096)]
        for engine, frame in found.items()
    }
    times = {engine: rows["seconds"].item() for engine, rows in shape.items()}
    assert times["trtllm"] == pytest.approx(times["sglang"], rel=0.2)
    assert times["trtllm"] == pytest.approx(times["vllm"], rel=0.2)
    assert not [s for s in gemm.samples(package, "gb200") if (s.engine, s.dtype) == ("trtllm", "fp4")]
