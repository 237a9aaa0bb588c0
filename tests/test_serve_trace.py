"""The Chrome trace of a serving run: spans that add up, requests in order, strict JSON, nothing without bounds."""

import gzip
import json

import numpy as np
import pytest
from test_serve import node
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import DataError
from perfmodel.output.serve import trace as serve_trace
from perfmodel.output.serve.trace import REQUESTS_PROCESS, write_serve_trace

APART = "prefill={deployment: {engine: sglang, attention_tp: 8, dense_tp: 8, ep: 8}, serving: {replicas: 2}}"
TRAFFIC = ["workload.request_rate=20", "workload.num_requests=80"]


def refuse(text):
    raise AssertionError(text)


def written(answer, path):
    note = write_serve_trace(answer, path)
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return json.loads(text, parse_constant=refuse), note


@pytest.mark.parametrize("more", [[], [APART], ["serving.replicas=2", "serving.policy=mixed"]])
def test_steps_fill_what_replicas_were_busy_and_requests_go_through_their_states(more, tmp_path):
    answer = answer_serve(node(*TRAFFIC, *more))
    document, note = written(answer, tmp_path / "trace.json.gz")
    assert note == document["note"] == ""
    events, records = document["traceEvents"], answer.served.records
    steps = [one for one in events if one["ph"] == "X"]
    assert sum(one["dur"] for one in steps) == pytest.approx(1e6 * records.load.runs.seconds.sum())
    for replica in {one["pid"] for one in steps}:
        own = [one for one in steps if one["pid"] == replica]
        ends = np.array([one["ts"] + one["dur"] for one in own])
        assert (np.array([one["ts"] for one in own[1:]]) >= ends[:-1] - 1e-3).all()
    names = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    expected = {0: "decode 0", 1: "prefill 0", 2: "prefill 1"} if APART in more else {0: "replica 0"}
    assert names.items() >= expected.items()
    spans = [one for one in events if one["pid"] == REQUESTS_PROCESS and one["ph"] in "be"]
    for row in range(80):
        own = [one for one in spans if one["id"] == row]
        assert [one["ts"] for one in own if one["ph"] == "b"][1:] == sorted(
            one["ts"] for one in own if one["ph"] == "b"
        )[1:]
        assert own[0]["ts"] == pytest.approx(1e6 * records.arrival_s[row])
        assert own[-1]["ts"] == pytest.approx(1e6 * records.end_s[row])
        states = [one["name"] for one in own[1:-1] if one["ph"] == "b"]
        assert states == ["queued", "prefill", *(["transfer"] if APART in more else []), "decode"]
        for one, other in zip(own[2:-1:2], own[3:-1:2], strict=False):
            assert one["ts"] == pytest.approx(other["ts"])  # one state ends where the next begins


@pytest.mark.parametrize("more", [[], [APART]])
def test_busy_seconds_counters_and_replicas_are_those_of_the_answer(more, tmp_path):
    answer = answer_serve(node(*TRAFFIC, "serving.replicas=2", *more))
    document, _ = written(answer, tmp_path / "trace.json")
    events, records, span = document["traceEvents"], answer.served.records, answer.values["duration_s"]
    names = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    for pool, key in (("prefill", "prefill_busy_pct"), ("decode" if more else "replica", "busy_pct")):
        own = {pid for pid, name in names.items() if name.startswith(pool)}
        busy = sum(one["dur"] for one in events if one["ph"] == "X" and one["pid"] in own) / 1e6
        if own:
            assert 100 * busy / (span * len(own)) == pytest.approx(answer.values[key]), pool
    counters = [one["args"] for one in events if one["ph"] == "C"]
    runs = records.load.runs
    order = np.argsort(runs.start_s, kind="stable")
    assert [one["waiting"] for one in counters] == runs.waiting[order].tolist()
    assert [one["holding blocks"] for one in counters] == runs.held[order].tolist()
    args = [one["args"] for one in events if one["ph"] == "b" and one["name"].startswith("request ")]
    assert {one["decoded on"] for one in args} == set(names.values()) & {
        *_numbered("decode"),
        *_numbered("replica"),
    }
    if more:
        assert {one["prompt on"] for one in args} == set(_numbered("prefill"))
    else:
        assert all(one["prompt on"] == one["decoded on"] for one in args)


def _numbered(pool):
    return [f"{pool} {number}" for number in range(2)]


@pytest.mark.parametrize("more", [[], [APART], ["serving.replicas=2"]])
@pytest.mark.parametrize("lost", [1.0, 3.0])
def test_a_lost_replica_leaves_spans_in_order(more, lost, tmp_path):
    answer = answer_serve(node(*TRAFFIC, *more, f"faults=[{{kind: lost-node, at_s: {lost}, for_s: 2}}]"))
    assert answer.served.records.retries.sum() > 0
    document, _ = written(answer, tmp_path / "trace.json")
    own: dict[int, list] = {}
    for one in document["traceEvents"]:
        if one["ph"] in "be":
            own.setdefault(one["id"], []).append(one)
    assert len(own) == 80
    for spans in own.values():
        assert [one["ts"] for one in spans] == sorted(one["ts"] for one in spans)
        assert sum({"b": 1, "e": -1}[one["ph"]] for one in spans) == 0
    ends: dict[int, float] = {}
    for one in document["traceEvents"]:
        if one["ph"] == "X":
            assert one["dur"] >= 0.0
            assert one["ts"] >= ends.get(one["pid"], 0.0) - 1e-3
            ends[one["pid"]] = one["ts"] + one["dur"]


@pytest.mark.parametrize("more", [[], [APART]])
@pytest.mark.parametrize("most", [0, 300])
def test_what_is_too_much_is_left_out_and_said(more, most, tmp_path, monkeypatch):
    """One instant for steps and requests: everything before it is there, nothing after it."""
    monkeypatch.setattr(serve_trace, "MOST_EVENTS", most)
    answer = answer_serve(node(*TRAFFIC, *more))
    document, note = written(answer, tmp_path / "trace.json")
    assert note == document["note"]
    events = [one for one in document["traceEvents"] if one["ph"] != "M"]
    assert len(events) <= most
    steps = [one["ts"] for one in events if one["ph"] == "X"]
    requests = [
        one["ts"] for one in events if one.get("name", "").startswith("request ") and one["ph"] == "b"
    ]
    runs = answer.served.records.load.runs
    assert f"{len(runs.seconds) - len(steps)} of {len(runs.seconds)} runs of steps" in note
    assert f"{80 - len(requests)} of 80 requests" in note
    every = np.sort(np.concatenate([runs.start_s, answer.served.records.arrival_s]))
    kept = len(steps) + len(requests)
    assert np.sort(steps + requests) == pytest.approx(1e6 * every[:kept])
    assert (kept > 0) == (most > 0)


def test_the_command_writes_it_and_refuses_what_it_can_not(tmp_path):
    base = ["serve", "deepseek-v3-h800", "--set", "workload.num_requests=20", "--trace"]
    done = CliRunner().invoke(app, [*base, str(tmp_path / "run.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run.json").read_text())["scenario"] == "deepseek-v3-h800"
    for place, message in (("run.txt", "must end in .json or .json.gz"), ("none/run.json", "does not exist")):
        done = CliRunner().invoke(app, [*base, str(tmp_path / place)])
        assert isinstance(done.exception, DataError)
        assert done.exception.exit_code == 2
        assert message in str(done.exception)
        assert not (tmp_path / place).exists()


def test_no_output_replaces_the_trace_that_is_served_or_another_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = ["serve", "deepseek-v3-h800", "--set", "workload.num_requests=20"]
    assert CliRunner().invoke(app, [*base, "--result", "run.json"]).exit_code == 0
    before = (tmp_path / "run.json").read_bytes()
    (tmp_path / "link.json").symlink_to("run.json")
    served = ["--set", "workload.trace=run.json"]
    for more, message in (
        ([*served, "--trace", "run.json"], "--trace run.json: is the file of workload.trace too"),
        ([*served, "--trace", "link.json"], "--trace link.json: is the file of workload.trace too"),
        ([*served, "--result", "./run.json"], "--result run.json: is the file of workload.trace too"),
        (["--result", "run.json", "--trace", "run.json"], "--trace run.json: is the file of --result too"),
    ):
        done = CliRunner().invoke(app, [*base, *more])
        assert isinstance(done.exception, DataError), done.output
        assert message in str(done.exception)
        assert (tmp_path / "run.json").read_bytes() == before
    assert CliRunner().invoke(app, [*base, *served, "--trace", "other.json"]).exit_code == 0
