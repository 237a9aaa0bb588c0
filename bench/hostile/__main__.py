"""`python -m bench.hostile`: the whole campaign, or one input again with its traceback."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from bench.hostile.campaign import KINDS, campaign
from bench.hostile.tally import BAD, table

MINUTES = 20.0
INPUTS = 10_000
KILLS = 100


def main() -> int:
    """1 if anything broke."""
    parser = argparse.ArgumentParser(prog="bench.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--only", metavar="KIND/SEED", help="try one input again, with its traceback")
    options = parser.parse_args()
    if options.only:
        kind, _, seed = options.only.rpartition("/")
        with tempfile.TemporaryDirectory() as name:
            print(KINDS[kind][0](random.Random(f"{kind}/{seed}"), Path(name)))
        return 0
    started = time.monotonic()
    tallies = campaign(options.seed, options.inputs, options.kills, options.minutes, workers=options.workers)
    print(table(tallies))
    tried = sum(one.counts["tried"] for one in tallies.values())
    bad = sum(one.counts[name] for one in tallies.values() for name in BAD)
    print(
        f"seed {options.seed}: {tried:,} tried in {time.monotonic() - started:.0f} s, {bad} broke something"
    )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
