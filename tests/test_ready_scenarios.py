"""Scenarios that people ask for: each cites where it comes from, fits, and is answered by step and serve."""

from functools import cache

import pytest

from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.spec import catalogue

READY = {
    "deepseek-v3-h200-sglang": 8, "deepseek-v3-h200-vllm": 8, "deepseek-v3-2x8-h100": 16, "deepseek-v3-gb200-pd": 48,
    "qwen3-235b-h100-vllm": 8, "qwen3-235b-gb200-trtllm": 4, "gpt-oss-120b-h100": 2, "kimi-k2-b200": 8,
    "qwen3.5-397b-h200": 8, "minimax-m2.5-h200": 4, "glm-4.6-b200": 8, "longcat-flash-h20": 16,
}  # fmt: skip
"""Name -> GPUs."""


@cache
def loaded(name):
    return load_scenario(name)


@pytest.mark.parametrize("name", READY)
def test_it_says_where_it_comes_from_and_what_it_is(name):
    entry = catalogue.entry("scenarios", name)
    assert "https://" in entry["source"] or "perfmodel/data/published/" in entry["source"]
    assert {"title", "model", "cluster", "engine", "deployment", "workload"} <= entry.keys()
    assert loaded(name).fleet_gpus == READY[name]


@pytest.mark.parametrize("name", READY)
def test_a_step_of_it_fits(name):
    values = answer_step(loaded(name)).values
    assert values["batch_per_gpu"] <= values["max_batch_per_gpu"]
    assert 0.003 < values["tpot_s"] < 0.1
    assert values["num_gpus"] == loaded(name).deployment.num_gpus


@pytest.mark.parametrize("name", READY)
def test_its_traffic_is_served(name):
    """All of it, without a shortage of cache, and near the step that it states."""
    few = loaded(name).workload.model_copy(update={"num_requests": 2 * loaded(name).workload.max_concurrency})
    scenario = loaded(name).model_copy(update={"workload": few})
    values = answer_serve(scenario).values
    assert values["completed"] == values["requests"] == few.num_requests
    assert values["preemptions"] == 0
    step = answer_step(loaded(name)).values
    assert 0.5 < values["tpot_s"]["p50"] / step["tpot_s"] < 2.0
