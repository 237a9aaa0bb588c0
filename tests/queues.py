"""Textbook queues built from the serving simulator: one prompt of one token is a customer, a step is its service."""

import heapq
import math

import numpy as np

from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import simulate
from perfmodel.serving.pool import Layout
from perfmodel.serving.requests import Requests

ONE_AT_A_TIME = Batching("prefill-first", max_batched_tokens=1, tokens_per_decode=1)


class Drawn:
    """Step times that are drawn beforehand, one after the other."""

    def __init__(self, seconds):
        self.seconds = iter(seconds.tolist())

    def prompt_s(self, prompt, attended, requests, tokens, even=1.0):
        return next(self.seconds)


def customers(arrival_s, think_s=None, max_concurrency=None):
    n = len(arrival_s)
    zero = np.zeros(n, dtype=np.int64)
    return Requests(
        arrival_s=np.asarray(arrival_s, dtype=float),
        input_tokens=zero + 1,
        output_tokens=zero + 1,
        parent=zero - 1,
        prefix=zero - 1,
        prefix_tokens=zero,
        think_s=np.zeros(n) if think_s is None else think_s,
        max_concurrency=max_concurrency,
    )


def services(kind, rng, n):
    """Service times of mean 1: exponential, constant, or hyperexponential with a squared variation of 4."""
    if kind == "M":
        return rng.exponential(1.0, n)
    if kind == "D":
        return np.ones(n)
    p = (1.0 + math.sqrt(3.0 / 5.0)) / 2.0  # balanced means, squared coefficient of variation 4
    first = rng.random(n) < p
    return np.where(first, rng.exponential(1.0 / (2.0 * p), n), rng.exponential(1.0 / (2.0 * (1.0 - p)), n))


SQUARED_VARIATION = {"M": 1.0, "D": 0.0, "G": 4.0}


def open_queue(kind, load, servers, n, seed, router="central"):
    """Records of an M/M, M/D or M/G queue with ``servers`` servers."""
    rng = np.random.default_rng([seed, servers])
    times = Drawn(services(kind, rng, n))
    arrivals = np.cumsum(rng.exponential(1.0 / (load * servers), n))
    layout = Layout(replicas=servers, max_running=1, router=router)
    return simulate(customers(arrivals), lambda _: times, layout, ONE_AT_A_TIME, np.zeros(n, dtype=np.int64))


def waits_of(records):
    return records.scheduled_s - records.arrival_s


def wait_of(records):
    return float(waits_of(records).mean())


def waits_by_recursion(kind, load, servers, n, seed):
    """Waits of the same customers by Kiefer and Wolfowitz's recursion: each takes the server that is free first."""
    rng = np.random.default_rng([seed, servers])
    service = services(kind, rng, n)
    arrivals = np.cumsum(rng.exponential(1.0 / (load * servers), n))
    free, waits = [0.0] * servers, []
    for arrival, seconds in zip(arrivals.tolist(), service.tolist(), strict=True):
        begin = max(heapq.heappop(free), arrival)
        waits.append(begin - arrival)
        heapq.heappush(free, begin + seconds)
    return np.array(waits)


def expected_wait(kind, load, servers):
    """Pollaczek and Khinchine's mean wait, or Erlang's with several servers."""
    if servers == 1:
        return load * (1.0 + SQUARED_VARIATION[kind]) / (2.0 * (1.0 - load))
    offered = load * servers
    last = offered**servers / math.factorial(servers) / (1.0 - load)
    waits = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return waits / (servers * (1.0 - load))


def repair_shop(machines, think, n, seed):
    """Records of a closed network: ``machines`` that run for ``think`` on average and are repaired one by one."""
    rng = np.random.default_rng([seed, 77])
    asked = customers(np.zeros(n), rng.exponential(think, n), machines)
    times = Drawn(services("M", rng, n))
    return simulate(asked, lambda _: times, Layout(max_running=1), ONE_AT_A_TIME, np.zeros(n, dtype=np.int64))


def repairs_per_s(machines, think):
    """Throughput of that network with a mean repair of 1, by its birth-death process."""
    weights = [1.0]
    for broken in range(machines):
        weights.append(weights[-1] * (machines - broken) / think)
    return 1.0 - weights[0] / sum(weights)
