"""MFU, MBU and energy of serving runs: by hand, against a single step, conservation, what is unknown."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.cli import app
from perfmodel.economics import work
from perfmodel.economics.energy import unknown_power, usage_of_runs
from perfmodel.economics.work import work_of_runs
from perfmodel.errors import SpecError
from perfmodel.kernels.timing import Timing
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.serving.records import StepRuns
from perfmodel.spec import catalogue
from perfmodel.spec.power import Power

NODE = [
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "routing.imbalance=1",
    "workload.trace=''",
]  # fmt: skip
"""DeepSeek-V3 on one node of eight H200, tensor-parallel, experts balanced."""


def node(*overrides):
    return load_scenario("deepseek-v3-h800", [*NODE, *overrides])


def runs_of(**columns):
    """One row of the table of steps: a decode step of 16 requests unless told otherwise."""
    row = dict.fromkeys(StepRuns.__slots__, 0.0)
    row |= {"seconds": 0.02, "steps": 1.0, "held": 16.0, "requests": 16.0, "tokens": 16 * 4000.0, "even": 1.0}
    return StepRuns.of([list((row | columns).values())])


PROMPT = {"requests": 0.0, "tokens": 0.0, "held": 1.0, "prompt": 2000.0, "attended": 2000 * 1000.0}
MIXED = PROMPT | {"requests": 16.0, "tokens": 16 * 4000.0, "held": 17.0}


@pytest.mark.parametrize(
    ("row", "step"),
    [
        ({}, ["deployment.batch_per_gpu=2", "deployment.context_tokens=4000"]),
        (
            PROMPT,
            ["deployment.phase=prefill", "deployment.prefill_tokens=2000", "deployment.prefill_requests_per_gpu=0.125"],
        ),
        (
            MIXED,
            [
                "deployment.phase=mixed", "deployment.batch_per_gpu=2", "deployment.context_tokens=4000",
                "deployment.prefill_tokens=2000", "deployment.prefill_requests_per_gpu=0.125",
            ],
        ),
    ],
    ids=["decode", "prefill", "mixed"],
)  # fmt: skip
def test_one_step_uses_what_perfmodel_step_says(row, step):
    expected = answer_step(node(*step)).values
    seconds = expected["step_time_s"]
    found = usage_of_runs(node(), runs_of(**row, seconds=seconds), replicas=1, span_s=seconds)
    assert found.mfu == pytest.approx(expected["mfu"], rel=1e-6)
    assert found.mbu == pytest.approx(expected["mbu"], rel=1e-6)


@pytest.mark.parametrize("row", [{}, PROMPT, MIXED], ids=["decode", "prefill", "mixed"])
def test_energy_lies_between_idle_and_the_limit(row):
    scenario = node()
    energy = usage_of_runs(scenario, runs_of(**row, seconds=0.05), replicas=1, span_s=0.05).energy
    gpu = scenario.cluster.gpu
    assert 8 * 0.05 * gpu.idle_w < energy.total <= 8 * 0.05 * gpu.tdp_w
    assert min(energy.compute, energy.memory, energy.communication) >= 0.0
    assert energy.total == energy.idle + energy.compute + energy.memory + energy.communication


def test_energy_by_hand():
    """Half the step in kernels bound by memory: watts times seconds times GPUs."""
    scenario = node(
        "cluster.gpu.idle_w=100",
        "cluster.gpu.tdp_w=600",
        "power={compute: 1, memory: 0.5, communication: 0.25}",
    )
    seconds = 2.0 * float(work_of_runs(scenario, runs_of()).memory_s[0])
    compute = float(work_of_runs(scenario, runs_of()).compute_s[0])
    energy = usage_of_runs(scenario, runs_of(seconds=seconds), replicas=2, span_s=3 * seconds).energy
    assert energy.idle == pytest.approx(2 * 8 * 3 * seconds * 100)
    assert energy.memory == pytest.approx(8 * seconds / 2 * (300 - 100))
    assert energy.compute == pytest.approx(8 * compute * (600 - 100))
    assert energy.communication == pytest.approx(8 * (seconds / 2 - compute) * (150 - 100))


def test_kernels_that_share_a_step_draw_no_more_than_the_limit():
    scenario = node()
    energy = usage_of_runs(scenario, runs_of(seconds=1e-5), replicas=1, span_s=1e-5).energy
    assert energy.communication == pytest.approx(0.0, abs=1e-9)
    assert energy.total <= 8 * 1e-5 * scenario.cluster.gpu.tdp_w


def test_an_idle_cluster_draws_idle_power():
    found = usage_of_runs(node(), StepRuns.of(np.zeros((0, 11))), replicas=3, span_s=10.0)
    assert found.energy.total == found.energy.idle == pytest.approx(3 * 8 * 10.0 * 115)
    assert found.mfu == found.mbu == 0.0


def test_the_same_steps_twice_take_twice_the_energy():
    once = usage_of_runs(node(), runs_of(seconds=0.05), replicas=1, span_s=0.06)
    twice = usage_of_runs(node(), runs_of(seconds=0.1, steps=2.0), replicas=1, span_s=0.12)
    assert twice.energy.total == pytest.approx(2.0 * once.energy.total)
    assert twice.mfu == pytest.approx(once.mfu)


def test_work_of_the_mean_rank_is_the_mean_over_ranks():
    """One busy rank of 128: a 128th of the FLOPs that all would take, and its prompt costs it what it would alone."""
    scenario = load_scenario("deepseek-v3-h800")
    ranks = scenario.deployment.attention_dp
    for row, held in (({"tokens": 64_000.0}, 16.0), (PROMPT, 1.0)):
        all_ = work_of_runs(scenario, runs_of(**(row | {"held": held * ranks})))
        one = work_of_runs(scenario, runs_of(**(row | {"held": held, "even": 1.0 / ranks})))
        assert one.peak_s[0] == pytest.approx(all_.peak_s[0] / ranks)
        assert one.hbm_s[0] > all_.hbm_s[0] / ranks  # weights are read however few tokens there are
        assert one.compute_s[0] + one.memory_s[0] < all_.compute_s[0] + all_.memory_s[0]


def test_rows_are_counted_in_chunks(monkeypatch):
    rows = [list(vars_of(runs_of(tokens=tokens))) for tokens in (16e3, 32e3, 48e3, 64e3, 80e3)]
    whole = work_of_runs(node(), StepRuns.of(rows))
    monkeypatch.setattr(work, "CHUNK", 2)
    assert work_of_runs(node(), StepRuns.of(rows)).hbm_s == pytest.approx(whole.hbm_s)


def vars_of(runs):
    return (getattr(runs, name)[0] for name in StepRuns.__slots__)


# --- what is stated, and what is not --------------------------------------------------------------------------------


def test_every_architecture_that_states_power_names_its_source():
    for name in catalogue.names("power"):
        power = Power(name=name, **catalogue.entry("power", name))
        assert power.source
        assert power.communication < power.memory < power.compute
    for name in catalogue.names("gpus"):
        gpu = catalogue.gpu(name)
        assert gpu.idle_w is None or "idle: " in gpu.source


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [
        (["cluster.gpu=h20-sxm", "calibration=''"], "cluster.gpu.tdp_w, cluster.gpu.idle_w"),
        (["cluster.gpu=gb200-nvl72", "calibration=''"], "cluster.gpu.idle_w"),
        (["cluster.gpu.architecture=ampere", "calibration=''"], "power"),
    ],
)
def test_energy_without_figures_is_null_and_says_why(overrides, missing):
    scenario = node("workload.num_requests=3", "serving.kv_tokens=20000", *overrides)
    assert unknown_power(scenario).startswith(f"energy is not answered: {missing} not stated for")
    values = answer_serve(scenario).values
    keys = ("energy_j", "energy_parts_j", "power_w_per_gpu", "energy_j_per_output_token")
    assert [values[key] for key in keys] == [None] * 4
    assert values["mbu"] > 0.0
    assert unknown_power(scenario) in values["warnings"]


def test_a_scenario_may_refine_or_replace_what_is_published():
    assert load_scenario("longcat-flash-h800").power.name == "hopper"
    refined = load_scenario("longcat-flash-h800", ["power.memory=0.5"]).power
    assert (refined.memory, refined.compute) == (0.5, 1.0)
    assert load_scenario("longcat-flash-h800", ["power=blackwell"]).power.name == "blackwell"
    assert load_scenario("longcat-flash-h800", ["power=blackwell", "power.compute=0.9"]).power.memory == 0.86


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("power.memory=1.5", "power.memory = 1.5"),
        ("power=bogus", "bogus"),
        ("power=3", "power = 3"),
        ("power.watts=3", "watts"),
        ("cluster.gpu.idle_w=900", "idle_w = 900 exceeds"),
    ],
)
def test_bad_power_is_refused(override, message):
    with pytest.raises(SpecError, match=message):
        load_scenario("longcat-flash-h800", [override])


def test_the_command_says_energy():
    args = ["serve", "longcat-flash-h800", "--set", "workload.num_requests=60"]
    values = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    assert sum(values["energy_parts_j"].values()) == pytest.approx(values["energy_j"])
    watts = values["energy_j"] / values["duration_s"] / values["num_gpus"]
    assert values["power_w_per_gpu"] == pytest.approx(watts)
    assert 121.7 < watts < 700.0
    tokens = values["output_tokens_per_s"] * values["duration_s"]
    assert values["energy_j_per_output_token"] == pytest.approx(values["energy_j"] / tokens)
    shown = CliRunner().invoke(app, args).stdout
    for text in ("MFU, MBU", "power per GPU", "energy per output token"):
        assert text in shown


def test_prefill_replicas_draw_power_too():
    apart = (
        "prefill={deployment: {engine: sglang, attention_tp: 8, dense_tp: 8, ep: 8}, serving: {replicas: 2}}"
    )
    traffic = ["workload.trace=''", "workload.request_rate=20", "workload.num_requests=200"]
    together, own = (answer_serve(node(*traffic, *more)).values for more in ((), (apart,)))
    spans = own["duration_s"] / together["duration_s"]
    assert own["energy_parts_j"]["idle"] == pytest.approx(3.0 * spans * together["energy_parts_j"]["idle"])
    assert own["energy_parts_j"]["compute"] == pytest.approx(together["energy_parts_j"]["compute"], rel=0.3)
    assert sum(own["energy_parts_j"].values()) == pytest.approx(own["energy_j"])
    assert own["mfu"] * 3.0 * spans == pytest.approx(together["mfu"], rel=0.1)


def test_what_is_left_out_draws_no_power():
    traffic = ["workload.trace=''", "workload.request_rate=20", "workload.num_requests=400"]
    whole, cut = (answer_serve(node(*traffic, f"workload.warm_up_requests={n}")).values for n in (0, 200))
    assert cut["power_w_per_gpu"] == pytest.approx(whole["power_w_per_gpu"], rel=0.1)
    assert cut["mfu"] == pytest.approx(whole["mfu"], rel=0.15)


def drawn(kernel, dtype, timing, power, **counts):
    gpu = load_scenario("deepseek-v3-h800", ["cluster=b200-ib"]).cluster.gpu
    op = Op("x", OpClass.ATTENTION, kernel, Stream.COMPUTE, dtype=dtype, **counts)
    return sum(work._drawn(op, timing, gpu, power)), gpu


def test_b200s_kernels_draw_measured_watts_up_to_the_boards_limit():
    power = load_scenario("deepseek-v3-h800", ["cluster=b200-ib"]).power
    assert power.name == "b200-sxm"
    half = Timing(memory_s=1e-3)
    own = power.kernels["grouped_gemm fp8"]
    joules, gpu = drawn("grouped_gemm", "fp8", half, power, hbm_bytes=0.5 * 8e12 * 1e-3)
    assert joules == pytest.approx(1e-3 * (own.floor_w + 0.5 * own.memory_w - gpu.idle_w))
    joules, _ = drawn("grouped_gemm", "fp8", Timing(compute_s=1e-3), power, flops=4.5e15 * 1e-3)
    assert joules == pytest.approx(1e-3 * (gpu.tdp_w - gpu.idle_w))  # floor and all would be 1,284 W
    joules, _ = drawn("norm", "bf16", half, power, hbm_bytes=1e9)  # no watts of it: the share
    assert joules == pytest.approx(1e-3 * (power.memory * gpu.tdp_w - gpu.idle_w))
    assert drawn("grouped_gemm", "mxfp4", half, power)[0] == drawn("grouped_gemm", "fp4", half, power)[0]


def test_other_gpus_draw_shares_and_b200_can_be_asked_to():
    assert load_scenario("deepseek-v3-h800", ["cluster=h100-ib"]).power.kernels == {}
    shares = load_scenario("deepseek-v3-h800", ["cluster=b200-ib", "power=blackwell"]).power
    assert shares.kernels == {}
    assert drawn("gemm", "fp8", Timing(memory_s=1e-3), shares)[0] == 0.0  # counted by seconds instead


# --- the measured rows of docs/power.md -------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "power.md"
NODES = {
    "Qwen3-235B, 8 H100": ("qwen3-235b-a22b", "h100-ib", {"moe_tp": 1, "ep": 8}),
    "DeepSeek-V3.1, 8 B200": ("deepseek-v3", "b200-ib", {}),
}


def measured_rows():
    """(row, at once, W, kernels' watts, shares, TPOT, ours) as the page has them."""
    table = (
        PAGE.read_text().partition("<!-- measured rows -->")[2].partition("<!-- measured rows: end -->")[0]
    )
    name, found = "", []
    for line in table.strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        name = cells[0] or name
        found.append((name, *(float(cell.split()[0]) if cell else None for cell in cells[1:])))
    return found


def serves(name, at_once, power):
    model, cluster, layout = NODES[name]
    document = {
        "model": model, "cluster": cluster, "engine": "vllm",
        "deployment": {
            "attention_tp": 8, "attention_dp": 1, "precision": {"linear": "fp8", "experts": "fp8"}, **layout
        },
        "workload": {
            "max_concurrency": at_once, "num_requests": max(64, 3 * at_once), "input_tokens": 300, "output_tokens": 600
        },
    }  # fmt: skip
    values = answer_serve(build_scenario(document | ({"power": power} if power else {}))).values
    return values["power_w_per_gpu"], 1e3 * values["tpot_s"]["mean"]


def test_the_pages_rows_are_what_perfmodel_says_now():
    rows = measured_rows()
    assert len(rows) == 8
    errors = {"kernels": [], "shares": []}
    for name, at_once, watts, kernels, shares, _, tpot in rows:
        found, ours = serves(name, int(at_once), "blackwell" if kernels else None)
        assert (found, ours) == (pytest.approx(shares, abs=0.6), pytest.approx(tpot, abs=0.06))
        if kernels:
            found, _ = serves(name, int(at_once), None)
            assert found == pytest.approx(kernels, abs=0.6)
            errors["kernels"].append(abs(kernels / watts - 1.0))
            errors["shares"].append(abs(shares / watts - 1.0))
        assert 0.65 * watts < found < 1.1 * watts
    # measured watts are nearer where few requests run; where our step is twice too fast nothing can be told
    assert errors["kernels"][0] < errors["shares"][0] - 0.05
    assert errors["kernels"][1] < errors["shares"][1]
    assert sum(errors["kernels"]) / 4 < 0.09
