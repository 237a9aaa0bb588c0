"""`perfmodel train`: a step composed, its memory, its laws, the run, the command and its outputs."""

import csv
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from perfmodel.answers.train import answer_train
from perfmodel.cli import app
from perfmodel.errors import InfeasibleError, PerfModelError, SpecError
from perfmodel.kernels.gradients import lookup
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.backward import Kernel
from perfmodel.ops.op import OpClass
from perfmodel.output.train.html import train_html
from perfmodel.output.train.trace import trace_text
from perfmodel.spec import catalogue
from perfmodel.spec.training import Checkpoints, Failures, Training
from perfmodel.training.layout import even_layers, inner
from perfmodel.training.memory import training_memory
from perfmodel.training.parameters import Parameters
from perfmodel.training.parts import layer_parts
from perfmodel.training.pipeline.closed_forms import bubble
from perfmodel.training.run import DAY, best_interval_s, expected_waste, simulate_run
from perfmodel.training.step import StepBuilder, simulate_training
from perfmodel.training.summary import breakdown_s, step_interval_s
from perfmodel.training.traffic import gradient_ops, state_bytes_per_parameter, updated, weight_ops
from perfmodel.units import HOUR
from perfmodel.validation.training import MEASURED, read
from perfmodel.validation.training_setups import qwen_pair

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = {
    "model": {"base": "qwen3-30b-a3b", "num_hidden_layers": 8},
    "cluster": "h100-ib",
    "training": {
        "sequence_tokens": 4096,
        "global_batch_sequences": 128,
        "dp": 8,
        "pp": 2,
        "ep": 8,
        "tokens": 1e10,
    },
}


def small(**training):
    return build_scenario({**SMALL, "training": {**SMALL["training"], **training}})


@pytest.fixture(scope="module")
def answer():
    return answer_train(small(failures={"per_gpu_day": 1e-3, "restart_s": 300, "spare_nodes": 1}))


def test_the_contracts_keys(answer):
    keys = {
        "step_time_s", "tokens_per_s", "tokens_per_s_per_gpu", "model_flops_per_s_per_gpu", "mfu", "bubble_fraction",
        "exposed_communication_fraction", "exposed_s", "breakdown_s", "memory_bytes", "memory_by_stage", "num_gpus",
        "days", "gpu_hours", "usd", "availability", "failures", "warnings", "provenance", "intervals",
    }  # fmt: skip
    assert not keys - set(answer.values)
    assert set(answer.values["exposed_s"]) == {"dispatch", "combine", "dp", "cp", "tp", "pp"}
    text = json.dumps(answer.values, allow_nan=False)
    assert json.loads(text)["num_gpus"] == 16


def test_figures_agree_with_each_other(answer):
    values = answer.values
    assert sum(values["breakdown_s"].values()) == pytest.approx(values["step_time_s"])
    assert all(part > -1e-9 for part in values["breakdown_s"].values())
    exposed = sum(values["exposed_s"].values()) / values["step_time_s"]
    assert values["exposed_communication_fraction"] == pytest.approx(exposed)
    assert values["tokens_per_s"] == pytest.approx(128 * 4096 / values["step_time_s"])
    assert values["gpu_hours"] == pytest.approx(
        values["days"] * 24 * (16 + 8)
    )  # a spare node of 8 is paid for
    assert values["mfu_full_mask"] > values["mfu"]
    low, high = values["intervals"]["step_time_s"]
    assert low < values["step_time_s"] < high
    assert sum(values["memory_bytes"].values()) <= max(row["total"] for row in values["memory_by_stage"]) + 7
    productive = 1e10 / (128 * 4096) * values["step_time_s"] / DAY
    assert values["days"] == pytest.approx(productive / values["availability"], rel=1e-6)


def test_one_f_one_b_has_its_bubble():
    """Even stages and free transfers would give (p - 1)(F + B); ours has uneven ends, so more."""
    step = simulate_training(small())
    assert step.run.makespan_s > 0
    values = answer_train(small()).values["bubble_s"]
    assert values["makespan"] >= 0.8 * values["closed_form_makespan"]
    assert bubble("1f1b", 2, 16, 1, 1.0, 1.0, 1.0).makespan_s == 3.0


def seconds(**training):
    return simulate_training(small(**training)).step_time_s


def test_overlap_hides_and_never_costs():
    plain = seconds()
    assert seconds(moe_overlap="two-chunks") < 1.02 * plain  # half batches are less efficient
    assert seconds(moe_overlap="forward-backward") < plain
    step = simulate_training(small(moe_overlap="forward-backward"))
    for (forward, backward), phase in step.pairs.items():
        alone = step.phases[forward].forward + step.phases[backward].backward
        assert phase.seconds <= alone.seconds
        assert phase.seconds >= sum(alone.compute_s.values()) * 0.999


@pytest.mark.parametrize(
    ("changed", "slower"),
    [
        ({"recompute": "full"}, True),
        ({"recompute": ["attention_core"]}, True),
        ({"slowest_rank": 1.3}, True),
        ({"deterministic": True}, True),
        ({"overlap_gradients": False}, True),
        ({"post_validation": True}, False),
        ({"cp": 2, "dp": 4}, True),
    ],
)
def test_what_makes_a_step_longer(changed, slower):
    plain, other = seconds(), seconds(**changed)
    assert other > plain if slower else other <= plain


def test_splitting_gradients_shortens_the_bubble():
    def beyond(schedule):
        run = simulate_training(small(pp=4, dp=4, ep=4, schedule=schedule)).run
        return max(run.idle_s(rank) for rank in range(4))

    assert beyond("zb-h1") < beyond("1f1b")


def test_bytes_per_parameter():
    """Megatron without sharding 18; distributed optimizer 6 + 12/d; BF16 moments 6 + 8/d."""
    one = Parameters(1000.0, 0.0)
    for zero, moments, expected in ((0, "fp32", 18.0), (1, "fp32", 6 + 12 / 16), (1, "bf16", 6 + 8 / 16)):
        training = Training(global_batch_sequences=16, dp=8, cp=2, zero=zero, optimizer={"moments": moments})
        state = state_bytes_per_parameter(training.optimizer) * updated(one, training) / 1000.0
        assert 2.0 + 4.0 + state == pytest.approx(expected)
    experts = Parameters(0.0, 1000.0)
    training = Training(global_batch_sequences=16, dp=16, ep=4)
    assert updated(experts, training) == 250.0  # 16 / 4 ranks hold the same experts


def test_gradients_and_weights_travel_once():
    """params x 4 x (d - 1)/d one way, params x 2 the other."""
    scenario = small(dp=8, pp=1, ep=1)
    one = Parameters(1e9, 0.0)
    reduce, gather = (ops(one, scenario.training, scenario.cluster) for ops in (gradient_ops, weight_ops))
    assert sum(op.link_bytes + op.network_bytes for op in reduce) == pytest.approx(4e9 * 7 / 8)
    assert sum(op.link_bytes + op.network_bytes for op in gather) == pytest.approx(2e9 * 7 / 8)
    assert {op.op_class for op in (*reduce, *gather)} == {OpClass.DATA_PARALLEL}


def communication(scenario, kind):
    parts = layer_parts(scenario.model.layers[0], inner(scenario, scenario.training), scenario.training)

    def total(way):
        kernels = [kernel for part in parts.in_sequence() for kernel in getattr(part, way)]
        kernels += [part.ring[way != "forward"] for part in parts.attentions if part.ring and way != "weight"]
        return sum(
            kernel.op.link_bytes + kernel.op.network_bytes for kernel in kernels if kernel.op.op_class == kind
        )

    return total("forward"), total("input"), total("weight")


def test_context_parallel_bytes():
    """Ring: (CP - 1) (S / CP) n_kv (d_k + d_v) x 2 B forwards, twice that backwards."""
    scenario = small(cp=4, dp=2, ep=8)
    attention = scenario.model.layers[0].attention
    expected = 3 * (4096 / 4) * attention.num_kv_heads * 2 * attention.head_dim * 2
    forward, back, _ = communication(scenario, OpClass.CONTEXT_PARALLEL)
    assert forward == pytest.approx(expected)
    assert back == pytest.approx(2 * expected)


def test_tensor_parallel_bytes():
    """Per region a gather and a reduce-scatter of S h x 2 B x (t - 1)/t, backwards the same, and the gathers again."""
    scenario = build_scenario(
        {
            "model": {"base": "llama-3.1-70b", "num_hidden_layers": 4},
            "cluster": "h100-ib",
            "training": {"global_batch_sequences": 8, "tp": 4, "sequence_tokens": 4096},
        }
    )
    whole = 4096 * scenario.model.hidden_size * 2 * 3 / 4
    forward, back, again = communication(scenario, OpClass.TP_COMMUNICATION)
    assert forward == pytest.approx(4 * whole)
    assert back == pytest.approx(4 * whole)
    assert again == pytest.approx(2 * whole)


def test_expert_exchange_is_mirrored():
    scenario = small()
    sent = communication(scenario, OpClass.DISPATCH)
    returned = communication(scenario, OpClass.COMBINE)
    assert sent[0] == sent[1]  # a dispatch forwards, one of gradients backwards
    assert returned[0] == returned[1]
    assert sent[2] == returned[2] == 0.0


def test_gradient_factors_have_sources():
    for kernel in ("gemm", "grouped_gemm"):
        for way in ("input", "weight"):
            for architecture in ("ampere", "hopper", "blackwell"):
                row = lookup(kernel, way, architecture)
                assert row is not None
                assert "SimuMax" in row.source
    assert 2.5 < lookup("mla_prefill", "input", "hopper").factor < 3.7  # DeepSeek's trace: 3.05


def memory_of(**training):
    step = simulate_training(small(**training))
    return step.memory.ranks[step.memory.fullest]


def test_memory_falls_with_what_is_divided_or_recomputed():
    held = [memory_of(zero=zero) for zero in range(4)]
    zeros = [one.weights + one.gradients + one.optimizer for one in held]
    assert zeros == sorted(zeros, reverse=True)
    assert held[3].workspace > held[2].workspace  # what is gathered for use
    kept = memory_of().activations
    assert memory_of(recompute=["norms", "activations"]).activations < kept
    assert memory_of(recompute="full").activations < 0.5 * kept  # the head keeps its logits
    assert memory_of(schedule="gpipe").activations > kept
    step = simulate_training(small())
    held = step.memory.held[0]
    assert held.held_bytes[-1] == pytest.approx(0.0, abs=1.0)
    assert max(held.held_bytes) == held.peak_bytes
    again = training_memory(step.inner, step.training, step.run, step.stages, step.parameters)
    assert again.ranks == step.memory.ranks


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"micro_batch_sequences": 4, "sequence_tokens": 10240},
            "GB missing; with training.recompute=full it would need",
        ),
        ({"micro_batch_sequences": 8, "sequence_tokens": 32768}, "GB missing; more pp, tp, ep or cp"),
    ],
)
def test_what_does_not_fit_says_what_would(changed, words):
    with pytest.raises(InfeasibleError, match="pipeline rank 0 needs") as caught:
        answer_train(small(pp=1, dp=16, **changed))
    assert words in str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_deepseek_v3_and_longcat_fit_where_they_ran():
    for name, most in (("deepseek-v3-train-h800", 84.9e9), ("longcat-flash-train-h800", 60e9)):
        memory = simulate_training(load_scenario(name)).memory
        assert memory.ranks[memory.fullest].total < most


def test_a_step_of_pairs_fits_where_it_ran():
    """Megatron-Core's overlap on 16 H100 left 62.2 GiB allocated (the runtime's own memory is not in that): forwards
    take what backwards give back, not a whole micro-batch more."""
    (row,) = (
        row
        for row in read(MEASURED)
        if row["model"] == "Qwen3-30B-A3B" and "GiB allocated" in row["mem_unit"]
    )
    memory = simulate_training(build_scenario(qwen_pair(row))).memory
    fullest = memory.ranks[memory.fullest]
    assert fullest.total < catalogue.gpu("h100-sxm").memory_bytes
    assert (fullest.total - fullest.runtime) / 2**30 == pytest.approx(float(row["peak_mem"]), rel=0.08)


# the run


def test_a_run_without_failures_takes_its_steps():
    run = simulate_run(
        1e6, num_gpus=8, step_time_s=1.0, checkpoints=Checkpoints(), failures=Failures(), seed=0
    )
    assert set(run.elapsed_s) == {1e6}
    assert run.availability == 1.0
    assert run.interval_s is None


def test_availability_is_youngs_to_first_order():
    """LongCat's faults: 20 in 30 days, a mean of 36 h, 600 s each, 3 s per checkpoint: 98.75 to 98.98 %."""
    between = 36 * HOUR
    failures = Failures(per_gpu_day=DAY / between / 1000, restart_s=600)
    run = simulate_run(
        30 * DAY,
        num_gpus=1000,
        step_time_s=5.0,
        checkpoints=Checkpoints(stall_s=3),
        failures=failures,
        seed=1,
    )
    best = best_interval_s(3, between)
    assert run.interval_s == best
    assert 12 * 60 < best < 17 * 60
    assert 1 - run.availability == pytest.approx(expected_waste(best, 3, 600, between), rel=0.05)
    assert np.mean(run.failures) == pytest.approx(20, rel=0.05)
    assert 0.9875 < run.availability < 0.9898
    parts = run.lost_s + run.down_s + run.waiting_s + run.stalled_s + run.productive_s
    assert np.mean(parts) == pytest.approx(np.mean(run.elapsed_s), rel=1e-3)


@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_the_best_interval_is_best(factor):
    failures = Failures(per_gpu_day=1e-2, restart_s=300)

    def availability(interval):
        return simulate_run(
            1e6, num_gpus=1000, step_time_s=1.0, checkpoints=Checkpoints(stall_s=10, interval_s=interval),
            failures=failures, seed=3,
        ).availability  # fmt: skip

    best = best_interval_s(10, DAY / 10)
    assert availability(best) > availability(best * factor)


def test_spares_buy_time_and_no_more_than_enough():
    def days(spares):
        failures = Failures(per_gpu_day=1e-3, restart_s=300, spare_nodes=spares, repair_hours=48)
        run = simulate_run(
            20 * DAY, num_gpus=1000, step_time_s=1.0, checkpoints=Checkpoints(stall_s=5), failures=failures, seed=2,
            repeats=200,
        )  # fmt: skip
        return float(np.mean(run.elapsed_s)) / DAY

    times = [days(spares) for spares in (0, 1, 2, 4, 16, None)]
    assert times[:-1] == sorted(times[:-1], reverse=True)
    assert times[-2] == pytest.approx(times[-1], rel=1e-3)
    assert times[0] > 2 * times[-1]


def test_failures_without_end_are_refused():
    with pytest.raises(InfeasibleError, match="leave next to no time"):
        simulate_run(
            1e6, num_gpus=10**5, step_time_s=60.0, checkpoints=Checkpoints(stall_s=5),
            failures=Failures(per_gpu_day=1.0, restart_s=600), seed=0,
        )  # fmt: skip


def test_the_same_seed_gives_the_same_run():
    def run(seed):
        return simulate_run(
            1e6, num_gpus=1000, step_time_s=1.0, checkpoints=Checkpoints(stall_s=1),
            failures=Failures(per_gpu_day=1e-2, restart_s=100), seed=seed,
        ).elapsed_s  # fmt: skip

    assert np.array_equal(run(5), run(5))
    assert not np.array_equal(run(5), run(6))


# bad input


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ep": 3}, "ep x etp = 3 x 1 = 3 must divide tp x cp x dp"),
        ({"edp": 3}, "etp x ep x edp = 1 x 8 x 3 = 24 must equal"),
        ({"global_batch_sequences": 100}, "must be a multiple of dp x micro_batch_sequences = 8 x 1 = 8"),
        ({"tp": 3}, "must be a multiple of cp x tp"),
        ({"tp": 64, "dp": 1}, "training.tp = 64 must divide the model's 32 attention heads"),
        ({"pp": 16}, "16 stages, the model has 8 layers"),
        ({"stage_layers": [4, 5]}, "sums to 9, the model has 8 layers"),
        ({"stage_layers": [8]}, "has 1 values, pp x virtual_stages = 2"),
        ({"schedule": "zb-v"}, "schedule = zb-v: virtual_stages = 1"),
        ({"schedule": "dualpipe", "pp": 3}, "pp = 3 must be even"),
        ({"mtp": True}, "has no MTP layer"),
        ({"moe_overlap": "forward-backward", "schedule": "gpipe"}, "runs no forward beside a backward"),
        ({"zero": 5}, "training.zero = 5"),
        ({"tokens": -1}, "training.tokens = -1"),
        ({"tokens": float("nan")}, "training.tokens"),
        ({"recompute": ["everything"]}, "training.recompute"),
        ({"nonsense": 1}, "training.nonsense: unknown key"),
    ],
)
def test_bad_input_is_one_line(changed, words):
    with pytest.raises(SpecError) as caught:
        answer_train(small(**changed))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


SIZES = st.integers(1, 12)


@QUICK
@given(
    tp=SIZES, cp=SIZES, dp=SIZES, pp=SIZES, ep=SIZES, etp=st.integers(1, 3), v=st.integers(1, 3),
    gbs=st.integers(1, 64),
    schedule=st.sampled_from(["gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-v", "dualpipe"]),
)  # fmt: skip
def test_any_layout_is_answered_or_refused_in_one_line(tp, cp, dp, pp, ep, etp, v, gbs, schedule):
    asked = {
        "tp": tp, "cp": cp, "dp": dp, "pp": pp, "ep": ep, "etp": etp, "virtual_stages": v,
        "global_batch_sequences": gbs, "schedule": schedule, "tokens": None, "sequence_tokens": 2048,
    }  # fmt: skip
    try:
        document = {key: value for key, value in {**SMALL["training"], **asked}.items() if value is not None}
        scenario = build_scenario({**SMALL, "training": document})
        step = simulate_training(scenario)
    except PerfModelError as refused:
        assert "\n" not in str(refused)  # noqa: PT017
        assert "training" in str(refused)  # noqa: PT017
    else:
        assert math.isfinite(step.step_time_s)
        assert step.step_time_s > 0.0
        assert step.training.num_gpus == tp * cp * dp * pp
        assert all(memory.total > 0.0 for memory in step.memory.ranks)
        assert sum(breakdown_s(step).values()) == pytest.approx(step.step_time_s)
        low, high = step_interval_s(step)
        assert low < step.step_time_s < high


def test_a_scenario_without_training_is_refused():
    with pytest.raises(SpecError, match="training: missing"):
        answer_train(load_scenario("longcat-flash-h800"))


@pytest.mark.parametrize(("layers", "stages"), [(61, 16), (28, 14), (94, 32), (5, 5), (7, 2)])
def test_layers_are_even_with_the_ends_lighter(layers, stages):
    numbers = even_layers(layers, stages)
    assert sum(numbers) == layers
    assert max(numbers) - min(numbers) <= 1
    assert numbers[-1] == min(numbers)


# outputs


def test_the_trace_has_a_track_per_rank(answer):
    trace = json.loads(trace_text(answer))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["tid"] for event in events} == {0, 1}
    forwards = [event for event in events if event["cat"] == "forward"]
    assert len(forwards) == 2 * 16
    for rank in (0, 1):
        own = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["tid"] == rank)
        assert all(before[1] <= after[0] + 1e-3 for before, after in pairwise(own))
    assert max(event["ts"] + event["dur"] for event in events) == pytest.approx(answer.step.step_time_s * 1e6)


def test_the_page_is_complete_and_offline(answer):
    html = train_html(answer)
    assert "<h2>The pipeline</h2>" in html
    assert "What spare nodes buy" in html
    assert 'data-key="step_time_s"' in html
    assert "cdn.plot.ly" not in html.split("</script>", 1)[1]
    assert train_html(answer) == html


def test_the_command(tmp_path):
    trace, page = tmp_path / "t.json.gz", tmp_path / "t.html"
    runner = CliRunner()
    base = [
        "train",
        "longcat-flash-train-h800",
        "--set",
        "training.dp=56",
        "--set",
        "training.global_batch_sequences=1792",
    ]
    done = runner.invoke(app, [*base, "--trace", str(trace), "--html", str(page)])
    assert done.exit_code == 0, done.output
    assert "Where a step's time goes" in done.stdout
    assert "3,584 h800-sxm" in done.stdout
    assert trace.stat().st_size > 1000
    assert page.stat().st_size > 10**6
    values = json.loads(runner.invoke(app, [*base, "--json"]).stdout)
    assert values["num_gpus"] == 3584
    assert values["days"] > 0


def test_a_trace_has_a_traces_name(tmp_path):
    from perfmodel.errors import DataError
    from perfmodel.output.train.trace import check_trace_file

    with pytest.raises(DataError, match=r"ends in \.json"):
        check_trace_file(tmp_path / "trace.txt")


# published rows


def test_the_committed_roles_are_the_rule():
    from perfmodel.validation import training_roles as roles

    with roles.ROLES.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == list(roles.assigned())
    named = [row for row in roles.assigned() if row["why"] == "named target"]
    assert {row["role"] for row in named} == {"check"}
    assert {row["group"].split("|")[0] for row in named} == {"DeepSeek-V3", "Qwen3-30B-A3B"}


def test_the_spread_that_intervals_hold_is_that_of_the_fit_rows():
    from perfmodel.training.summary import FRAMEWORK_LOG_STD
    from perfmodel.validation.training import _bridge, bridge_constants

    rows = list(_bridge())
    plain = [row for row in rows if row.quantity == "tokens_per_s_per_gpu"]
    errors = [math.log(row.predicted / row.measured) for row in plain if row.role == "fit"]
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(FRAMEWORK_LOG_STD, abs=0.01)
    assert {row.role for row in rows if row.quantity.endswith("_with_constant")} == {"check"}
    assert bridge_constants([]) == {}


def test_the_record_is_what_the_suite_says_now():
    """Remake it: make trust."""
    from perfmodel.validation.recorded import differences, recorded_results
    from perfmodel.validation.suites import run_suites

    recorded = recorded_results().about(suites=["training"]).rows
    assert list(differences(run_suites("training").rows, recorded)) == []


def test_gradient_factors_are_what_the_script_makes():
    from calibrate.tables.gradients import gradient_rows
    from perfmodel.kernels.achievable import read_rows

    assert gradient_rows() == read_rows("gradients.csv")


def test_training_kernels_answer_for_their_gpu_alone():
    from perfmodel.kernels.training_rows import in_step, timed
    from perfmodel.ops.backward import gradients
    from perfmodel.ops.build import gemm
    from perfmodel.spec import catalogue

    op = gemm("x", OpClass.DENSE_FFN, m=4096, n=10240, k=8192, dtype="bf16")
    back = gradients(op)
    b200, h100 = catalogue.gpu("b200-sxm"), catalogue.gpu("h100-sxm")
    weight = timed(back.weight[0], b200)
    assert weight is not None
    longer = in_step("B200-SXM")  # the table's rows of this product, NT and NN
    assert weight.seconds == pytest.approx(longer * op.flops / 1345.38e12, rel=0.02)
    assert timed(back.input[0], b200).seconds == pytest.approx(longer * op.flops / 1120.6e12, rel=0.02)
    assert timed(back.weight[0], h100) is None
    assert (
        "between timed shapes"
        in timed(
            gradients(gemm("y", OpClass.DENSE_FFN, m=3000, n=9000, k=7000, dtype="bf16")).weight[0], b200
        ).source
    )


def test_models_without_a_modelled_backward_are_refused():
    with pytest.raises(PerfModelError, match=r"training: the model has layers with|not modelled"):
        answer_train(
            build_scenario(
                {"model": "longcat-2.0", "cluster": "h800-ib", "training": {"global_batch_sequences": 8}}
            )
        )


def test_divided_weights_travel_beside_a_forward_and_a_backward_too():
    """A pair gathers twice and reduces once: on a slow wire it takes as long as they do."""
    scenario = small(pp=1, dp=16, zero=3, moe_overlap="forward-backward")
    network = scenario.cluster.network.model_copy(update={"gb_per_s_per_gpu": 1.0})
    cluster = scenario.cluster.model_copy(update={"network": network})
    slow = simulate_training(scenario.model_copy(update={"cluster": cluster}))
    builder = StepBuilder(slow.scenario, slow.training)
    gather, reduce = (
        sum(
            float(builder.costing.alone(Kernel.plain(op)).seconds)
            for op in ops(slow.parameters[0], slow.training, cluster)
        )
        for ops in (weight_ops, gradient_ops)
    )
    assert slow.pairs[0, 0].seconds == pytest.approx(2 * gather + reduce, rel=1e-9)
    assert slow.pairs[0, 0].exposed_s[OpClass.DATA_PARALLEL] > 0.0


@pytest.mark.parametrize("name", ["deepseek-v3-train-h800", "longcat-flash-train-h800", ""])
def test_no_transfer_of_a_step_is_faster_than_its_wire(name):
    """Calibrations timed collectives inside a link domain; gigabytes between domains take the network's time."""
    scenario = load_scenario(name) if name else small(ep=1, dp=32, pp=1, global_batch_sequences=128)
    step = simulate_training(scenario)
    cluster = step.scenario.cluster
    transfers = [(kernel.op, timing) for kernel, timing in step.timings if kernel.op.is_communication]
    assert transfers
    for op, timing in transfers:
        assert float(timing.seconds) >= 0.999 * op.link_bytes / cluster.link_bytes_per_s, op.name
        wire = cluster.network_bytes_per_s(same_rail=True)
        assert float(timing.seconds) >= 0.999 * op.network_bytes / wire, op.name


def test_notes_are_in_words_and_whole_numbers():
    notes = answer_train(load_scenario("longcat-flash-train-h800")).values["warnings"]
    assert any("dense GEMMs outside what was timed: m 131,072; timed up to" in text for text in notes)
    assert not any("e+0" in text or " is above the timed " in text for text in notes)
