"""The serving simulator beside ciw, a queueing simulator nobody here wrote: the same customers, visit by visit."""

import json

import numpy as np
import pytest
from oracle_env import run_oracle
from queues import ONE_AT_A_TIME, Drawn, services

from perfmodel.serving.cluster import simulate
from perfmodel.serving.pool import Layout
from perfmodel.serving.requests import Requests

pytestmark = pytest.mark.oracle


def visits(arrivals, turns, pause):
    """Sessions of ``turns`` prompts of one token, each ``pause`` after the one before has ended."""
    n = len(arrivals) * turns
    first = np.arange(n) % turns == 0
    zero = np.zeros(n, dtype=np.int64)
    return Requests(
        arrival_s=np.where(first, np.repeat(arrivals, turns), pause),
        input_tokens=zero + 1,
        output_tokens=zero + 1,
        parent=np.where(first, -1, np.arange(n) - 1),
        prefix=zero - 1,
        prefix_tokens=zero,
        think_s=np.zeros(n),
    )


@pytest.mark.parametrize(
    ("kind", "servers", "turns", "pause"), [("G", 3, 1, 0.0), ("M", 2, 3, 2.0), ("G", 4, 5, 7.0)]
)
def test_every_visit_begins_when_ciw_says(kind, servers, turns, pause, tmp_path):
    """A central queue before several servers, hyperexponential services, customers who come back: no formula has it."""
    rng = np.random.default_rng([servers, turns])
    customers, load = 3_000 // turns, 0.8
    gaps = rng.exponential(turns / (load * servers), customers)
    times = services(kind, rng, customers * turns)
    asked = {
        "arrivals": gaps.tolist(), "services": times.tolist(), "servers": servers, "turns": turns, "pause": pause,
    }  # fmt: skip
    path = tmp_path / "network.json"
    path.write_text(json.dumps(asked))
    theirs = run_oracle("simulate_queue.py", str(path))
    drawn = Drawn(times)
    ours = simulate(
        visits(np.cumsum(gaps), turns, pause),
        lambda _: drawn,
        Layout(replicas=servers, max_running=1, router="central"),
        ONE_AT_A_TIME,
        np.zeros(customers * turns, dtype=np.int64),
    )
    order = np.argsort(ours.scheduled_s, kind="stable")
    assert len(order) == len(theirs["start"])
    assert ours.scheduled_s[order] == pytest.approx(np.array(theirs["start"]), abs=1e-6)
    assert ours.arrival_s[order] == pytest.approx(np.array(theirs["arrival"]), abs=1e-6)
    waits = np.array(theirs["start"]) - np.array(theirs["arrival"])
    assert waits.mean() > 0.2  # there was a queue
