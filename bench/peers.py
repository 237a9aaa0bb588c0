"""Azure's conversation hour through NVIDIA's replay of mocked engines and through ours: ``make bench-peers``.

``ai-dynamo-runtime`` (Rust) lives in an environment of its own, whose Python is the argument. Both sides run in pairs,
one after the other, on 1, 10 and 100 workers with as many times the traffic. CPU seconds of the replay alone, imports
and set-up excluded, and of whole processes, beside a yardstick. The two do not simulate the same engine, nor in the
same detail; what they share is the requests.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.kinds import many
from bench.yardstick import yardstick_s
from perfmodel.load import load_scenario
from perfmodel.serving.requests import requests_of
from perfmodel.serving.serve import serve

WORKERS, PAIRS = (1, 10, 100), 3
BLOCK = 512
"""Tokens of one hashed block (Mooncake's format, which the replay reads)."""

THEIRS = """
import json, sys, time
from dynamo._core import run_mocker_trace_replay
path, workers = sys.argv[1], int(sys.argv[2])
start = time.process_time()
more = {"num_workers": workers, "arrival_speedup_ratio": float(workers), "trace_block_size": 512}
report = run_mocker_trace_replay([path], **more)
print(json.dumps(time.process_time() - start))
"""
OURS = """
import json, sys, time
from bench.peers import ours
print(json.dumps(ours(int(sys.argv[1]))))
"""


def write_trace(path):
    """The hour as Mooncake's lines; no two prompts share a block."""
    requests = requests_of(load_scenario(*as_loaded(many(1, "round-robin"))).workload, 0)
    block = 0
    with path.open("w") as file:
        for at, tokens, outputs in zip(
            requests.arrival_s, requests.input_tokens, requests.output_tokens, strict=True
        ):
            blocks = -(-int(tokens) // BLOCK)
            ids, block = list(range(block, block + blocks)), block + blocks
            row = {"timestamp": round(1e3 * at), "input_length": int(tokens), "output_length": int(outputs)}
            file.write(json.dumps(row | {"hash_ids": ids}) + "\n")


def as_loaded(kind):
    name, overrides = kind
    return name, list(overrides)


def ours(workers):
    """CPU seconds of one run, its step times being there and its core loaded."""
    scenario = load_scenario(*as_loaded(many(workers, "round-robin")))
    first = serve(scenario, core="compiled")
    start = time.process_time()
    serve(scenario, requests=first.requests, fleet=first.fleet, core="compiled")
    return time.process_time() - start


def ran(command, **more):
    """(what it printed, CPU seconds of the whole process)."""
    before = os.times()
    done = subprocess.run(command, check=True, capture_output=True, text=True, **more)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return float(done.stdout.strip().splitlines()[-1]), cpu


def main(python):
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "azure.jsonl"
        write_trace(trace)
        for workers in WORKERS:
            pairs = []
            for _ in range(PAIRS):
                theirs = ran([python, "-c", THEIRS, str(trace), str(workers)])
                own = ran([sys.executable, "-c", OURS, str(workers)])
                pairs.append((own[0] / theirs[0], own[1] / theirs[1], own, theirs))
            ratios, whole, (own, own_all), (theirs, theirs_all) = sorted(pairs)[PAIRS // 2]
            print(
                f"{workers:3d} workers: ours {own:.3f} CPU s, theirs {theirs:.3f}: {ratios:.3f} of it; whole processes "
                f"{own_all:.2f} and {theirs_all:.2f}: {whole:.2f}; yardstick {yardstick_s():.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
