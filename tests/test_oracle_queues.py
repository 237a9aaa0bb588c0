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

ROUTERS = {"central": "central", "round-robin": "round-robin", "least": "least-tokens"}
"""ciw's name -> ours; with equal requests the fewest tokens are the fewest customers."""
LOAD = 0.8
VISITS = 3_000


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


def both(router, kind, servers, turns, pause, seed, folder):
    """(our records, ciw's visits) of the same gaps and, queue by queue, the same services in order of their starts."""
    rng = np.random.default_rng([servers, turns, seed])
    customers = VISITS // turns
    gaps = rng.exponential(turns / (LOAD * servers), customers)
    queues = 1 if router == "central" else servers
    times = [services(kind, rng, customers * turns) for _ in range(queues)]
    path = folder / "network.json"
    path.write_text(
        json.dumps(
            {
                "arrivals": gaps.tolist(),
                "router": router,
                "servers": servers,
                "services": [own.tolist() for own in times],
                "turns": turns,
                "pause": pause,
            }
        )
    )
    drawn = [Drawn(own) for own in times]
    ours = simulate(
        visits(np.cumsum(gaps), turns, pause),
        lambda replica: drawn[replica % queues],
        Layout(replicas=servers, max_running=1, router=ROUTERS[router]),
        ONE_AT_A_TIME,
        np.zeros(customers * turns, dtype=np.int64),
    )
    return ours, run_oracle("simulate_queue.py", str(path))


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize(
    ("router", "kind", "servers", "turns", "pause"),
    [
        ("central", "G", 3, 1, 0.0),
        ("central", "M", 2, 3, 2.0),
        ("central", "G", 4, 5, 7.0),
        ("central", "D", 3, 3, 2.5),
        ("round-robin", "G", 3, 1, 0.0),
        ("round-robin", "G", 3, 4, 5.0),
        ("least", "G", 3, 1, 0.0),
        ("least", "G", 3, 4, 5.0),
        ("least", "M", 2, 3, 2.0),
    ],
)
def test_every_visit_is_where_and_when_ciw_says(router, kind, servers, turns, pause, seed, tmp_path):
    """Several servers, one queue or one each, services of any spread, customers who come back: no formula has it."""
    ours, theirs = both(router, kind, servers, turns, pause, seed, tmp_path)
    order = np.argsort(ours.scheduled_s, kind="stable")
    assert len(order) == len(theirs["start"]) == VISITS // turns * turns
    for column, name in ((ours.arrival_s, "arrival"), (ours.scheduled_s, "start"), (ours.end_s, "end")):
        assert column[order] == pytest.approx(np.array(theirs[name]), rel=0.0, abs=1e-9), name
    if router != "central":
        assert ours.replica[order].tolist() == theirs["queue"]
    runs = ours.load.runs
    busy = np.bincount(runs.replica.astype(int), runs.seconds, minlength=servers) / ours.load.span_s
    busy = [busy.mean()] if router == "central" else busy
    assert busy == pytest.approx(np.array(theirs["utilisation"]), rel=0.0, abs=1e-9)
    waits = np.array(theirs["start"]) - np.array(theirs["arrival"])
    assert waits.mean() > 0.2  # there was a queue
    assert (waits == 0.0).any()  # and it was empty now and then
