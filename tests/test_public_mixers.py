"""Tables of sparse and linear attention: what a row times, and what stands in where no row does."""

import itertools

import numpy as np
import pandas as pd
import pytest

from calibrate.public import sparse, states
from calibrate.public.heldout import as_op, hold_out
from calibrate.public.source import Source

US = 1e-3
"""In the tables' milliseconds."""
PROVENANCE = {"framework": "x", "version": "1", "device": "NVIDIA H200", "kernel_source": "k"}


class Tables:
    """A package that a test fills."""

    def __init__(self, folder):
        self.folder = folder
        self.source = Source(folder)

    def write(self, family, engine, version, table, rows, system="h200_sxm"):
        path = self.folder / "data" / system / family / engine / version
        path.mkdir(parents=True, exist_ok=True)
        pd.DataFrame([PROVENANCE | row for row in rows]).to_parquet(path / f"{table}_perf.parquet")


@pytest.fixture
def tables(tmp_path):
    return Tables(tmp_path)


def module_us(requests, context, *, skip):
    return 100.0 + requests + (0.0 if skip else 45.0 + 4e-5 * requests * context)


def modules(most=2**24, **other):
    return [
        {
            "op_name": "dsa_generation_module" + ("_skip_indexer" if skip else ""),
            "model": "zai-org/GLM-5.2",
            "mla_dtype": "bfloat16",
            "kv_cache_dtype": "fp8",
            "gemm_type": "fp8_block",
            "num_heads": heads,
            "batch_size": requests,
            "isl": 1,
            "step": context,
            "latency": module_us(requests, context, skip=skip) * US,
        }
        | other
        for skip, heads, requests, context in itertools.product(
            (False, True), (32, 64), (1, 2, 4, 8, 16, 64, 256), (512, 2048, 8192, 32768, 131072)
        )
        if requests * context <= most
    ]


def one(found, kernel, engine):
    (only,) = [samples for samples in found if (samples.kernel, samples.engine) == (kernel, engine)]
    return only


def test_what_a_key_costs_is_the_difference_of_two_modules(tables):
    tables.write("sparse_attention", "vllm", "0.24.0", "dsa_generation_module", modules())
    assert sparse.key_seconds(tables.source, "h200_sxm") == pytest.approx(4e-11, rel=0.01)
    assert sparse.key_seconds(tables.source, "h100_sxm") == 0.0


def test_modules_count_keys_by_step_and_continue_by_what_a_key_costs(tables):
    tables.write("sparse_attention", "vllm", "0.24.0", "dsa_generation_module", modules())
    tables.write("sparse_attention", "sglang", "0.5.14", "dsa_generation_module", modules(most=2**19))
    found = sparse.samples(tables.source, "h200_sxm")
    for skip, kernel in ((False, "dsa_glm_module_decode"), (True, "dsa_glm_skip_module_decode")):
        rows = one(found, kernel, "sglang").frame
        assert (one(found, kernel, "sglang").dtype, one(found, kernel, "sglang").backend) == ("fp8", "fp8")
        far = rows[(rows["requests"] == 64) & (rows["context"] == 131072)]
        assert far["filled"].all()
        assert far["seconds"].to_numpy() * 1e6 == pytest.approx(module_us(64, 131072, skip=skip), rel=0.02)
    assert "index_logits" in one(found, "dsa_glm_module_decode", "vllm").includes


def test_trtllms_modules_are_left_out_on_hopper_and_their_spike_on_blackwell(tables):
    for system in ("h200_sxm", "b200_sxm"):
        rows = modules(model="deepseek-ai/DeepSeek-V3.2", op_name="dsa_generation_module")
        tables.write("sparse_attention", "trtllm", "1.3.0rc20", "dsa_generation_module", rows, system)
    assert sparse.samples(tables.source, "h200_sxm") == []
    (only,) = sparse.samples(tables.source, "b200_sxm")
    assert only.kernel == "dsa_module_decode"
    assert set(only.frame["context"]) == {512, 8192, 32768, 131072}


def test_a_site_of_hyper_connections_is_half_of_a_row_that_times_two(tables):
    rows = [
        {"op_name": name, "num_tokens": tokens, "num_sites": 2, "hidden_size": width, "latency": tokens * US}
        for name, tokens, width in itertools.product(("pre", "post"), [2**n for n in range(12)], (4096, 7168))
    ]
    tables.write("mhc", "vllm", "0.25.0", "mhc_module", rows)
    found = states.samples(tables.source, "h200_sxm")
    assert {samples.kernel for samples in found} == {"mhc_pre", "mhc_post"}
    frame = found[0].frame
    assert frame["seconds"].to_numpy() == pytest.approx(0.5e-6 * frame["rows"].to_numpy())


def gdn_rows(**other):
    return [
        {
            "kernel_source": kernel,
            "phase": phase,
            "batch_size": requests,
            "seq_len": 1 if phase == "generation" else 512,
            "num_k_heads": 8,
            "head_k_dim": 128,
            "num_v_heads": heads,
            "head_v_dim": 128,
            "latency": (5.0 + requests * heads * (0.1 if "conv" in kernel else 1.0)) * US,
        }
        | other
        for phase, kernel, requests, heads in itertools.product(
            ("generation", "context"), ("causal_conv1d_x", "delta_rule"), (1, 4, 16, 64, 256), (8, 16, 32, 64)
        )
    ]  # 10 different numbers of heads in all, of 20 rows


def test_a_delta_rule_and_its_convolution_are_two_kernels(tables):
    tables.write("linear_attention", "vllm", "0.25.0", "gdn", gdn_rows())
    found = states.samples(tables.source, "h200_sxm")
    assert {samples.kernel for samples in found} == {
        "gdn_decode",
        "conv_update",
        "gdn_prefill",
        "conv_prefill",
    }
    conv = one(found, "conv_update", "vllm").frame
    channels = [(2 * 8 + heads) * 128 for heads in (8, 16, 32, 64)]
    assert set(conv["lanes"]) == {each * requests for each in channels for requests in (1, 4, 16, 64, 256)}
    held = hold_out(one(found, "gdn_decode", "vllm"))
    shape = {"requests": 16.0, "new_tokens": 1.0, "key_heads": 8.0, "heads": 32.0, "key_dim": 128.0}
    once = held.curve.seconds(shape)
    assert once == pytest.approx((5.0 + 16 * 32) * 1e-6, rel=0.05)
    verified = held.curve.seconds(shape | {"new_tokens": 3.0})
    assert verified == pytest.approx((5.0 + 2 * 16 * 32) * 1e-6, rel=0.05)  # (3 + 1) / 2 states moved


def test_states_that_fit_l2_cost_what_others_do():
    """A timing reads one state again and again; between two visits a step reads everything else."""
    lanes = np.array([2.0**power for power in range(1, 16)])
    within = lanes * states.STATE_BYTES <= states.L2_BYTES["l40s"]
    rows = pd.DataFrame({"lanes": lanes, "seconds": np.where(within, 4e-6 + lanes * 3e-8, 2e-7 * lanes)})
    found = states.cold(rows, states.L2_BYTES["l40s"], 1.5)
    beyond = found[~found["filled"]]
    assert set(beyond["lanes"]) == set(lanes[lanes >= 4096])  # 1.5 times 96 MiB and more
    assert beyond["seconds"].to_numpy() == pytest.approx(2e-7 * beyond["lanes"].to_numpy())
    replaced = found[found["filled"]]
    assert replaced["seconds"].to_numpy() == pytest.approx(4.06e-6 + 2e-7 * replaced["lanes"].to_numpy())
    assert states.cold(rows.assign(seconds=4e-6 + 2e-7 * lanes), states.L2_BYTES["l40s"], 1.5) is None


def test_held_out_shapes_are_those_of_ops():
    assert as_op("index_logits", {"cached": 4097.0, "queries": 4.0, "requests": 2.0, "heads": 32.0}) == {
        "requests": 2.0,
        "heads": 32.0,
        "new_tokens": 4.0,
        "context": 4100.0,
    }
    found = as_op("index_topk", {"rows": np.array([64.0]), "cached": np.array([2049.0])})
    assert found["requests"] * found["new_tokens"] == 64.0
    assert found["context"] == 2049.0
