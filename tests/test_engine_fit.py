"""Constants of serving engines: fitted on ``fit`` rows alone, written whole, each having earned its place."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from calibrate.engines import __main__ as command
from calibrate.engines import document, select
from calibrate.engines.constants import CONSTANTS, START
from calibrate.engines.rows import FitRow, jobs, measured, predicted
from calibrate.engines.select import fit_constants, fit_engine, residuals
from perfmodel.engines import profile
from perfmodel.errors import DataError
from perfmodel.validation import roles, silicon

TRUTH = np.array([55.0, 1.1, 0.0, 0.06, 0.002, 0.0])
LAUNCHES = 1500


def made_row(number, truth=TRUTH, engine="sglang", noise=0.0, groups=4, random=None):
    """A row as an engine of known constants would give it: TTFT is the longer of host and GPU and what is in front,
    TPOT a step of kernels with gaps.
    """
    random = random or np.random.default_rng(number)
    gpu, step = random.uniform(0.01, 0.05), random.uniform(5e-3, 4e-2)
    launches, kernels = LAUNCHES * random.uniform(0.5, 1.5), random.uniform(300, 900)
    ttft = number % 2 == 0

    def seconds(constants):
        launch, node, prepare, latency, request, chunk = constants
        if ttft:
            return max(gpu, launches * launch * 1e-6) + latency + 4.0 * request
        return step + (kernels * node + prepare) * 1e-6 + 10.0 * chunk

    at = START
    along = []
    for index, one in enumerate(CONSTANTS):
        points = np.tile(at, (len(one.grid), 1))
        points[:, index] = one.grid
        along.append(np.array([seconds(point) for point in points]))
    measured = seconds(truth) * float(np.exp(noise * random.standard_normal()))
    quantity = "ttft_s" if ttft else "tpot_s"
    return FitRow(f"row{number}", engine, f"group{number % groups}", quantity, measured, at, tuple(along))


def made_rows(count=40, **more):
    return [made_row(number, **more) for number in range(count)]


def test_a_row_gives_back_what_it_was_made_of_at_its_grid():
    row = made_row(2)
    at = row.at.copy()
    at[0] = CONSTANTS[0].grid[2]
    assert residuals([row], at)[0] == pytest.approx(np.log(row.along_s[0][2] / row.measured_s))


def test_known_constants_are_found_again():
    rows = made_rows(60, groups=6)
    constants, errors = fit_engine(rows, lambda _: None)
    assert np.abs(residuals(rows, constants)).mean() < 0.03
    assert constants[0] == pytest.approx(TRUTH[0], rel=0.2)
    assert constants[1] == pytest.approx(TRUTH[1], rel=0.15)
    for before, after in pairwise(errors):
        assert select.relative_gain(before, after) >= select.WORTH


def test_a_constant_that_no_row_needs_stays_zero():
    truth = np.array([0.0, 1.5, 0.0, 0.0, 0.0, 0.0])
    constants, _ = fit_engine(made_rows(40, truth=truth), lambda _: None)
    assert constants[1] == pytest.approx(1.5, rel=0.05)
    assert not constants[[0, 2, 3, 4, 5]].any()


def test_a_launch_costs_what_a_launch_can_and_the_rest_has_a_name_of_its_own():
    truth = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    found = fit_constants(made_rows(40, truth=truth), frozenset({0}))
    assert found[0] == 0.0 or found[0] >= CONSTANTS[0].least
    launch, rest = "deployment.host.launch_us", "deployment.host.uncounted_us"
    assert CONSTANTS[0].settings(12.0) == {launch: 12.0, rest: 0.0}
    assert CONSTANTS[0].settings(72.0) == {launch: 30.0, rest: 42.0}


def test_groups_count_equally_however_many_rows_they_have():
    """Fifteen rows of one set-up ask for a gap; one row of each of three others does not, and they are three to one."""
    truth = np.array([0.0, 2.0, 0.0, 0.0, 0.0, 0.0])
    many = [made_row(2 * n + 1, truth=truth, groups=1) for n in range(15)]
    others = [replace(made_row(81, truth=np.zeros(6)), group=f"other{n}") for n in range(3)]
    assert fit_constants(many, frozenset({1}))[1] == pytest.approx(2.0, rel=0.05)
    assert fit_constants([*many, *others], frozenset({1}))[1] < 0.5


def test_one_group_is_not_enough():
    with pytest.raises(DataError, match="two are needed"):
        fit_engine(made_rows(4, groups=1), lambda _: None)


# --- which rows ----------------------------------------------------------------------------------------------


def test_only_fit_rows_whose_run_is_documented_may_set_a_constant():
    committed = roles.committed()
    found = jobs()
    assert len(found) > 100
    for file, record in found:
        assert committed[file, record["id"]] == "fit"
        assert "longcat" not in record["model"].lower()
        if file != "serving.csv":
            assert not record["note"]
            assert record["mode"] == "agg"
            assert not roles.is_transfer(record)


def test_a_cold_runs_ttft_sets_nothing():
    cold = [job for job in jobs() if job[0] == silicon.FILE and job[1]["measured"][:4] == "2025"]
    assert cold
    for job in cold:
        assert "ttft_s" not in measured(job)
        assert "tpot_s" in measured(job)


def test_a_prediction_knows_the_constants_that_are_asked_and_none_that_were_fitted():
    job = next(job for job in jobs() if job[1].get("concurrency") == "4")
    zero = predicted(job, (0.0,) * len(CONSTANTS))
    later = predicted(job, (0.0, 0.0, 0.0, 0.5, 0.0, 0.0))
    gaps = predicted(job, (0.0, 2.0, 0.0, 0.0, 0.0, 0.0))
    assert later["ttft_s"] == pytest.approx(zero["ttft_s"] + 0.5, rel=0.05)
    assert gaps["tpot_s"] > 1.01 * zero["tpot_s"]


# --- the file ------------------------------------------------------------------------------------------------


@pytest.fixture
def file(monkeypatch, tmp_path):
    own = tmp_path / "fitted.yaml"
    monkeypatch.setattr(command, "FITTED", own)
    monkeypatch.setattr(profile, "FITTED", own)
    monkeypatch.setattr(command, "ProcessPoolExecutor", lambda _: ThreadPoolExecutor(1))
    monkeypatch.setattr(document, "fit_rows", lambda at, pool, progress: made_rows(30))
    monkeypatch.setattr(document, "fit_engine", lambda rows, progress: (TRUTH, [{"tpot_s": 1.0}]))
    logs = {"tpot_s": [(f"g{n % 3}", 0.1 * (n % 3 - 1)) for n in range(12)]}
    monkeypatch.setattr(document, "served_logs", lambda constants, pool: dict.fromkeys(constants, logs))
    monkeypatch.setattr("sys.argv", ["engines"])
    return own


def test_what_is_written_is_what_an_engine_does(file, capsys):
    command.main()
    assert "sglang" in capsys.readouterr().out
    rule = next(
        rule
        for rule in profile.profile("sglang").rules
        if "serving" in rule["set"]
        and "host" in rule["set"].get("deployment", {})
        and "calibrate" in rule["source"]
    )
    assert rule["set"]["deployment"]["host"]["launch_us"] == 30.0
    assert rule["set"]["deployment"]["host"]["uncounted_us"] == TRUTH[0] - 30.0
    assert rule["set"]["serving"]["front_end"]["latency_s"] == TRUTH[3]
    assert "role fit" in rule["source"]
    assert file.read_text().startswith("# Constants of serving engines")


def test_a_write_that_fails_leaves_the_old_file(monkeypatch, file):
    file.write_text("sglang: {set: {}, source: before}\n")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="No space left"):
        command.main()
    assert file.read_text() == "sglang: {set: {}, source: before}\n"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_spreads_tell_rows_from_set_ups():
    logs = [("a", 0.3 + e) for e in (-0.02, 0.0, 0.02)] + [("b", -0.3 + e) for e in (-0.02, 0.0, 0.02)]
    within, between = document.spreads(logs)
    assert between == pytest.approx(0.3, rel=0.01)
    assert within < 0.05


def test_a_second_pass_that_is_worse_on_set_ups_left_out_does_not_count(file, monkeypatch):
    """Around the first one's result another selection may win by a hair."""
    other = TRUTH * 0.0
    passes = iter([(TRUTH, 0.2), (TRUTH, 0.2), (TRUTH, 0.2), (other, 0.2), (other, 0.3), (other, 0.205)])
    monkeypatch.setattr(
        document, "fit_engine", lambda rows, progress: (lambda v, e: (v, [{"tpot_s": e}]))(*next(passes))
    )
    command.main()
    own = {name: profile._fitted(name)[0]["set"]["deployment"]["host"] for name in document.ENGINES}
    assert own["sglang"]["launch_us"] == own["vllm"]["launch_us"] == 0.0
    assert own["trtllm"]["launch_us"] == 30.0
