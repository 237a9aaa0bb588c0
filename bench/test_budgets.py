"""What the design's budgets promise, timed: `make bench`. Figures go to docs/log.md; no test gates on them."""

import subprocess
import sys

import numpy as np
import pytest

from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.load import load_scenario
from perfmodel.step import predict_steps, simulate_step

SCHEDULES = ("sequential", "sbo", "sbo-engine", "tbo")
SCENARIOS = 5000


def test_help(benchmark):
    """Budget: 0.5 s."""
    benchmark(
        lambda: subprocess.run([sys.executable, "-m", "perfmodel", "--help"], check=True, capture_output=True)
    )


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_timeline_of_one_rank(benchmark, overlap):
    """Budget: 50 ms."""
    benchmark(simulate_step, load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"]))


def test_timeline_of_all_ranks(benchmark):
    """Budget: 3 s."""
    scenario = load_scenario("longcat-flash-h800", ["deployment.ranks=all"])
    benchmark.pedantic(simulate_step, args=(scenario,), rounds=3)


@pytest.mark.parametrize("overlap", SCHEDULES)
def test_twin(benchmark, overlap):
    """Budget: 10,000 scenarios/s."""
    swept = with_arrays(
        load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}"]),
        {
            "deployment.batch_per_gpu": np.linspace(1, 128, SCENARIOS),
            "deployment.context_tokens": np.linspace(1000, 9000, SCENARIOS),
        },
    )
    benchmark.pedantic(predict_steps, args=(swept,), rounds=3)
    benchmark.extra_info["scenarios_per_s"] = SCENARIOS / benchmark.stats.stats.median
