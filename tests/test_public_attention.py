"""Attention out of the measured tables: the traps on small frames, the real tables where the package is."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrate.public import attention, mla
from calibrate.public.attention_rows import one_per_shape, preferred
from calibrate.public.samples import Samples
from calibrate.public.source import SYSTEMS, Source
from perfmodel.errors import DataError
from perfmodel.spec import catalogue
from perfmodel.spec.hardware import Gpu

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

ENGINE_VERSIONS = {"sglang": "0.5.14", "trtllm": "1.3.0rc20", "vllm": "0.24.0"}
MLA_ROW = {
    "kernel_source": "default",
    "mla_dtype": "bfloat16",
    "kv_cache_dtype": "bfloat16",
    "num_heads": 64,
    "batch_size": 1,
    "isl": 1,
    "tp_size": 1,
    "step": 0,
}
MODULE_ROW = MLA_ROW | {"model": "deepseek-ai/DeepSeek-V3", "gemm_type": "fp8_block"}
GQA_ROW = {
    "kernel_source": "fa3",
    "batch_size": 1,
    "isl": 1,
    "num_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "beam_width": 1,
    "attn_dtype": "bfloat16",
    "kv_cache_dtype": "bfloat16",
    "step": 0,
    "window_size": 0,
}


@pytest.fixture
def tables(tmp_path):
    """Writes tables as the package lays them out; returns the writer, whose ``source`` reads them."""

    class Tables:
        source = Source(tmp_path)

        def write(self, system, family, engine, table, rows, version=None):
            folder = tmp_path / "data" / system / family / engine / (version or ENGINE_VERSIONS[engine])
            folder.mkdir(parents=True, exist_ok=True)
            provenance = {"framework": engine, "version": "1", "device": system, "op_name": table}
            pd.DataFrame([provenance | row for row in rows]).to_parquet(folder / f"{table}_perf.parquet")

    return Tables()


def one(found: list[Samples], **wanted: str) -> Samples:
    """The only samples whose fields are as ``wanted``."""
    (only,) = [s for s in found if all(getattr(s, name) == value for name, value in wanted.items())]
    return only


def test_kv_length_counts_the_new_token_in_cores_only(tables):
    tables.write("b200_sxm", "mla", "trtllm", "generation_mla", [MLA_ROW | {"step": 1023, "latency": 0.02}])
    tables.write(
        "b200_sxm", "mla", "trtllm", "mla_generation_module", [MODULE_ROW | {"step": 1024, "latency": 1.0}]
    )
    tables.write(
        "b200_sxm", "attention", "vllm", "generation_attention", [GQA_ROW | {"step": 1023, "latency": 1.0}]
    )
    wide = MODULE_ROW | {"kernel_source": "trtllm_mla", "kv_cache_dtype": "fp8", "isl": 1024, "latency": 1.0}
    tables.write("b200_sxm", "mla", "sglang", "wideep_generation_mla", [wide], version="0.5.10")
    found = attention.samples(tables.source, "b200_sxm")
    assert len(found) == 4
    assert {(s.kernel, s.engine): s.frame["context"].item() for s in found} == {
        ("mla_decode", "trtllm"): 1024,
        ("mla_module_decode", "trtllm"): 1024,
        ("gqa_decode", "vllm"): 1024,
        ("mla_module_decode", "sglang"): 1024,
    }
    assert one(found, kernel="mla_decode").frame["seconds"].item() == pytest.approx(20e-6)


def test_same_local_heads_at_another_tp_are_repeats(tables):
    rows = [
        MLA_ROW | {"step": 7, "tp_size": tp, "latency": latency}
        for tp, latency in ((1, 3.0), (2, 1.0), (4, 2.0))
    ]
    tables.write("b200_sxm", "mla", "sglang", "generation_mla", rows)
    sample = one(mla.samples(tables.source, "b200_sxm"), kernel="mla_decode")
    assert sample.frame.to_dict("records") == [{"context": 8, "requests": 1, "heads": 64, "seconds": 2e-3}]


def test_hopper_fp8_latents_are_derived_for_sglang_only(tables):
    rows = [
        MLA_ROW | {"kv_cache_dtype": cache, "step": 1023, "latency": latency}
        for cache, latency in (("bfloat16", 1.0), ("fp8", 5.0))
    ]
    for system in ("h100_sxm", "b200_sxm"):
        tables.write(system, "mla", "sglang", "generation_mla", rows)
        tables.write(system, "mla", "trtllm", "generation_mla", rows)
    hopper = mla.samples(tables.source, "h100_sxm")
    derived = one(hopper, engine="sglang", dtype="fp8")
    # 512 bytes of FP8 latent and 128 of BF16 RoPE against 1152: 1843 keys take as many bytes as 1024 did
    assert derived.frame["context"].item() == pytest.approx(1024 * 1152 / 640)
    assert derived.frame["seconds"].item() == pytest.approx(1e-3)
    assert derived.flag.startswith("derived")
    measured = [*(s for s in hopper if s is not derived), *mla.samples(tables.source, "b200_sxm")]
    assert len(measured) == 7
    assert not any(s.flag for s in measured)
    assert {s.frame["seconds"].item() for s in measured if s.dtype == "fp8"} == {5e-3}


def test_hopper_prefill_is_not_sglangs_absorbed_kernel(tables):
    for system in ("h200_sxm", "gb200"):
        for engine in ("sglang", "trtllm"):
            tables.write(system, "mla", engine, "context_mla", [MLA_ROW | {"isl": 512, "latency": 1.0}])
    engines = {
        system: [s.engine for s in mla.samples(tables.source, system) if s.kernel == "mla_prefill"]
        for system in ("h200_sxm", "gb200")
    }
    assert engines == {"h200_sxm": ["trtllm"], "gb200": ["sglang", "trtllm"]}


def test_modules_keep_one_model_and_bf16_arithmetic(tables):
    rows = [
        MODULE_ROW | {"step": 64, "latency": 1.0},
        MODULE_ROW | {"step": 64, "mla_dtype": "fp8", "latency": 7.0},
        MODULE_ROW | {"step": 64, "model": "moonshotai/Kimi-K3", "latency": 9.0},
        MODULE_ROW | {"step": 64, "gemm_type": "nvfp4", "kv_cache_dtype": "fp8", "latency": 2.0},
    ]
    tables.write("gb300", "mla", "trtllm", "mla_generation_module", rows)
    tables.write("gb300", "mla", "vllm", "mla_generation_module", rows)  # launched one by one: not read
    found = mla.samples(tables.source, "gb300")
    assert {(s.dtype, s.backend): s.frame["seconds"].item() for s in found} == {
        ("fp8", "bf16"): 1e-3,
        ("fp4", "fp8"): 2e-3,
    }


def test_wide_ep_modules_are_fa3_and_bf16(tables):
    rows = [
        MODULE_ROW | {"kernel_source": name, "kv_cache_dtype": "fp8", "isl": 64, "latency": latency}
        for name, latency in (("flashinfer", 1.0), ("fa3", 2.0))
    ]
    tables.write("h100_sxm", "mla", "sglang", "wideep_generation_mla", rows, version="0.5.10")
    tables.write("h100_sxm", "mla", "sglang", "wideep_context_mla", rows, version="0.5.10")  # not read
    (sample,) = mla.samples(tables.source, "h100_sxm")
    assert (sample.kernel, sample.dtype, sample.backend) == ("mla_module_decode", "fp8", "bf16")
    assert sample.frame["seconds"].item() == 2e-3
    assert "FP8 cache" in sample.flag
    assert sample.source.endswith("fa3")


def test_gqa_takes_full_attention_of_known_widths(tables):
    rows = [
        GQA_ROW | {"step": 7, "latency": 1.0},
        GQA_ROW | {"step": 7, "window_size": 128, "latency": 0.5},
        GQA_ROW | {"step": 7, "head_dim": 512, "kernel_source": "triton", "latency": 9.0},
    ]
    tables.write("h100_sxm", "attention", "sglang", "generation_attention", rows)
    (sample,) = attention.samples(tables.source, "h100_sxm")
    assert sample.frame["seconds"].tolist() == [1e-3]
    assert set(sample.scale_by) < set(sample.match) == {"heads", "kv_heads", "head_dim"}


def test_engines_own_kernel_goes_first(tables):
    names = {"flashinfer": 1.0, "trtllm_mha": 2.0, "triton": 0.5}
    rows = [
        GQA_ROW | {"step": 7, "kernel_source": name, "latency": latency} for name, latency in names.items()
    ]
    rows.append(GQA_ROW | {"step": 15, "kernel_source": "flashinfer", "latency": 3.0})
    tables.write("b200_sxm", "attention", "sglang", "generation_attention", rows)
    (sample,) = attention.samples(tables.source, "b200_sxm")
    assert sample.frame.set_index("context")["seconds"].to_dict() == {8: 2e-3, 16: 3e-3}


def test_fp8_arithmetic_apart_where_the_engine_has_both(tables):
    both = [
        GQA_ROW | {"isl": 64, "attn_dtype": math, "kv_cache_dtype": "fp8", "latency": latency}
        for math, latency in (("bfloat16", 2.0), ("fp8", 1.0))
    ]
    tables.write(
        "b200_sxm",
        "attention",
        "trtllm",
        "context_attention",
        [r | {"kernel_source": "torch_flow"} for r in both],
    )
    # SGLang's default kernel computes in FP8 on an FP8 cache; the BF16 arithmetic is another kernel's
    own = [both[0] | {"kernel_source": "flashinfer"}, both[1] | {"kernel_source": "trtllm_mha"}]
    tables.write("b200_sxm", "attention", "sglang", "context_attention", own)
    found = attention.samples(tables.source, "b200_sxm")
    assert {(s.engine, s.backend): s.frame["seconds"].item() for s in found} == {
        ("trtllm", ""): 2e-3,
        ("trtllm", "fp8-math"): 1e-3,
        ("sglang", ""): 1e-3,
    }


def test_a_system_without_tables_has_no_samples(tables):
    assert attention.samples(tables.source, "h100_sxm") == []


def test_usual_version_goes_before_a_newer_one(tables):
    row = MODULE_ROW | {"step": 64}
    tables.write("gb300", "mla", "trtllm", "mla_generation_module", [row | {"latency": 9.0}], version="1.9.0")
    tables.write("gb300", "mla", "trtllm", "mla_generation_module", [row | {"latency": 1.0}])
    (sample,) = mla.samples(tables.source, "gb300")
    assert sample.frame["seconds"].item() == 1e-3
    assert "trtllm 1.3.0rc20" in sample.source


def test_kernels_without_a_preference_come_last():
    frame = pd.DataFrame(
        {"a": [1, 1, 2], "kernel_source": ["other", "mine", "other"], "seconds": [1.0, 2.0, 3.0]}
    )
    rows, kernels = one_per_shape(preferred(frame, ["a"], ("mine",)), ["a"])
    assert rows["seconds"].tolist() == [2.0, 3.0]
    assert set(kernels.split("/")) == {"mine", "other"}


def test_slices_are_ranges_of_the_rows(tables):
    rows = [MLA_ROW | {"batch_size": b, "step": 1023, "latency": 1.0} for b in (8, 16, 32, 64, 128)]
    tables.write("b200_sxm", "mla", "trtllm", "generation_mla", rows)
    (sample,) = mla.samples(tables.source, "b200_sxm")
    left_out = {name: sample.frame["requests"][mask].tolist() for name, mask in sample.slices.items()}
    assert left_out == {"requests 16..64": [16, 32, 64], "context 1024..4096": [8, 16, 32, 64, 128]}


def test_derivation_keeps_what_was_measured(tables):
    tables.write("h100_sxm", "mla", "sglang", "generation_mla", [MLA_ROW | {"step": 1023, "latency": 1.0}])
    measured, derived = mla.samples(tables.source, "h100_sxm")
    again = replace(measured, frame=derived.frame.assign(context=derived.frame["context"] * mla.FP8_BYTES))
    assert again.frame["context"].item() == pytest.approx(measured.frame["context"].item())
    assert (derived.axes, derived.source) == (measured.axes, measured.source)


@pytest.fixture(scope="module")
def package():
    folder = os.environ.get("PERFMODEL_TABLES")
    try:
        return Source.find(Path(folder) if folder else None)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("system", SYSTEMS)
def test_real_tables(package, system):
    found = attention.samples(package, system)
    kernels = {(s.kernel, s.engine) for s in found}
    assert {(k, e) for k in ("gqa_decode", "gqa_prefill") for e in ("sglang", "trtllm", "vllm")} <= kernels
    assert {("mla_decode", "trtllm"), ("mla_prefill", "trtllm")} <= kernels
    names = [(s.kernel, s.dtype, s.backend, s.engine) for s in found]
    assert len(names) == len(set(names))
    for s in found:
        columns = [*s.axes, *s.match]
        assert list(s.frame.columns) == [*columns, "seconds"]
        assert not s.frame.duplicated(columns).any()
        assert (s.frame > 0).all(axis=None)
        assert all(mask.any() and not mask.all() for mask in s.slices.values())
    # bytes of BF16 latents over the time of a long decode: below the memory's rate, above half of it
    gpu = Gpu(name=SYSTEMS[system], **catalogue.entry("gpus", SYSTEMS[system]))
    if gpu.architecture not in ("hopper", "blackwell") or system == "rtx_pro_6000_server":
        return  # engines have no MLA kernels made for these: far from either limit
    core = one(found, kernel="mla_decode", engine="sglang", dtype="bf16").frame
    long = core[(core["heads"] == 16) & (core["requests"] * core["context"] == 2**23)]
    rate = long["requests"] * long["context"] * 1152 / long["seconds"]
    assert 0.5 < np.median(rate) / gpu.hbm_bytes_per_s < 1.0
    # the expanded core's operations at 32,768 tokens: the absorbed kernel would be at most a third of this rate
    for s in found:
        if s.kernel == "mla_prefill" and s.dtype == "bf16":
            rows = s.frame[(s.frame["heads"] == 16) & (s.frame["new_tokens"] == 32768)]
            flops = 640 * rows["requests"] * 16 * 32768 * 32769 / 2
            assert np.median(flops / rows["seconds"]) > 0.35 * gpu.peak_flops("bf16")


def test_sglangs_core_holds_neither_norm_nor_rope_and_modules_hold_both(tables):
    for engine in ("sglang", "trtllm"):
        tables.write("b200_sxm", "mla", engine, "generation_mla", [MLA_ROW | {"latency": 0.02}])
    tables.write(
        "b200_sxm", "mla", "trtllm", "mla_generation_module", [MODULE_ROW | {"step": 8, "latency": 1.0}]
    )
    found = attention.samples(tables.source, "b200_sxm")
    assert one(found, kernel="mla_decode", engine="sglang").includes == ()
    assert one(found, kernel="mla_decode", engine="trtllm").includes == ("latent_norm", "rope")
    assert {"gemm", "latent_norm", "rope"} <= set(one(found, kernel="mla_module_decode").includes)
