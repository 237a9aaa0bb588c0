"""Traces in everybody's dialect: counts, units and spans as an independent count of the file has them; and whose file
it is, where it is no trace.
"""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from perfmodel.errors import DataError, SpecError
from perfmodel.output.catalogue.entries import trace_values
from perfmodel.serving.prefix_cache import paths_of
from perfmodel.serving.requests import requests_of
from perfmodel.spec.traces.read import read_trace, trace_of
from perfmodel.spec.workload import Workload

FILES = Path(__file__).parent / "data" / "traces"


def read(path, **keys):
    return trace_of(Workload(trace=str(path), **keys))


@pytest.fixture
def file(tmp_path):
    def write(content, name="trace.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- files that people bring ------------------------------------------------------------------------------------------

COUNTED = {
    # file: dialect, key of time, of prompt, of output, seconds of the unit
    "aiperf_mixed_hash_ids.jsonl": ("mooncake", "timestamp", "input_length", "output_length", 1e-3),
    "aiperf_records.jsonl": (
        "aiperf", "metadata.request_start_ns", "metrics.input_sequence_length.value",
        "metrics.output_sequence_length.value", 1e-9,
    ),
    "dynamo_aliases.jsonl": ("mooncake", "timestamp", "input_tokens", "output_tokens", 1e-3),
    "dynamo_block64.jsonl": ("mooncake", "timestamp", "input_length", "output_length", 1e-3),
    "litellm_string_hashes.jsonl": ("mooncake", "timestamp", "input_length", "output_length", 1e-3),
    "qwen_seconds_16_token_blocks.jsonl": ("qwen", "timestamp", "input_length", "output_length", 1.0),
    "qwen_without_hashes_read_1000x_too_fast.jsonl": ("qwen", "timestamp", "input_length", "output_length", 1.0),
    "sessions_read_as_independent.jsonl": ("mooncake", "timestamp", "input_length", "output_length", 1e-3),
    "unix_seconds_as_ms.jsonl": ("mooncake", "timestamp", "input_length", "output_length", 1.0),
    "burstgpt_sessions.csv": ("burstgpt", "Timestamp", "Request tokens", "Response tokens", 1.0),
    "vidur.csv": ("vidur", "arrived_at", "num_prefill_tokens", "num_decode_tokens", 1.0),
}  # fmt: skip


def independent_rows(path):
    if path.suffix == ".csv":
        with path.open(newline="") as handle:
            return list(csv.DictReader(handle))
    return [json.loads(line) for line in path.read_text().splitlines()]


def at(row, key):
    for part in [key] if key in row else key.split("."):
        row = row[part]
    return float(row)


@pytest.mark.parametrize("name", list(COUNTED))
def test_counts_units_and_spans_are_those_of_an_independent_count(name):
    dialect, time, prompt, output, unit = COUNTED[name]
    rows = independent_rows(FILES / name)
    trace = read(FILES / name)
    assert trace.format == dialect
    assert trace.num_requests == len(rows)
    assert trace.input_tokens.tolist() == [at(row, prompt) for row in rows]
    assert trace.output_tokens.tolist() == [at(row, output) for row in rows]
    times = [at(row, time) * unit for row in rows]
    # whole nanoseconds since 1970 are known to 256 in a float
    assert trace.span_s == pytest.approx(max(times) - min(times), abs=1e-6)


def test_hashed_blocks_are_as_long_as_lengths_say():
    assert read(FILES / "qwen_seconds_16_token_blocks.jsonl").hash_block_tokens == 16
    assert read(FILES / "dynamo_block64.jsonl").hash_block_tokens == 64
    assert read(FILES / "litellm_string_hashes.jsonl").hash_block_tokens == 512
    requests = requests_of(Workload(trace=str(FILES / "dynamo_block64.jsonl")), 0)
    assert paths_of(requests) == [tuple((key, 64) for key in range(10))] * 3


def test_rows_without_hashes_share_nothing():
    trace = read(FILES / "aiperf_mixed_hash_ids.jsonl")
    assert trace.hash_offsets.tolist() == [0, 0, 2]
    assert any("1 of 2 requests have no hash_ids" in note for note in trace.notes)


def test_what_is_not_read_is_listed():
    notes = read(FILES / "qwen_without_hashes_read_1000x_too_fast.jsonl").notes
    assert "not read: chat_id, parent_chat_id, type, turn" in notes
    assert any("own times" in note for note in notes)
    assert any("since 1970" in note for note in read(FILES / "unix_seconds_as_ms.jsonl").notes)
    assert read("azure-conv-2023").notes == ()


def test_burstgpts_turns_wait_for_the_answer_before():
    trace = read(FILES / "burstgpt_sessions.csv")
    assert trace.parent.tolist() == [-1, 0]
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 45.0 - (5.0 + 1.2)])
    requests = requests_of(Workload(trace=str(FILES / "burstgpt_sessions.csv"), time_scale=2), 0)
    assert requests.parent.tolist() == [-1, 0]
    assert requests.history_tokens.tolist() == [0, 490]


def test_sessions_whose_pauses_nobody_knows_keep_the_files_times():
    trace = read(FILES / "sessions_read_as_independent.jsonl")
    assert trace.parent is None
    assert any("2 requests of 1 session come at the trace's own times" in note for note in trace.notes)


def test_a_capped_runs_cap_is_the_workloads_unless_stated():
    path = str(FILES / "vllm_closed_loop_2.json")
    requests = requests_of(Workload(trace=path), 0)
    assert requests.max_concurrency == 2
    assert requests.arrival_s.tolist() == [0.0] * 6
    assert any("max_concurrency = 2, as in the run" in note for note in requests.notes)
    assert requests_of(Workload(trace=path, max_concurrency=5), 0).max_concurrency == 5
    assert requests_of(Workload(trace=path, request_rate=3), 0).max_concurrency is None  # the lengths alone


def test_a_run_without_streaming_measured_no_ttft():
    trace = read(FILES / "vllm_06_nostream.json")
    assert (trace.num_requests, trace.num_dropped) == (7, 1)
    assert trace.ttft_s is None
    assert trace.e2e_s is None
    assert any("did not stream" in note for note in trace.notes)


def test_guidellms_streams_are_a_closed_loop():
    requests = requests_of(Workload(trace=str(FILES / "guidellm_skeleton.json")), 0)
    assert (requests.max_concurrency, requests.num_requests) == (8, 1)
    assert (requests.input_tokens.tolist(), requests.output_tokens.tolist()) == ([1000], [100])
    assert read(FILES / "guidellm_skeleton.json").e2e_s.tolist() == [2.0]


@pytest.mark.parametrize(
    ("name", "tool", "way"),
    [
        ("kineto_leading_blank_line.json", "Kineto", "open it in Perfetto"),
        ("trtllm_report.json", "trtllm-bench", "max_concurrency = request_info"),
        ("vllm_throughput.json", "vllm bench throughput", "--save-detailed"),
    ],
)
def test_a_refusal_names_the_tool_and_the_way(name, tool, way):
    with pytest.raises(DataError) as raised:
        read(FILES / name)
    assert tool in str(raised.value)
    assert way in str(raised.value)


def test_every_file_is_in_a_test():
    tested = Path(__file__).read_text()
    assert [path.name for path in FILES.iterdir() if path.name not in tested] == []


# --- a user's own columns ---------------------------------------------------------------------------------------------

OWN = """when;user;prompt toks;"completion, toks";model
1722470400000;u1;100;10;"a;b"
1722470401500;u2;200;0;x
1722470401000;u1;150;20;x
"""
MAPPED = {"time": "when", "input": "prompt toks", "output": "completion, toks"}


def test_columns_of_ones_own_with_other_delimiters_and_quotes(file):
    trace = read(file(OWN, "log.csv"), columns=MAPPED, time_unit="ms")
    assert trace.input_tokens.tolist() == [100, 150]
    assert trace.arrival_s.tolist() == [0.0, 1.0]  # put in order of time
    assert trace.num_dropped == 1
    assert any("not read: user, model" in note for note in trace.notes)
    part = read(file(OWN, "log.csv"), columns=MAPPED, time_unit="ms", start_s=0.5)
    assert (part.input_tokens.tolist(), part.arrival_s.tolist()) == ([150], [0.5])


def test_columns_of_ones_own_in_json_and_parquet(file, tmp_path):
    rows = [
        {"at": "2026-01-01T00:00:01", "use": {"in": 5, "out": 2}},
        {"at": "2026-01-01T00:00:03", "use": {"in": 6, "out": 1}},
    ]
    mapped = {"time": "at", "input": "use.in", "output": "use.out"}
    for text in (
        lines(*rows),
        json.dumps(rows, indent=1),
        "\n".join(json.dumps(row, indent=2) for row in rows),
    ):
        trace = read(file(text), columns=mapped)
        assert (trace.arrival_s.tolist(), trace.input_tokens.tolist()) == ([0.0, 2.0], [5, 6])
    frame = pandas.DataFrame(
        {"at": pandas.to_datetime(["2026-01-01", "2026-01-02"]), "i": [5, 6], "o": [1, 2], "x": [0, 0]}
    )
    frame.to_parquet(tmp_path / "log.parquet")
    trace = read(tmp_path / "log.parquet", columns={"time": "at", "input": "i", "output": "o"})
    assert (trace.span_s, trace.output_tokens.tolist()) == (86400.0, [1, 2])
    assert "not read: x" in trace.notes


def test_a_column_that_is_not_there_and_a_unit_that_nobody_knows(file):
    with pytest.raises(DataError, match=r"workload.columns.time = ts: no such column; it has when, user"):
        read(file(OWN, "log.csv"), columns={**MAPPED, "time": "ts"})
    plain = OWN.replace("17224704", "")
    with pytest.raises(DataError, match=r"the unit of these times is not known: give workload.time_unit"):
        read(file(plain, "log.csv"), columns=MAPPED)
    with pytest.raises(DataError, match=r"timestamp: the unit|timestamp = 5: the unit"):
        read(file("timestamp,input_length,output_length\n5,1,1\n", "m.csv"))
    with pytest.raises(DataError, match="may be seconds since 1970 or ms since the start"):
        read(file(lines({"timestamp": 1722470400, "input_length": 1, "output_length": 1})))
    with pytest.raises(SpecError, match=r"workload.columns: unknown key|did you mean|workload.column"):
        trace_values("azure-conv-2023", ["workload.column.time=x"])
    with pytest.raises(SpecError, match="takes keys of workload alone"):
        trace_values("azure-conv-2023", ["deployment.ep=4"])


def test_show_takes_the_mapping(file):
    path = file(OWN, "log.csv")
    sets = [
        "workload.columns={time: when, input: prompt toks, output: 'completion, toks'}",
        "workload.time_unit=ms",
    ]
    found = trace_values(str(path), sets)
    assert (found["format"], found["requests"], found["span_s"]) == ("columns", 2, 1.0)


# --- dialects that are not among the files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "dialect", "times"),
    [
        ("a.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
                  "2024-05-10 00:00:01.509930+00:00,2399,6\n", "azure", [0, 1.5]),
        ("m.csv", "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2025-01-01 00:00:00.5,1,2162,5\n"
                  "2025-01-01 00:00:02,0,9,6\n", "azure", [0, 1.5]),
        ("b.csv", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,a,1,2,3,b\n6,a,1,2,3,b\n",
         "burstgpt", [0, 1]),
        ("s.csv", "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
                  "0,2,0,0.25,1,40,8\n1,2,0,0.75,1,41,9\n", "splitwise", [0, 0.5]),
        ("g.csv", "request_id,timestamp,input_tokens,output_tokens\n0,0.5,40,8\n1,2.5,41,9\n", "servegen", [0, 2]),
        ("v.csv", "num_prefill_tokens,num_decode_tokens,pd_ratio\n40,8,5\n", "vidur", None),
        ("o.jsonl", lines({"request_id": 0, "type": "text", "input_length": 61, "output_length": 7, "duration": 14000}),
         "servegen-offline", None),
        ("t.tsv", "arrived_at\tnum_prefill_tokens\tnum_decode_tokens\n0\t1\t2\n", "vidur", [0]),
    ],
)  # fmt: skip
def test_further_dialects(file, name, text, dialect, times):
    for content in (text.encode(), gzip.compress(text.encode())):
        trace = read(file(content, name))
        assert trace.format == dialect
        assert (trace.arrival_s is None) == (times is None)
        assert times is None or trace.arrival_s.tolist() == pytest.approx(times)
    if times is None:
        with pytest.raises(DataError, match=r"give workload.request_rate"):
            requests_of(Workload(trace=str(file(text, name))), 0)
        assert requests_of(Workload(trace=str(file(text, name)), request_rate=1), 0).num_requests == 1


def test_turns_with_delays_are_sessions(file):
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 500, "output_length": 100},
        {"session_id": "b", "timestamp": 50, "input_length": 40, "output_length": 4},
        {"session_id": "a", "delay": 2000, "input_length": 700, "output_length": 10},
    ]
    trace = read(file(lines(*rows)))
    assert trace.parent.tolist() == [-1, 0, -1]
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 2.0, 0.05])
    assert trace.input_tokens.tolist() == [500, 700, 40]
    rows[2]["input_length"] = 30
    with pytest.raises(DataError, match=r"input_length = 30 is less than .* \(600\).*turn_inputs: new"):
        read(file(lines(*rows)))
    assert read(file(lines(*rows)), turn_inputs="new").input_tokens.tolist() == [500, 630, 40]
    with pytest.raises(
        DataError, match="line 1: has no timestamp, which every session's first request needs"
    ):
        read(file(lines(rows[2], *rows[:2])))


def test_a_turn_that_is_shorter_than_what_came_before_begins_a_session(file):
    text = (FILES / "burstgpt_sessions.csv").read_text().replace(",1087,", ",87,")
    trace = read(file(text, "b.csv"))
    assert trace.parent is None or trace.parent.tolist() == [-1, -1]
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert any("1 turn shorter" in note for note in trace.notes)


def test_several_blocks_that_fit_are_asked_for(file):
    text = lines({"timestamp": 0, "input_length": 100, "output_length": 1, "hash_ids": [1, 2]})
    assert read(file(text)).hash_block_tokens == 64
    assert read(file(text), hash_block_tokens=50).hash_block_tokens == 50
    qwen = {
        "chat_id": 1,
        "parent_chat_id": -1,
        "turn": 1,
        "timestamp": 0,
        "input_length": 100,
        "output_length": 1,
    }
    with pytest.raises(
        DataError, match=r"line 1: 1 hash_ids for a prompt of 100 tokens: 64 and 128 and .* tokens per"
    ):
        read(file(lines(qwen | {"hash_ids": [1]})))


def test_words_and_numbers_never_meet(file):
    text = lines(
        {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": ["0", 0]},
        {"timestamp": 0, "input_length": 1024, "output_length": 1, "hash_ids": ["0", 2**64]},
    )
    ids = read(file(text)).hash_ids.tolist()
    assert ids[0] == ids[2]
    assert len(set(ids)) == 3


# --- several results, our own files, hostile ones ---------------------------------------------------------------------


def test_several_results_are_told_apart_by_index(file):
    one = json.loads((FILES / "vllm_closed_loop_2.json").read_text())
    two = one | {"max_concurrency": 4, "input_lens": [7] * 6}
    for text in (lines(one, two), json.dumps(one, indent=1) + json.dumps(two, indent=1)):
        with pytest.raises(
            DataError, match=r"holds 2 results: give workload.result_index .*1: .*max_concurrency 4"
        ):
            read(file(text))
        assert read(file(text), result_index=1).input_tokens.tolist() == [7] * 6
        with pytest.raises(DataError, match="result_index = 2: holds 2"):
            read(file(text), result_index=2)


def test_an_sglang_runs_rate_and_cap_stand_for_its_times(file):
    result = {"request_rate": float("inf"), "max_concurrency": 3, "total_throughput": 1.0, "completed": 2,
              "input_lens": [5, 6], "output_lens": [1, 2]}  # fmt: skip
    requests = requests_of(Workload(trace=str(file(json.dumps(result)))), 0)
    assert (requests.max_concurrency, requests.arrival_s.tolist()) == (3, [0.0, 0.0])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_our_own_requests_are_read_back(tmp_path, suffix):
    from perfmodel.answers.serve import answer_serve
    from perfmodel.load import load_scenario
    from perfmodel.output.serve.requests import write_requests

    sets = ["workload.trace=''", "workload.request_rate=5", "workload.num_requests=12", "workload.input_tokens=64",
            "workload.output_tokens={min: 1, max: 5}", "workload.turns=2", "workload.turn_tokens=8"]  # fmt: skip
    answer = answer_serve(load_scenario("longcat-flash-h800", sets))
    path = tmp_path / f"requests.{suffix}"
    write_requests(answer, path)
    records, trace = answer.served.records, read_trace(str(path))
    order = np.argsort(records.arrival_s, kind="stable")
    assert trace.format == "perfmodel"
    assert trace.arrival_s == pytest.approx(records.arrival_s[order] - records.arrival_s.min(), abs=1e-9)
    assert trace.input_tokens.tolist() == records.input_tokens[order].tolist()
    assert trace.notes == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5_0,1\n", "num_prefill_tokens = '5_0'"),
        ("a.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,\uff15,1\n", "num_prefill_tokens = "),
        ("a.jsonl", lines({"timestamp": 0, "input_length": "5", "output_length": 1}), "input_length = '5'"),
        ("a.jsonl", lines({"timestamp": "0", "input_length": 5, "output_length": 1}), "timestamp = '0'"),
        (
            "a.csv",
            "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "\n" * 5000 + "0,1,1\n",
            "line 2: is empty",
        ),
        ("a.json", "[1, 2]", "neither requests nor a result"),
        ("a.json", '{\n "input_lens": [1,\n', "cut off"),
        ("a.json", json.dumps({"model_type": "x", "architectures": ["X"]}, indent=1), "config.json"),
    ],
)
def test_odd_values_are_refused(file, name, text, message):
    with pytest.raises(DataError) as raised:
        read(file(text, name))
    assert message in str(raised.value)
