"""Result files of vLLM's and SGLang's serving benchmarks, as traces: their requests, and what was measured of each.

``vllm bench serve --save-result --save-detailed`` writes one JSON object, ``python -m sglang.bench_serving
--output-details`` appends one to a file. Both hold lists with one value per request: input_lens, output_lens
(tokens), ttfts and itls (seconds). Newer vLLM adds start_times and queue_times on its own clock, and
latencies; SGLang writes no times of sending.
"""

import json
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import DataError
from perfmodel.spec.trace import MAX_TOKENS, Floats, Ints, Trace, Window
from perfmodel.spec.trace_files import guarded

MAX_RESULT_BYTES = 128 * 2**20
"""A result file is one JSON value and read as a whole, at several times its size in memory."""

HOW = (
    "save it with `vllm bench serve --save-result --save-detailed` or `sglang.bench_serving --output-details`"
)


def read_results(file: BinaryIO, path: Path, name: str, found: str, window: Window) -> Trace:
    """The requests of a benchmark's result, in the order in which they were sent; failed ones are left out and counted.

    ``arrival_s`` is when a request was ready to be sent: start_times less queue_times (the wait for
    ``--max-concurrency``), from the first one on; None where the file has no start_times, as SGLang's.

    Raises:
        DataError: too large, not one JSON object, without details, lists of unequal length, a value out of range, or no
            request that succeeded; the message names key and request (counted from 0).
    """
    result = _document(file, path)
    prompts, outputs = (_integers(result, key, path) for key in ("input_lens", "output_lens"))
    n = len(prompts)
    ttft, latency = (_optional(result, key, n, path) for key in ("ttfts", "latencies"))
    start, queued = (_optional(result, key, n, path, negative=True) for key in ("start_times", "queue_times"))
    _same_length(result, "output_lens", len(outputs), n, path)
    failed = (outputs == 0) | _failures(result, n, path)
    for i in np.flatnonzero(~failed & (prompts == 0)):
        raise DataError(f"{path}: input_lens of request {i} is 0: must be from 1 to {MAX_TOKENS:,}")
    e2e = latency if latency is not None else _end_to_end(result, ttft, n, path)
    ready = None if start is None else start - (0.0 if queued is None else queued)
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
    return Trace(
        name=name,
        format=found,
        arrival_s=None if ready is None else ready[kept] - first - window.start_s,
        input_tokens=prompts[kept],
        output_tokens=outputs[kept],
        ttft_s=None if ttft is None else ttft[kept],
        e2e_s=None if e2e is None else e2e[kept],
        num_dropped=int(failed.sum()),
        notes=_notes(result, ttft, e2e),
    )


def _document(file: BinaryIO, path: Path) -> dict[str, Any]:
    raw = guarded(path, lambda: file.read(MAX_RESULT_BYTES + 1))
    if len(raw) > MAX_RESULT_BYTES:
        raise DataError(
            f"{path}: larger than {MAX_RESULT_BYTES:,} bytes: leave generated_texts out, or split the benchmark"
        )
    try:
        value = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line}: not UTF-8 text (byte 0x{raw[error.start]:02x})") from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise DataError(
                f"{path}: line {error.lineno}: a second result begins (SGLang appends): keep one result per file"
            ) from error
        raise DataError(f"{path}: line {error.lineno}: not valid JSON (cut off?): {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold one JSON object, the result of a benchmark")
    missing = [key for key in ("input_lens", "output_lens") if key not in value]
    if missing:
        raise DataError(f"{path}: has no {' and no '.join(missing)}, so no single requests: {HOW}")
    return value


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


def _notes(result: dict[str, Any], ttft: Floats | None, e2e: Floats | None) -> tuple[str, ...]:
    """What the file lacks."""
    found = []
    if result.get("start_times") is None:
        found.append(
            "no start_times: lengths without arrival times; give workload.request_rate or workload.max_concurrency"
        )
    elif result.get("max_concurrency") and result.get("queue_times") is None:
        found.append(
            f"max_concurrency = {result['max_concurrency']} without queue_times: arrivals are when slots were free"
        )
    if ttft is None:
        found.append("no ttfts: no measured time to first token")
    if e2e is None:
        found.append("no itls or latencies: no measured end-to-end time")
    return tuple(found)
