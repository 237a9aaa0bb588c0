"""What zero-computation experts buy: numbers that follow from others, the command, bad input."""

import json

import pytest
from typer.testing import CliRunner

from perfmodel.answers.step import answer_step
from perfmodel.cli import app
from perfmodel.errors import SpecError
from perfmodel.explore.zero_experts import vary_real_experts, vary_zero_experts
from perfmodel.load import load_scenario
from perfmodel.ops.parameters import active
from perfmodel.step import predict_steps

BASE = load_scenario("longcat-flash-h800")


@pytest.fixture(scope="module")
def by_zero():
    return vary_zero_experts(BASE)


def test_the_model_as_it_is_is_among_them(by_zero):
    (same,) = [one for one in by_zero if one.zero_experts == 256]
    values = answer_step(BASE).values
    assert same.step_time_s == pytest.approx(values["step_time_s"])
    assert same.mean_real_experts == pytest.approx(8.0)
    assert same.std_real_experts == pytest.approx(2.55)
    assert same.usd_per_million_tokens == pytest.approx(values["usd_per_million_output_tokens"])
    assert same.active_parameters_mean == pytest.approx(27.15e9, rel=1e-3)


def test_more_of_them_wake_fewer_real_ones_and_cost_less(by_zero):
    assert [one.mean_real_experts for one in by_zero] == pytest.approx(
        [12 * 512 / (512 + zero) for zero in (0, 128, 256, 384)]
    )
    for name in ("step_time_s", "exchanged_bytes", "active_parameters_mean", "usd_per_million_tokens"):
        costs = [getattr(one, name) for one in by_zero]
        assert costs == sorted(costs, reverse=True)
        assert len(set(costs)) == 4
    none = by_zero[0]
    assert none.std_real_experts == 0.0
    assert none.active_parameters_least == none.active_parameters_most
    bytes_per_pair = [one.exchanged_bytes / one.mean_real_experts for one in by_zero]
    assert max(bytes_per_pair) == pytest.approx(min(bytes_per_pair), rel=0.02)  # only real experts cost bytes
    assert all(one.step_time_p99_s >= one.step_time_s * 0.99 for one in by_zero)


def test_their_rows_of_the_router_are_what_they_weigh(by_zero):
    none, some = by_zero[0], by_zero[2]
    rows = 256 * 6144 * 28
    assert some.active_parameters_most - none.active_parameters_most == pytest.approx(rows)


def test_a_mean_of_real_experts_as_the_user_states_it():
    four, twelve = vary_real_experts(BASE, [4, 12])
    assert (four.mean_real_experts, twelve.mean_real_experts) == pytest.approx((4, 12))
    assert four.active_parameters_mean == pytest.approx(active(BASE.model, 4))
    assert twelve.std_real_experts == pytest.approx(0.0, abs=1e-6)
    assert four.step_time_s < twelve.step_time_s


def test_prefill_is_charged_to_the_prompt():
    prefill = load_scenario(
        "longcat-flash-h800", ["deployment.phase=prefill", "deployment.prefill_tokens=2048"]
    )
    (one,) = vary_zero_experts(prefill, [256])
    values = answer_step(prefill).values
    assert one.usd_per_million_tokens == pytest.approx(values["usd_per_million_input_tokens"])
    assert one.tpot_s is None


def test_the_command_prints_a_column_for_each_and_json():
    run = CliRunner().invoke(app, ["experts", "longcat-flash-h800", "--zero", "0,256"])
    assert run.exit_code == 0
    assert "real experts per token" in run.stdout
    assert "12 ± 0" in run.stdout
    assert "8 ± 2.55" in run.stdout
    run = CliRunner().invoke(app, ["experts", "longcat-flash-h800", "--real", "8,12", "--json"])
    values = json.loads(run.stdout)
    assert [one["mean_real_experts"] for one in values["variants"]] == pytest.approx([8, 12])
    assert values["provenance"]["scenario_hash"] == BASE.hash


@pytest.mark.parametrize(
    ("scenario", "options", "message"),
    [
        ("longcat-flash-h800", ["--zero", "-1"], "must be a whole number from 0"),
        ("longcat-flash-h800", ["--zero", "1.5"], "must be whole numbers"),
        ("longcat-flash-h800", ["--zero", "x"], "must be whole numbers"),
        ("longcat-flash-h800", ["--set", "model.moe_topk=600", "--zero", "0"], "would be only 512"),
        ("longcat-flash-h800", ["--real", "13"], "top_k = 12"),
        ("longcat-flash-h800", ["--real", "nan"], "must be finite"),
        ("longcat-flash-h800", ["--real", "8", "--zero", "0"], "one of them at a time"),
        ("longcat-flash-h800", ["--set", "routing.workload=mmlu"], "routing.workload states"),
        ("deepseek-v3-h800", ["--real", "4"], "has no zero-computation experts"),
    ],
)
def test_bad_input_says_what_is_allowed(scenario, options, message):
    run = CliRunner().invoke(app, ["experts", scenario, *options])
    assert isinstance(run.exception, SpecError)
    assert message in str(run.exception)


def test_a_dense_model_has_none():
    dense = load_scenario("longcat-flash-h800", ["model=llama-3.1-70b", "deployment.overlap=sequential",
                          "deployment.mtp.draft_tokens=0", "deployment.attention_dp=32", "deployment.attention_tp=4",
                          "deployment.ep=128"])  # fmt: skip
    with pytest.raises(SpecError, match="has no experts"):
        vary_zero_experts(dense)


def test_zero_experts_never_slow_two_batches_down():
    """What follows a combine (the identity's weighted rows) must not keep the other batch from the GPU."""
    base = [f"deployment.host.{name}_us=0" for name in ("launch", "uncounted", "node", "prepare")]
    times = []
    for zero in (0, 64, 128, 256):
        scenario = load_scenario("deepseek-v3-h800", base)
        layers = tuple(
            layer.model_copy(update={"moe": layer.moe.model_copy(update={"num_zero_experts": zero})})
            if layer.moe
            else layer
            for layer in scenario.model.layers
        )
        model = scenario.model.model_copy(update={"layers": layers})
        routing = scenario.routing.model_copy(update={"mean_real_experts": None})
        one = scenario.model_copy(update={"model": model, "routing": routing})
        times.append(float(predict_steps(one).step_time_s[0]))
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.05 * times[-1]
