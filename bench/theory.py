"""The serving simulator against queueing theory: 20 seeds x 50,000 customers per case (``make bench-theory``).

Pooled over seeds the mean wait must lie within 2 % of theory at load 0.5 and 4 % at load 0.8, the closed network's rate
within 2 %; and of the runs' own 99 % intervals (batch means) 95 % must hold the theory, since batches are not quite
independent.
"""

import sys
import time

import numpy as np

sys.path.insert(0, "tests")
from queues import expected_wait, open_queue, repair_shop, repairs_per_s, waits_of

SEEDS, CUSTOMERS, BATCHES = 20, 50_000, 20
T_99 = 2.861
"""99.5th percentile of Student's t with 19 degrees of freedom."""
WITHIN = {0.5: 0.02, 0.8: 0.04}
LEAST_COVERED = 0.95


def holds(values, theory):
    """Whether a run's own 99 % interval holds the theory."""
    means = values[: len(values) // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    return bool(abs(means.mean() - theory) <= T_99 * means.std(ddof=1) / BATCHES**0.5)


def report(name, runs, theory, within):
    """One line, and (close enough, runs whose interval holds the theory)."""
    mean, covered = float(np.mean([run.mean() for run in runs])), sum(holds(run, theory) for run in runs)
    error = mean / theory - 1.0
    print(
        f"{name:16s} theory {theory:8.4f}  simulated {mean:8.4f}  error {error:+.2%} (at most {within:.0%})  "
        f"99 % intervals that hold it: {covered} of {len(runs)}  {'ok' if abs(error) <= within else 'OUTSIDE'}",
        flush=True,
    )
    return abs(error) <= within, covered


def main():
    start, found = time.time(), []
    for kind, servers in (("M", 1), ("D", 1), ("G", 1), ("M", 3)):
        for load, within in WITHIN.items():
            runs = [waits_of(open_queue(kind, load, servers, CUSTOMERS, seed)) for seed in range(SEEDS)]
            found.append(
                report(f"M/{kind}/{servers} at {load}", runs, expected_wait(kind, load, servers), within)
            )
    runs = [1.0 / gaps_of(repair_shop(5, 4.0, CUSTOMERS, seed)) for seed in range(SEEDS)]
    found.append(report("machine repair", runs, repairs_per_s(5, 4.0), 0.02))
    covered = sum(one for _, one in found) / (SEEDS * len(found))
    print(f"intervals that hold the theory: {covered:.1%}; {time.time() - start:.0f} s")
    return 0 if all(good for good, _ in found) and covered >= LEAST_COVERED else 1


def gaps_of(records):
    """Mean time between repairs of consecutive stretches of the run, each repeated so that batches are stretches."""
    ends = np.sort(records.end_s)
    edges = np.concatenate([[0.0], ends[len(ends) // BATCHES - 1 :: len(ends) // BATCHES]])
    return np.repeat(np.diff(edges) / (len(ends) // BATCHES), 50)


if __name__ == "__main__":
    sys.exit(main())
