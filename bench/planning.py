"""How often screen-then-simulate finds the winner of exhaustive simulation: ``python -m bench.planning [SPACES]``.

Random small spaces of Qwen3-30B on 4 H200: all candidates simulated, against those that the screen puts first (a
quarter of them, six at least). Found: the same winner, or one within 2 % of its cost; or that nothing keeps the limits,
both times. Spaces without any candidate are drawn again.
"""

import sys
from contextlib import suppress

import numpy as np

from perfmodel.errors import InfeasibleError
from perfmodel.explore.plan.question import Limits, Question, kinds_of, traffic_of
from perfmodel.explore.plan.screen import screen
from perfmodel.explore.plan.simulate import Simulator, simulate_survivors
from perfmodel.explore.space import CHUNK, DP, KV, POOLS, RUNNING, TP, WEIGHTS

NEAR = 1.02
USD = "usd_per_million_output_tokens"


def random_question(rng):
    """A small space with limits and traffic of its own."""
    stated = {
        TP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
        DP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
        CHUNK: [int(rng.choice([2048, 8192]))],
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
    return Question("qwen3-30b-a3b", kinds_of("4xh200", [engine]), traffic, limits, space=stated)


def found(question):
    """(whether the winner was found, candidates in all, candidates simulated)."""
    screened = screen(question)
    every, _ = simulate_survivors(
        screened, Simulator(question, seconds=1e6), most=1_000_000, per_pair=1_000_000
    )
    few = max(6, len(screened.ranked) // 4)
    some, _ = simulate_survivors(screened, Simulator(question, seconds=1e6), most=few)
    if not every[0].keeps or not some[0].keeps:
        return every[0].keeps == some[0].keeps, len(every), len(some)
    return some[0].mean(USD) <= NEAR * every[0].mean(USD), len(every), len(some)


def main():
    """Print the share."""
    spaces = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rng = np.random.default_rng(11)
    results = []
    while len(results) < spaces:
        with suppress(InfeasibleError):
            results.append(found(random_question(rng)))
        right = sum(one[0] for one in results)
        print(f"{right} of {len(results)} found ({results[-1:]})", flush=True)
    every, few = (sum(one[i] for one in results) for i in (1, 2))
    print(f"{sum(one[0] for one in results)} of {spaces}; {few} simulated of {every}")


if __name__ == "__main__":
    main()
