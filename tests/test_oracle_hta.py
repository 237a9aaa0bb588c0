"""Holistic Trace Analysis, an independent program, reads our traces and must find the overlap that we say."""

from pathlib import Path

import pytest
from oracle_env import run_oracle
from scenarios import BARE

from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.output.step.trace import write_trace
from perfmodel.overlap.analysis import exposed_communication_s, overlap_pct
from perfmodel.step import simulate_step

pytestmark = pytest.mark.oracle

ROUNDING_US = 2.0
"""Two thousand ends, each rounded to a nanosecond."""


@pytest.mark.parametrize("schedule", ["sequential", "sbo", "sbo-engine", "tbo"])
def test_overlap_is_what_hta_finds(schedule: str, tmp_path: Path) -> None:
    answer = answer_step(load_scenario("longcat-flash-h800", [*BARE, f"deployment.overlap={schedule}"]))
    write_trace(answer.step, tmp_path)
    found = run_oracle("read_trace.py", str(tmp_path))["0"]
    values = answer.values
    assert found["overlap_pct"] == pytest.approx(values["overlap_pct"], abs=0.01)
    assert found["non_compute_us"] == pytest.approx(1e6 * values["exposed_communication_s"], abs=ROUNDING_US)
    assert found["kernel_us"] == pytest.approx(1e6 * values["step_time_s"], abs=ROUNDING_US)
    assert found["idle_us"] == pytest.approx(0.0, abs=ROUNDING_US)
    assert found["launches"] == sum(span.end_s > span.start_s for span in answer.step.timeline.spans)
    assert found["shortest_launch_delay_us"] >= 0.0


@pytest.mark.parametrize("schedule", ["sequential", "sbo"])
def test_every_rank_of_a_group(schedule: str, tmp_path: Path) -> None:
    loads = [0.7, 1.3, 0.9, 1.1]
    layout = ["deployment.attention_dp=4", "deployment.ep=4", "deployment.ranks=all"]
    sets = [*layout, f"routing.rank_loads={loads}", f"deployment.overlap={schedule}"]
    step = simulate_step(load_scenario("longcat-flash-h800", [*BARE, *sets]))
    write_trace(step, tmp_path)
    found = run_oracle("read_trace.py", str(tmp_path))
    assert set(found) == {"0", "1", "2", "3"}
    for rank in range(4):
        row = found[str(rank)]
        assert row["overlap_pct"] == pytest.approx(overlap_pct(step.timeline, rank), abs=0.01)
        exposed_us = 1e6 * exposed_communication_s(step.timeline, rank)
        assert row["non_compute_us"] == pytest.approx(exposed_us, abs=ROUNDING_US)
    if schedule == "sequential":  # a light rank has nothing to do until the heaviest has computed its experts
        idle_us = [found[str(rank)]["idle_us"] for rank in range(4)]
        assert idle_us[1] == pytest.approx(0.0, abs=ROUNDING_US)
        assert min(idle_us[0], idle_us[2], idle_us[3]) > 100.0
