"""No output of any command replaces a file that the command reads: the check is one, and comes before the work."""

import json
import shutil

import pytest
from command import run_here

from perfmodel.output.inputs import check_outputs
from perfmodel.spec import catalogue

ROWS = (
    "id,model,system,backend,precision,isl,osl,concurrency,gpus,parallel_or_prefill,tpot_ms,set\n"
    "one,own/config.json,h200_sxm,vllm,bf16,64,8,2,8,tp8 dp1 moe_tp8 ep1,20,workload.trace=run.csv\n"
)


@pytest.fixture
def folder(tmp_path):
    """A scenario with a base, a model, a calibration, a trace and measured routing of its own, and measurements."""
    (tmp_path / "own").mkdir()
    config = catalogue.DATA / "models" / catalogue.entry("models", "qwen3-30b-a3b")["file"]
    shutil.copy(config, tmp_path / "own" / "config.json")
    shutil.copytree(catalogue.calibration_path("h200-sxm").parent, tmp_path / "timed")
    (tmp_path / "run.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,64,8\n"
    )
    counts = "\n".join(f"{expert},{100 + expert}" for expert in range(128))
    (tmp_path / "counts.csv").write_text(f"expert,tokens\n{counts}\n")
    (tmp_path / "base.yaml").write_text(
        "model: ./own\ncluster: h200-ib\ncalibration: ./timed\nworkload: {trace: run.csv}\n"
        "routing: {popularity: histogram, histogram: counts.csv}\ndeployment: {attention_dp: 2, ep: 2}\n"
    )
    (tmp_path / "mine.json").write_text(json.dumps({"base": "base.yaml", "deployment": {"batch_per_gpu": 2}}))
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "link.html").symlink_to("mine.json")
    return tmp_path


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STEP = ["step", "mine.json"]
SERVE = ["serve", "mine.json"]
ROWS_OF = ["validate", "--data", "rows.csv"]
REPORT = ["report", "mine.json", "longcat-flash-h800", "--no-serve"]


@pytest.mark.parametrize(
    ("command", "named", "key"),
    [
        ([*STEP, "--html", "mine.json"], "--html mine.json", "the scenario"),
        ([*STEP, "--html", "link.html"], "--html link.html", "the scenario"),
        ([*STEP, "--html", "base.yaml"], "--html base.yaml", "base 1"),
        ([*STEP, "--html", "own/config.json"], "--html own/config.json", "model"),
        ([*STEP, "--html", "timed/calibration.json"], "--html timed", "calibration (calibration.json)"),
        ([*STEP, "--html", "timed/tables.npz"], "--html timed", "calibration (tables.npz)"),
        ([*STEP, "--html", "run.csv"], "--html run.csv", "workload.trace"),
        ([*STEP, "--html", "counts.csv"], "--html counts.csv", "routing.histogram"),
        ([*STEP, "--trace", "mine.json"], "--trace mine.json", "the scenario"),
        ([*STEP, "--trace", "run.json", "--html", "run.json"], "--trace run.json", "--html"),
        (
            [*STEP, "--set", "calibration=timed/calibration.json", "--html", "timed/tables.npz"],
            "--html",
            "calibration",
        ),
        ([*SERVE, "--requests", "run.csv"], "--requests run.csv", "workload.trace"),
        ([*SERVE, "--result", "own/config.json"], "--result own/config.json", "model"),
        ([*SERVE, "--trace", "mine.json"], "--trace mine.json", "the scenario"),
        ([*REPORT, "--format", "html", "--out", "base.yaml"], "--out base.yaml", "base 1 of mine.json"),
        (
            [*REPORT, "--format", "csv", "--out", "counts.csv"],
            "--out counts.csv",
            "routing.histogram of mine.json",
        ),
        ([*ROWS_OF, "--html", "rows.csv"], "--html rows.csv", "--data"),
        ([*ROWS_OF, "--html", "own/config.json"], "--html own/config.json", "model of row one"),
        ([*ROWS_OF, "--html", "run.csv"], "--html run.csv", "workload.trace of row one"),
    ],
)
def test_an_output_that_is_an_input_is_refused_before_anything_is_written(command, named, key, folder):
    before = everything(folder)
    done = run_here("perfmodel", *command, folder=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"perfmodel: {named}")
    assert f"is the file of {key}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert everything(folder) == before


def test_a_folder_of_ranks_does_not_replace_a_scenario_that_is_named_like_one(folder):
    (folder / "ranks").mkdir()
    shutil.copy(folder / "mine.json", folder / "ranks" / "rank_0.json")
    (folder / "ranks" / "base.yaml").write_text("base: longcat-flash-h800\n")
    before = everything(folder)
    done = run_here("perfmodel", "step", "ranks/rank_0.json", "--trace", "ranks", folder=folder)
    assert done.returncode == 2
    assert "--trace (rank_0.json) ranks/rank_0.json: is the file of the scenario too" in done.stderr
    assert everything(folder) == before


def test_other_places_are_written(folder):
    done = run_here("perfmodel", *STEP, "--html", "timed/step.html", "--trace", "new", folder=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "timed" / "step.html").read_text().startswith("<!DOCTYPE html>")
    assert list((folder / "new").glob("rank_*.json"))
    again = run_here("perfmodel", *STEP, "--html", "timed/other.html", "--trace", "new", folder=folder)
    assert again.returncode == 0, again.stderr


def test_nothing_is_read_where_nothing_is_written():
    check_outputs({"--html": None, "--trace": None}, ["no-such-scenario"])
