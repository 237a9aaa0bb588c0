"""Traces: what is read, what is refused, and that a refusal names the line."""

import gzip
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfmodel.errors import DataError, SpecError
from perfmodel.spec import catalogue
from perfmodel.spec.traces import files, table
from perfmodel.spec.traces.delimited import CsvParser, header_cells
from perfmodel.spec.traces.dialects import columns_of
from perfmodel.spec.traces.json_lines import JsonParser
from perfmodel.spec.traces.read import read_trace, trace_path
from perfmodel.spec.traces.trace import summary

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:50.9951690,879,55
2023-11-16 18:15:51.3910170,91,16
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118,GPT-4,417,276,693,API log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}
{"timestamp": 30535, "input_length": 1000, "output_length": 0, "hash_ids": [46, 2111]}
{"timestamp": 30535, "input_length": 1024, "output_length": 7, "hash_ids": [46, 99]}
"""
VLLM = {
    "date": "20261124-101010", "backend": "vllm", "num_prompts": 4, "request_rate": "inf", "max_concurrency": 2,
    "duration": 3.0, "completed": 3, "total_input_tokens": 60, "total_token_throughput": 40.0,
    "input_lens": [10, 20, 30, 40], "output_lens": [3, 1, 0, 2],
    "ttfts": [0.5, 0.25, 0.0, 0.125], "itls": [[0.25, 0.5], [], [], [1.0]],
    "latencies": [1.25, 0.25, 0.0, 1.125],
    "start_times": [100.0, 100.5, 100.5, 102.0], "queue_times": [0.0, 0.5, 0.0, 0.5],
    "errors": ["", "", "Connection refused", ""],
}  # fmt: skip
LINES = {"azure": AZURE, "burstgpt": BURSTGPT, "mooncake": MOONCAKE}


@pytest.fixture
def file(tmp_path):
    def write(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# What ships.


@pytest.mark.parametrize("name", ["azure-conv-2023", "azure-code-2023"])
def test_shipped_traces_are_the_published_files(name):
    card = catalogue.entry("traces", name)
    raw = trace_path(name).read_bytes()
    assert hashlib.sha256(gzip.decompress(raw)).hexdigest() == card["sha256"]
    assert raw[4:8] == bytes(4)  # no time in the gzip header: the same bytes on any day
    trace = read_trace(name)
    assert trace.num_requests == card["rows"]
    assert trace.span_s == pytest.approx(card["span_s"], abs=1e-9)
    assert trace.num_dropped == 0
    assert card["licence"] == "CC-BY 4.0"
    assert "Splitwise" in card["attribution"]


def test_the_conversation_hour_is_known_exactly():
    trace = read_trace("azure-conv-2023")
    assert trace.num_requests == 19_366
    assert int(trace.input_tokens.sum()) == 22_361_870
    assert int(trace.output_tokens.sum()) == 4_088_665
    assert trace.arrival_s[:3] == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-9)
    values = summary(trace)
    assert values["requests_per_s"] == pytest.approx(5.5304, abs=1e-4)
    assert values["input_tokens"]["p50"] == 1020
    assert values["output_tokens"]["p99"] == 601
    assert summary(read_trace("azure-code-2023"))["interarrival_cv"] == pytest.approx(13.15, abs=0.01)


def test_the_notice_names_the_traces():
    notice = (catalogue.DATA.parent.parent / "NOTICE").read_text()
    assert "Azure LLM inference traces 2023" in notice
    assert "CC-BY 4.0" in notice


def test_show_traces():
    def show(*arguments):
        command = [sys.executable, "-m", "perfmodel", "show", "traces", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    listed = json.loads(show("--json").stdout)["traces"]
    assert [row["name"] for row in listed] == list(catalogue.names("traces"))
    assert listed[0]["requests"] == 19_366
    one = json.loads(show("azure-conv-2023", "--json").stdout)
    assert one["source"].startswith("https://github.com/Azure/AzurePublicDataset")
    assert one["input_tokens"]["max"] == 14_050
    assert "CC-BY" in show("azure-code-2023").stdout
    wrong = show("azure-conv")
    assert wrong.returncode == 2
    assert "did you mean azure-conv-2023" in wrong.stderr


# What is read.


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", list(LINES))
def test_formats_are_recognised_and_read(file, form, packed):
    raw = LINES[form].encode()
    trace = read_trace(file(gzip.compress(raw) if packed else raw, "t.jsonl"))
    assert trace.format == form
    expected = {
        "azure": ([0, 4.314579, 4.314579, 4.710427], [374, 396, 879, 91], [44, 109, 55, 16], 0),
        "burstgpt": ([0, 113], [472, 417], [18, 276], 1),
        "mooncake": ([0, 3.053], [6955, 1024], [52, 7], 1),
    }[form]
    assert trace.arrival_s == pytest.approx(expected[0], abs=1e-9)
    assert list(trace.input_tokens) == expected[1]
    assert list(trace.output_tokens) == expected[2]
    assert trace.num_dropped == expected[3]
    assert trace.input_tokens.dtype == trace.output_tokens.dtype == np.int64


def test_mooncakes_ids_stay_with_their_requests(file):
    trace = read_trace(file(MOONCAKE))
    assert list(trace.hash_offsets) == [0, 3, 5]
    assert list(trace.hash_ids) == [46, 47, 48, 46, 99]
    plain = re.sub(r', "hash_ids": \[.*?\]', "", MOONCAKE)
    assert read_trace(file(plain)).hash_ids is None


@pytest.mark.parametrize(
    "text",
    [
        AZURE.replace("\n", "\r\n"),
        "\ufeff" + AZURE,
        AZURE.rstrip("\n"),
        AZURE + "\n\r\n  \n",
        AZURE.replace("0,", "0+00:00,").replace("70,", "70+00:00,"),
        AZURE.replace(",374", ", 374.0"),
        AZURE.replace("TIMESTAMP,Con", "timestamp, con"),
        "\n".join(
            ",".join([cells[2], cells[0], "x", cells[1]])
            for cells in (line.split(",") for line in AZURE.split("\n")[:-1])
        ),
    ],
    ids=["crlf", "bom", "no last newline", "blank end", "utc", "float", "case", "other order"],
)
def test_harmless_differences_are_read_alike_and_fast(file, text, monkeypatch):
    expected = read_trace(file(AZURE))
    monkeypatch.setattr(CsvParser, "slow", lambda *a: pytest.fail("the slow way was taken"))
    assert read_trace(file(text)).id == expected.id


@pytest.mark.parametrize("form", list(LINES))
def test_blocks_of_any_size_give_the_same(file, form, monkeypatch):
    path = file(LINES[form])
    expected = read_trace(path).id
    for size in (1, 7, 30, 64, 200):
        monkeypatch.setattr(files, "BLOCK_BYTES", size)
        assert read_trace(path).id == expected


@pytest.mark.parametrize("form", list(LINES))
def test_the_slow_way_gives_the_same(file, form, monkeypatch):
    path = file(LINES[form])
    expected = read_trace(path)
    for parser in (CsvParser, JsonParser):
        monkeypatch.setattr(parser, "fast", lambda *a: None)
    slow = read_trace(path)
    assert slow.id == expected.id
    assert slow.num_dropped == expected.num_dropped


def test_a_window_cuts_by_time_and_by_count(file):
    path = file(BURSTGPT)
    assert list(read_trace(path, start_s=10).input_tokens) == [417]
    assert list(read_trace(path, start_s=10).arrival_s) == [103]
    assert list(read_trace(path, duration_s=113).input_tokens) == [472]
    cut = read_trace(path, num_requests=1)
    assert (list(cut.input_tokens), cut.num_dropped) == ([472], 0)
    assert read_trace(path, num_requests=2).num_dropped == 1
    assert read_trace(file(MOONCAKE), start_s=1).hash_ids.tolist() == [46, 99]


def test_what_follows_the_cut_is_not_looked_at(file, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 64)
    path = file(AZURE + "nonsense\n")
    assert read_trace(path, num_requests=2).num_requests == 2
    with pytest.raises(DataError, match="line 6"):
        read_trace(path)


def test_a_name_may_be_a_path_without_suffix(file, monkeypatch, tmp_path):
    file(AZURE, "mine")
    monkeypatch.chdir(tmp_path)
    assert read_trace("mine").num_requests == 4
    with pytest.raises(SpecError, match="'yours' is not in the catalogue"):
        read_trace("yours")


# What is refused.

BAD_AZURE = {
    "reversed time": (("46.68", "59.68"), "line 3: TIMESTAMP = 2023-11-16 18:15:50.9951690 is 8.68542 s before"),
    "blank row": (("109\n", "109\n\n"), "line 4: is empty"),
    "commas only": (("879,55", ","), "line 4: GeneratedTokens = nothing: must be a whole number of tokens from 0"),
    "missing value": ((",109", ","), "line 3: GeneratedTokens = nothing"),
    "short row": ((",109", ""), r"line 3: .* has 2 values, the header has 3"),
    "carriage return": (("TIMESTAMP", '\r"ti"h\rTIMESTAMP'), r"line 1: .* is not CSV"),
    "long row": ((",109", ",109,3"), r"line 3: .* has 4 values, the header has 3"),
    "negative": ((",109", ",-109"), r"line 3: GeneratedTokens = '-109': must be a whole number of tokens from 0"),
    "fraction": ((",396", ",396.5"), r"line 3: ContextTokens = '396.5': must be a whole number of tokens from 1"),
    "word": ((",396", ",many"), r"line 3: ContextTokens = 'many'"),
    "nan": ((",396", ",NaN"), r"line 3: ContextTokens = 'NaN'"),
    "infinite": ((",396", ",inf"), r"line 3: ContextTokens = 'inf'"),
    "absurd": ((",396", ",1e15"), r"line 3: ContextTokens = '1e15': .* to 10,000,000"),
    "just too long": ((",396", ",10000001"), r"line 3: ContextTokens = '10000001'"),
    "empty prompt": ((",396", ",0"), r"line 3: ContextTokens = '0': must be a whole number of tokens from 1"),
    "no date": (("2023-11-16 18:15:51.3910170", "now"), r"line 5: TIMESTAMP = 'now': must be a date"),
    "month 13": (("2023-11-16 18:15:51", "2023-13-16 18:15:51"), r"line 5: TIMESTAMP = '2023-13-16"),
    "year 9999": (("2023-11-16 18:15:51", "9999-11-16 18:15:51"), r"line 5: TIMESTAMP = '9999"),
    "time zone": (("51.3910170", "51.3910170+08:00"), r"line 5: .* in UTC"),
    "picoseconds": (("51.3910170", "51.391017012345"), r"line 5: TIMESTAMP"),
    "header twice": (("2023-11-16 18:15:51", "TIMESTAMP"), r"line 5: TIMESTAMP = 'TIMESTAMP.3910170'"),
    "no column": (("GeneratedTokens", "Generated"), r"line 1: no column GeneratedTokens; azure needs TIMESTAMP"),
    "other header": (("TIMESTAMP,ContextTokens", "a,b"), r"line 1: .* starts no known trace: .* azure \(TIME"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_AZURE))
def test_bad_csv_is_refused_by_line(file, case):
    (old, new), text = BAD_AZURE[case]
    path = file(AZURE.replace(old, new))
    with pytest.raises(DataError) as raised:
        read_trace(path)
    message = str(raised.value)
    assert message.startswith(path)
    assert re.search(text, message), message


@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_bad_lines_between_blocks_are_refused_too(file, size, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", size)
    for case in ("reversed time", "blank row"):
        (old, new), text = BAD_AZURE[case]
        with pytest.raises(DataError, match=text):
            read_trace(file(AZURE.replace(old, new)))


BAD_MOONCAKE = {
    "cut off": (("46, 99]}\n", "46, 9"), r'line 3: not valid JSON \(cut off\?\): it ends in .*\[46, 9'),
    "reversed": (("27482", "40000"), r"line 2: timestamp = 30535 is 9.465 s before"),
    "blank": (('2111]}\n', '2111]}\n\n'), r"line 3: is empty"),
    "no key": (('"input_length": 1024', '"length": 1024'), r"line 3: .* has no input_length"),
    "list": (('{"timestamp": 30535, "input_length": 1024', '[{"a": 1024'), r"line 3"),
    "text count": (('"input_length": 1024', '"input_length": "many"'), r"line 3: input_length = 'many'"),
    "true": (('"input_length": 1024', '"input_length": true'), r"line 3: input_length = True"),
    "nan": (('"input_length": 1024', '"input_length": NaN'), r"line 3: input_length = nan"),
    "null": (('"input_length": 1024', '"input_length": null'), r"line 3: input_length = None"),
    "negative": (('"output_length": 7', '"output_length": -7'), r"line 3: output_length = -7"),
    "huge": (('"output_length": 7', '"output_length": 1e300'), r"line 3: output_length = 1e\+300"),
    "infinite time": (('"timestamp": 27482', '"timestamp": Infinity'), r"line 1: timestamp = 'inf'"),
    "too many ids": (("[46, 99]", "[46, 99, 100]"), r"line 3: hash_ids = .* at most 2 for 1024"),
    "negative id": (("[46, 99]", "[46, -1]"), r"line 3: hash_ids"),
    "fractional id": (("[46, 99]", "[46, 1.5]"), r"line 3: hash_ids"),
    "two on a line": (("2111]}\n", "2111]}, "), r"line 2: not valid JSON"),
    "deep": (("[46, 99]", "[" * 100_000), r"line 3: not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD_MOONCAKE))
def test_bad_json_lines_are_refused_by_line(file, case):
    (old, new), text = BAD_MOONCAKE[case]
    assert old in MOONCAKE
    with pytest.raises(DataError) as raised:
        read_trace(file(MOONCAKE.replace(old, new)))
    assert re.search(text, str(raised.value)), str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty; known formats"),
        (b" \n\n", "is empty; known formats"),
        (AZURE.split("\n")[0] + "\n", "a header at most, and no requests"),
        (AZURE.encode("utf-16"), "line 1"),
        (AZURE.replace(",396", ",39\xe9").encode("latin-1"), r"line 3: not UTF-8 text \(byte 0xe9\)"),
        (gzip.compress(AZURE.encode())[:-20], "damaged or truncated gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4b\n", "Git LFS pointer"),
        (BURSTGPT.replace(",276,", ",0,").replace(",18,", ",0,"), "all 3 requests have no output"),
        (BURSTGPT.replace("45,", "-45,"), r"line 3: Timestamp = '-45': must be a number from 0"),
        (b"\x00\x01\x02" * 50, "line 1"),
    ],
    ids=[
        "empty",
        "blank",
        "header",
        "utf-16",
        "latin-1",
        "gzip",
        "lfs",
        "all failed",
        "burst time",
        "binary",
    ],
)
def test_files_that_are_no_traces(file, content, text):
    with pytest.raises(DataError, match=text):
        read_trace(file(content))


def test_an_explicit_format_is_taken_at_its_word(file):
    assert read_trace(file(AZURE), "azure").num_requests == 4
    with pytest.raises(DataError, match="line 1: no column Request tokens and no Response tokens"):
        read_trace(file(AZURE), "burstgpt")
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        read_trace(file(AZURE), "mooncake")


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_trace(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="can't be read: Is a directory"):
        read_trace(str(tmp_path) + "/")


def test_a_window_without_requests_is_refused(file):
    with pytest.raises(DataError, match="no request from start_s = 1000 to inf: the trace ends at 113 s"):
        read_trace(file(BURSTGPT), start_s=1000)


def test_too_many_requests_are_refused_and_a_part_is_not(file, monkeypatch):
    monkeypatch.setattr(table, "MAX_REQUESTS", 3)
    with pytest.raises(DataError, match="more than 3 requests: read a part with num_requests"):
        read_trace(file(AZURE))
    assert read_trace(file(AZURE), num_requests=3).num_requests == 3


def test_one_endless_line_is_refused_before_it_fills_memory(file, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 2**16)
    monkeypatch.setattr(files, "BLOCK_BYTES", 2**12)
    path = file(gzip.compress(AZURE.encode() + b"1" * 10**7))
    with pytest.raises(DataError, match="line 6 is longer than 65,536 bytes"):
        read_trace(path)


def test_the_line_is_named_in_a_later_block(file, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    rows = [f"{i},m,{i % 90 + 1},5,9,x" for i in range(5000)]
    rows[4000] = "3000,m,5,5,9,x"
    with pytest.raises(DataError, match=r"line 4002: Timestamp = 3000 is 999 s before"):
        read_trace(file("\n".join([BURSTGPT.split("\n")[0], *rows])))


CELLS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "7",
        " 12",
        "3.0",
        "3.5",
        "1e3",
        "-1",
        "nan",
        "inf",
        "1_0",
        "x",
        "10000000",
        "10000001",
        "0x1f",
        "+4",
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=4), sort=st.booleans())
def test_the_fast_way_never_takes_what_the_slow_one_refuses(rows, sort, file):
    if sort:
        rows = [(str(i), *row[1:]) for i, row in enumerate(rows)]
    lines = [f"{time},m,{given_in},{given_out},9,x" for time, given_in, given_out in rows]
    cells, _ = header_cells(BURSTGPT.split("\n")[0], "f: line 1")
    columns = columns_of(cells, Path("f"), "line 1", csv=True)
    fast = CsvParser(Path("f"), columns, cells).fast(lines, -np.inf)
    try:
        slow = CsvParser(Path("f"), columns, cells).slow(lines, 2, -np.inf)
    except DataError:
        assert fast is None
        return
    assert fast is None or all(
        np.array_equal(getattr(fast, name), getattr(slow, name)) for name in ("seconds", "input", "output")
    )


# Results of benchmarks.


def test_a_vllm_result_is_a_trace_with_measurements(file):
    trace = read_trace(file(json.dumps(VLLM), "result.json"))
    assert trace.format == "vllm"
    # ready = start - queue: 100, 100, (failed), 101.5
    assert list(trace.arrival_s) == [0.0, 0.0, 1.5]
    assert list(trace.input_tokens) == [10, 20, 40]
    assert list(trace.output_tokens) == [3, 1, 2]
    assert list(trace.ttft_s) == [0.5, 0.25, 0.125]
    assert list(trace.e2e_s) == [1.25, 0.25, 1.125]
    assert trace.num_dropped == 1
    assert trace.notes == ()
    without = {key: value for key, value in VLLM.items() if key != "latencies"}
    assert list(read_trace(file(json.dumps(without, indent=1), "r.json")).e2e_s) == [1.25, 0.25, 1.125]
    part = read_trace(file(json.dumps(VLLM), "result.json"), start_s=1, num_requests=1)
    assert (list(part.arrival_s), list(part.input_tokens)) == ([0.5], [40])


def test_requests_are_put_in_order_of_sending(file):
    result = VLLM | {"start_times": [102.0, 101.0, 100.0, 100.5], "queue_times": None}
    trace = read_trace(file(json.dumps(result)))
    assert list(trace.input_tokens) == [40, 20, 10]
    assert list(trace.arrival_s) == [0.0, 0.5, 1.5]
    assert any("when slots were free" in note for note in trace.notes)


def test_an_sglang_result_lacks_times_and_says_so(file):
    kept = ("completed", "request_rate", "input_lens", "output_lens", "ttfts", "itls", "errors")
    result = {key: VLLM[key] for key in kept} | {"total_throughput": 7.0}
    trace = read_trace(file(json.dumps(result) + "\n", "result.jsonl"))
    assert trace.format == "sglang"
    assert trace.arrival_s is None
    assert trace.span_s is None
    assert list(trace.e2e_s) == [1.25, 0.25, 1.125]
    assert any("no start_times" in note for note in trace.notes)
    assert summary(trace)["requests_per_s"] is None
    with pytest.raises(DataError, match="has no start_times, so start_s and duration_s select nothing"):
        read_trace(file(json.dumps(result)), start_s=1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"input_lens": None}, "input_lens = None: must be a list"),
        ({"output_lens": [1, 2]}, "output_lens has 2 values, input_lens 4"),
        ({"input_lens": [1, 2.5, 3, 4]}, "input_lens of request 1 is 2.5: must be a whole number"),
        ({"input_lens": [1, -2, 3, 4]}, "input_lens of request 1 is -2"),
        ({"input_lens": [1, 2, 3, 10**30]}, "input_lens of request 3 is 1000"),
        ({"input_lens": [1, "2", 3, 4]}, "input_lens of request 1 is 2"),
        ({"input_lens": [True, 2, 3, 4]}, "input_lens of request 0 is True"),
        ({"input_lens": [1, 0, 3, 4]}, "input_lens of request 1 is 0: must be from 1"),
        ({"ttfts": [0.1, float("nan"), 0, 0]}, "ttfts of request 1 is nan"),
        ({"ttfts": [0.1, -1, 0, 0]}, "ttfts of request 1 is -1"),
        ({"latencies": None, "itls": [[0.1, -1.0], [], [], []]}, r"itls\[0\] of request 1 is -1"),
        ({"latencies": None, "itls": [0.1, 0.2, 0.3, 0.4]}, "itls of request 0 is 0.1: must be a list"),
        ({"errors": [""]}, "errors has 1 values"),
        ({"errors": ["x"] * 4}, "no request succeeded"),
    ],
)
def test_bad_results_are_refused_by_request(file, change, text):
    with pytest.raises(DataError, match=text):
        read_trace(file(json.dumps(VLLM | change)))


def test_results_without_details_or_cut_off_or_several(file):
    short = {key: value for key, value in VLLM.items() if not isinstance(value, list)}
    with pytest.raises(DataError, match=r"has no input_lens and no output_lens.*--save-detailed"):
        read_trace(file(json.dumps(short)))
    text = json.dumps(VLLM, indent=1)
    with pytest.raises(DataError, match=r"line \d+: not valid JSON \(cut off\?\)"):
        read_trace(file(text[: len(text) // 2]))
