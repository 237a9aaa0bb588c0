"""Expert tables: what rank 0 got, and each trap of the tables, on made-up frames; the package's own where it is
there."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibrate.public import expert_lines, expert_rows, experts
from calibrate.public.source import Source
from perfmodel.errors import DataError

US = 1e-6


def made_up(
    work_s=100e-6, token_s=50e-9, fixed_s=20e-6, model=(6144, 2048, 8, 256), kernel="kernel", **columns
):
    """A table whose times are work in proportion to tokens / EP, plus a cost per token of the whole group."""
    hidden, width, top_k, count = model
    rows = [
        (tokens, ep, tokens / ep * work_s / 64 + token_s * tokens + fixed_s)
        for tokens in (1, 32, 64, 256, 1024, 4096, 16384)
        for ep in (1, 2, 4, 8, 16, 32, 64)
    ]
    frame = pd.DataFrame(rows, columns=["num_tokens", "moe_ep_size", "seconds"])
    fixed = {
        "moe_dtype": "fp8_block", "hidden_size": hidden, "inter_size": width, "topk": top_k, "num_experts": count,
        "moe_tp_size": 1, "distribution": "balanced", "kernel_source": kernel,
    }  # fmt: skip
    return frame.assign(**{**fixed, **columns})


def ready(frame, engine="trtllm"):
    frame = experts.known(frame, engine)
    return experts.placed(frame[experts.usable(frame, engine)], experts.fused_load)


def test_balanced_rank_0():
    even = expert_rows.balanced(64, 256, 8, 8)
    assert (even.rows, even.groups, even.tokens) == (64.0, 32.0, 64.0)
    assert expert_rows.balanced(64, 256, 8, 1).tokens == 64.0  # one rank has every token
    assert expert_rows.balanced(1, 256, 8, 64).rows == 1.0  # not 1/8: rank 0 holds the first expert
    uneven = expert_rows.balanced(48, 256, 8, 32)
    assert (uneven.rows, uneven.groups) == (16.0, 8.0)  # 48 tokens on 32 starts: the first half of them twice


def test_balanced_routing_shares_all_rows():
    """Rank 0 of one rank has them all; of two with an even load, half."""
    for tokens, count, top_k in ((16384, 384, 8), (96, 128, 6), (7, 160, 8)):
        assert expert_rows.balanced(tokens, count, top_k, 1).rows == tokens * top_k


def test_power_law_keeps_the_sum_and_loads_rank_0():
    whole = expert_rows.power_law(1024, 256, 8, 1, 1.2)
    assert whole.rows == pytest.approx(8192)
    assert 128 < whole.groups <= 256
    busiest = expert_rows.power_law(1024, 256, 8, 16, 1.2)
    assert 512 < busiest.rows < 3 * 512
    assert busiest.spread > 0.0
    levelled = expert_rows.power_law(1024, 256, 8, 8, 1.2, 288, placed=True)
    assert levelled.rows == pytest.approx(1024, rel=0.01)  # EPLB evens out what 36 slots per rank allow
    assert levelled.groups <= 36


def test_uniform_rows_after_deepep():
    few = expert_rows.uniform_decode(16, 256, 8, 16)  # one token per rank: 8 rows on 8 of 16 experts
    assert (few.rows, few.groups) == (8.0, 8.0)
    many = expert_rows.uniform_decode(2048, 256, 8, 16)
    assert (many.rows, many.groups) == (1024.0, 16.0)


def test_cost_of_tokens_without_a_row_is_taken_off():
    rows = ready(made_up())
    assert expert_lines.token_cost(rows) == pytest.approx(50e-9, rel=0.01)
    left = expert_lines.without_strangers(rows)
    at = left[(left["tokens"] == 256) & (left["ep"] == 64)].iloc[0]
    # 256 tokens, 8 rows each over 64 ranks: 32 have a row here
    assert at["arrived"] == 32.0
    assert at["seconds"] == pytest.approx(256 / 64 * 100e-6 / 64 + 50e-9 * 32 + 20e-6, rel=0.01)
    one_rank = left[left["ep"] == 1]
    assert np.allclose(one_rank["seconds"], rows[rows["ep"] == 1]["seconds"])  # every token has a row there
    share = (
        50e-9
        * (left["tokens"] - left["arrived"])
        / (left["seconds"] + 50e-9 * (left["tokens"] - left["arrived"]))
    )
    assert share.max() <= expert_lines.STRANGERS + 0.01
    assert len(left) < len(rows)


def test_unknown_rows_are_left_out():
    deepseek = made_up(model=experts.GROUP_LIMITED)
    assert ready(deepseek, "sglang").empty
    assert ready(deepseek, "vllm").empty  # routed by groups
    assert not ready(deepseek, "trtllm").empty
    for kernel in ("moe_torch_flow_min_latency", "moe_torch_flow_nongated"):
        assert ready(made_up(kernel=kernel)).empty
    assert ready(made_up(model=(2688, 1856, 6, 128)), "sglang").empty  # no gate: two GEMMs
    mixtral = ready(made_up(model=(6144, 16384, 2, 8), kernel=experts.TRITON), "sglang")
    assert set(mixtral["ep"]) == {1}


def test_one_kernel_answers_where_sglang_has_a_faster_one():
    both = pd.concat(
        [
            made_up(kernel="sglang_flashinfer_trtllm_moe"),
            made_up(model=(4096, 2048, 8, 256), kernel=experts.TRITON),
        ],
        ignore_index=True,
    )
    assert set(ready(both, "sglang")["kernel_source"]) == {"sglang_flashinfer_trtllm_moe"}
    assert not ready(made_up(kernel=experts.TRITON), "sglang").empty


def test_idle_experts_and_badly_tuned_lines_go():
    rows = ready(made_up())
    kept = rows[~expert_lines.idle(rows)]
    assert (kept["groups"] == kept["experts"] // kept["ep"]).all()
    assert 1 not in set(kept["tokens"])
    assert 32 in set(kept["tokens"])
    slow = kept.assign(seconds=np.where(kept["ep"] == 8, 5.0, 1.0) * kept["seconds"])
    assert set(expert_lines.without_slow(slow)["ep"]) == set(kept["ep"]) - {8}
    assert len(expert_lines.without_slow(kept)) == len(kept)


def test_rows_move_along_their_line_onto_the_axis():
    ratios = np.array([1.0, 1.67, 2.0, 5.2, 8.0])
    line = pd.DataFrame({"rows_per_group": ratios, "seconds": 1e-5 * ratios}).assign(
        kernel_source="k", hidden=1, width=1, top_k=8, experts=384, ep=8, tp=1, skew=0.0, groups=48.0
    )
    moved = expert_lines.settled(line)
    steps = expert_lines.STEPS * np.log2(moved["rows_per_group"])
    assert np.allclose(steps, np.rint(steps))
    assert np.allclose(moved["seconds"], 1e-5 * moved["rows_per_group"])
    assert not np.allclose(moved["rows_per_group"], ratios)


def test_short_lines_grow_as_the_nearest_long_one():
    rows = pd.DataFrame(
        [(1.0, r, 10e-6 + r * 1e-6) for r in (1.0, 2.0)]
        + [(4.0, r, 30e-6 + 4 * r * 1e-6) for r in (1.0, 2.0, 8.0)],
        columns=["groups", "rows_per_group", "seconds"],
    ).assign(hidden=6144, width=2048, skew=0.0)
    found = expert_lines.extended(rows)
    new = found[found["filled"]]
    assert list(new["rows_per_group"]) == [8.0]
    assert new.iloc[0]["groups"] == 1.0
    assert new.iloc[0]["seconds"] == pytest.approx(18e-6)


@pytest.fixture(scope="module")
def package():
    folder = os.environ.get("PERFMODEL_TABLES")
    try:
        return Source.find(Path(folder) if folder else None)
    except DataError as error:
        pytest.skip(f"no tables: {error}")


def test_group_limited_models_ran_on_half_of_the_experts(package):
    """Why DeepSeek-V3 is left out of SGLang's and vLLM's tables: half of the experts on two ranks is all of the
    work."""
    frame = package.read("b200_sxm", "moe", "vllm", "moe", "0.24.0")
    frame = frame[
        (frame["moe_dtype"] == "fp8_block") & (frame["num_tokens"] == 16384) & (frame["moe_tp_size"] == 1)
    ]
    frame = frame[
        (frame["distribution"] == "balanced") & (frame["hidden_size"] == 7168) & (frame["inter_size"] == 2048)
    ]
    times = frame.set_index(["num_experts", "moe_ep_size"])["seconds"]
    assert times[256, 2] / times[256, 1] > 0.9
    assert times[384, 2] / times[384, 1] < 0.6


def test_masked_table_agrees_with_deepgemm(package):
    """README of DeepGEMM, H800: gate-up plus down of 4 x 256 rows take 101 us; the table adds the activation."""
    masked = next(entry for entry in experts.deepep(package, "h100_sxm") if entry.backend == "masked")
    frame = masked.frame[~masked.frame["filled"]]
    found = frame[(frame["groups"] == 4) & (frame["rows_per_group"] == 256)]["seconds"].iloc[0]
    flops = 2 * 1024 * 4096 * 7168, 2 * 1024 * 7168 * 2048
    assert found / (flops[0] / 932e12 + flops[1] / 815e12) == pytest.approx(1.08, abs=0.05)


def test_masked_and_fused_agree_where_memory_bound(package):
    """64 experts of DeepSeek's size with 4 rows each: the weights' bytes decide, whoever's kernels."""
    masked = experts.deepep(package, "h100_sxm")[0].frame
    fused = next(
        entry for entry in experts.fused(package, "h100_sxm", "trtllm") if entry.dtype == "fp8"
    ).frame
    fused = fused[(fused["hidden"] == 7168) & (fused["width"] == 2048) & (fused["skew"] == 0.0)]
    times = [
        frame[(frame["groups"] == 64) & (frame["rows_per_group"] == 4)]["seconds"].median()
        for frame in (masked, fused)
    ]
    assert times[1] / times[0] == pytest.approx(1.0, abs=0.1)
