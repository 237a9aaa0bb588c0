"""The report's Table 7, cell by cell, through the timeline."""

import numpy as np
import pytest

from perfmodel.errors import SpecError
from perfmodel.load import load_scenario
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps, simulate_step
from perfmodel.validation.rows import matches_printed
from perfmodel.validation.suites import run_suites


@pytest.fixture(scope="module")
def result():
    return run_suites("longcat-theory")


def test_every_cell_rounds_to_what_is_printed(result):
    theory = [row for row in result.rows if row.role == "theory"]
    assert len(theory) == 15
    assert all(row.matches_printed for row in theory)
    assert result.above_ceiling == ()


def test_predictions_are_unrounded(result):
    longcat = {row.quantity: row.predicted for row in result.rows if row.id == "table7-longcat-flash"}
    assert longcat["dispatch_s"] == pytest.approx(192 * 8 * 6144 / 40e9)
    assert longcat["combine_s"] == pytest.approx(2 * 192 * 8 * 6144 / 40e9)
    flops = 192 * (8 * 6 * 6144 * 2048 + 2 * 6144 * 768)
    assert longcat["moe_s"] == pytest.approx(flops / 1979e12)
    layer = 264e-6 + longcat["dispatch_s"] + longcat["moe_s"] + longcat["combine_s"]
    assert longcat["tpot_s"] == pytest.approx(28 * layer / 1.8)


def test_real_tbo_stands_beside_the_rows_and_is_not_meant_to_match(result):
    beside = [row for row in result.rows if row.role == "comparison"]
    assert len(beside) == 6
    assert all(row.matches_printed is None for row in beside)


def test_rounding_is_half_up_at_the_printed_decimals():
    assert matches_printed(29.88, "30")
    assert matches_printed(26.15, "26.2")
    assert not matches_printed(26.14, "26.2")
    assert not matches_printed(0.096, "0.09")


def test_unknown_suite_is_named():
    with pytest.raises(SpecError, match="nope"):
        run_suites("nope")


def test_the_fused_row_takes_arrays_and_no_real_expert():
    swept = with_arrays(
        load_scenario("table7-longcat-flash"), {"deployment.batch_per_gpu": np.array([16.0, 96.0])}
    )
    small, large = predict_steps(swept).step_time_s
    assert 0 < small < large
    none = simulate_step(load_scenario("table7-longcat-flash", ["routing.mean_real_experts=0"]))
    assert 0 < none.step_time_s < large
