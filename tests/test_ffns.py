"""FFNs on other GPUs than attention's: kernels, transfers, memory, money, energy and words of either."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_laws import keeps_the_laws

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step, at_price
from perfmodel.economics.energy import usage_of, work_sums
from perfmodel.engines.profile import kernels_of
from perfmodel.errors import InfeasibleError, PerfModelError, SpecError
from perfmodel.explore.difference import difference
from perfmodel.explore.fleet import Traffic
from perfmodel.explore.sensitivity import sensitivity
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import point_to_point
from perfmodel.kernels.cost import cost
from perfmodel.kernels.timing import Timing
from perfmodel.load import build_scenario, load_scenario, scenario_of_text
from perfmodel.numeric import maximum
from perfmodel.ops.limits import check_runs, limits
from perfmodel.ops.memory import runtime_bytes
from perfmodel.ops.op import OpClass, Stream
from perfmodel.output.step.page import step_html
from perfmodel.overlap.schedules import AFD_PARTS
from perfmodel.report.assumptions import assumptions
from perfmodel.report.content import build_report
from perfmodel.report.part import Options
from perfmodel.report.terms import HOURS_PER_MONTH, Ownership, terms
from perfmodel.report.trust import validation_lines
from perfmodel.serving.serve import kv_path, serve
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps, simulate_step, step_segments
from perfmodel.units import HOUR, MEGA

L40S = {"cluster": "l40s-pcie", "calibration": "", "prices": {"usd_per_gpu_hour": 1.0}}
UNLIKE = {
    "title": "Mixtral: attention on H20, an expert on each of eight L40S",
    "model": "mixtral-8x22b",
    "cluster": "h20-roce",
    "calibration": "",
    "prices": {"usd_per_gpu_hour": 1.85},
    "deployment": {
        "phase": "decode", "attention_gpus": 12, "attention_tp": 2, "ffn_gpus": 8, "batch_per_gpu": 128,
        "context_tokens": 650, "precision": {"linear": "bf16", "experts": "bf16", "dispatch": "bf16"},
    },
    "ffns": L40S,
    "workload": {"num_requests": 60, "request_rate": 20, "input_tokens": 571, "output_tokens": 40},
}  # fmt: skip


def scenario(ffns=(), **changed):
    """The one above with other keys of ``ffns`` and other sections; None takes one out."""
    own = None if ffns is None else {**L40S, **dict(ffns)}
    keys = {**UNLIKE, **changed, "ffns": own}
    return build_scenario({key: value for key, value in keys.items() if value is not None})


def layer_of(found):
    return next(one for one in step_segments(found) if one.layers)


def plain(answer):
    return json.dumps(answer.values, sort_keys=True)


# --- the same cluster twice -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ffns",
    [
        {},
        {"cluster": "h20-roce"},
        {"cluster": "h20-roce", "prices": {"usd_per_gpu_hour": 1.85}, "calibration": ""},
        {"prices": {"usd_per_gpu_hour": 1.85}},
        {"power": "hopper"},
    ],
)
def test_the_same_gpus_stated_twice_change_no_byte(ffns):
    document = {key: value for key, value in UNLIKE.items() if key != "ffns"}
    one, other = build_scenario(document), build_scenario({**document, "ffns": ffns})
    assert one.hash == other.hash
    assert plain(answer_step(one, over_steps=False)) == plain(answer_step(other, over_steps=False))


def test_equal_clusters_apart_lack_a_link_and_nothing_else():
    """Two clusters of one kind, each of so many GPUs: over the network that they would have anyhow, all is equal but
    for where it is said."""
    document = {key: value for key, value in UNLIKE.items() if key != "ffns"} | {"cluster": "h100-ib"}
    own = {"base": "h100-ib", "num_gpus": 8}
    one, other = build_scenario(document), build_scenario({**document, "ffns": {"cluster": own}})
    assert other.two_clusters
    a, b = (answer_step(each, over_steps=False).values for each in (one, other))
    for key in (
        "step_time_s",
        "usd_per_million_output_tokens",
        "breakdown_s",
        "intervals",
        "basis",
    ):
        assert a[key] == b[key], key
    plainly, named = ([t for t in one["warnings"] if "no calibration is named" not in t] for one in (a, b))
    assert plainly == named  # the key that states a calibration is each pool's own
    assert (a["mfu"], a["mbu"]) == pytest.approx((b["mfu"], b["mbu"]), rel=1e-12)
    served = [answer_serve(each).values for each in (one, other)]
    for key in ("tpot_s", "ttft_s", "usd_per_million_output_tokens"):
        assert served[0][key] == served[1][key], key
    for key in ("mfu", "mbu", "energy_j"):
        assert served[0][key] == pytest.approx(served[1][key], rel=1e-9), key
    nvlink = {"base": "h100-ib", "node": {"num_gpus": 64, "link_gb_per_s": 450, "link_domain_gpus": 64}}
    near = build_scenario({**document, "cluster": nvlink})
    far = build_scenario({**document, "cluster": nvlink, "ffns": {"cluster": {**nvlink, "num_gpus": 8}}})
    sent = [{t.op.name: t.op for t in layer_of(each).tasks}["to_ffn"] for each in (near, far)]
    assert sent[0].network_bytes == sent[1].link_bytes == 0.0
    assert sent[0].link_bytes == sent[1].network_bytes > 0.0


def test_a_count_of_gpus_beside_the_scenarios_own_cluster_is_of_both_pools():
    document = {key: value for key, value in UNLIKE.items() if key != "ffns"}
    counted = {"base": "h20-roce", "num_gpus": 20}
    one = build_scenario({**document, "cluster": counted, "ffns": {"cluster": "h20-roce"}})
    assert one.ffns is None
    with pytest.raises(SpecError, match=r"the deployment needs 20 GPUs, cluster.num_gpus = 19"):
        build_scenario({**document, "cluster": {**counted, "num_gpus": 19}, "ffns": {"cluster": "h20-roce"}})


# --- who runs what --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated", [False, True])
def test_each_op_is_costed_where_it_runs(calibrated):
    own, other = ("h20-sxm", "l40s") if calibrated else ("", "")
    found = scenario({"calibration": other}, calibration=own)
    side, segment = found.ffn_side, layer_of(found)
    assert (side.cluster.gpu.name, side.calibration) == ("l40s", other)
    tables = [load_calibration(one, kernels_of("")) if one else None for one in (own, other)]
    seen = set()
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        collective = task.op.op_class == OpClass.TP_COMMUNICATION
        op = (
            replace(task.op, stream=Stream.LINK) if collective else task.op
        )  # as it is costed, not as it queues
        ends = [
            float(np.max(cost(op, one.cluster, calibration=table).seconds))
            for one, table in zip((found, side), tables, strict=True)
        ]
        expected = {"attention": ends[0], "FFN": ends[1]}.get(task.stage, max(ends))
        assert float(np.max(timing.seconds)) == pytest.approx(expected, rel=1e-12), task.op.name
        seen.add(task.stage)
    assert seen == set(AFD_PARTS)


def test_a_draft_layer_and_adapters_run_where_their_products_do():
    """DeepSeek-V3 drafts with a layer of its own: its experts on the GPUs of FFNs, as its adapters' products there."""
    deployment = {
        "attention_gpus": 16, "ffn_gpus": 16, "batch_per_gpu": 16, "lora_adapters": 4,
        "mtp": {"draft_tokens": 1, "acceptance": 0.8},
    }  # fmt: skip
    ffns = {
        "cluster": {
            "base": "h100-ib",
            "gpu": {"bf16_tflops": 10.0, "fp8_tflops": 20.0, "hbm_gb_per_s": 100.0},
        }
    }
    fast, slow = (
        {one.name: one for one in step_segments(scenario(own, model="deepseek-v3", deployment=deployment))}
        for own in ({"cluster": "h100-ib"}, ffns)
    )
    assert {"draft 0", "layers"} <= set(fast)
    for name, segment in fast.items():
        for one, task, other in zip(segment.timings, segment.tasks, slow[name].timings, strict=True):
            grew = float(np.max(other.seconds)) > 1.5 * float(np.max(one.seconds))
            assert grew == (task.stage == "FFN"), (name, task.op.name)
    adapters = {task.op.name: task.stage for task in fast["layers 1"].tasks if ".lora_" in task.op.name}
    assert adapters["experts.gate_up.lora_shrink"] == "FFN"
    assert adapters["attention0.o.lora_expand"] == "attention"
    assert not any(".lora_" in task.op.name for task in fast["draft 0"].tasks)


def test_micro_batches_take_turns_on_unlike_gpus():
    """max(m x the longest of four places, all four) per layer, beside the first one's way in."""
    for parts in (1, 2, 3):
        found = scenario(deployment={**UNLIKE["deployment"], "ffn_micro_batches": parts})
        expected = fill = 0.0
        for one in step_segments(found):
            seconds = [float(np.max(timing.seconds)) for timing in one.timings]
            if not one.layers:
                expected += one.repeat * sum(seconds)
                continue
            places = dict.fromkeys(AFD_PARTS, 0.0)
            for task, each in zip(one.tasks, seconds, strict=True):
                places[task.stage] += each if task.micro_batch == 0 else 0.0
            expected += one.repeat * max(parts * max(places.values()), sum(places.values()))
            fill += sum(places.values())
        took = float(predict_steps(found).step_time_s[0])
        assert expected * (1.0 - 1e-9) <= took <= expected + fill
        assert simulate_step(found).step_time_s == pytest.approx(took, rel=1e-6)


@pytest.mark.parametrize("slow", ["attention", "ffns"])
def test_transfers_take_what_the_slower_network_takes(slow):
    """A gigabyte per second at either end: bytes over what that end achieves, and the other end does not matter."""
    poor = {"network": {"gb_per_s_per_gpu": 1.0}}
    found = (
        scenario({"cluster": {"base": "l40s-pcie", **poor}})
        if slow == "ffns"
        else scenario(cluster={"base": "h20-roce", **poor})
    )
    ends = found.cluster, found.ffn_cluster
    segment = layer_of(found)
    for task, timing in zip(segment.tasks, segment.timings, strict=True):
        if task.op.op_class in (OpClass.DISPATCH, OpClass.COMBINE):
            alone = [cost(task.op, one) for one in ends]
            assert float(timing.network_s) == max(float(one.network_s) for one in alone)
            assert float(timing.network_s) == pytest.approx(float(task.op.network_bytes) / 1e9, rel=0.3)
            assert simulate_step(found).place_of(task.op) == int(slow == "ffns")


def test_arrays_of_batches_are_the_batches_one_by_one():
    found = scenario({"cluster": {"base": "l40s-pcie", "network": {"gb_per_s_per_gpu": 20.0}}})
    batches = np.array([1.0, 8.0, 64.0, 512.0])
    together = predict_steps(with_arrays(found, {"deployment.batch_per_gpu": batches})).step_time_s
    for batch, seconds in zip(batches, together, strict=True):
        alone = found.deployment.model_copy(update={"batch_per_gpu": float(batch)})
        one = predict_steps(found.model_copy(update={"deployment": alone})).step_time_s[0]
        assert seconds == pytest.approx(float(one), rel=1e-9)


def test_the_slower_of_two_times_is_chosen_in_each_place():
    late, wide = (
        Timing(latency_s=3.0, network_s=np.array([1.0, 2.0, 9.0])),
        Timing(network_s=np.array([2.0, 6.0, 9.5])),
    )
    found = late.or_slower(wide)
    assert found.seconds.tolist() == maximum(late.seconds, wide.seconds).tolist() == [4.0, 6.0, 12.0]
    assert late.or_slower(Timing(latency_s=1.0)) is late
    assert Timing(latency_s=1.0).or_slower(late) is late


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_the_gpu_that_holds_it():
    """Mixtral's 33.8 GB of one expert fit an L40S and not a 24 GB GPU; requests lie with attention alone."""
    small = {"base": "l40s-pcie", "gpu": {"base": "l40s", "name": "small", "memory_bytes": 24 * 10**9}}
    with pytest.raises(InfeasibleError, match=r"on each of deployment.ffn_gpus = 8 small GPUs of 24.0, 3"):
        answer_step(scenario({"cluster": small}))
    with pytest.raises(InfeasibleError, match=r"on each of deployment.ffn_gpus = 8 small GPUs"):
        serve(scenario({"cluster": small}))
    few = {"base": "h20-roce", "gpu": {"base": "h20-sxm", "memory_bytes": 12 * 10**9}}
    with pytest.raises(InfeasibleError, match=r"GB needed per GPU .* usable of [0-9.]+; "):
        answer_step(scenario(cluster=few))
    assert limits(scenario()).memory > limits(scenario(cluster="l40s-pcie")).memory


def test_memory_of_a_gpu_of_ffns_by_hand():
    """Mixtral's experts in BF16, three matrices of 6,144 x 16,384 in each of 56 layers, one of eight on each L40S."""
    values = answer_step(scenario(), over_steps=False).values
    runtime = sum(float(part) for part in runtime_bytes(scenario().ffn_side))
    assert values["ffn_memory_bytes"]["weights_and_runtime"] == pytest.approx(
        56 * 3 * 6144 * 16384 * 2 + runtime, rel=1e-9
    )
    assert "ffn_memory_bytes" not in answer_step(load_scenario("longcat-flash-h800"), over_steps=False).values


def test_what_fits_on_no_gpu_of_ffns_is_told_before_what_fits_on_attentions():
    """Dense FFNs that are not divided lie on each of them whole, however many there are; a batch is not to blame."""
    dense = {"attention_gpus": 8, "ffn_gpus": 16, "batch_per_gpu": 400, "context_tokens": 4096}
    whole = scenario(model="llama-3.1-70b", deployment=dense)
    with pytest.raises(
        InfeasibleError, match=r"16 l40s GPUs of 48.3, .* divide dense FFNs \(deployment.dense_tp = 1\)$"
    ):
        check_runs(whole)
    divided = scenario(model="llama-3.1-70b", deployment={**dense, "dense_tp": 16})
    with pytest.raises(
        InfeasibleError, match=r"^does not fit: .* needed per GPU .*largest batch that fits: "
    ):
        check_runs(divided)


def test_gpus_are_counted_in_their_own_cluster():
    here, there = {"base": "h20-roce", "num_gpus": 12}, {"base": "l40s-pcie", "num_gpus": 8}
    fits = scenario({"cluster": there}, cluster=here)
    assert (fits.deployment.num_gpus, fits.cluster_gpus) == (20, 12)
    with pytest.raises(SpecError, match=r"^the deployment needs 12 GPUs, cluster.num_gpus = 11"):
        scenario({"cluster": there}, cluster={**here, "num_gpus": 11})
    with pytest.raises(SpecError, match=r"^deployment.ffn_gpus = 8 exceeds ffns.cluster.num_gpus = 7"):
        scenario({"cluster": {**there, "num_gpus": 7}}, cluster=here)
    with pytest.raises(SpecError, match=r"need 16 GPUs, ffns.cluster.num_gpus = 8"):
        serve(scenario({"cluster": there}, serving={"replicas": 2}))
    with pytest.raises(SpecError, match=r"need 24 GPUs, cluster.num_gpus = 12"):
        serve(scenario(cluster=here, serving={"replicas": 2}))


def test_formats_are_asked_of_the_gpu_that_multiplies_them():
    """TensorRT-LLM multiplies no FP8 on Ampere: an expert's weights on A100 are refused, attention's on H20 are not."""
    fp8 = {**UNLIKE["deployment"], "engine": "trtllm", "precision": {"linear": "bf16", "experts": "fp8"}}
    with pytest.raises(InfeasibleError, match=r"deployment.precision.experts = fp8: trtllm .* on a100-sxm"):
        answer_step(scenario({"cluster": "a100-ib"}, deployment=fp8))
    other = {**fp8, "precision": {"linear": "fp8", "experts": "bf16"}}
    assert answer_step(scenario({"cluster": "a100-ib"}, deployment=other)).values["step_time_s"] > 0.0


# --- money and energy -----------------------------------------------------------------------------------------------


def test_a_step_costs_what_both_kinds_cost():
    found = scenario()
    values = answer_step(found, over_steps=False).values
    usd_per_s = (12 * 1.85 + 8 * 1.0) / HOUR
    assert values["usd_per_million_output_tokens"] == pytest.approx(
        usd_per_s * values["step_time_s"] / (12 * 128) * MEGA, rel=1e-12
    )
    assert values["ffns"] == {
        "cluster": "l40s-pcie", "gpu": "l40s", "num_gpus": 8, "usd_per_gpu_hour": 1.0,
    }  # fmt: skip
    dearer = scenario({"prices": {"usd_per_gpu_hour": 3.0}})
    again = at_price(values, dearer)
    assert again == answer_step(dearer, over_steps=False).values


def test_a_run_costs_what_all_gpus_cost_prefills_too():
    prefill = {"cluster": "h100-ib", "prices": {"usd_per_gpu_hour": 3.0}, "deployment": {"attention_tp": 8}}
    values = answer_serve(scenario(prefill=prefill)).values
    hours = values["duration_s"] / HOUR
    usd = hours * (12 * 1.85 + 8 * 1.0 + 8 * 3.0)
    assert values["num_gpus"] == 28
    assert values["usd_per_million_output_tokens"] == pytest.approx(usd / (60 * 40) * MEGA, rel=1e-12)
    assert values["provenance"]["ffns"]["calibration"].startswith("roofline-")
    assert values["energy_j"] is None  # H20's idle power is not stated
    assert any("h20-sxm" in text for text in values["warnings"])


def test_energy_is_that_of_both_boards():
    """H100 beside A100: idle power of either, and never more than both boards' limits."""
    unknown = answer_serve(scenario({"cluster": "a100-ib"}, cluster="h100-ib")).values
    assert unknown["energy_j"] is None
    assert "energy is not answered: ffns.power not stated for a100-sxm (ampere)" in unknown["warnings"]
    found = scenario({"cluster": "a100-ib", "power": "hopper"}, cluster="h100-ib")
    values = answer_serve(found).values
    span, boards = values["duration_s"], (found.cluster.gpu, found.ffn_cluster.gpu)
    idle, most = (
        span * (12 * one + 8 * other)
        for one, other in (tuple(board.idle_w for board in boards), tuple(board.tdp_w for board in boards))
    )
    assert values["energy_parts_j"]["idle"] == pytest.approx(idle, rel=1e-12)
    assert idle < values["energy_j"] < most
    dearer = {"base": "a100-ib", "gpu": {"tdp_w": 800}}
    more = scenario({"cluster": dearer, "power": "hopper"}, cluster="h100-ib")
    assert answer_serve(more).values["energy_j"] > values["energy_j"]


def test_utilisation_is_over_the_peaks_of_each_kind():
    """FLOPs of either pool over its own peak, weighed by GPUs."""
    found = scenario()
    step = simulate_step(found)
    ideal = {False: 0.0, True: 0.0}
    for segment in step.segments:
        for task in segment.tasks:
            if not task.op.is_communication:
                ffn = task.stage == "FFN"
                gpu = found.ffn_cluster.gpu if ffn else found.cluster.gpu
                ideal[ffn] += segment.repeat * float(np.max(task.op.flops)) / gpu.peak_flops(task.op.dtype)
    expected = (12 * ideal[False] + 8 * ideal[True]) / 20 / step.step_time_s
    assert answer_step(found, over_steps=False).values["mfu"] == pytest.approx(expected, rel=1e-9)
    runs = serve(found).records.load.runs
    usage = usage_of(found, work_sums(found, runs), replicas=1, span_s=1.0)
    assert usage.mfu > 0.0


# --- words ----------------------------------------------------------------------------------------------------------


def test_answers_name_both_calibrations():
    values = answer_step(scenario({"calibration": "l40s"}, calibration="h20-sxm"), over_steps=False).values
    assert values["provenance"]["calibration"].startswith("h20-sxm-")
    assert values["provenance"]["ffns"]["calibration"].startswith("l40s-")
    assert "h20-sxm-" in values["basis"]["text"]
    assert "l40s-" in values["basis"]["text"]
    assert sum(values["basis"]["fractions"].values()) == pytest.approx(1.0)
    alone = answer_step(scenario({"calibration": "l40s"}), over_steps=False).values
    assert any("h20-sxm, for no calibration is named; calibration: h20-sxm" in t for t in alone["warnings"])
    own = answer_step(scenario(calibration="h20-sxm"), over_steps=False).values
    assert any("l40s, for no calibration is named; ffns.calibration: l40s" in t for t in own["warnings"])
    assert not any("nothing was timed on l40s" in text for text in alone["warnings"])
    foreign = answer_step(scenario({"calibration": "a100-sxm"}), over_steps=False).values
    assert any("was made on" in t and "(ffns.calibration: l40s is l40s's)" in t for t in foreign["dangers"])


def test_a_report_names_both_kinds():
    step = answer_step(scenario({"calibration": "l40s"}), over_steps=False)
    told = {row["what"]: row["value"] for row in assumptions(step, None)}
    assert told["GPU"].startswith("h20-sxm")
    assert told["GPU of FFNs"].startswith("l40s")
    assert "$1 for l40s of FFNs" in told["price"]
    assert told["calibration of FFNs"].startswith("l40s-")
    fp8 = {"attention_gpus": 16, "ffn_gpus": 16, "batch_per_gpu": 16}
    other = scenario({"cluster": "h100-ib", "calibration": "h100-sxm"}, model="deepseek-v3", deployment=fp8)
    lines = [line["suite"] for line in validation_lines(simulate_step(other))]
    assert "calibration h100-sxm" in lines  # of dense FFNs, beside attention by roofline
    page = step_html(step)
    for text in (
        "price of FFNs&#39; GPUs",
        "$1.00 per GPU hour",
        "$1.85 per GPU hour",
        "calibration of FFNs",
    ):
        assert text in page, text
    (row,) = terms(step.scenario, 20, Ownership())
    assert row["usd_per_gpu_hour"] == pytest.approx((12 * 1.85 + 8 * 1.0) / 20)


def test_dearer_gpus_of_ffns_are_no_more_gpus():
    """Page 1 of a report: another price moves dollars by that pool's share, and no count."""
    found = scenario(workload={**UNLIKE["workload"], "max_concurrency": 40}, deployment=UNLIKE["deployment"])
    day = Traffic(requests_per_day=1e6, peak_to_mean=2.0)
    values = build_report([found], Options(traffic=day), command="").values["scenarios"][0]["decision"]
    rows = {row["what"]: row for row in values["risks"]}
    for what, mean in (
        ("GPUs cost $2.22", (12 * 2.22 + 8 * 1.0)),
        ("GPUs of FFNs cost $1.2", (12 * 1.85 + 8 * 1.2)),
    ):
        row = rows[f"{what} an hour"]
        assert row["gpus"] == values["gpus"]["total"]
        assert row["usd_per_month"] == pytest.approx(row["gpus"] * mean / 20 * HOURS_PER_MONTH, rel=1e-12)


def test_a_difference_counts_the_mean_price():
    one, other = (
        answer_step(scenario({"prices": {"usd_per_gpu_hour": usd}}), over_steps=False) for usd in (1.0, 2.0)
    )
    found = difference(one, other)
    assert found.usd_b / found.usd_a == pytest.approx((12 * 1.85 + 8 * 2.0) / (12 * 1.85 + 8 * 1.0))


def test_levers_of_both_kinds():
    found = sensitivity(scenario())
    swings = {swing.lever: swing for swing in found.swings}
    assert {
        "GPU price",
        "GPU price of FFNs",
        "HBM bandwidth",
        "HBM bandwidth of FFNs",
        "network bandwidth",
    } <= set(swings)
    price = swings["GPU price of FFNs"]
    usd = price.high.usd_per_million_tokens / found.usd_per_million_tokens
    assert usd == pytest.approx((12 * 1.85 + 8 * 1.2) / (12 * 1.85 + 8 * 1.0))
    hbm = swings["HBM bandwidth of FFNs"]
    assert hbm.low.usd_per_million_tokens > hbm.high.usd_per_million_tokens  # experts set the pace


# --- traffic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
def test_everything_holds_under_traffic(apart):
    prefill = {"deployment": {"attention_dp": 8, "ep": 8}} if apart else None
    found = scenario(prefill=prefill)
    keeps_the_laws(found)
    if apart:  # caches go to attention's GPUs, in the cluster of prefill's
        path = kv_path(found, found.prefill_side, layer_wise=True)
        wire = point_to_point(found.cluster, same_domain=False)
        assert path.receive_bytes_per_s == wire.bytes_per_s * 2
        assert path.shared == "network"


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ffns", "said"),
    [
        ({"cluster": "h1000"}, r"clusters|h1000"),
        ({"cluster": "calibrated"}, r"^ffns.cluster = calibrated: stands for"),
        ({"calibration": 7}, r"^ffns.calibration = 7: must be a catalogue name"),
        ({"prices": 3}, r"^ffns.prices = 3: must be a catalogue name or a mapping"),
        ({"cluster": 3}, r"^ffns.cluster = 3: must be a catalogue name or a mapping"),
        ({"prices": {"usd_per_gpu_hour": -1.0}}, r"ffns.prices.usd_per_gpu_hour"),
        ({"prices": None}, r"^ffns.prices: missing"),
        ({"replicas": 2}, r"ffns.replicas"),
        ({"cluster": "h20-roce", "replicas": None}, r"ffns.replicas"),
    ],
)
def test_bad_values_are_named(ffns, said):
    with pytest.raises(SpecError, match=said):
        scenario(ffns)


def test_gpus_of_ffns_need_ffns_apart():
    with pytest.raises(SpecError, match=r"^ffns: deployment.ffn_gpus = 0, so all GPUs compute FFNs"):
        scenario(deployment={"attention_dp": 8, "ep": 8})


def test_a_link_names_no_file_there():
    text = "base: step-3-h800-afd\nffns: {calibration: ./mine}"
    with pytest.raises(SpecError, match=r"^ffns.calibration = './mine': a file can't be named here"):
        scenario_of_text(text)


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
PIECES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(["cluster", "calibration", "prices", "power", "x"]), PIECES, min_size=1),
)
def test_whatever_is_stated_is_read_or_told_in_one_line(pieces):
    try:
        found = scenario(pieces)
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
        return
    assert found.deployment.ffn_gpus == 8


@given(PIECES)
def test_whatever_stands_there_is_read_or_told_in_one_line(piece):
    try:
        build_scenario({**UNLIKE, "ffns": piece})
    except PerfModelError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
