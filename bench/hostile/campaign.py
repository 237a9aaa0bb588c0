"""All kinds of inputs, within some minutes."""

import gc
import math
import os
import random
import time
from collections import defaultdict

from bench.hostile import commands, links, places, scenarios, tables, traffic
from bench.hostile.conditions import CONDITIONS, Condition, conditions
from bench.hostile.kills import kills
from bench.hostile.tally import Tally
from bench.hostile.workers import Job, Try, tried

KINDS: dict[str, tuple[Try, int]] = {
    "scenarios": (scenarios.file, 14),
    "overrides": (scenarios.override, 18),
    "configs": (scenarios.config, 16),
    "families": (scenarios.family, 4),
    "training": (scenarios.training, 8),
    "traces": (traffic.trace, 16),
    "results": (traffic.result, 10),
    "workloads": (traffic.workload, 14),
    "measurements": (traffic.measurements, 5),
    "routing files": (tables.routing, 6),
    "calibrations": (tables.calibration, 6),
    "links": (links.link, 12),
    "uploads": (links.upload, 6),
    "launch flags": (commands.launch, 8),
    "command lines": (commands.command, 16),
    "paths": (places.path, 10),
}
"""Kind -> how to try one, and its share."""
CONDITION_S = 3.0
"""That a condition's process takes at most, as a rule."""
KILLED, FILED = "killed writers", "file conditions"


def jobs_of(seed: int, inputs: int) -> list[Job]:
    """At least so many inputs, by share, shuffled: whenever the time is up all kinds had their part."""
    total = sum(share for _, share in KINDS.values())
    jobs = [
        (kind, f"{seed}.{number}")
        for kind, (_, share) in KINDS.items()
        for number in range(math.ceil(inputs * share / total))
    ]
    random.Random(seed).shuffle(jobs)
    return jobs


def campaign(
    seed: int,
    inputs: int,
    num_kills: int,
    minutes: float,
    *,
    workers: int | None = None,
    which: tuple[Condition, ...] = CONDITIONS,
) -> dict[str, Tally]:
    """Everything, within some minutes; by kind."""
    until = time.monotonic() + 60.0 * minutes
    tallies: dict[str, Tally] = defaultdict(Tally)
    warm()
    kills(num_kills, seed, tallies[KILLED], until)
    kinds = {kind: one for kind, (one, _) in KINDS.items()}
    crew = workers or os.cpu_count() or 1
    left = until - CONDITION_S * len(which)  # whole processes come last, and are few
    for (kind, number), outcome in tried(kinds, jobs_of(seed, inputs), workers=crew, until=left):
        tallies[kind].add(outcome, f"--only '{kind}/{number}'")
    conditions(tallies[FILED], until, which)
    return dict(tallies)


def warm() -> None:
    """Import and read what all inputs need, before workers are forked."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    import pandas  # noqa: F401
    import pyarrow.parquet

    import dashboard.asked  # noqa: F401
    from perfmodel.answers.serve import answer_serve
    from perfmodel.answers.step import answer_step
    from perfmodel.answers.train import answer_train
    from perfmodel.load import load_scenario

    pyarrow.set_cpu_count(1)
    for name in scenarios.NAMES:
        answer_step(load_scenario(name), over_steps=False)
    short = ["workload={num_requests: 20, input_tokens: 100, output_tokens: 8, request_rate: 4}"]
    answer_serve(load_scenario("deepseek-v3-h800", short))
    answer_train(load_scenario("deepseek-v3-train-h800"))
    gc.collect()
    gc.freeze()  # what is there stays there: workers neither look through it nor copy it
