"""Every kind of case can be built and run, on shapes that tell its variables apart."""

import math

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import numpy as np
import torch

from calibrate.device.builders import build
from calibrate.device.case import COMMUNICATION, SHAPES, TRAINING, Case, parse_dtypes, selected_ids
from calibrate.device.timing import Bench
from perfmodel.errors import DataError
from reference_model import kernels

SMALL = {
    "gemm": {"m": 3, "n": 24, "k": 40},
    "bmm": {"groups": 4, "m": 3, "n": 24, "k": 40},
    "grouped_gemm": {"groups": 5, "rows": 17, "n": 24, "k": 40},
    "mla_decode": {"requests": 2, "new_tokens": 2, "context": 9, "heads": 4, "latent": 16, "rope": 8},
    "mla_prefill": {
        "requests": 2, "new_tokens": 5, "context": 9, "heads": 4, "nope": 16, "rope": 8, "value": 12,
    },
    "mla_sparse_decode": {
        "requests": 2, "new_tokens": 2, "context": 9, "selected": 5, "heads": 4, "latent": 16, "rope": 8,
    },
    "mla_sparse_prefill": {
        "requests": 2, "new_tokens": 70, "context": 90, "selected": 20, "heads": 4, "latent": 16, "rope": 8,
    },
    "index_logits": {"requests": 2, "new_tokens": 5, "context": 9, "heads": 4, "head_dim": 16},
    "index_topk": {"requests": 2, "new_tokens": 5, "context": 9, "top_k": 6},
    "gqa_decode": {"requests": 2, "new_tokens": 1, "context": 9, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "gqa_prefill": {"requests": 2, "new_tokens": 5, "context": 9, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "norm": {"rows": 3, "width": 40},
    "latent_norm": {"rows": 3, "width": 64, "latent": 16, "rope": 8},
    "rope": {"rows": 3, "heads": 4, "rope": 8, "latent": 16},
    "activation": {"rows": 3, "width": 40},
    "add": {"rows": 3, "width": 40},
    "gather": {"rows": 3, "width": 40},
    "select": {"rows": 3, "width": 24, "top_k": 6},
    "permute": {"rows": 17, "tokens": 5, "width": 40},
    "unpermute": {"rows": 17, "tokens": 5, "width": 40},
    "reorder": {"rows": 7, "width": 40},
    "sample": {"rows": 3, "width": 40},
    "launch": {},
}  # fmt: skip
OUTPUT = {
    "gemm": (3, 24), "bmm": (3, 4, 24), "grouped_gemm": (17, 24), "mla_decode": (2, 2, 4, 16),
    "mla_sparse_decode": (2, 2, 4, 16), "mla_sparse_prefill": (2, 70, 4, 16), "index_logits": (2, 5, 9),
    "index_topk": (2, 5, 6),
    "mla_prefill": (10, 48), "gqa_decode": (2, 1, 4, 16), "gqa_prefill": (2, 5, 4, 16), "norm": (3, 40),
    "latent_norm": (3, 40), "rope": (3, 1, 4, 8), "activation": (3, 40), "add": (3, 40), "gather": (3, 40),
    "select": (3, 1), "permute": (17, 40), "unpermute": (5, 40), "reorder": (7, 40), "sample": (3,), "launch": (1,),
}  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    return Bench("cpu", reference_probe_s=1e-3)


def test_every_kernel_of_one_rank_is_covered():
    """Those of training steps are covered in test_calibrate_training.py."""
    assert set(SMALL) == set(OUTPUT) == set(SHAPES) - set(COMMUNICATION) - set(TRAINING)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kernel", SMALL)
def test_case_runs_and_gives_the_kernels_output(bench, kernel, dtype):
    run = build(Case(kernel, dtype, SMALL[kernel]), bench)
    for _ in range(3):  # the next operands of the pool each time
        out = run()
        first = out[0] if isinstance(out, tuple) else out
        assert first.shape == OUTPUT[kernel]
        assert first.dtype == torch.int64 or first.isfinite().all()


@pytest.mark.parametrize(("new", "context", "selected"), [(70, 70, 12), (70, 90, 50), (1, 40, 8), (5, 5, 3)])
def test_queries_attend_to_as_many_tokens_as_asked_for(new, context, selected):
    shape = {"requests": 2, "new_tokens": new, "context": context, "selected": selected}
    case = Case("mla_sparse_prefill", "fp32", shape | {"heads": 4, "latent": 16, "rope": 8})
    ids = selected_ids(case)
    places = np.arange(context - new, context)[:, None]
    seen = ids <= places
    assert (
        seen.argmin(axis=-1) + seen.all(axis=-1) * ids.shape[-1] == seen.sum(axis=-1)
    ).all()  # seen ones first
    assert seen.sum(axis=-1).mean() == pytest.approx(selected, abs=1.0)
    assert ids.min() >= 0
    assert ids.max() < context


def test_timed_functions_are_the_models(bench, monkeypatch):
    """What is timed is a function of reference_model.kernels, the one named in its docstring."""
    launched = {
        "linear", "absorb", "grouped_linear", "mla_decode", "mla_prefill", "gqa", "add_norm", "latent_norm",
        "mla_sparse", "index_logits", "index_topk",
        "rotate_and_cache", "swiglu", "join", "embed", "select_experts", "permute", "unpermute", "reorder", "greedy",
    }  # fmt: skip
    called = []
    for name in launched:
        function = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, _f=function, _n=name: (called.append((_n, _f.__doc__)), _f(*args))[1]
        )
    for kernel, shape in SMALL.items():
        called.clear()
        build(Case(kernel, "fp32", shape), bench)()
        if kernel not in ("launch", "reorder"):
            assert len(called) == 1
            assert f"``{kernel}``" in called[0][1]


def test_permuted_rows_are_exactly_those_asked_for(bench):
    for rows, tokens in ((1, 5), (5, 5), (17, 5), (60, 5)):
        shape = {"rows": rows, "tokens": tokens, "width": 8}
        _, pairs, counts = build(Case("permute", "fp32", shape), bench)()
        assert len(pairs) == sum(counts) == rows
        assert len(counts) == 32


def test_grouped_rows_are_all_distributed_and_the_same_every_time(bench):
    case = Case("grouped_gemm", "fp32", SMALL["grouped_gemm"])
    assert build(case, bench)().shape == build(case, bench)().shape == (17, 24)


def test_successive_calls_use_other_weights_that_are_far_apart(bench):
    weight = bench.cold(1024, 1024, dtype="fp32")
    starts = [weight().data_ptr() for _ in range(33)]
    assert len(set(starts[:32])) == 32  # 4 MiB each of at least 128 MiB
    assert starts[32] == starts[0]
    assert max(starts) - min(starts) >= 124 * 2**20
    key, value = bench.cold(64, 64, dtype="fp32"), bench.cold(64, 64, dtype="fp32")
    assert all(key().data_ptr() != value().data_ptr() for _ in range(100))


def test_a_weight_larger_than_the_pool_has_its_own_memory(bench, monkeypatch):
    monkeypatch.setattr("calibrate.device.timing.pool_bytes", lambda device: 2**16)
    small = Bench("cpu", reference_probe_s=1e-3)
    weight = small.cold(256, 256, dtype="fp32")
    assert weight().data_ptr() == weight().data_ptr()


def test_too_large_a_tensor_is_refused(bench):
    with pytest.raises(DataError, match="GiB"):
        bench.warm(2**40, dtype="fp32")


def test_key_names_kernel_dtype_and_shape_alone():
    case = Case("gemm", "fp32", {"m": 1, "n": 2, "k": 3})
    assert case == Case("gemm", "fp32", {"k": 3.0, "n": 2.0, "m": 1})
    assert len({case, Case("gemm", "fp32", {"k": 3, "n": 2, "m": 1})}) == 1
    others = [Case("gemm", "bf16", case.shape), Case("gemm", "fp32", {"m": 1, "n": 3, "k": 2})]
    assert len({case.key, *(other.key for other in others)}) == 3
    assert case.key == "2b5494cbe26fb58a"


@pytest.mark.parametrize(
    ("kernel", "dtype", "shape", "word"),
    [
        ("gem", "fp32", {}, "gem"),
        ("gemm", "fp8", {"m": 1, "n": 1, "k": 1}, "fp8"),
        ("gemm", "fp32", {"m": 1, "n": 1}, "must have m, n, k"),
        ("gemm", "fp32", {"m": 0, "n": 1, "k": 1}, "m = 0"),
        ("gemm", "fp32", {"m": math.nan, "n": 1, "k": 1}, "m = nan"),
        ("launch", "fp32", {"m": 1}, "must have none"),
    ],
)
def test_bad_cases_are_refused(kernel, dtype, shape, word):
    with pytest.raises(DataError, match=word):
        Case(kernel, dtype, shape)


@pytest.mark.parametrize(
    ("kernel", "change", "word"),
    [
        ("mla_decode", {"context": 1}, "new_tokens"),
        ("mla_sparse_decode", {"selected": 9}, "selected"),
        ("index_topk", {"context": 4}, "new_tokens"),
        ("gqa_decode", {"kv_heads": 3}, "kv_heads"),
        ("latent_norm", {"width": 24}, "width"),
        ("rope", {"rope": 7}, "even"),
        ("select", {"top_k": 25}, "top_k"),
    ],
)
def test_impossible_shapes_are_refused(bench, kernel, change, word):
    with pytest.raises(DataError, match=word):
        build(Case(kernel, "fp32", SMALL[kernel] | change), bench)


def test_communication_needs_ranks(bench):
    with pytest.raises(DataError, match="ranks"):
        build(Case("all_to_all", "fp32", {"ranks": 2, "bytes": 1024}), bench)


def test_dtypes_are_parsed():
    assert parse_dtypes("fp32, bf16,fp32") == ["fp32", "bf16"]
    with pytest.raises(DataError, match="fp16"):
        parse_dtypes("fp32,fp16")
