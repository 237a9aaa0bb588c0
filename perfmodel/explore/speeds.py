"""A run's traffic at other speeds and for longer: arrivals moved closer together or further apart, requests that come
again and again, and whether replicas keep up.
"""

from dataclasses import replace

import numpy as np

from perfmodel.answers.serve import BEHIND
from perfmodel.serving.requests import NONE, Requests
from perfmodel.serving.serve import Served

GROWTH, CHANCE, CHANCE_STD = 0.05, 0.1, 1.5
"""A queue grows if a quarter of the arrivals adds more than this share of them, and more than chance does: this share
of what is there, or so many of its roots."""


def fixed_rate(served: Served) -> str:
    """Why the traffic has no request rate that could be changed; empty: it has one."""
    workload = served.scenario.workload
    if workload.max_concurrency is not None:
        return "workload.max_concurrency holds requests back, so that they set their own rate"
    if workload.ramp is not None:
        return "workload.ramp has no single rate: state request_rate"
    if workload.rate == float("inf"):
        return "all requests come at once: state workload.request_rate, or a trace with times"
    if not np.ptp(served.requests.arrival_s[served.requests.roots]) > 0.0:
        return "requests that all come at one time have no rate"
    return ""


def drawn_rate(requests: Requests) -> float:
    """Requests per second at speed 1, as they were drawn: a short run's differ from ``request_rate`` by chance."""
    roots = requests.roots
    sessions = (len(roots) - 1) / float(np.ptp(requests.arrival_s[roots]))
    return sessions * requests.num_requests / len(roots)


def at_speed(requests: Requests, speed: float) -> Requests:
    """The same requests, arriving ``speed`` times as fast: what ``request_rate`` or ``time_scale`` would do."""
    arrival = requests.arrival_s.copy()
    arrival[requests.roots] /= speed
    return replace(requests, arrival_s=arrival)


def repeated(requests: Requests, times: int) -> Requests:
    """The same requests so many times one after the other, at the pace at which they come: a stretch that lasts longer.

    Blocks of prompts are new ones each time (``hash_ids``), shared prefixes (``prefix``) and adapters stay.
    """
    if times == 1:
        return requests
    n, roots = requests.num_requests, requests.roots
    period = float(np.ptp(requests.arrival_s[roots])) * len(roots) / max(len(roots) - 1, 1)
    turn = np.repeat(np.arange(times), n)
    is_root = np.tile(requests.parent == NONE, times)
    hashed, offsets = requests.hash_ids, requests.hash_offsets
    if hashed is not None and offsets is not None and len(hashed):
        new = int(hashed.max()) + 1
        hashed = (np.arange(times)[:, None] * new + hashed).ravel()
        later = np.arange(times)[:, None] * offsets[-1] + offsets[1:]
        offsets = np.append(offsets[:1], later.ravel())
    adapter = requests.adapter
    return replace(
        requests,
        arrival_s=np.tile(requests.arrival_s, times) + np.where(is_root, turn * period, 0.0),
        input_tokens=np.tile(requests.input_tokens, times),
        output_tokens=np.tile(requests.output_tokens, times),
        parent=np.where(is_root, NONE, np.tile(requests.parent, times) + turn * n),
        prefix=np.tile(requests.prefix, times),
        prefix_tokens=np.tile(requests.prefix_tokens, times),
        think_s=np.tile(requests.think_s, times),
        hash_ids=hashed,
        hash_offsets=offsets,
        adapter=None if adapter is None else np.tile(adapter, times),
    )


def behind(served: Served) -> bool:
    """Whether replicas do not keep up: much is left after the last arrival, or those whom the last quarter of arrivals
    finds in the system are clearly more than those whom the quarter before found.
    """
    arrivals, ends = np.sort(served.records.arrival_s), np.sort(served.records.end_s)
    if ends[-1] - arrivals[-1] > BEHIND * float(np.ptp(arrivals)):
        return True
    quarter = len(arrivals) // 4
    if not quarter:
        return False
    found = np.arange(len(arrivals)) - np.searchsorted(ends, arrivals, side="right")
    before, after = float(found[-2 * quarter : -quarter].mean()), float(found[-quarter:].mean())
    return bool(after - before > max(GROWTH * quarter, CHANCE * before, CHANCE_STD * before**0.5))
