"""A Ray cluster on this machine in a process of its own: a head that works on nothing and nodes of one processor each.

As a program it prints the head's address, then obeys lines: ``kill`` (a node's processes, at once), ``add`` (a node).
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from oracle_env import required

ROOT = Path(__file__).resolve().parent.parent
STORE = 80 * 2**20
"""Bytes of a node's object store; Ray takes no less."""


class RayCluster:
    """The process, spoken to."""

    def __init__(self, process):
        self._process = process
        self.address = self._heard("address")

    def tell(self, word):
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        self._heard(word)

    def _heard(self, word):
        for line in self._process.stdout:
            said, _, rest = line.strip().partition("=")
            if said == word:
                return rest
        raise AssertionError("the cluster's process ended")


@contextlib.contextmanager
def ray_cluster(nodes=2):
    """A cluster; the test is skipped where Ray is not installed, or fails where PERFMODEL_REQUIRE names it."""
    if importlib.util.find_spec("ray") is None:
        if required("ray"):
            pytest.fail("no ray; PERFMODEL_REQUIRE demands it")
        pytest.skip("ray is not installed: pip install 'perfmodel[ray]'")
    process = subprocess.Popen(
        [sys.executable, __file__, str(nodes)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        yield RayCluster(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def serve(nodes):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False},
    )
    try:
        own = [cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(nodes)]
        print(f"address={cluster.address}", flush=True)
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(own.pop(), allow_graceful=False)
            else:
                own.append(cluster.add_node(num_cpus=1, object_store_memory=STORE))
            print(f"{line.strip()}=", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
