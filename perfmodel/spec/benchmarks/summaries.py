"""Files that hold nothing but sums: LLMPerf, trtllm-bench, InferenceX's aggregates, MLPerf's summary."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec.benchmarks.measured import NS, Benchmark, inside, keep, lengths, load_of, number
from perfmodel.units import MS

MEANS = "lengths by their mean and standard deviation (no requests in the file)"


def is_llmperf(value: Any) -> bool:
    """A summary of LLMPerf's token_benchmark_ray.py."""
    return isinstance(value, dict) and "results_inter_token_latency_s_mean" in value


def llmperf(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """Its inter-token latency is E2E over all output tokens, the first with its TTFT too [llmperf
    src/llmperf/ray_clients/openai_chat_completions_client.py, token_benchmark_ray.py].

    Raises:
        DataError: a value of another type.
    """
    where = f"{path}: summary {index}"

    def of(key: str) -> float | None:
        return number(value.get(key), key, where)

    figures: dict[str, float | None] = {}
    for name, quantity in (
        ("ttft_s", "ttft_s"),
        ("inter_token_latency_s", "tpot_incl_s"),
        ("end_to_end_latency_s", "e2e_s"),
    ):
        figures[f"{quantity}.mean"] = of(f"results_{name}_mean")
        figures |= {f"{quantity}.{p}": of(f"results_{name}_quantiles_{p}") for p in ("p50", "p90", "p99")}
    figures["output_tokens_per_s"] = of("results_mean_output_throughput_token_per_s")
    per_minute = of("results_num_completed_requests_per_min")
    figures["requests_per_s"] = per_minute / 60.0 if per_minute else None
    workload: dict[str, Any] = {}
    if n := of("results_num_completed_requests"):
        workload["num_requests"] = int(n)
    for ours, name in (("input_tokens", "input"), ("output_tokens", "output")):
        found = lengths(of(f"results_number_{name}_tokens_mean"), of(f"results_number_{name}_tokens_stddev"))
        if found is not None:
            workload[ours] = found
    cap = of("num_concurrent_requests")
    return Benchmark(
        writer="LLMPerf",
        label=f"num_concurrent_requests {cap:g}" if cap else "",
        figures=keep(figures),
        workload={**workload, **load_of(math.inf, cap)},
        assumed=(MEANS,),
    )


def is_trtllm(value: Any) -> bool:
    """A report of trtllm-bench."""
    return isinstance(value, dict) and {"world_info", "request_info", "performance"} <= value.keys()


def trtllm(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """Times are per request; TPOT excludes the first token [tensorrt_llm/bench/dataclasses/reporting.py].

    Raises:
        DataError: a value of another type.
    """
    where = f"{path}: report {index}"

    def of(*keys: str) -> float | None:
        return number(inside(value, *keys), ".".join(keys), where)

    figures: dict[str, float | None] = {
        "requests_per_s": of("performance", "request_throughput_req_s"),
        "output_tokens_per_s": of("performance", "system_output_throughput_tok_s"),
    }
    for quantity, place in (
        ("e2e_s", ("performance", "request_latency_percentiles_ms")),
        ("ttft_s", ("streaming_metrics", "ttft_percentiles")),
        ("tpot_s", ("streaming_metrics", "tpot_percentiles")),
    ):
        for theirs, ours in (("average", "mean"), ("p50", "p50"), ("p90", "p90"), ("p99", "p99")):
            stated = of(*place, theirs)
            figures[f"{quantity}.{ours}"] = None if stated is None else stated * MS
    for quantity, key in (("ttft_s.mean", "avg_ttft_ms"), ("tpot_s.mean", "avg_tpot_ms")):
        stated = of("streaming_metrics", key)
        figures[quantity] = figures[quantity] or (None if stated is None else stated * MS)
    mean = of("performance", "avg_request_latency_ms")
    figures["e2e_s.mean"] = figures["e2e_s.mean"] or (None if mean is None else mean * MS)
    cap = of("request_info", "avg_num_concurrent_requests")
    workload = {
        "input_tokens": lengths(of("request_info", "avg_input_length")),
        "output_tokens": lengths(of("request_info", "avg_output_length")),
    }
    n, gpus = of("request_info", "num_requests"), of("world_info", "world_size")
    return Benchmark(
        writer="trtllm-bench",
        label=f"avg_num_concurrent_requests {cap:g}" if cap else "",
        figures=keep(figures),
        workload={
            **({"num_requests": int(n)} if n else {}),
            **{key: one for key, one in workload.items() if one is not None},
            **load_of(math.inf, cap),
        },
        num_gpus=int(gpus) if gpus else None,
        assumed=(
            "lengths are all the mean (no requests in the file)",
            "max_concurrency: the mean number of requests in flight (the cap itself is not in the file)",
        ),
    )


def is_inferencex(value: Any) -> bool:
    """An aggregate of InferenceX (before: InferenceMAX)."""
    return isinstance(value, dict) and "tput_per_gpu" in _flat(value) and "conc" in value


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """An aggregate with the metrics that its database keeps in a section of their own."""
    metrics = value.get("metrics")
    return {**value, **(metrics if isinstance(metrics, Mapping) else {})}


def inferencex(value: Mapping[str, Any], path: Path, index: int) -> Benchmark:
    """Latencies are in seconds, and ``tput_per_gpu`` counts prompts and outputs [InferenceX utils/process_result.py].
    Its client keeps ``conc`` requests in flight, 10 for each.

    Raises:
        DataError: a value of another type.
    """
    where, value = f"{path}: aggregate {index}", _flat(value)

    def of(key: str) -> float | None:
        return number(value.get(key), key, where)

    figures: dict[str, float | None] = {}
    for theirs, quantity in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("itl", "itl_s"), ("e2el", "e2e_s")):
        for name, ours in (("mean", "mean"), ("median", "p50"), ("p90", "p90"), ("p99", "p99")):
            figures[f"{quantity}.{ours}"] = of(f"{name}_{theirs}")
    figures["total_tokens_per_s_per_gpu"] = of("tput_per_gpu")
    figures["output_tokens_per_s_per_gpu"] = of("output_tput_per_gpu")
    cap, isl, osl = of("conc"), of("isl"), of("osl")
    sides = [of(key) for key in ("num_prefill_gpu", "num_decode_gpu")]
    apart = str(value.get("disagg", "")).lower() == "true" and all(sides)
    gpus = sum(one or 0.0 for one in sides) if apart else of("tp")
    assumed = ["num_requests: 10 times conc, as its client sends"] if cap else []
    workload: dict[str, Any] = {"num_requests": 10 * int(cap)} if cap else {}
    if isl and osl:
        workload |= {"input_tokens": _ranged(isl), "output_tokens": _ranged(osl)}
        assumed.append(f"lengths: from {RANGE_RATIO:g} times isl and osl up to them, as its client draws")
    return Benchmark(
        writer="InferenceX",
        label=", ".join(
            f"{key} {value[key]}" for key in ("hw", "framework", "conc", "isl", "osl") if key in value
        ),
        figures=keep(figures),
        workload={**workload, **load_of(math.inf, cap)},
        num_gpus=int(gpus) if gpus else None,
        assumed=tuple(assumed),
    )


RANGE_RATIO = 0.8
"""``--random-range-ratio`` of InferenceX's runs, whose client draws from [r L, L]
[InferenceX benchmarks/benchmark_lib.sh, utils/bench_serving/benchmark_serving.py]."""


def _ranged(longest: float) -> dict[str, int]:
    return {"min": max(1, round(longest * RANGE_RATIO)), "max": round(longest)}


MLPERF = "MLPerf Results Summary"
_LINE = re.compile(r"^\s*([^:\n]+?)\s*:\s*(\S[^\n]*?)\s*$", re.MULTILINE)


def mlperf(text: str, path: Path) -> Benchmark:
    """``mlperf_log_summary.txt`` of LoadGen; it states neither lengths nor GPUs.

    Raises:
        DataError: a value of another type, or nothing in it that can be compared.
    """
    lines = {key.lower(): value for key, value in _LINE.findall(text)}

    def of(key: str) -> float | None:
        return number(lines.get(key), key, str(path))

    figures: dict[str, float | None] = {}
    for quantity, mean, percentile in (
        ("e2e_s", "mean latency (ns)", "latency (ns)"),
        ("ttft_s", "mean first token latency (ns)", "first token latency (ns)"),
        ("tpot_s", "mean time to output token (ns)", "time to output token (ns)"),
    ):
        stated = {
            "mean": of(mean),
            **{p: of(f"{p[1:]}.00 percentile {percentile}") for p in ("p50", "p90", "p99")},
        }
        figures |= {f"{quantity}.{p}": None if one is None else one * NS for p, one in stated.items()}
    figures["output_tokens_per_s"] = of("completed tokens per second") or of("tokens per second")
    figures["requests_per_s"] = of("completed samples per second") or of("samples per second")
    found = keep(figures)
    if not found:
        raise DataError(f"{path}: a summary of MLPerf without any figure")
    scenario = lines.get("scenario", "?")
    offline = scenario.lower() == "offline"
    rate = math.inf if offline else of("scheduled samples per second") or of("target_qps")
    return Benchmark(
        writer="MLPerf LoadGen",
        label=f"scenario {scenario}, result {lines.get('result is', '?')}",
        figures=found,
        workload=load_of(rate, None),
        assumed=("lengths and number of requests are not in the file: the scenario's",),
    )
