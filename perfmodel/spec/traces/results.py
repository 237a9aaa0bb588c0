"""Result files of serving benchmarks, as traces: their requests, and what was measured of each.

``vllm bench serve --save-result --save-detailed`` writes one JSON object, ``python -m sglang.bench_serving
--output-details`` and vLLM's ``--append-result`` append one to a file. Both hold lists with one value per request:
input_lens, output_lens (tokens), ttfts and itls (seconds). Newer vLLM adds start_times and queue_times on its own
clock, and latencies; SGLang writes no times of sending. GuideLLM's report holds a list of benchmarks, each with its
requests.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.traces.files import guarded
from perfmodel.spec.traces.foreign import writer_of, writer_of_head
from perfmodel.spec.traces.stated import MAX_TOKENS
from perfmodel.spec.traces.trace import Floats, Ints, Trace, Window

MAX_RESULT_BYTES = 128 * 2**20
MOST_VALUES = 8_000_000
"""In a file: a number takes six times as much memory as its shortest text, and a measured one some 20 bytes of text."""
"""A result file is one JSON value and read as a whole, at several times its size in memory."""
RESULT_KEYS = ("input_lens", "completed", "request_rate", "total_input_tokens")
"""Of which a result of vLLM's or SGLang's has at least one."""
GUIDELLM_KEY = "guidellm_version"
"""What the head of GuideLLM's report has, on one line or on many."""
SGLANG_KEYS = ("total_throughput", "sharegpt_output_len")

HOW = (
    "save it with `vllm bench serve --save-result --save-detailed` or `sglang.bench_serving --output-details`"
)


def documents(file: BinaryIO, path: Path) -> list[Any]:
    """The JSON values in a file, one after the other: nearly always one.

    Raises:
        DataError: too large to be read whole, or not JSON; the message names the tool that wrote it, if known, and the
            line.
    """
    raw = guarded(path, lambda: file.read(MAX_RESULT_BYTES + 1))
    if len(raw) > MAX_RESULT_BYTES:
        told = writer_of_head(raw[: 2**16])
        raise DataError(
            f"{path}: {told}"
            if told
            else f"{path}: larger than {MAX_RESULT_BYTES:,} bytes: leave generated_texts out, or split the benchmark"
        )
    try:
        text = raw.decode("utf-8-sig")
        if raw.count(b",") > MOST_VALUES:
            raise DataError(
                f"{path}: holds more than {MOST_VALUES:,} values: leave itls out, or split the benchmark"
            )
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text (byte 0x{raw[error.start]:02x})") from error
    del raw
    decoder, values, place = json.JSONDecoder(), [], 0
    try:
        while (place := _after_space(text, place)) < len(text):
            value, place = decoder.raw_decode(text, place)
            values.append(value)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON (cut off?): {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    return values


def _after_space(text: str, place: int) -> int:
    """The first place from ``place`` on that is no white space."""
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def is_result(value: Any) -> bool:
    """Whether a JSON value is a result of vLLM's, SGLang's or GuideLLM's."""
    return isinstance(value, dict) and (any(key in value for key in RESULT_KEYS) or is_guidellm(value))


def runs_in(values: list[Any]) -> list[Any]:
    """One value per run: several in a file, in a list, or in a report of GuideLLM's."""
    found: list[Any] = []
    for value in values:
        found += value if isinstance(value, list) else value["benchmarks"] if is_guidellm(value) else [value]
    return found


def read_results(
    values: list[Any], path: Path, name: str, asked: str, window: Window, index: int | None
) -> Trace:
    """The requests of one of a file's results, in the order in which they were sent; failed ones are left out and
    counted.

    ``arrival_s`` is when a request was ready to be sent: start_times less queue_times (the wait for
    ``--max-concurrency``), from the first one on; None where the file has no start_times, as SGLang's, or where
    requests were sent as slots became free. The run's ``max_concurrency`` comes along, and where there are no times its
    ``request_rate``.

    Args:
        values: JSON values, as :func:`documents` finds them.
        path: the file, for messages.
        name: what the trace is called.
        asked: vllm, sglang, guidellm or auto.
        window: which part is read.
        index: which of several results, from 0.

    Raises:
        DataError: several results and no index, nobody's result, without details, lists of unequal length, a value out
            of range, or no request that succeeded; the message names key and request (counted from 0).
    """
    results = runs_in(values)
    if index is None and len(results) > 1:
        each = "; ".join(f"{i}: {in_words(one)}" for i, one in enumerate(results[:20]))
        raise DataError(f"{path}: holds {len(results)} results: give workload.result_index ({each})")
    if index is not None and index >= len(results):
        raise DataError(f"{path}: workload.result_index = {index}: holds {len(results)}, counted from 0")
    result = results[index or 0]
    if not isinstance(result, dict):
        raise DataError(f"{path}: must hold JSON objects, results of a benchmark")
    if is_guidellm(values[0]):
        return _guidellm(result, path, name, window)
    if not is_result(result):
        told = writer_of(result) or f"is no result of a benchmark: {HOW}"
        raise DataError(f"{path}: {told}")
    found = asked if asked != "auto" else "sglang" if any(key in result for key in SGLANG_KEYS) else "vllm"
    missing = [key for key in ("input_lens", "output_lens") if key not in result]
    if missing:
        raise DataError(f"{path}: has no {' and no '.join(missing)}, so no single requests: {HOW}")
    prompts, outputs = (_integers(result, key, path) for key in ("input_lens", "output_lens"))
    n = len(prompts)
    ttft, latency = (_optional(result, key, n, path) for key in ("ttfts", "latencies"))
    start, queued = (_optional(result, key, n, path, negative=True) for key in ("start_times", "queue_times"))
    _same_length(result, "output_lens", len(outputs), n, path)
    failed = (outputs == 0) | _failures(result, n, path)
    for i in np.flatnonzero(~failed & (prompts == 0)):
        raise DataError(f"{path}: input_lens of request {i} is 0: must be from 1 to {MAX_TOKENS:,}")
    streamed = ttft is None or bool(np.any(ttft[~failed] > 0)) or not (~failed).any()
    ttft = ttft if streamed else None
    return _kept(
        Trace(
            name=name,
            format=found,
            arrival_s=None if start is None else start - (0.0 if queued is None else queued),
            input_tokens=prompts,
            output_tokens=outputs,
            ttft_s=ttft,
            e2e_s=latency if latency is not None else _end_to_end(result, ttft, n, path),
            max_concurrency=_cap(result.get("max_concurrency"), "max_concurrency", path),
            request_rate=_rate(result.get("request_rate")),
            num_dropped=int(failed.sum()),
            notes=_notes(result, ttft, streamed=streamed),
        ),
        failed,
        window,
        path,
    )


def _kept(trace: Trace, failed: NDArray[np.bool_], window: Window, path: Path) -> Trace:
    """Requests that succeeded and lie in the window, in order of sending, times from the first one on."""
    ready = trace.arrival_s
    kept = np.flatnonzero(~failed)
    if ready is not None:
        kept = kept[np.argsort(ready[kept], kind="stable")]
        since = ready[kept] - (ready[kept[0]] if len(kept) else 0.0)
        kept = kept[(since >= window.start_s) & (since < window.end_s)]
    elif window.start_s or window.duration_s is not None:
        raise DataError(
            f"{path}: has no start_times, so start_s and duration_s select nothing: leave them out"
        )
    if not len(kept):
        raise DataError(f"{path}: no request succeeded within the window: nothing to serve")
    first = 0.0 if ready is None else float(np.min(ready[~failed]))
    kept = kept[: window.num_requests]
    return replace(
        trace,
        arrival_s=None if ready is None else ready[kept] - first - window.start_s,
        input_tokens=trace.input_tokens[kept],
        output_tokens=trace.output_tokens[kept],
        ttft_s=None if trace.ttft_s is None else trace.ttft_s[kept],
        e2e_s=None if trace.e2e_s is None else trace.e2e_s[kept],
        request_rate=trace.request_rate if ready is None else None,
    )


def is_guidellm(value: Any) -> bool:
    """Whether a JSON value is GuideLLM's report."""
    return isinstance(value, dict) and isinstance(value.get("benchmarks"), list) and "metadata" in value


def _guidellm(result: dict[str, Any], path: Path, name: str, window: Window) -> Trace:
    """One benchmark of GuideLLM's report; with fixed streams requests were sent as slots became free: a closed loop."""
    requests = result.get("requests")
    found = requests.get("successful") if isinstance(requests, dict) else None
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        raise DataError(
            f"{path}: a report of GuideLLM without its requests: save it with `guidellm benchmark --output-path "
            "report.json` and all samples"
        )
    keys = ("prompt_tokens", "output_tokens")
    prompts, outputs = (_integers({key: [one.get(key) for one in found]}, key, path) for key in keys)
    starts, ends = (
        _optional({key: [one.get(key) for one in found]}, key, len(found), path, negative=True)
        for key in ("request_start_time", "request_end_time")
    )
    assert starts is not None
    assert ends is not None
    strategy = result.get("config", {}).get("strategy", {}) if isinstance(result.get("config"), dict) else {}
    streams = strategy.get("streams") if isinstance(strategy, dict) else None
    closed = streams is not None
    totals = (
        result.get("metrics", {}).get("request_totals", {}) if isinstance(result.get("metrics"), dict) else {}
    )
    failed = outputs == 0
    lost = (
        sum(int(totals.get(key) or 0) for key in ("errored", "incomplete")) if isinstance(totals, dict) else 0
    )
    return _kept(
        Trace(
            name=name,
            format="guidellm",
            arrival_s=None if closed else starts,
            input_tokens=prompts,
            output_tokens=outputs,
            e2e_s=ends - starts,
            max_concurrency=_cap(streams, "config.strategy.streams", path),
            request_rate=np.inf if closed else None,
            num_dropped=int(failed.sum()) + lost,
            notes=(f"{streams} streams: requests came as the ones before them ended: a closed loop",)
            if closed
            else (),
        ),
        failed,
        window,
        path,
    )


def in_words(result: Any) -> str:
    """What tells a result from others in a file."""
    if not isinstance(result, dict):
        return "?"
    strategy = result.get("config", {}).get("strategy", {}) if isinstance(result.get("config"), dict) else {}
    given = {**(strategy if isinstance(strategy, dict) else {}), **result}
    keys = ("request_rate", "max_concurrency", "streams", "rate", "completed", "random_input_len")
    return ", ".join(f"{key} {str(given[key])[:12]}" for key in keys if given.get(key) is not None) or "?"


def _cap(value: Any, key: str, path: Path) -> int | None:
    """Sessions in flight at most, as the file says; None: no cap."""
    if value is None:
        return None
    if type(value) is not int or not 0 < value <= 10**9:
        raise DataError(f"{path}: {key} = {str(value)[:40]}: must be a whole number from 1, or null")
    return value


def _rate(value: Any) -> float | None:
    """Requests per second that the run was asked for; None: not said."""
    if value == "inf":
        return float("inf")
    return float(value) if type(value) in (int, float) and value > 0 else None


def _list(result: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = result[key]
    if not isinstance(value, list):
        raise DataError(f"{path}: {key} = {str(value)[:40]}: must be a list with one value per request")
    return value


def _same_length(result: dict[str, Any], key: str, found: int, n: int, path: Path) -> None:
    if found != n:
        raise DataError(f"{path}: {key} has {found:,} values, input_lens {n:,}: give one per request")


def _numbers(values: list[Any], key: str, path: Path, allowed: str, low: float, high: float) -> Floats:
    """Numbers of a list; the message names the first one that is not from ``low`` to ``high``."""
    # a bool is a number to numpy, and a number in a string is one too
    plain = not set(map(type, values)) - {int, float}
    if plain:
        try:
            array = np.asarray(values, dtype=np.float64)
            if ((array >= low) & (array <= high)).all():
                return array
        except (ValueError, OverflowError):
            pass
    for i, value in enumerate(values):
        if type(value) not in (int, float) or not low <= value <= high:
            raise DataError(f"{path}: {key} of request {i} is {str(value)[:40]}: must be {allowed}")
    raise AssertionError(key)  # the loop repeats what the array said


def _integers(result: dict[str, Any], key: str, path: Path) -> Ints:
    allowed = f"a whole number of tokens from 0 to {MAX_TOKENS:,}"
    array = _numbers(_list(result, key, path), key, path, allowed, 0, MAX_TOKENS)
    for i in np.flatnonzero(array != np.rint(array)):
        raise DataError(f"{path}: {key} of request {i} is {array[i]:g}: must be {allowed}")
    return array.astype(np.int64)


def _optional(
    result: dict[str, Any], key: str, n: int, path: Path, *, negative: bool = False
) -> Floats | None:
    """Seconds (n,); None where the key is absent or null."""
    if result.get(key) is None:
        return None
    values = _list(result, key, path)
    _same_length(result, key, len(values), n, path)
    low = -1e12 if negative else 0.0
    return _numbers(values, key, path, f"a number of seconds from {low:g} to 1e+12", low, 1e12)


def _failures(result: dict[str, Any], n: int, path: Path) -> NDArray[np.bool_]:
    """Requests with an error message."""
    if result.get("errors") is None:
        return np.zeros(n, dtype=bool)
    errors = _list(result, "errors", path)
    _same_length(result, "errors", len(errors), n, path)
    return np.asarray([bool(error) for error in errors], dtype=bool)


def _end_to_end(result: dict[str, Any], ttft: Floats | None, n: int, path: Path) -> Floats | None:
    """TTFT plus every gap after it; None where either is missing."""
    if ttft is None or result.get("itls") is None:
        return None
    gaps = _list(result, "itls", path)
    _same_length(result, "itls", len(gaps), n, path)
    sums = np.zeros(n)
    for i, own in enumerate(gaps):
        if not isinstance(own, list):
            raise DataError(f"{path}: itls of request {i} is {str(own)[:40]}: must be a list of seconds")
        if own:
            allowed = "seconds from 0 to 1e+12"
            sums[i] = _numbers(own, f"itls[{i}]", path, allowed, 0.0, 1e12).sum()
    return ttft + sums


def _notes(result: dict[str, Any], ttft: Floats | None, *, streamed: bool) -> tuple[str, ...]:
    """What the file lacks, and what comes with it."""
    found = []
    cap = result.get("max_concurrency")
    if result.get("start_times") is None:
        found.append(
            "no start_times: lengths without arrival times; the run's request_rate and max_concurrency stand for them"
        )
    elif cap and result.get("queue_times") is None:
        found.append(f"max_concurrency = {cap} without queue_times: arrivals are when slots were free")
    if not streamed:
        found.append("ttfts are all 0: the run did not stream, so no time to first token was measured")
    elif ttft is None:
        found.append("no ttfts: no measured time to first token")
    if result.get("latencies") is None and (ttft is None or result.get("itls") is None):
        found.append("no itls or latencies: no measured end-to-end time")
    return tuple(found)
