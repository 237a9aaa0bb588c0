"""A training run's report: the figures of `train`, days and dollars by hand, every format; and a layout from `plan`."""

import csv
import io
import json
import re

import pytest
from typer.testing import CliRunner

from perfmodel.answers.train import answer_train
from perfmodel.cli import app
from perfmodel.errors import InfeasibleError, PerfModelError, SpecError
from perfmodel.explore.fleet import Traffic
from perfmodel.load import build_scenario, load_scenario
from perfmodel.output.report.training import (
    page,
    sentence,
    training_csv,
    training_html,
    training_json,
    training_markdown,
)
from perfmodel.report.planned import planned
from perfmodel.report.terms import Ownership
from perfmodel.report.training import build_training_report

NAME = "longcat-flash-train-h800"


@pytest.fixture(scope="module")
def pair():
    scenarios = [(name, load_scenario(name)) for name in (NAME, "deepseek-v3-train-h800")]
    return build_training_report(scenarios, Ownership(), command="perfmodel report x")


@pytest.fixture(scope="module")
def values(pair):
    return json.loads(training_json(pair), parse_constant=lambda name: pytest.fail(name))


def at(found, path):
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def test_it_says_what_train_says(values):
    own = answer_train(load_scenario(NAME)).values
    part = values["scenarios"][0]
    assert part["train"] == json.loads(json.dumps(own))
    assert sum(row["usd"] for row in part["months"]) == pytest.approx(own["usd"])
    assert sum(row["days"] for row in part["months"]) == pytest.approx(own["days"])
    for row in part["terms"]:
        assert row["usd"] == pytest.approx(own["gpu_hours"] * row["usd_per_gpu_hour"])


def test_risks_are_dearer_and_sorted(values):
    for part in values["scenarios"]:
        rows = part["risks"]
        assert [row["more_usd"] for row in rows] == sorted((row["more_usd"] for row in rows), reverse=True)
        assert all(row["usd"] == pytest.approx(part["train"]["usd"] + row["more_usd"]) for row in rows)
        slow = next(row for row in rows if "slower" in row["what"])
        assert slow["days"] == part["train"]["intervals"]["days"][1]


def test_every_number_of_the_page_is_that_of_json(pair, values):
    html = training_html(pair)
    numbers = re.findall(r'<data value="([^"]+)" data-key="([^"]+)"', html)
    marks = re.findall(r'data-key="([^"]+)" data-value="([^"]+)"', html)
    assert len(numbers) > 60
    assert len(marks) > 20
    for value, key in [*numbers, *((value, key) for key, value in marks)]:
        assert float(value) == at(values, key), key
    data = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data) == values
    assert len(html) < 300_000
    assert "http" not in "".join(re.findall(r'(?:src|link)="([^"]+)"', html))


def test_formats_agree(pair, values):
    first = values["scenarios"][0]["decision_answer"]
    assert first == sentence(pair.parts[0])
    assert "days" in first
    assert "$" in first
    assert first.replace("$", "\\$") in training_markdown(pair)
    rows = list(csv.DictReader(io.StringIO(training_csv(pair))))
    days = next(row for row in rows if row["key"] == "train.days")
    assert float(days["value"]) == values["scenarios"][0]["train"]["days"]
    assert float(days["high"]) == values["scenarios"][0]["train"]["intervals"]["days"][1]
    assert page(pair)["heads"][:3] == ["GPUs", "days", "for the run"]


def test_a_run_that_does_not_fit_keeps_its_place():
    good, bad = load_scenario(NAME), load_scenario(NAME, ["training.micro_batch_sequences=8"])
    report = build_training_report([("a", good), ("b", bad)], Ownership())
    assert "GB missing" in report.values["scenarios"][1]["reason"]
    assert "GB missing" in training_html(report)
    assert "GB missing" in training_markdown(report)
    with pytest.raises(PerfModelError, match="GB missing"):
        build_training_report([("b", bad)], Ownership())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([NAME, "longcat-flash-h800"], "not of both"),
        ([NAME, "--intervals"], "takes no --fleet"),
        ([NAME, "--growth-pct", "3"], "belongs to a day of traffic"),
    ],
)
def test_mistakes(args, words):
    result = CliRunner().invoke(app, ["report", *args, "--json"])
    assert isinstance(result.exception, SpecError)
    assert words in str(result.exception)


def test_the_command_takes_ownership():
    result = CliRunner().invoke(
        app, ["report", NAME, "--json", "--own-usd-per-gpu", "30000", "--own-years", "3"]
    )
    owned = json.loads(result.stdout)["scenarios"][0]["terms"][-1]
    assert "$30,000 per GPU over 3 years" in owned["note"]


# --- a layout that plan chose ---------------------------------------------------------------------------------------


def chats(*gpus_and_slo):
    return build_scenario(
        {
            "name": "chats",
            "model": "qwen3-30b-a3b",
            "cluster": {"base": "h200-ib", "num_gpus": 1},
            "engine": "vllm",
            "deployment": {"attention_tp": 1, "phase": "decode", "batch_per_gpu": 8, "context_tokens": 1100},
            "workload": {"request_rate": 4, "num_requests": 100, "input_tokens": 1000, "output_tokens": 200},
            "slo": {"tpot_ms": 50},
        }
    )


def test_plan_chooses_the_layout_for_the_peak():
    scenario = chats()
    day = Traffic(2.0, requests_per_day=86_400.0)
    found = planned(scenario, 2, day)
    assert found.name == "chats-planned"
    assert found.workload == scenario.workload
    assert found.slo == scenario.slo
    assert found.prices == scenario.prices
    assert 1 <= found.fleet_gpus <= 2
    with pytest.raises(InfeasibleError, match="nearest miss"):
        planned(scenario, 1, Traffic(2.0, requests_per_day=8.64e7))
    with pytest.raises(SpecError, match="--plan-gpus 0"):
        planned(scenario, 0, day)
    unknown = scenario.model_copy(update={"model": scenario.model.model_copy(update={"name": "mine"})})
    with pytest.raises(SpecError, match="no model of the catalogue"):
        planned(unknown, 2, day)
