"""How often screen-then-simulate finds the winner of exhaustive simulation: ``python -m bench.planning FILE [SPACES]``.

Random small spaces of Qwen3-30B on 4 H200, each of more candidates than are simulated: all of them simulated, against
the SIMULATED that the screen puts first. Found: the same winner, or one within 2 % of its cost; or that nothing keeps
the limits, both times. What a candidate's run gave is taken for both. Each space is a line of the file, from which a
run that was stopped goes on; a space depends on its number alone.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan.question import Limits, Question, kinds_of, traffic_of
from perfmodel.explore.plan.screen import screen
from perfmodel.explore.plan.simulate import Run, Simulator, simulate_survivors
from perfmodel.explore.space import CHUNK, DP, KV, POOLS, RUNNING, TP, WEIGHTS

NEAR = 1.02
SIMULATED = 6
MOST = 40
"""Candidates of a space: larger ones are drawn again."""
REQUESTS = 256
EDGE = 64
"""Requests that settle and that fade."""
USD = "usd_per_million_output_tokens"
EVERY = 1_000_000


def random_question(number, draw):
    """A small space with limits and traffic of its own."""
    rng = np.random.default_rng([11, number, draw])
    stated = {
        TP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
        DP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
        CHUNK: [2048, 8192],
        RUNNING: [int(n) for n in rng.choice([8, 16, 32, 64], 2, replace=False)],
        KV: ["bf16"],
        WEIGHTS: ["fp8"],
        POOLS: [str(rng.choice(["together", "apart"]))],
    }
    engine = str(rng.choice(["vllm", "sglang"]))
    traffic = traffic_of(
        isl=float(rng.choice([500, 1000, 4000])),
        osl=200.0,
        users=int(rng.choice([16, 64])),
        rate=None,
        trace="",
    )
    limits = Limits(float(rng.uniform(0.3, 3.0)), float(rng.uniform(0.008, 0.04)))
    lengths = ("num_requests", REQUESTS), ("warm_up_requests", EDGE), ("cool_down_requests", EDGE)
    overrides = tuple(f"workload.{key}={value}" for key, value in lengths)
    kinds = kinds_of("4xh200", [engine])
    return Question("qwen3-30b-a3b", kinds, traffic, limits, space=stated, overrides=overrides)


class Remembering(Simulator):
    """Serves a candidate once, whoever asks; each gets a run of its own."""

    def __init__(self, question, known):
        """``known``: runs by what they state."""
        super().__init__(question, seconds=1e9, runs=100)
        self.known = known

    def first(self, kind, keys):
        """See :class:`Simulator`."""
        name = json.dumps(dict(keys), sort_keys=True)
        if name in self.known:
            self.simulated += 1
        else:
            self.known[name] = super().first(kind, keys)
        run = self.known[name]
        return run and Run(kind, keys, run.scenario, run.served, run.figures[:1])


def judged(number):
    """A space's line: its draw, candidates in all and simulated, whether something keeps the limits, the choice's cost
    over the winner's, and whether that is found.
    """
    for draw in range(1000):
        question = random_question(number, draw)
        try:
            screened = screen(question)
        except InfeasibleError:
            continue
        if not SIMULATED < len(screened.ranked) <= MOST:
            continue
        known = {}
        every, _ = simulate_survivors(screened, Remembering(question, known), most=EVERY, per_pair=EVERY)
        some, _ = simulate_survivors(screened, Remembering(question, known), most=SIMULATED)
        best, chosen = every[0], some[0]
        cost = next(run.mean(USD) for run in every if run.keys == chosen.keys) / best.mean(USD)
        keeps = best.keeps
        return {
            "space": number,
            "draw": draw,
            "candidates": len(every),
            "simulated": len(some),
            "keeps": keeps,
            "cost": cost,
            "found": chosen.keeps == keeps and (not keeps or cost <= NEAR),
        }
    raise RuntimeError(f"space {number}: no draw has {SIMULATED + 1} to {MOST} candidates")


def main():
    """Go on with the journal and print the share."""
    path, spaces = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    with path.open("a") as file:
        for number in range(len(done), spaces):
            done.append(judged(number))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
            print(f"{time.process_time():.0f} s of CPU: {done[-1]}", flush=True)
    kept = [one for one in done if one["keeps"]]
    every, few = (sum(one[key] for one in done) for key in ("candidates", "simulated"))
    print(f"{sum(one['found'] for one in done)} of {len(done)} found; {few} simulated of {every} candidates")
    print(f"something keeps the limits: {sum(one['found'] for one in kept)} of {len(kept)}")


if __name__ == "__main__":
    main()
