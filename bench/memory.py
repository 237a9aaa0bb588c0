"""Peak memory and CPU time of ``perfmodel serve`` on long traces, beside a yardstick: ``make bench-memory``.

Traces of Azure's lengths at random times (Poisson, 5 requests/s: 69 % of a node of eight H200), as Parquet and CSV,
with and without ``--requests``. Each command is a process of its own; its peak is what the system says. Budgets: under
1 GB whatever the number, and ten times the requests in ten times the time.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from bench.kinds import NODE
from bench.yardstick import yardstick_s
from perfmodel.spec.traces.read import read_trace

SIZES = (100_000, 1_000_000, 10_000_000)
MOST_BYTES = 1e9
RATE = 5.0
PIECE = 100_000


def write_traces(folder, n):
    """The same requests as Parquet and CSV, a piece at a time."""
    import pyarrow
    from pyarrow import parquet

    own, rng, at = read_trace("azure-conv-2023"), np.random.default_rng(1), 0.0
    paths, writer = [folder / f"{n}.parquet", folder / f"{n}.csv"], None
    for first in range(0, n, PIECE):
        count = min(PIECE, n - first)
        times = np.round(at + rng.exponential(1.0 / RATE, count).cumsum(), 6)
        rows, at = rng.integers(0, own.num_requests, count), times[-1]
        frame = pd.DataFrame(
            {
                "arrival_s": times,
                "input_tokens": own.input_tokens[rows],
                "output_tokens": own.output_tokens[rows],
            }
        )
        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        writer = writer or parquet.ParquetWriter(paths[0], table.schema)
        writer.write_table(table)
        frame.to_csv(paths[1], index=False, header=not first, mode="a")
    writer.close()
    return paths


def measured(*arguments):
    """(CPU seconds, peak bytes) of a command."""
    process = subprocess.Popen([sys.executable, "-m", "perfmodel", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"perfmodel {' '.join(arguments)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main(sizes):
    failed, yardstick = 0, yardstick_s()
    print(f"yardstick {yardstick:.2f} s")
    scenario = ["serve", "deepseek-v3-h800", "--json", *(f"--set={one}" for one in NODE)]
    with tempfile.TemporaryDirectory() as name:
        for n in sizes:
            for path in write_traces(Path(name), n):
                for more in ([], ["--requests", f"{name}/requests.parquet"]):
                    cpu_s, peak = measured(*scenario, f"--set=workload.trace={path}", *more)
                    failed += peak > MOST_BYTES
                    missed = " MISSED" if peak > MOST_BYTES else ""
                    print(
                        f"{n:10,d} {path.suffix[1:]:8s} {'--requests' if more else '':10s} {cpu_s:7.1f} s of CPU "
                        f"({cpu_s / yardstick:6.0f} yardsticks)  peak {peak / 1e6:5.0f} MB{missed}",
                        flush=True,
                    )
                path.unlink()
    return failed


if __name__ == "__main__":
    sys.exit(min(main([int(one) for one in sys.argv[1:]] or SIZES), 1))
