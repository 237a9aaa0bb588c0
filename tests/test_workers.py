"""Work that is shared out: the same results in the same order, whoever does it."""

import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from command import run_here

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import SpecError, WorkerError
from perfmodel.explore.fleet import Traffic, with_fleet
from perfmodel.explore.sensitivity import _moved, sensitivity
from perfmodel.load import load_scenario
from perfmodel.validation import silicon
from perfmodel.workers import each, processes


def doubled(x):
    if x == 7:
        raise ValueError("seven")
    return 2 * x


def test_pieces_come_back_in_order_here_and_from_processes():
    told = []
    assert each(doubled, [3, 1, 2], progress=lambda done, total: told.append((done, total))) == [6, 2, 4]
    assert told == [(0, 3), (1, 3), (2, 3)]
    with processes(2) as executor:
        assert each(doubled, range(6), executor=executor) == [0, 2, 4, 6, 8, 10]
        with pytest.raises(ValueError, match="seven"):
            each(doubled, [1, 7, 2], executor=executor)
        assert each(doubled, [5], executor=executor) == [10]


def doubled_once_killed(asked):
    flag, x = asked
    if x == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


def killed(x):
    os.kill(os.getpid(), signal.SIGKILL)


def test_pieces_of_a_process_that_was_killed_are_done_again(tmp_path):
    flag = tmp_path / "killed"
    with processes(2) as executor:
        assert each(doubled_once_killed, [(flag, x) for x in range(4)], executor=executor) == [0, 2, 4, 6]
        assert flag.exists()
        with pytest.raises(WorkerError, match="killed 4 times in a row"):
            each(killed, [1], executor=executor)
        assert each(doubled, [5], executor=executor) == [10]


def test_one_worker_needs_no_process():
    with processes(1) as executor:
        assert executor is None
    with pytest.raises(SpecError, match="--workers 0: must be from 1 to 1,024"), processes(0):
        pass


def test_intervals_are_the_same_by_any_number_of_workers(monkeypatch):
    monkeypatch.setattr("perfmodel.answers.serve_intervals.WORTH_SHARING", 0)
    scenario = load_scenario("longcat-flash-h800", ["workload.num_requests=60"])
    alone = answer_serve(scenario, repeats=8)
    told = []
    with processes(2) as executor:
        shared = answer_serve(
            scenario, repeats=8, executor=executor, progress=lambda done, total: told.append((done, total))
        )
    assert shared.values == alone.values
    assert (7 * 60, 8 * 60) in told


def test_a_fleet_with_its_interval_is_the_same_by_any_number_of_workers(monkeypatch):
    """Three searches, of which each simulates many runs: what they need and what they find travels."""
    monkeypatch.setattr("perfmodel.answers.serve_intervals.WORTH_SHARING", 0)
    asked = ["workload.num_requests=60", "slo.ttft_ms=2000", "slo.tpot_ms=60"]
    answer = answer_serve(load_scenario("longcat-flash-h800", asked), repeats=8)
    traffic = Traffic(peak_to_mean=2.0, requests_per_day=1e6)
    alone = with_fleet(answer, traffic)
    with processes(2) as executor:
        shared = with_fleet(answer, traffic, executor=executor)
    assert shared.values == alone.values
    assert alone.values["fleet"]["by_slo"]["replicas"] > 1
    assert "fleet.by_slo.replicas" in alone.values["intervals"]


def test_validation_rows_are_the_same_by_any_executor():
    records = silicon.roles.read_published(silicon.FILE)[:3]
    asked = {"suite": "data", "role": lambda _: "user"}
    with ThreadPoolExecutor(2) as executor:
        assert silicon.predict_rows(records, executor=executor, **asked) == silicon.predict_rows(
            records, **asked
        )


def test_sensitivities_are_the_same_by_any_executor():
    scenario = load_scenario("longcat-flash-h800")
    with ThreadPoolExecutor(2) as executor:
        shared = sensitivity(scenario, executor=executor)
    assert shared == sensitivity(scenario)
    assert shared.swings
    pickle.dumps(partial(_moved, scenario, None))  # so that it can go to another process


def test_the_command_line_takes_workers_where_there_is_work():
    asked = ("longcat-flash-h800", "--workers", "2", "--set", "workload.num_requests=5")
    done = run_here("perfmodel", "serve", *asked)
    assert done.returncode == 2
    assert "--workers 2: belongs to --intervals" in done.stderr
