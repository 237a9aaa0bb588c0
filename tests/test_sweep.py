"""perfmodel sweep: domains and designs, a dataset that any executor makes alike, kills, bad input."""

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command import run_here

from perfmodel.errors import DataError, SpecError
from perfmodel.explore.plan.answer import plan
from perfmodel.explore.plan.question import Question, kinds_of, limits_of, traffic_of
from perfmodel.explore.sweep import run as running
from perfmodel.explore.sweep.carried import carried_of
from perfmodel.explore.sweep.design import domain_of, plan_of
from perfmodel.explore.sweep.piece import Material, work
from perfmodel.explore.sweep.plans import question_of
from perfmodel.explore.sweep.run import Sweep, read_rows, run_sweep
from perfmodel.load import load_scenario
from perfmodel.output.sweep.picture import picture
from perfmodel.spec import catalogue
from perfmodel.workers import shared

ROOT = Path(__file__).resolve().parent.parent
BATCH = "deployment.batch_per_gpu"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1:16:log", (1, 2, 4, 8, 16)),
        ("1:20:log", (1, 2, 4, 8, 16, 20)),
        ("1:100:log:3", (1, 10, 100)),
        ("16:64:16", (16, 32, 48, 64)),
        ("3:5", (3, 4, 5)),
        ("1:3:n5", (1, 2, 3)),
        ("0.5:0.9:n5", (0.5, 0.6, 0.7, 0.8, 0.9)),
        ("8,16", (8, 16)),
        ("7", (7,)),
    ],
)
def test_a_domain_has_the_values_that_it_says(text, values):
    assert domain_of(f"{BATCH}={text}").values == pytest.approx(values)


def test_a_key_that_takes_a_list_needs_brackets():
    assert domain_of("routing.rank_loads=[[1.0, 1.2],[1.1, 1.1]]").values == ([1.0, 1.2], [1.1, 1.1])
    assert domain_of("routing.rank_loads=[1.0, 1.2],[1.1, 1.1]").values == ([1.0, 1.2], [1.1, 1.1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("deployment.batch=1", "unknown key"),
        (BATCH, "KEY=DOMAIN"),
        (f"{BATCH}=0:4:log", "above 0"),
        (f"{BATCH}=4:1", "LEAST:MOST"),
        (f"{BATCH}=1:4:0", "above 0"),
        (f"{BATCH}=a:b", "two numbers"),
        (f"{BATCH}=1:4:x", "no step"),
        (f"{BATCH}=1:inf", "ends must be 0, or from"),
        (f"{BATCH}={10**320}", "a number must be at most 1e"),
        (f"{BATCH}=0:1:1e-9", "at most"),
        (f"{BATCH}=[]", "no values"),
        ("title=a,b", "is a label"),
        ("routing.source=a,b", "is a label"),
    ],
)
def test_a_bad_domain_is_one_line(text, words):
    with pytest.raises(SpecError, match=words):
        domain_of(text)


def test_designs_fill_their_ranges():
    over = [f"{BATCH}=1:256:log", "deployment.mtp.acceptance=0.5:0.9", "deployment.overlap=sequential,sbo"]
    for design in ("lhs", "sobol"):
        points = plan_of(over, design=design, points=64, seed=3).values()
        assert points == plan_of(over, design=design, points=64, seed=3).values()
        batches = np.array([one[BATCH] for one in points])
        assert (batches >= 1).all()
        assert (batches <= 256).all()
        assert 28 <= (batches < 16).sum() <= 36  # half of the doublings
        assert {one["deployment.overlap"] for one in points} == {"sequential", "sbo"}


def test_points_of_a_piece_are_those_of_the_whole():
    over = [f"{BATCH}=1:8", "deployment.overlap=sequential,sbo", "deployment.mtp.acceptance=0.5:0.9:n3"]
    for options in ({}, {"design": "lhs", "points": 50}, {"design": "sobol", "points": 128}):
        plan = plan_of(over, **options)
        whole = plan.values()
        assert len(whole) == plan.points
        assert plan.values(range(7, 20)) == whole[7:20]
        assert len({json.dumps(one) for one in whole}) == (48 if not options else plan.points)


def test_many_sobol_points_begin_with_the_few():
    over = ["deployment.mtp.acceptance=0.0:1.0", "seed=0:1000"]
    few, many = (plan_of(over, design="sobol", points=n, seed=4).values() for n in (64, 128))
    assert many[:64] == few


def test_a_latin_hypercube_has_one_point_in_every_slice():
    points = plan_of(["deployment.mtp.acceptance=0.0:1.0"], design="lhs", points=50, seed=1).values()
    slices = sorted(int(one["deployment.mtp.acceptance"] * 50) for one in points)
    assert slices == list(range(50))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"design": "random"}, "grid, lhs, sobol"),
        ({"design": "lhs"}, "--points"),
        ({"points": 3}, "a grid has"),
        ({"design": "sobol", "points": 12}, "powers of two"),
    ],
)
def test_a_bad_design_is_one_line(options, words):
    with pytest.raises(SpecError, match=words):
        plan_of([f"{BATCH}=1:4"], **options)


# --- the dataset ------------------------------------------------------------------------------------------------------


def asked(values="8,16,32,64", command="step"):
    return Sweep("longcat-flash-h800", (), plan_of([f"{BATCH}={values}"]), command)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(running, "PIECE", {"step": 1, "serve": 1})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "pieces").iterdir())}


def test_a_row_is_what_step_says(tmp_path):
    done = run_sweep(asked("8,16,100000"), tmp_path / "a")
    assert (done.points, done.done, done.failed) == (3, 2, 1)
    rows = read_rows(tmp_path / "a")
    alone = run_here("perfmodel", "step", "longcat-flash-h800", "--set", f"{BATCH}=16", "--json")
    values = json.loads(alone.stdout)
    row = rows[rows[BATCH] == 16].iloc[0]
    assert row["tpot_s"] == values["tpot_s"]
    assert row["intervals.tpot_s.low"] == values["intervals"]["tpot_s"][0]
    assert row["scenario_hash"] == load_scenario("longcat-flash-h800", [f"{BATCH}=16"]).hash
    assert "does not fit" in rows.iloc[2]["error"]


def test_any_executor_makes_the_same_bytes(tmp_path, small_pieces):
    run_sweep(asked(), tmp_path / "here")
    with ThreadPoolExecutor(3) as executor:
        run_sweep(asked(), tmp_path / "threads", executor=executor)
    assert contents(tmp_path / "here") == contents(tmp_path / "threads")


def test_processes_make_the_same_bytes(tmp_path):
    words = ("sweep", "longcat-flash-h800", "--over", f"{BATCH}=1:40")
    for workers in (1, 2):
        done = run_here("perfmodel", *words, "--out", tmp_path / str(workers), "--workers", workers, "--json")
        assert json.loads(done.stdout)["done"] == 40
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path, small_pieces, monkeypatch):
    run_sweep(asked(), tmp_path / "whole")
    worked = []
    real = running.work

    def stops(material, first, points):
        if len(worked) == 2:
            raise KeyboardInterrupt
        worked.append(first)
        return real(material, first, points)

    monkeypatch.setattr(running, "work", stops)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(asked(), tmp_path / "a")
    again = []

    def goes_on(material, first, points):
        again.append(first)
        return real(material, first, points)

    monkeypatch.setattr(running, "work", goes_on)
    run_sweep(asked(), tmp_path / "a")
    assert worked == [0, 1]
    assert again == [2, 3]
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


def test_a_torn_journal_costs_one_piece(tmp_path, small_pieces):
    run_sweep(asked(), tmp_path)
    whole = contents(tmp_path)
    journal = tmp_path / "journal.txt"
    journal.write_text(journal.read_text()[:-1])  # the last line without its end
    (tmp_path / "pieces" / "0000000.parquet").unlink()  # a piece that the journal has and the disk does not
    assert run_sweep(asked(), tmp_path).done == 4
    assert contents(tmp_path) == whole


SWEEP_OF_24 = (
    "import sys; from perfmodel.explore.sweep import run; run.PIECE['step'] = 1; from perfmodel.main import main; "
    f"sys.argv = ['perfmodel', 'sweep', 'longcat-flash-h800', '--over', '{BATCH}=1:24', "
    "'--out', sys.argv[1], '--workers', '1', '--json']; "
)
KILLED = """
import os, pathlib, random, signal, time
journal, draw = pathlib.Path(sys.argv[sys.argv.index('--out') + 1]) / 'journal.txt', random.Random(5)
done = lambda: len(journal.read_text().split()) if journal.exists() else 0
for turn in range(16):
    goal, child = done() + turn % 2, os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        main()
    ended = 0
    while not ended and done() < goal:
        time.sleep(0.002)
        ended, _ = os.waitpid(child, os.WNOHANG)
    if not ended:
        time.sleep(draw.uniform(0.0, 0.05 if turn % 2 else 0.3))
        os.kill(child, signal.SIGKILL)
        print(done(), os.waitpid(child, 0)[1])
"""
"""Begun again and again, each time killed at some moment of its start or soon after a piece: what is imported once is
there in each (forked) process. Prints pieces that were journalled, and how the process ended.
"""


def test_kills_lose_nothing_and_double_nothing(tmp_path):
    folder = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(code):
        words = [sys.executable, "-c", SWEEP_OF_24 + code, folder]
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=True, timeout=400
        ).stdout

    kills = [tuple(map(int, line.split())) for line in run(KILLED).splitlines()]
    assert sum(status == signal.SIGKILL for _, status in kills) >= 8
    assert len({journalled for journalled, _ in kills}) >= 4  # here and there in it
    assert json.loads(run("main()"))["done"] == 24
    rows = read_rows(folder)
    assert rows["point"].tolist() == list(range(24))
    assert rows[BATCH].tolist() == list(range(1, 25))
    assert sorted(os.listdir(folder / "pieces")) == [f"{number:07d}.parquet" for number in range(24)]
    journal = (folder / "journal.txt").read_text().split()
    assert sorted(map(int, journal)) == list(range(24))  # nothing twice


def test_processes_of_a_killed_sweep_end(tmp_path):
    words = ("sweep", "longcat-flash-h800", "--over", f"{BATCH}=1:2000", "--out", "x", "--workers", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "perfmodel", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        start_new_session=True,
    )

    def left():
        found = []
        for pid in (int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()):
            with contextlib.suppress(ProcessLookupError):
                found += [pid] * (os.getsid(pid) == process.pid)
        return found

    try:
        end = time.monotonic() + 100.0
        while not (tmp_path / "x" / "journal.txt").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert len(left()) >= 3
        process.kill()
        process.wait()
        while left() and time.monotonic() < end:
            time.sleep(0.05)
        assert left() == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    run_sweep(asked("8"), tmp_path / "a")
    with pytest.raises(DataError, match="over differ"):
        run_sweep(asked("16"), tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        run_sweep(asked("8"), tmp_path / "b")
    assert (tmp_path / "b" / "mine.txt").read_text() == "mine"
    with pytest.raises(DataError, match="scenario differs"):
        run_sweep(Sweep("deepseek-v3-h800", (), plan_of([f"{BATCH}=8"]), "step"), tmp_path / "a")
    head = tmp_path / "a" / "sweep.json"
    head.write_text(head.read_text().replace('"perfmodel": "', '"perfmodel": "9.'))
    with pytest.raises(DataError, match=r"made by perfmodel '9\."):
        run_sweep(asked("8"), tmp_path / "a")
    head.write_text("[]")
    with pytest.raises(DataError, match="can't be read"):
        run_sweep(asked("8"), tmp_path / "a")


def test_two_runs_do_not_write_one_folder(tmp_path):
    with running._prepared(asked("8"), tmp_path), pytest.raises(DataError, match="another run"):
        run_sweep(asked("8"), tmp_path)
    assert run_sweep(asked("8"), tmp_path).done == 1


def test_a_key_has_one_type_in_all_pieces(tmp_path, small_pieces):
    over = ["slo.ttft_ms=null,2000", "routing.rank_loads=[null,1.5,[1.1,1.1]]"]
    run_sweep(Sweep("longcat-flash-h800", (), plan_of(over), "step"), tmp_path)
    rows = read_rows(tmp_path)
    assert rows["slo.ttft_ms"].isna().tolist() == [True] * 3 + [False] * 3
    assert rows["routing.rank_loads"].tolist()[1:3] == ["1.5", "[1.1, 1.1]"]


PAGE = (ROOT / "docs" / "sweep.md").read_text()
QUESTION = re.search(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)[1] + "calibration: h200-sxm\nseed: 3\n"
"""The page's own."""


def test_a_scenario_asks_plan_what_its_options_would(tmp_path):
    (tmp_path / "asked.yaml").write_text(QUESTION)
    document, folder = Sweep(str(tmp_path / "asked.yaml"), (), plan_of(["seed=1"]), "plan").stated
    assert question_of(document, folder) == Question(
        model="qwen3-30b-a3b",
        kinds=kinds_of("1xh200", ["vllm"]),
        traffic=traffic_of(isl=1000.0, osl=200.0, users=8, rate=None, trace="", length_spread=0.5),
        limits=limits_of(2.0, 0.05, 99.0),
        overrides=('calibration="h200-sxm"',),
        seed=3,
    )
    for key, value, words in (
        (
            "workload",
            {"input_tokens": {"mean": 9}, "output_tokens": {"mean": 9}, "max_concurrency": 1},
            "uniform",
        ),
        (
            "workload",
            {"input_tokens": 9, "output_tokens": {"min": 2, "max": 4}, "max_concurrency": 1},
            "alike",
        ),
        ("workload", {"input_tokens": 9, "output_tokens": 9, "num_requests": 5}, "--users N or --rate R"),
    ):
        with pytest.raises(SpecError, match=words):
            question_of({**document, key: value}, folder)


def test_a_sweep_of_plan_has_the_best_of_each_question(tmp_path, monkeypatch):
    """At two points, one of which fits nowhere."""
    said = []
    monkeypatch.setattr("perfmodel.explore.sweep.plans.SIMULATE", 2)
    monkeypatch.setattr(
        "perfmodel.explore.sweep.plans.plan", lambda *a, **b: said.append(plan(*a, **b)) or said[-1]
    )
    (tmp_path / "asked.yaml").write_text(QUESTION)
    over = plan_of(["model=qwen3-30b-a3b,deepseek-v3"])
    done = run_sweep(Sweep(str(tmp_path / "asked.yaml"), (), over, "plan"), tmp_path / "out")
    assert (done.points, done.failed) == (2, 1)
    rows, best = read_rows(tmp_path / "out"), said[0].values["candidates"][0]
    assert rows["best.layout"][0] == best["layout"]
    assert rows["best.usd_per_million_output_tokens"][0] == best["usd_per_million_output_tokens"]
    assert rows["considered.simulated"][0] == 2.0
    assert json.loads(rows["best.scenario"][0]) == best["scenario"]
    assert isinstance(rows["error"][1], str)


def test_files_of_a_scenario_travel(tmp_path):
    """On another machine they are not there: a sweep's material alone gives the same rows, errors included."""
    calibration = catalogue.calibration_path("h800-sxm").parent
    shutil.copytree(calibration, tmp_path / "mine")
    (tmp_path / "net").mkdir()
    config = catalogue.model_config("longcat-flash")
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    (tmp_path / "asked.yaml").write_text(
        "base: longcat-flash-h800\nmodel: net/config.json\ncalibration: ./mine\n"
    )
    sweep = Sweep(str(tmp_path / "asked.yaml"), (), plan_of([f"{BATCH}=8,100000"]), "step")
    document, folder = sweep.stated
    carried = carried_of(document, {}, folder)
    points = [*sweep.plan.values(), {"model": "net/none.json"}]
    at_home = work(shared(None, Material(document, folder, "step")), 0, points)
    material = pickle.dumps(Material(document, folder, "step", carried))
    shutil.move(tmp_path / "mine", tmp_path / "hidden")
    shutil.move(tmp_path / "net", tmp_path / "away")
    away = work(shared(None, pickle.loads(material)), 0, points)
    rows = pq.read_table(io.BytesIO(away)).to_pylist()
    assert rows[0]["tpot_s"] > 0.0
    assert "does not fit" in rows[1]["error"]
    assert away == at_home


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("longcat-flash-h800", "--over", f"{BATCH}=1"), "--out FOLDER"),
        (("longcat-flash-h800", "--out", "x"), "--over"),
        (("--out", "x"), "nothing to do"),
        (("longcat-flash-h800", "--over", f"{BATCH}=1", "--out", "x", "--of", "train"), "--of train"),
        (
            ("longcat-flash-h800", "--over", f"{BATCH}=1", "--over", f"{BATCH}=2", "--out", "x"),
            "stated twice",
        ),
        (("none", "--over", f"{BATCH}=1", "--out", "x"), "none"),
        (("--out", "x", "--show", "a,b", "--html", "p.html"), "no sweep"),
        (("longcat-flash-h800", "--over", "model.hidden_sizes=1,2", "--out", "x"), "model.hidden_size"),
        (
            ("longcat-flash-h800", "--over", f"{BATCH}=1,2", "--set", f"{BATCH}=3", "--out", "x"),
            "--set states",
        ),
        (("longcat-flash-h800", "--over", f"{BATCH}=1", "--out", "x", "--on", "slurm"), "one of local, ray"),
        (("longcat-flash-h800", "--over", f"{BATCH}=1", "--out", "x", "--address", "a:1"), "--on ray"),
        (
            ("longcat-flash-h800", "--over", f"{BATCH}=1", "--out", "x", "--on", "ray", "--workers", "2"),
            "belongs to --on local",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, said, tmp_path):
    done = run_here("perfmodel", "sweep", *words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_show_draws_columns(tmp_path):
    done = run_here(
        "perfmodel", "sweep", "longcat-flash-h800", "--over", f"{BATCH}=8,16", "--over",
        "deployment.overlap=sequential,sbo", "--out", "s", "--workers", "1",
        "--show", f"{BATCH},tpot_s,deployment.overlap", "--html", "p.html", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 of 4 points answered" in done.stdout
    page = (tmp_path / "p.html").read_text()
    assert "deployment.overlap = sbo" in page
    shaded = picture(pd.DataFrame({"a": range(30), "b": range(30), "c": np.arange(30) / 7}), ["a", "b", "c"])
    assert shaded.data[0].marker.color[29] == 29 / 7
    wrong = run_here(
        "perfmodel", "sweep", "--out", "s", "--show", f"{BATCH},tpot", "--html", "q.html", folder=tmp_path
    )
    assert wrong.returncode == 2
    assert "tpot_s" in wrong.stderr


def test_an_override_that_lists_values_is_a_table():
    words = ("longcat-flash-h800", "--set", f"{BATCH}=8,16,100000", "--set", "deployment.overlap=sbo")
    done = run_here("perfmodel", "step", *words)
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout
    found = json.loads(run_here("perfmodel", "step", *words, "--json").stdout)["points"]
    assert [one["set"][BATCH] for one in found] == [8, 16, 100000]
    alone = run_here(
        "perfmodel", "step", "longcat-flash-h800", "--set", f"{BATCH}=16", "--set", words[4], "--json"
    )
    assert found[1]["tpot_s"] == json.loads(alone.stdout)["tpot_s"]
    refused = run_here("perfmodel", "step", *words, "--html", "x.html")
    assert refused.returncode == 2
    assert "--html" in refused.stderr


def test_a_key_that_takes_a_list_is_one_value():
    done = run_here("perfmodel", "step", "longcat-flash-h800", "--set", "routing.layer_means=[1,2]")
    assert "layer_means" in done.stderr
