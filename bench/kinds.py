"""The serving simulation by kinds of traffic, beside a yardstick: ``make bench-kinds`` (a minute and a half).

Requests per CPU second, step times being there, on the compiled core and on the plain one. The former is a slope: the
requests by which a run of 10 n exceeds one of n (Azure's hour and its first tenth), over the seconds by which it takes
longer. The last column is that on a machine where the yardstick's loop takes 1.8 s. Budgets there: 20,000 for Azure's
hour, 5,000 for every other kind.
"""

import sys
import time

from bench.yardstick import numpy_s, yardstick_s
from perfmodel.load import load_scenario
from perfmodel.serving.serve import serve

NODE = (
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "deployment.batch_per_gpu=8",
)  # fmt: skip
SESSIONS = (
    "workload.trace=''", "workload.turns={mean: 6}", "workload.input_tokens=2000",
    "workload.turn_tokens={min: 50, max: 400}", "workload.output_tokens={min: 20, max: 400}",
    "workload.tool_pause_s={mean: 2}",
)  # fmt: skip
CROWDED = ("workload.request_rate=40", "workload.num_requests=4000", "serving.kv_tokens=300000")


def node(*overrides):
    return "deepseek-v3-h800", (*NODE, *overrides)


def drawn(rate, requests, inputs, outputs, *overrides):
    return node(
        "workload.trace=''", f"workload.request_rate={rate}", f"workload.num_requests={requests}",
        f"workload.input_tokens={{min: {inputs[0]}, max: {inputs[1]}}}",
        f"workload.output_tokens={{min: {outputs[0]}, max: {outputs[1]}}}", *overrides,
    )  # fmt: skip


def many(replicas, router):
    """An hour's requests come in as much less time as there are more replicas."""
    return node(f"serving.replicas={replicas}", f"workload.time_scale={replicas}", f"serving.router={router}")


KINDS = {
    "azure, one node": (node(), 20_000),
    "azure, ten replicas": (many(10, "least-tokens"), 20_000),
    "azure, 128 ranks": (("longcat-flash-h800", ()), 20_000),
    "queue in overload": (drawn(40, 3000, (200, 2000), (20, 400), "serving.kv_tokens=100000"), 5_000),
    "preemption storm": (drawn(20, 3000, (50, 300), (400, 2000), "serving.kv_tokens=60000"), 5_000),
    "sessions, full cache": (
        node(*SESSIONS, "workload.request_rate=3", "workload.num_requests=4000", "serving.kv_tokens=200000"), 5_000,
    ),
    **{
        f"sessions, {kind}": (
            node(*SESSIONS, "workload.request_rate=3", "workload.num_requests=4000", "serving.kv_tokens=200000",
                 "serving.host_cache_tokens=300000", "serving.storage_cache_tokens=3000000",
                 f"serving.offload={{storage_gb_per_s: 20, write: {kind}}}"), 5_000,
        )
        for kind in ("write-through", "write-back")
    },
    "chunks of 64": (drawn(0.5, 500, (4000, 16000), (20, 100), "serving.max_batched_tokens=64"), 5_000),
    "prefix-aware, 128 ranks": (
        ("longcat-flash-h800", (*SESSIONS, "workload.request_rate=50", "workload.num_requests=4000",
                                "serving.rank_router=prefix-aware")), 5_000,
    ),
    "prefill apart": (("longcat-flash-h800-pd", ()), 5_000),
    "states": (node("model=qwen3.5-35b-a3b", *SESSIONS, *CROWDED), 5_000),
    "windows": (node("model=gpt-oss-120b", *SESSIONS, *CROWDED), 5_000),
    **{
        f"{router}, {replicas} replicas": (many(replicas, router), 5_000)
        for router in ("central", "round-robin", "least-tokens", "prefix-aware")
        for replicas in (100, 1000)
    },
}  # fmt: skip
AZURE = 19_366
"""Requests of Azure's hour."""
REFERENCE_S = 1.8
"""CPU seconds of the yardstick on the machine that budgets are stated for."""
PLAIN_TOO = 12
"""Kinds that are also run on the plain core; beyond them that takes minutes."""


def timed(name, overrides, core, *, runs):
    """(requests, CPU seconds of a run: the median of some)."""
    scenario = load_scenario(name, list(overrides))
    first = serve(scenario, core="compiled")
    found = []
    for _ in range(runs):
        start = time.process_time()
        serve(scenario, requests=first.requests, fleet=first.fleet, core=core)
        found.append(time.process_time() - start)
    return first.requests.num_requests, sorted(found)[runs // 2]


def slope_of(name, overrides):
    """Requests per CPU second between n and 10 n, compiled."""
    asked = [one for one in overrides if one.startswith("workload.num_requests=")]
    more = 10 * int(asked[0].partition("=")[2]) if asked else AZURE // 10
    one = timed(name, overrides, "compiled", runs=5)
    other = timed(name, (*overrides, f"workload.num_requests={more}"), "compiled", runs=5)
    return (other[0] - one[0]) / (other[1] - one[1])


def main(names):
    failed = 0
    for number, (kind, ((name, overrides), least)) in enumerate(KINDS.items()):
        if names and not any(one in kind for one in names):
            continue
        fast = slope_of(name, overrides)
        loop, arrays = yardstick_s(), numpy_s()
        plain = "        -"
        if number < PLAIN_TOO:
            requests, seconds = timed(name, overrides, "plain", runs=1)
            plain = f"{requests / seconds:9,.0f}"
        there = fast * loop / REFERENCE_S
        failed += there < least
        print(
            f"{kind:28s} {fast:11,.0f} requests/s  plain {plain}  yardstick {loop:.2f} s, {arrays:.2f} s  "
            f"at {REFERENCE_S} s {there:9,.0f} (at least {least:,}{'' if there >= least else ': MISSED'})",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
