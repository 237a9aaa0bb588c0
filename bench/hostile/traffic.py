"""What is asked for: traces, results of benchmarks, workloads that are served, a user's measurements."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

from bench.hostile.mutate import ODD_NUMBERS, mutated_bytes, mutated_text, mutated_value
from bench.hostile.oracles import wrong_records, wrong_serve

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:17:{s:02d}.9799600,{100 + s},{5 + s}\n" for s in range(20)
)
BURST = (
    "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    + "".join(
        f"{s},{s // 3},{s / 10},ChatGPT,{100 + s},{5 + s},{105 + 2 * s},Conversation log\n" for s in range(20)
    )
)
PLAIN = "arrival_s,input_tokens,output_tokens\n" + "".join(f"{s / 2},{50 + s},{3 + s}\n" for s in range(20))
MOONCAKE = "".join(
    json.dumps({"timestamp": 1000 * s, "input_length": 600, "output_length": 5, "hash_ids": [s, s + 1]})
    + "\n"
    for s in range(20)
)
SESSIONS = "".join(
    json.dumps(
        {
            "session_id": f"s{s // 4}",
            "timestamp": 100 * s,
            "input_length": 64 * (s % 4 + 1),
            "output_length": 5,
        }
    )
    + "\n"
    for s in range(20)
)
QWEN = "".join(
    json.dumps(
        {
            "chat_id": s,
            "parent_chat_id": s - 1 if s % 3 else -1,
            "timestamp": 61.1 + s,
            "input_length": 30,
            "output_length": 9,
            "type": "text",
            "turn": s % 3 + 1,
            "hash_ids": [s, s + 7],
        }
    )
    + "\n"
    for s in range(20)
)
TRACES = (
    (".csv", AZURE),
    (".csv", BURST),
    (".csv", PLAIN),
    (".jsonl", MOONCAKE),
    (".jsonl", SESSIONS),
    (".jsonl", QWEN),
)

VLLM = {
    "date": "20260101-000000",
    "endpoint_type": "vllm",
    "model_id": "x",
    "request_rate": 1.0,
    "max_concurrency": 4,
    "duration": 3.0,
    "completed": 3,
    "input_lens": [5, 6, 7],
    "output_lens": [2, 2, 2],
    "ttfts": [0.1, 0.2, 0.3],
    "itls": [[0.1], [0.1], [0.1]],
    "start_times": [0.0, 1.0, 2.0],
    "errors": ["", "", ""],
    "generated_texts": ["a", "b", "c"],
}
SGLANG = {
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": "inf",
    "max_concurrency": 4,
    "completed": 2,
    "input_lens": [5, 6],
    "output_lens": [2, 3],
    "ttfts": [0.1, 0.2],
    "itls": [[0.1], [0.1, 0.1]],
    "errors": ["", ""],
}
RESULTS = (VLLM, SGLANG)


def _sound(found: Any) -> str | None:
    """Why a trace that was read is none."""
    numbers = (found.input_tokens, found.output_tokens)
    if not all((one >= 1).all() for one in numbers):
        return "a trace without tokens"
    if len({len(one) for one in numbers}) != 1 or len(found.input_tokens) == 0:
        return "columns of different lengths"
    return None


def trace(chance: random.Random, folder: Path) -> str | None:
    """A trace broken as text or as bytes, plain, gzipped or as Parquet."""
    from perfmodel.spec.traces.read import read_trace

    suffix, text = chance.choice(TRACES)
    content = mutated_text(text, chance).encode("utf-8", "backslashreplace")
    if chance.random() < 0.1:
        suffix, content = ".parquet", _parquet(chance)
    if chance.random() < 0.2:
        content = mutated_bytes(content, chance)
    if chance.random() < 0.3 and suffix != ".parquet":
        content, suffix = gzip.compress(content), suffix + ".gz"
        if chance.random() < 0.5:
            content = mutated_bytes(content, chance)
    path = folder / f"case{suffix}"
    path.write_bytes(content)
    return _sound(read_trace(str(path)))


def _parquet(chance: random.Random) -> bytes:
    """Columns of a trace, of types that may be none of numbers."""
    import io

    import pandas as pd

    odd = [1, 2.5, -1, 0, "5", None, True, float("nan"), 2**62, pd.Timestamp("2026-01-01"), [1], b"x"]
    frame = pd.DataFrame(
        {"arrival_s": [0.0, 1.0, 2.0], "input_tokens": [5, 6, 7], "output_tokens": [2, 3, 4]}
    )
    name = chance.choice(list(frame.columns))
    frame[name] = [chance.choice(odd)] * 3
    content = io.BytesIO()
    frame.to_parquet(content)
    return content.getvalue()


def result(chance: random.Random, folder: Path) -> str | None:
    """A benchmark's result, with a value broken, several of them, indented, cut or gzipped."""
    from perfmodel.spec.traces.read import read_trace

    document = json.loads(json.dumps(chance.choice(RESULTS)))
    for _ in range(chance.randint(1, 2)):
        document = mutated_value(document, chance)
    text = json.dumps(document, indent=chance.choice([None, None, 2]))
    text = chance.choice([text, text, text + "\n" + text, f"[{text}]", mutated_text(text, chance)])
    path = folder / chance.choice(["r.json", "r.jsonl", "r.json.gz"])
    content = text.encode("utf-8", "backslashreplace")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return _sound(read_trace(str(path)))


LIKELY = {
    "workload.request_rate": [0.1, 3, 50, 1000, "inf"],
    "workload.input_tokens": [1, 17, 900, "{min: 1, max: 400}"],
    "workload.output_tokens": [1, 2, 90, "{min: 1, max: 40}"],
    "workload.num_requests": [1, 2, 7, 90],
    "workload.max_concurrency": [1, 3, 1000],
    "serving.replicas": [1, 2, 5],
    "serving.max_running": [1, 2, 64],
    "serving.max_batched_tokens": [16, 100, 4096],
    "serving.block_tokens": [1, 16, 128],
    "slo.ttft_ms": [0.001, 100],
    "workload.warm_up_requests": [0, 3],
    "seed": [0, 7],
    "deployment.batch_per_gpu": [1, 8],
    "deployment.mtp.draft_tokens": [0, 1, 3],
}
MOST_TOKENS = 200_000
"""Of a run that is served here: more is only loaded."""


def workload(chance: random.Random, folder: Path) -> str | None:
    """A short run of traffic with keys of workload, serving and limits set to anything: nothing may be lost."""
    from bench.hostile.scenarios import override_text
    from perfmodel.answers.serve import answer_serve
    from perfmodel.load import load_scenario
    from perfmodel.spec.keys import key_paths

    own = [
        path
        for path in key_paths()
        if path.split(".")[0] in ("workload", "serving", "slo", "faults", "prefill")
    ]
    usual = [
        "1",
        "2",
        "8",
        "0.5",
        "3.5",
        "100",
        "[1, 2]",
        "true",
        "fcfs",
        "{}",
        "{value: 64}",
        "{min: 1, max: 90}",
        "inf",
    ]
    odd = [str(one).lower() for one in ODD_NUMBERS]
    sets = [
        f"{chance.choice(own)}={chance.choice(usual if chance.random() < 0.7 else odd)}"
        for _ in range(chance.randint(1, 2))
    ]
    if chance.random() < 0.5:  # numbers of the workload that are likely taken, all at once
        sets = [f"{key}={chance.choice(values)}" for key, values in LIKELY.items() if chance.random() < 0.4]
    base = chance.choice(["longcat-flash-h800", "deepseek-v3-h800", "longcat-flash-h800-pd"])
    first = ["workload={num_requests: 40, input_tokens: 200, output_tokens: 20, request_rate: 4}"]
    if chance.random() < 0.2:
        sets.append(override_text(chance))
    scenario = load_scenario(base, [*first, *sets])
    asked = scenario.workload
    lengths = [one.expected if one is not None else 1e9 for one in (asked.input_tokens, asked.output_tokens)]
    if (
        asked.trace
        or (asked.num_requests or 1e9) * sum(lengths) > MOST_TOKENS
        or scenario.serving.replicas > 50
    ):
        return None
    answer = answer_serve(scenario)
    return wrong_serve(scenario, answer.values) or wrong_records(answer.served)


def measurements(chance: random.Random, folder: Path) -> str | None:
    """A user's own rows, broken."""
    from perfmodel.spec.catalogue import DATA
    from perfmodel.validation.user_data import own_records, read_measurements

    source = DATA / "published" / chance.choice(["silicon_serving.csv", "serving.csv"])
    with source.open(encoding="utf-8") as lines:
        text = "".join(line for _, line in zip(range(6), lines, strict=False))
    path = folder / "m.csv"
    content = mutated_text(text, chance).encode("utf-8", "backslashreplace")
    path.write_bytes(mutated_bytes(content, chance) if chance.random() < 0.2 else content)
    own_records(path, read_measurements(path))
    return None
