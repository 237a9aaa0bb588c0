"""JSON that is no trace: which tool wrote it, and what can be done with it."""

from typing import Any

WRITERS = (
    (
        ("traceEvents",),
        "a profile in Chrome's or Kineto's format (PyTorch, perfmodel step --trace): it has kernels, not requests",
        "open it in Perfetto or Holistic Trace Analysis",
    ),
    (
        ("engine", "world_info", "request_info", "performance"),
        "a report of trtllm-bench: it has means, not requests",
        "state them: workload.max_concurrency = request_info.avg_num_concurrent_requests, input_tokens = "
        "avg_input_length, output_tokens = avg_output_length; or compare it: `perfmodel validate --data FILE "
        "--scenario NAME`",
    ),
    (
        ("elapsed_time", "num_requests", "requests_per_second", "tokens_per_second"),
        "a result of `vllm bench throughput`: it has totals, not requests",
        "run `vllm bench serve --save-result --save-detailed`, or state workload.num_requests, request_rate: inf and "
        "the lengths that the run was given",
    ),
    (
        ("avg_latency", "latencies", "percentiles"),
        "a result of `vllm bench latency`: it has one batch's times, not requests",
        "ask `perfmodel step`, or state workload.max_concurrency and the lengths that the run was given",
    ),
    (
        ("time_to_first_token", "request_throughput"),
        "a summary of AIPerf or GenAI-Perf: it has percentiles, not requests",
        "use profile_export.jsonl, which AIPerf writes beside it, or compare it: `perfmodel validate --data FILE "
        "--scenario NAME`",
    ),
    (
        ("results_inter_token_latency_s_mean",),
        "a summary of LLMPerf: it has means, not requests",
        "use the individual_responses file beside it with workload.columns (input: number_input_tokens, output: "
        "number_output_tokens), or compare it: `perfmodel validate --data FILE --scenario NAME`",
    ),
    (
        ("model_type", "architectures"),
        "a model's config.json",
        "give it as model: PATH, or `perfmodel init PATH`",
    ),
    (
        ("conversations",),
        "conversations as text (ShareGPT)",
        "count tokens with your model's tokenizer and write them as CSV: input_length, output_length",
    ),
)
"""Keys that are all there, what the file then is, and what to do."""


def writer_of(value: Any) -> str | None:
    """What a JSON value is and what to do, if a known tool wrote it; None: nobody known."""
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return None
    for keys, what, do in WRITERS:
        if all(key in value for key in keys):
            return f"is {what}; {do}"
    return None


def writer_of_head(head: bytes) -> str | None:
    """The same, of the first bytes of a file that is too large to be read whole."""
    for keys, what, do in WRITERS:
        if all(f'"{key}"'.encode() in head for key in keys):
            return f"is {what}; {do}"
    return None
