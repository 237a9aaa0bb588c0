"""Kills of a sweep over its engines: 0 lost, 0 doubled, the bytes of a run that nobody killed.

``python -m bench.kills``: a sweep of pieces of one point is killed (SIGKILL, at a time drawn at random) and begun
again: in process, on processes (now and then one of them is killed, too) and on a Ray cluster of this machine (now and
then a node is, and another comes in its place). After every kill what is journalled must be there whole, and once.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.yardstick import yardstick_s

sys.path.insert(0, "tests")
from ray_cluster import ray_cluster

BATCH = "deployment.batch_per_gpu"
CODE = (
    "import sys; from perfmodel.explore.sweep import run; run.PIECE['step'] = 1; "
    "sys.argv[0] = 'perfmodel'; from perfmodel.main import main; main()"
)


class Engine:
    """One way to run the sweep, and what of it can be killed beside the run itself."""

    def __init__(self, words, other=None):
        self.words, self.other = words, other


def begun(folder, points, words):
    asked = (
        "sweep",
        "longcat-flash-h800",
        "--over",
        f"{BATCH}=1:{points}",
        "--out",
        str(folder),
        "--json",
        *words,
    )
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *asked],
        env=os.environ | {"PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def journalled(folder):
    path = folder / "journal.txt"
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def checked(folder, points):
    """Pieces that are done, each there whole and once."""
    numbers = journalled(folder)
    doubled = len(numbers) - len(set(numbers))
    lost = 0
    for number in set(numbers):
        path = folder / "pieces" / f"{number:07d}.parquet"
        lost += not path.exists() or pq.read_table(path, columns=["point"])["point"].to_pylist() != [number]
    assert set(numbers) <= set(range(points))
    return set(numbers), lost, doubled


def children(process):
    """Processes that a run has started."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [
            pid
            for pid in map(int, text.split())
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
    return []


def killed_often(engine, kills, points, folder, rng):
    """Kills, what they cost, and whether the sweep they left is whole."""
    done, lost, doubled, others, number = set(), 0, 0, 0, 0
    run = 0
    target = folder / str(run)
    while number < kills:
        process = begun(target, points, engine.words)
        goal = len(journalled(target)) + int(rng.integers(0, 4))  # some before anything is done
        end = time.monotonic() + 120.0
        while process.poll() is None and len(journalled(target)) < goal and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0.0, 0.3)))
        if engine.other is not None and rng.random() < 0.25 and process.poll() is None:
            others += engine.other(process)
            time.sleep(float(rng.uniform(0.0, 0.3)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            number += 1
        process.communicate()
        after, gone, twice = checked(target, points)
        lost += len(done - after) + gone
        doubled += twice
        done = after
        if len(done) == points:  # finished: another one
            run += 1
            target, done = folder / str(run), set()
    process = begun(target, points, engine.words)
    process.communicate(timeout=600)
    after, gone, twice = checked(target, points)
    lost, doubled = lost + gone + points - len(after), doubled + twice
    return {"kills": number, "others": others, "lost": lost, "doubled": doubled, "sweeps": run + 1}


def same_bytes(folder, reference):
    own = {path.name: path.read_bytes() for path in (folder / "pieces").iterdir()}
    return own == {path.name: path.read_bytes() for path in (reference / "pieces").iterdir()}


def kill_worker(process):
    """A process of the pool dies."""
    own = children(process)
    for pid in own[:1]:
        os.kill(pid, signal.SIGKILL)
    return len(own[:1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100, help="of all engines together")
    parser.add_argument("--points", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, each = np.random.default_rng(asked.seed), -(-asked.kills // 3)
    good = True
    with tempfile.TemporaryDirectory() as name, ray_cluster(nodes=2) as cluster:
        root = Path(name)

        def kill_node(process):
            cluster.tell("kill")
            cluster.tell("add")
            return 1

        begun(root / "reference", asked.points, ("--workers", "1")).communicate()
        engines = {
            "in process": Engine(("--workers", "1")),
            "processes": Engine(("--workers", "2"), kill_worker),
            "ray": Engine(("--on", "ray", "--address", cluster.address), kill_node),
        }
        for label, engine in engines.items():
            start, folder = time.monotonic(), root / label.replace(" ", "-")
            found = killed_often(engine, each, asked.points, folder, rng)
            equal = all(same_bytes(one, root / "reference") for one in folder.iterdir())
            good &= equal and not found["lost"] and not found["doubled"]
            print(
                json.dumps({"engine": label, **found, "equal": equal, "s": round(time.monotonic() - start)}),
                flush=True,
            )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} CPU s, 10^7 turns in {yardstick_s():.2f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
