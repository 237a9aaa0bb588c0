"""The dashboard's pool of processes: the same results, one run for all who ask, and none that nobody waits for."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pooled_work
import pytest
from patience import patient_s

from dashboard import pool, results
from dashboard.cache import Kept, key_of
from dashboard.pool import GRACE_S, Pool, begin
from perfmodel.answers.step import answer_step
from perfmodel.errors import SpecError, WorkerError
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario


@pytest.fixture(scope="module")
def processes():
    """A pool of two, where pooled functions find it."""
    pool._pool = Pool(2)
    yield pool._pool
    pool._pool = None


class Left(Exception):
    """What a script ends with that is asked something else."""


@pytest.fixture
def leaving(monkeypatch):
    """A list of names: whoever waits for one of these leaves."""
    wanted = []

    def look():
        if wanted:
            raise Left

    monkeypatch.setattr(pool, "_look", lambda: look)
    return wanted


def until(condition):
    end = time.monotonic() + patient_s(20.0)
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_results_are_those_of_the_functions_and_come_from_another_process(processes):
    scenario = load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=48"])
    assert results.answer(scenario).values == answer_step(scenario, over_steps=False, ops=False).values
    assert pd.DataFrame(results._curve(scenario)).equals(batch_curve(scenario))
    assert pooled_work.process_of("a")[0] != os.getpid()


def test_a_result_is_kept_by_what_the_arguments_say(processes):
    assert pooled_work.process_of("kept") is pooled_work.process_of("kept")
    assert pooled_work.process_of("kept") != pooled_work.process_of("other")
    assert pooled_work.by_number(1, "a") == pooled_work.by_number(1, "b") == (1, "a")
    scenario = load_scenario("longcat-flash-h800")
    assert results.layer(scenario) is results.layer(load_scenario("longcat-flash-h800"))
    assert key_of(scenario) != key_of(load_scenario("longcat-flash-h800", ["seed=5"]))


def test_the_oldest_results_make_room():
    found = Kept(2)
    for name in "abc":
        found.put(name, name.upper())
    assert [found.get(name) for name in "abc"] == [None, "B", "C"]
    found.get("b")
    found.put("d", "D")
    assert [found.get(name) for name in "bcd"] == ["B", None, "D"]


def test_all_who_ask_the_same_wait_for_one_run(processes, tmp_path):
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(pooled_work.noted, tmp_path, "shared", 0.3) for _ in range(8)]
        assert {run.result() for run in runs} == {"shared"}
        pids = {threads.submit(pooled_work.process_of, "at once").result() for _ in range(8)}
    assert len(pids) == 1


def test_what_is_begun_before_is_there_when_it_is_asked(processes, tmp_path):
    begin(pooled_work.noted, tmp_path, "early", 0.0)
    until((tmp_path / "early.ended").exists)
    assert pooled_work.process_of("later")
    (tmp_path / "early.begun").unlink()
    assert pooled_work.noted(tmp_path, "early", 0.0) == "early"
    assert not (tmp_path / "early.begun").exists()  # it was not done again


def test_progress_comes_to_the_one_who_asked(processes):
    seen = []
    assert pooled_work.counted(8, progress=lambda *so_far: seen.append(so_far)) == 8
    assert seen
    assert all(total == 8 for _, total in seen)
    assert seen == sorted(seen)


def test_a_mistake_is_raised_where_it_was_asked_and_the_pool_goes_on(processes):
    with pytest.raises(SpecError, match="no such thing"):
        pooled_work.refuses("no such thing")
    assert pooled_work.process_of("after a mistake")


def test_a_run_that_has_not_begun_is_dropped_when_all_have_left(processes, tmp_path, leaving):
    with ThreadPoolExecutor(3) as threads:
        busy = [threads.submit(pooled_work.noted, tmp_path, name, 60.0) for name in ("one", "two")]
        until(lambda: all((tmp_path / f"{name}.begun").exists() for name in ("one", "two")))
        dropped = threads.submit(pooled_work.noted, tmp_path, "dropped", 0.0)
        until(lambda: processes._queue)
        leaving.append("everybody")
        for run in (*busy, dropped):
            with pytest.raises(Left):
                run.result()
    leaving.clear()
    (tmp_path / "go").touch()
    assert pooled_work.process_of("after what was dropped")
    assert not (tmp_path / "dropped.begun").exists()
    assert pooled_work.noted(tmp_path, "dropped", 0.0) == "dropped"  # whoever comes back has it


def test_a_long_run_that_all_have_left_is_ended(processes, tmp_path, leaving):
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(pooled_work.noted, tmp_path, "left", 60.0)
        until((tmp_path / "left.begun").exists)
        leaving.append("everybody")
        with pytest.raises(Left):
            run.result()
    leaving.clear()
    time.sleep(GRACE_S)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(pooled_work.noted, tmp_path, name, 0.2) for name in ("c", "d")]
        assert {run.result() for run in both} == {"c", "d"}
    assert time.monotonic() - started < patient_s(20.0)
    assert not (tmp_path / "left.ended").exists()


def test_runs_have_their_turn_in_the_order_in_which_they_began(processes, tmp_path, monkeypatch):
    """What an earlier run asks last comes before what a later one asked first."""
    later, earlier = time.monotonic(), time.monotonic() - 5.0
    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(pooled_work.noted, tmp_path, name, 60.0) for name in ("e", "f")]
        until(lambda: all((tmp_path / f"{name}.begun").exists() for name in "ef"))
        runs = []
        for name, since in (("of the later", later), ("of the earlier", earlier)):
            monkeypatch.setattr(pool, "since", lambda since=since: since)
            runs.append(threads.submit(pooled_work.noted, tmp_path, name, 0.0))
            until(lambda: len(processes._queue) == len(runs))
        assert [job.call[2][1] for job in processes._queue] == ["of the earlier", "of the later"]
        (tmp_path / "go").touch()
        assert {run.result() for run in (*busy, *runs)} == {"e", "f", "of the later", "of the earlier"}


def test_what_is_slow_leaves_a_process_to_what_is_not(processes, tmp_path):
    with ThreadPoolExecutor(3) as threads:
        runs = [threads.submit(pooled_work.slowly, tmp_path, name, 60.0) for name in ("x", "y")]
        until(lambda: any((tmp_path / f"{name}.begun").exists() for name in "xy"))
        assert pooled_work.noted(tmp_path, "quick", 0.0) == "quick"
        assert not all((tmp_path / f"{name}.begun").exists() for name in "xy")
        (tmp_path / "go").touch()
        assert [run.result() for run in runs] == ["x", "y"]


def test_a_process_that_dies_is_told_and_replaced(processes, tmp_path):
    with pytest.raises(WorkerError, match="was ended"):
        pooled_work.dies(tmp_path)
    assert pooled_work.dies(tmp_path) != os.getpid()


def test_without_a_pool_it_is_done_here(monkeypatch):
    monkeypatch.setattr(pool, "_pool", None)
    assert pooled_work.process_of("here")[0] == os.getpid()
    seen = []
    assert pooled_work.counted(2, progress=lambda *so_far: seen.append(so_far)) == 2
    assert seen == [(0, 2), (1, 2)]
