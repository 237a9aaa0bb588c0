"""Why one scenario costs more than another: the parts add up, whatever differs."""

import pytest

from perfmodel.answers.step import answer_step
from perfmodel.errors import SpecError
from perfmodel.explore.difference import COMPONENTS, balanced, difference, step_parts
from perfmodel.load import load_scenario
from perfmodel.overlap.analysis import exposed_communication_s, occupied_s
from perfmodel.step import simulate_step

OTHERS = {
    "price": ["prices.usd_per_gpu_hour=3"],
    "overlap": ["deployment.overlap=sequential"],
    "batch": ["deployment.batch_per_gpu=8", "prices.usd_per_gpu_hour=5"],
    "skew": ["routing.popularity=power-law", "routing.skew=0.5"],
    "balance": ["routing.imbalance=1.5"],
    "acceptance": ["deployment.mtp.acceptance=0.5"],
    "ranks": [
        "deployment.ranks=all",
        "deployment.attention_dp=16",
        "deployment.ep=16",
        "deployment.batch_per_gpu=8",
    ],
    "hardware": ["cluster=h200-ib", "calibration=h200-sxm", "prices=h200-on-demand"],
}

PREPARED = ["deployment.host.prepare_us=2000", "deployment.host.asynchronous=false"]


def scenario(*sets, name="longcat-flash-h800"):
    return load_scenario(name, sets)


@pytest.fixture(scope="module")
def main_job():
    return answer_step(scenario())


def total(found, column):
    return sum(row[column] for row in found.rows)


@pytest.mark.parametrize("other", OTHERS)
def test_parts_add_up(main_job, other):
    changed = answer_step(scenario(*OTHERS[other]))
    found = difference(main_job, changed)
    for end, answer in (("a", main_job), ("b", changed)):
        assert total(found, f"usd_{end}") == pytest.approx(
            answer.values["usd_per_million_output_tokens"], rel=1e-12
        )
        assert total(found, f"tpot_{end}_s") == pytest.approx(answer.values["tpot_s"], rel=1e-12)
    assert total(found, "delta_usd") == pytest.approx(found.usd_b - found.usd_a, rel=1e-9, abs=1e-15)
    assert total(found, "delta_tpot_s") == pytest.approx(found.tpot_b_s - found.tpot_a_s, rel=1e-9, abs=1e-15)
    assert [row["component"] for row in found.rows] == [*COMPONENTS, "price"]


def test_order_turns_the_sign(main_job):
    other = answer_step(scenario(*OTHERS["batch"]))
    there, back = difference(main_job, other), difference(other, main_job)
    for one, two in zip(there.rows, back.rows, strict=True):
        assert one["delta_usd"] == pytest.approx(-two["delta_usd"], rel=1e-9, abs=1e-18)
    same = difference(main_job, main_job)
    assert all(row["delta_usd"] == row["delta_tpot_s"] == 0.0 for row in same.rows)


def moved(found, column="delta_usd"):
    return {row["component"] for row in found.rows if abs(row[column]) > 1e-9}


def test_each_cause_has_its_own_part(main_job):
    assert moved(difference(main_job, scenario(*OTHERS["price"]))) == {"price"}
    assert moved(difference(main_job, scenario(*OTHERS["balance"]))) == {"imbalance"}
    assert moved(difference(main_job, scenario(*PREPARED))) == {"host"}
    sequential = difference(main_job, scenario(*OTHERS["overlap"]))
    assert moved(sequential) == {"exposed communication", "imbalance"}
    assert moved(difference(main_job, scenario(*OTHERS["price"])), "delta_tpot_s") == set()


def test_balance_has_no_imbalance(main_job):
    step = simulate_step(balanced(scenario()))
    parts = step_parts(step)
    assert parts.seconds["imbalance"] == 0.0
    exposed = exposed_communication_s(step.timeline)
    assert parts.seconds["exposed communication"] == pytest.approx(exposed, rel=1e-12)
    assert step_parts(main_job.step).seconds["imbalance"] > 0.0


@pytest.mark.parametrize("sets", [[], OTHERS["ranks"], ["deployment.overlap=tbo"]])
def test_every_instant_counts_once(sets):
    step = simulate_step(scenario(*sets, *PREPARED))
    parts = occupied_s(step.timeline)
    assert sum(parts.values()) == pytest.approx(step.step_time_s, rel=1e-12)
    assert all(seconds >= -1e-15 for seconds in parts.values())
    assert parts["host"] == pytest.approx(2e-3)


def test_prefill_is_told_per_prompt_token():
    sets = ["deployment.phase=prefill", "deployment.mtp.draft_tokens=0"]
    found = difference(scenario(*sets), scenario(*sets, "deployment.prefill_tokens=4096"))
    assert found.tpot_a_s is None
    assert all(row["delta_tpot_s"] is None for row in found.rows)
    assert total(found, "delta_usd") == pytest.approx(found.usd_b - found.usd_a, rel=1e-9)


def test_phases_are_not_compared(main_job):
    with pytest.raises(SpecError, match="not the same good"):
        difference(main_job, scenario("deployment.phase=prefill"))
