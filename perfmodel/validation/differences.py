"""What the difference between a measured run and its simulation suggests: prefill, decode, queue or client.

Rules on ratios, measured over simulated, of figures that a user knows; each names the figures it rests on. They
suggest where to look and prove nothing.
"""

from collections.abc import Mapping
from typing import NamedTuple

ALIKE = 0.10
"""Differences up to this share are not spoken of: what benchmarks of the same server differ by from run to run."""
CHUNKED = 1.25
"""Mean gap between chunks over the mean TPOT above which tokens come several at a time."""
WAITS = 0.25
"""Share of the median TTFT that requests wait for a step in the simulation, above which TTFT is a queue's rather than a
prefill's."""


class Difference(NamedTuple):
    """One suggestion."""

    cause: str
    """prefill, decode, queue, client, throughput (no latency says which of these) or none."""
    text: str


def differences(
    measured: Mapping[str, float], simulated: Mapping[str, float], *, max_concurrency: int | None = None
) -> list[Difference]:
    """Suggestions, the nearest to the hardware first.

    Args:
        measured: ``ttft_s.p50``, ``requests_per_s``, ... -> figure, SI.
        simulated: the same of the simulation; also ``queue_s.p50``, and ``ttft_s.p5`` of either side where it is known.
        max_concurrency: requests in flight at most.
    """
    ratio = {
        key: one / simulated[key]
        for key, one in measured.items()
        if one > 0.0 and simulated.get(key, 0.0) > 0.0
    }
    found = [
        *_decode(ratio),
        *_prefill(ratio, simulated),
        *_queue(ratio),
        *_client(ratio, measured, max_concurrency),
    ]
    if not found:
        found += _throughput(ratio)
    if not found and ratio:
        found.append(Difference("none", f"all that both know agrees within {ALIKE:.0%}"))
    return found


def _first(ratio: Mapping[str, float], *keys: str) -> str:
    return next((key for key in keys if key in ratio), "")


def _off(ratio: float) -> bool:
    return abs(ratio - 1.0) > ALIKE


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times the simulated"


def _decode(ratio: Mapping[str, float]) -> list[Difference]:
    key = _first(ratio, "tpot_s.p50", "tpot_s.mean", "tpot_incl_s.p50", "tpot_incl_s.mean", "itl_s.mean")
    if not key or not _off(ratio[key]):
        return []
    slower = ratio[key] > 1.0
    look = (
        "number formats, batch and parallelism, kernels without CUDA graphs, prompts in the same steps, a busy host"
        if slower
        else "speculative decoding, fewer requests in flight than stated, narrower number formats, shorter outputs"
    )
    return [
        Difference(
            "decode",
            f"{key} is {_times(ratio[key])}: steps are {'slower' if slower else 'faster'}; look at {look}",
        )
    ]


def _prefill(ratio: Mapping[str, float], simulated: Mapping[str, float]) -> list[Difference]:
    key = _first(ratio, "ttft_s.p5", "ttft_s.p50", "ttft_s.mean")
    if not key or not _off(ratio[key]):
        return []
    waiting = simulated.get("queue_s.p50", 0.0) > WAITS * simulated.get("ttft_s.p50", float("inf"))
    if key != "ttft_s.p5" and waiting:
        text = f"{key} is {_times(ratio[key])}, most of which is waiting: prompts' speed or the queue"
        return [Difference("prefill", f"{text} (a result with its requests would tell)")]
    look = (
        "chunk size, prefix caching that is off, first compilations without a warm-up, the front end's tokenising"
        if ratio[key] > 1.0
        else "prefix caching of prompts that begin alike, shorter prompts than stated"
    )
    what = "the least waiting requests' TTFT (p5)" if key == "ttft_s.p5" else key
    return [Difference("prefill", f"{what} is {_times(ratio[key])}; look at {look}")]


def _queue(ratio: Mapping[str, float]) -> list[Difference]:
    low, high = _first(ratio, "ttft_s.p5", "ttft_s.p50"), _first(ratio, "ttft_s.p99", "ttft_s.p90")
    if not low or not high or not _off(ratio[high] / ratio[low]) or not _off(ratio[high]):
        return []
    more = ratio[high] > ratio[low]
    if more is not (ratio[high] > 1.0):  # the wait is nearer to the simulated one than what all requests take
        return []
    look = (
        "burstier arrivals, fewer running requests allowed (max_num_seqs), preemptions of a short cache"
        if more
        else "smoother arrivals than Poisson, several replicas, a scheduler that lets prompts go first"
    )
    waits = f"requests wait {'longer' if more else 'less long'}"
    return [
        Difference(
            "queue", f"{high} is {_times(ratio[high])}, {low} {ratio[low]:.2f} times: {waits}; look at {look}"
        )
    ]


def _throughput(ratio: Mapping[str, float]) -> list[Difference]:
    key = _first(ratio, *RATES)
    if not key or not _off(ratio[key]):
        return []
    if any(one.endswith(("_s.mean", "_s.p50")) for one in ratio):
        text = "while latencies agree: more requests were in flight, or longer ones, than the traffic says"
    else:
        text = "and no latency was measured that would tell where: save the result with its percentiles or requests"
    return [Difference("throughput", f"{key} is {_times(ratio[key])}, {text}")]


RATES = ("requests_per_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu", "total_tokens_per_s_per_gpu")


def _client(
    ratio: Mapping[str, float], measured: Mapping[str, float], max_concurrency: int | None
) -> list[Difference]:
    found = []
    rate = _first(ratio, *RATES)
    e2e = _first(ratio, "e2e_s.mean", "e2e_s.p50")
    if rate and e2e and ratio[rate] < 1.0 - ALIKE and not _off(ratio[e2e]):
        found.append(
            f"{rate} is {_times(ratio[rate])} while {e2e} agrees: fewer requests were in flight than the traffic says; "
            "look at the client's processes, its ramp-up and its last requests"
        )
    if max_concurrency and {"requests_per_s", "e2e_s.mean"} <= measured.keys():
        flying = measured["requests_per_s"] * measured["e2e_s.mean"]  # Little's law
        if flying < (1.0 - 2.0 * ALIKE) * max_concurrency and not found:
            found.append(
                f"{flying:.1f} requests were in flight in the mean (requests_per_s times e2e_s.mean), of the "
                f"{max_concurrency} that max_concurrency allows: the rate did not fill them, or the client did not "
                "keep up"
            )
    if {"itl_s.mean", "tpot_s.mean"} <= measured.keys():
        chunk = measured["itl_s.mean"] / measured["tpot_s.mean"]
        if chunk > CHUNKED and ratio.get("itl_s.mean", chunk) > 1.0 + ALIKE:
            found.append(
                f"chunks hold {chunk:.2f} tokens in the mean (ITL over TPOT): speculative decoding, or a client or "
                "proxy that reads late"
            )
    return [Difference("client", text) for text in found]
