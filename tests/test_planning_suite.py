"""Suite planning: rank correlation and regret by hand, its sets, and that it judges the run that it is part of."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from perfmodel.validation import planning, roles
from perfmodel.validation.planning import Figures, kept, limits_kept, tau
from perfmodel.validation.recorded import differences, recorded_results
from perfmodel.validation.suites import run_suites

ROWS = planning.rows()
SHIPPED = recorded_results()


def figures(*pairs):
    return Figures(*(np.array(values, dtype=float) for values in zip(*pairs, strict=True)))


@pytest.mark.parametrize("seed", range(8))
def test_tau_is_scipys_ties_included(seed):
    one, other = np.random.default_rng(seed).integers(0, 9, (2, 12)).astype(float)
    assert tau(one, other) == pytest.approx(kendalltau(one, other).statistic)


def test_tau_within_a_load_sees_its_pairs_alone():
    load = np.array([1.0, 1.0, 1.0, 8.0, 8.0, 8.0])
    one, other = np.array([1.0, 2.0, 3.0, 11.0, 12.0, 13.0]), np.array([3.0, 2.0, 1.0, 13.0, 12.0, 11.0])
    assert tau(one, other, within=load) == -1.0
    assert tau(one, other) == pytest.approx((9 - 6) / 15)
    assert tau(one[:3], other[:3]) is None
    assert tau(one, np.ones(6)) is None


MEASURED = figures((0.010, 100), (0.020, 300), (0.030, 400), (0.040, 800))
"""TPOT and output per GPU."""


def test_who_predicts_what_was_measured_keeps_all():
    assert kept(MEASURED, MEASURED) == 1.0
    assert kept(MEASURED, figures((0.010, 1), (0.020, 2), (0.030, 3), (0.040, 4))) == 1.0


def test_a_wrong_order_loses_what_the_best_had_more():
    wrong = Figures(MEASURED.tpot_s, np.array([4.0, 3.0, 2.0, 1.0]))
    assert kept(MEASURED, wrong) == pytest.approx((1 + 100 / 300 + 100 / 400 + 100 / 800) / 4)


def test_who_is_too_slow_is_timid_and_who_is_too_fast_breaks_limits():
    timid = Figures(
        MEASURED.tpot_s * 1.01, MEASURED.output_per_gpu
    )  # the row at the limit is thought to miss it
    assert kept(MEASURED, timid) == pytest.approx((1 + 100 / 300 + 300 / 400 + 400 / 800) / 4)
    bold = Figures(
        MEASURED.tpot_s * 0.6, MEASURED.output_per_gpu
    )  # 0.020 is thought to keep 0.013, 0.030 0.018 ...
    assert kept(MEASURED, bold) == 1.0  # each is the best of what is as fast as it
    assert (limits_kept(MEASURED, timid), limits_kept(MEASURED, bold)) == (1.0, 0.5)
    broken = figures((0.010, 100), (0.020, 300), (0.030, 200), (0.040, 800))
    said = figures((0.010, 100), (0.020, 300), (0.020, 900), (0.040, 800))
    assert kept(broken, said) == pytest.approx((1 + 200 / 300 + 200 / 300 + 200 / 800) / 4)


def test_the_record_is_what_the_suite_says_of_it():
    """Remake it: python -m calibrate.trust planning."""
    assert list(differences(ROWS, SHIPPED.about(suites=["planning"]).rows)) == []
    assert list(differences(run_suites("planning").rows, ROWS)) == []


def test_sets_are_of_one_model_gpu_engine_and_lengths_without_remarks():
    assert {row.role for row in ROWS} == {"check", "fit"}
    assert all(row.measured == 1.0 and row.predicted <= 1.0 for row in ROWS)
    assert all(int(row.settings.split()[0]) >= 4 for row in ROWS)
    sets = [row for row in ROWS if row.quantity == "throughput_kept"]
    assert len({row.id for row in sets}) == len(sets) >= 60
    transfer = [row for row in sets if row.model in roles.TRANSFER]
    assert len(transfer) >= 12
    assert {row.role for row in transfer} == {"check"}
    assert any(row.peer_predicted is not None for row in sets)
    assert all(row.peer_predicted is None for row in transfer)


def test_a_run_of_all_suites_judges_its_own_rows():
    """Who predicts what was measured chooses right, whatever is on record."""
    right = [replace(row, predicted=row.predicted and row.measured) for row in SHIPPED.rows]
    assert {round(row.predicted, 9) for row in planning.rows(right)} == {1.0}
    assert planning.rows(right[:5]) == ROWS
