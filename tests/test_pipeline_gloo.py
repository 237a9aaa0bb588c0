"""A real pipeline: torch's runtime over gloo, four processes whose stages sleep, against the simulated makespan."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_reference_env import NO_TORCH, has_torch

from perfmodel.training.pipeline.program import makespans
from perfmodel.training.pipeline.schedules import schedule
from perfmodel.training.pipeline.times import StageTimes

pytestmark = [pytest.mark.alone, pytest.mark.skipif(not has_torch(), reason=NO_TORCH)]

WORKER = Path(__file__).with_name("pipeline_worker.py")
RANKS, MICRO_BATCHES, STEPS = 4, 8, 3
SECONDS = (0.040, 0.050, 0.030)
"""Forward, input and weight gradient of one stage."""
SCHEDULES = {
    "ScheduleGPipe": ("gpipe", 1),
    "Schedule1F1B": ("1f1b", 1),
    "ScheduleInterleaved1F1B": ("interleaved-1f1b", 2),
    "ScheduleInterleavedZeroBubble": ("zb-h1", 2),
    "ScheduleZBVZeroBubble": ("zb-v", 2),
}


def measured(folder):
    asked = {
        "ranks": RANKS,
        "micro_batches": MICRO_BATCHES,
        "steps": STEPS,
        "seconds": SECONDS,
        "schedules": {name: chunks for name, (_, chunks) in SCHEDULES.items()},
        "store": str(folder / "store"),
        "result": str(folder / "result.json"),
    }
    (folder / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-W", "ignore", str(WORKER), str(folder / "asked.json")]
    processes = [
        subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(RANKS)
    ]
    try:
        errors = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(errors)[-2000:]
    return json.loads((folder / "result.json").read_text())


def simulated(name, per_action):
    """Every action costs what it sleeps and what the runtime adds, which GPipe's steps tell."""
    own, chunks = SCHEDULES[name]
    order = schedule(own, RANKS, MICRO_BATCHES, chunks)
    forward, input_, weight = (one + per_action for one in SECONDS)
    times = StageTimes.even(order.num_stages, forward, input_, weight)
    backward = times.input_s + times.weight_s - per_action  # one action where both gradients are one
    return float(
        makespans(order, StageTimes(times.forward_s, times.input_s, times.weight_s, backward_s=backward))
    )


def test_the_least_measured_makespan_is_the_simulated_one(tmp_path):
    """The noise of sleeps and of a shared machine is one-sided, so the least counts. Within 5 % for every schedule."""
    least = {name: min(times) for name, times in measured(tmp_path).items()}
    actions = 2 * (MICRO_BATCHES + RANKS - 1)  # on GPipe's critical path
    per_action = (least["ScheduleGPipe"] - simulated("ScheduleGPipe", 0.0)) / actions
    assert 0.0 <= per_action < 0.01
    errors = {name: simulated(name, per_action) / time - 1.0 for name, time in least.items()}
    assert max(abs(error) for error in errors.values()) < 0.05, errors
