"""Rows of ``serving.csv``: what a row says of a step, in which units, and what it leaves out."""

from collections import Counter
from functools import cache

import numpy as np
import pytest

from perfmodel.errors import PerfModelError
from perfmodel.overlap.launch import launches_of
from perfmodel.spec.catalogue import DATA
from perfmodel.step import predict_steps, step_segments
from perfmodel.validation import deepseek, roles, serving, steps
from perfmodel.validation.deepseek import IN_SITU
from perfmodel.validation.recorded import differences, recorded_results
from perfmodel.validation.rows import Row

CALIBRATED = (DATA / "calibrations" / "h800-sxm" / "calibration.json").is_file()


def record(**changes):
    """A decode step of DeepSeek-V3 on 128 H800."""
    cells = {
        "id": "one", "model": "DeepSeek-V3", "system": "H800-SXM IB", "gpus": "128", "gpus_per_unit": "8",
        "framework": "SGLang", "phase": "decode", "isl_or_kv": "4096", "osl": "", "batch_per_gpu": "128",
        "attn_parallel": "TP1/DP128", "moe_parallel": "EP128", "precision": "", "mtp": "no", "routing": "",
        "metric": "output_tok_s_per_gpu", "value": "2000", "unit": "tok/s/GPU", "kind": "", "source": "somewhere",
    }  # fmt: skip
    return cells | changes


def prefill(**changes):
    cells = {
        "phase": "prefill",
        "batch_per_gpu": "16384 tok",
        "attn_parallel": "DP32",
        "moe_parallel": "EP32",
    }
    return record(**cells, metric="input_tok_s_per_gpu") | changes


def deployment(**changes):
    return serving.scenario_of(record(**changes)).deployment


@cache
def seconds(**changes):
    return float(predict_steps(serving.scenario_of(record(**changes))).step_time_s[0])


def one(cells, **options) -> Row:
    (found,) = serving.predict_rows([cells], suite="s", role=lambda _: "check", **options)
    return found


# --- units ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "measured", "quantity"),
    [
        ({}, 2000.0, "output_tokens_per_s_per_gpu"),
        ({"metric": "output_tok_s_per_node", "unit": "tok/s/node"}, 250.0, "output_tokens_per_s_per_gpu"),
        ({"metric": "output_tok_s_per_node", "unit": "tok/s/node", "gpus_per_unit": "4"}, 500.0,
         "output_tokens_per_s_per_gpu"),
        ({"metric": "output_tok_s_per_node", "unit": "tok/s/node", "gpus_per_unit": ""}, 250.0,
         "output_tokens_per_s_per_gpu"),
        ({"metric": "inter_token_latency", "unit": "ms"}, 2.0, "itl_s"),
        ({"metric": "dispatch_time_per_layer", "unit": "us"}, 2e-3, "dispatch_s"),
        ({"metric": "tbo_gain", "unit": "ratio"}, 2000.0, "tbo_gain"),
    ],
)  # fmt: skip
def test_measured_figures_are_per_gpu_and_in_seconds(cells, measured, quantity):
    found = one(record(**cells))
    assert found.measured == pytest.approx(measured)
    assert found.quantity == quantity


def test_throughput_latency_and_dispatch_are_of_the_same_step():
    step = seconds()
    assert one(record()).predicted == pytest.approx(128 / step)
    assert one(record(metric="inter_token_latency", unit="ms")).predicted == pytest.approx(step)
    node = one(record(metric="output_tok_s_per_node", unit="tok/s/node"))
    assert node.predicted == pytest.approx(128 / step)
    dispatch = one(record(metric="dispatch_time_per_layer", unit="us")).predicted
    assert 0.0 < dispatch < step / 58
    measured, predicted = serving.throughput(record(metric="output_tok_s_per_node", unit="tok/s/node"))
    assert (measured, predicted) == (250.0, pytest.approx(128 / step))


def test_a_prefill_batch_is_in_tokens_and_its_throughput_too():
    scenario = serving.scenario_of(prefill(isl_or_kv="2048"))
    d = scenario.deployment
    assert (d.phase, d.prefill_tokens, d.prefill_requests_per_gpu) == ("prefill", 2048.0, 8.0)
    step = float(predict_steps(scenario).step_time_s[0])
    assert one(prefill(isl_or_kv="2048")).predicted == pytest.approx(16384 / step)


def test_context_is_what_was_there_and_half_of_what_is_generated():
    assert deployment().context_tokens == 4096.0
    assert deployment(isl_or_kv="2000", osl="100").context_tokens == 2050.0


# --- layout --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ep", "redundant"), [(32, 0), (72, 32), (144, 32), (128, 0), (48, 32), (320, 64)])
def test_redundant_experts_make_the_ranks_divide_them(ep, redundant):
    d = deployment(attn_parallel=f"DP{ep}", moe_parallel=f"EP{ep}")
    assert (d.ep, d.attention_dp, d.redundant_experts) == (ep, ep, redundant)
    assert (256 + d.redundant_experts) % ep == 0
    assert d.redundant_experts < ep


def test_a_layout_that_states_experts_alone_has_as_many_attention_groups():
    assert deployment(attn_parallel="", moe_parallel="EP72").attention_dp == 72
    with pytest.raises(PerfModelError, match="no DP and EP"):
        serving.scenario_of(record(moe_parallel="TP16"))
    assert "no DP and EP" in one(record(moe_parallel="TP16", attn_parallel="")).reason


@pytest.mark.parametrize(
    ("cells", "overlap"),
    [
        ({}, "sequential"),
        ({"moe_parallel": "EP128 TBO"}, "tbo"),
        ({"moe_parallel": "EP128 no TBO"}, "sequential"),
        ({"moe_parallel": "EP128, 2 micro-batches"}, "tbo"),
        ({"framework": "in-house"}, "tbo"),
    ],
)
def test_two_batches_overlap_where_the_row_says_so(cells, overlap):
    assert deployment(**cells).overlap == overlap


@pytest.mark.parametrize(
    ("text", "drafts", "acceptance"),
    [
        ("no", 0, 0.0),
        ("", 0, 0.0),
        ("yes(model has MTP)", 0, 0.0),
        ("simulated, 60% accept", 1, 0.6),
        ("simulated, 85 % accept", 1, 0.85),
        ("simulated", 1, 0.6),
    ],
)
def test_simulated_drafts_have_their_stated_acceptance(text, drafts, acceptance):
    mtp = deployment(mtp=text).mtp
    assert (mtp.draft_tokens, mtp.acceptance if drafts else 0.0) == (drafts, acceptance)


def test_accepted_drafts_are_tokens_but_not_latency():
    mtp = {"mtp": "simulated, 60% accept"}
    step = seconds(**mtp)
    assert step > seconds()
    assert one(record(**mtp)).predicted == pytest.approx(1.6 * 128 / step)
    assert one(record(**mtp, metric="inter_token_latency", unit="ms")).predicted == pytest.approx(step)


def test_perfect_balance_has_no_busiest_rank():
    perfect = serving.scenario_of(record(routing="perfectly balanced"))
    assert perfect.routing.rank_loads == (1.0,) * 128
    balanced = serving.scenario_of(record(moe_parallel="EP128 (+128 redundant)"))
    skewed = serving.scenario_of(record())
    assert [(s.routing.popularity, s.routing.placement) for s in (balanced, skewed)] == [
        ("power-law", "eplb"), ("power-law", "contiguous")]  # fmt: skip
    times = [float(predict_steps(s).step_time_s[0]) for s in (perfect, balanced, skewed)]
    assert times[0] * 1.01 < times[1]  # chance, and what EPLB leaves of DeepSeek's skew
    assert times[1] * 1.01 < times[2]  # all of it


@pytest.mark.parametrize(
    ("framework", "engine"),
    [("SGLang", "sglang"), ("in-house", "deepseek"), ("vLLM", "vllm"),
     ("TensorRT-LLM (trtllm-bench, max load)", "trtllm")],
)  # fmt: skip
def test_engines_as_printed(framework, engine):
    assert serving.engine_of(framework) == engine
    assert deployment(framework=framework).engine == engine
    assert "must be one of in-house, SGLang" in one(record(framework="own")).reason


def test_constants_replace_the_engines():
    before = {
        "deployment.host.prepare_us": 0.0,
        "deployment.host.node_us": 0.0,
        "deployment.host.asynchronous": "false",
        "deployment.shared_experts": "in-line",  # nothing is hidden, so every kernel's gap shows
    }
    d = serving.scenario_of(record(), before | {"deployment.host.prepare_us": 1234.0}).deployment
    assert (d.host.prepare_us, d.host.node_us, d.host.asynchronous) == (1234.0, 0.0, False)
    none = serving.throughput(record(), before)
    gap = serving.throughput(record(), before | {"deployment.host.prepare_us": 5000.0})
    assert 128 / gap[1] - 128 / none[1] == pytest.approx(5e-3, rel=1e-6)
    node = serving.throughput(record(), before | {"deployment.host.node_us": 1.0})
    segments = step_segments(serving.scenario_of(record(), before))
    kernels = sum(part.repeat * sum(launches_of(part, "sglang")) for part in segments)
    assert 128 / node[1] - 128 / none[1] == pytest.approx(kernels * 1e-6, rel=0.05)


# --- what is left out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"phase": "fleet"}, "average over a day"),
        ({"phase": "prefill", "routing": "production traffic"}, "average over a day"),
        ({"phase": "ablation", "metric": "gain"}, "neither layout nor batch"),
        ({"metric": "cost_per_day"}, "not a quantity of one step"),
        ({"model": "Llama-9"}, "model Llama-9 is not in the catalogue"),
        ({"system": "TPU"}, "system TPU: no calibration"),
        ({"phase": "agg"}, "largest load that fits"),
        ({"batch_per_gpu": ""}, "states no batch"),
        ({"batch_per_gpu": "", "metric": "dispatch_time_per_layer", "unit": "us"}, "states no batch"),
        ({"isl_or_kv": ""}, "states no context"),
    ],
)
def test_what_a_row_leaves_out_is_said_and_not_guessed(cells, reason):
    found = one(record(**cells))
    assert found.predicted is None
    assert reason in found.reason
    assert not serving.answerable(record(**cells))


def test_answerable_rows_are_throughputs():
    assert serving.answerable(record())
    assert serving.answerable(prefill())
    assert not serving.answerable(record(metric="inter_token_latency", unit="ms"))
    assert not serving.answerable(record(metric="dispatch_time_per_layer", unit="us"))


def test_a_layout_that_the_model_does_not_allow_is_a_reason():
    found = one(record(model="Qwen3-235B-A22B", attn_parallel="DP72", moe_parallel="EP72"))
    assert found.predicted is None
    assert "must divide the 128 routed" in found.reason


# --- gains ---------------------------------------------------------------------------------------------------


def gain(base=None, without=None):
    return {"one": serving.Gain(base or {}, without or {}, "why")}


def test_a_gain_is_a_ratio_of_throughputs():
    found = one(record(value="1.3", unit="ratio", metric="gain"), gains=gain({"moe_parallel": "EP128 TBO"},
                                                                             {"moe_parallel": "EP128"}))  # fmt: skip
    expected = seconds() / seconds(moe_parallel="EP128 TBO")
    assert found.predicted == pytest.approx(expected)
    assert found.reason == "why"
    assert found.measured == 1.3


def test_what_both_sides_share_cancels():
    nothing = one(record(metric="gain"), gains=gain())
    assert (nothing.predicted, nothing.low, nothing.high) == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.skipif(not CALIBRATED, reason="h800-sxm is not in the catalogue: make import-tables")
def test_a_gain_is_surer_than_either_of_its_sides(monkeypatch):
    """What both steps share, the engine's spread, cancels in their ratio."""
    for module in (serving, steps):
        monkeypatch.setattr(module, "common_log_std", lambda _: 0.2)

    def width(row):
        return (row.high - row.low) / row.predicted

    side = one(record())
    found = one(record(metric="gain"), gains=gain({"batch_per_gpu": "128"}, {"batch_per_gpu": "120"}))
    assert found.low <= found.predicted <= found.high
    assert 0.0 < width(found) < 0.7 * width(side)


# --- the suite -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def suite():
    return deepseek.rows()


def test_the_record_is_what_the_suite_says_now(suite):
    """Remake it: make trust."""
    recorded = [row for row in recorded_results().rows if row.suite == "deepseek"]
    assert list(differences(suite, recorded)) == []


def test_every_row_of_the_file_is_in_the_suite_once(suite):
    records = roles.read_published("serving.csv")
    assert [row.id for row in suite] == [cells["id"] for cells in records]
    assert max(Counter(row.id for row in suite).values()) == 1
    committed = roles.committed()
    for row, cells in zip(suite, records, strict=True):
        role = "comparison" if row.id == IN_SITU else committed["serving.csv", row.id]
        assert row.role == role
        assert row.source == cells["source"]
        assert row.predicted is not None or row.reason


def test_named_targets_are_answered_with_an_interval(suite):
    found = {row.id: row for row in suite}
    unanswered = {"lmsys_h100_eplb_gain_decode"}  # states neither layout nor batch
    for name in set(roles.TARGETS) - unanswered:
        assert found[name].predicted is not None, found[name].reason
        assert found[name].predicted > 0.0
        if found[name].quantity != "dispatch_s":
            assert found[name].low <= found[name].predicted <= found[name].high


def test_gains_are_of_rows_that_exist_and_state_what_they_assume(suite):
    ids = {row.id: row for row in suite}
    for name, own in deepseek.GAINS.items():
        assert ids[name].unit == "ratio"
        assert ids[name].reason == own.note
        assert ids[name].predicted is not None
        assert np.isfinite(ids[name].predicted)


def test_progress_counts_the_rows():
    told = []
    serving.predict_rows(
        [record(phase="fleet")] * 3,
        suite="s",
        role=lambda _: "user",
        progress=lambda *what: told.append(what),
    )
    assert told == [("s", 0, 3), ("s", 1, 3), ("s", 2, 3)]
