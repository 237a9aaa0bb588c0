"""Prints what Holistic Trace Analysis says of a folder of traces: PYTHON read_trace.py FOLDER.

One JSON object: rank -> overlap percentage, times in microseconds, launches that it could match to a kernel.
"""

import json
import os
import sys

os.environ["HTA_DISABLE_NS_ROUNDING"] = "1"

from hta.trace_analysis import TraceAnalysis


def read(folder: str) -> dict[str, dict[str, float]]:
    """Overlap, temporal breakdown and matched launches of every rank."""
    analysis = TraceAnalysis(trace_dir=folder)
    overlap = analysis.get_comm_comp_overlap(visualize=False).set_index("rank")
    times = analysis.get_temporal_breakdown(visualize=False).set_index("rank")
    launches = analysis.get_cuda_kernel_launch_stats(ranks=list(overlap.index), visualize=False)
    return {
        str(rank): {
            "overlap_pct": float(overlap.loc[rank, "comp_comm_overlap_pctg"]),
            "idle_us": float(times.loc[rank, "idle_time(us)"]),
            "compute_us": float(times.loc[rank, "compute_time(us)"]),
            "non_compute_us": float(times.loc[rank, "non_compute_time(us)"]),
            "kernel_us": float(times.loc[rank, "kernel_time(us)"]),
            "launches": len(launches[rank]),
            "shortest_launch_delay_us": float(launches[rank]["launch_delay"].min()),
        }
        for rank in overlap.index
    }


if __name__ == "__main__":
    print(json.dumps(read(sys.argv[1])))
