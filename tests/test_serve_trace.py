"""The Chrome trace of a serving run: spans that add up, requests in order, strict JSON, nothing without bounds."""

import gzip
import json

import numpy as np
import pytest
from test_serve import node
from typer.testing import CliRunner

from perfmodel.answer_serve import answer_serve
from perfmodel.cli import app
from perfmodel.errors import DataError
from perfmodel.output import serve_trace
from perfmodel.output.serve_trace import REQUESTS_PROCESS, write_serve_trace

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


def test_what_is_too_much_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(serve_trace, "MOST_EVENTS", 160)
    document, note = written(answer_serve(node(*TRAFFIC)), tmp_path / "trace.json")
    assert "60 of 80 requests" in note == document["note"]
    assert len(document["traceEvents"]) <= 2 * 160 + 10


def test_the_command_writes_it_and_refuses_what_it_can_not(tmp_path):
    base = ["serve", "deepseek-v3-h800", "--set", "workload.num_requests=20", "--trace"]
    done = CliRunner().invoke(app, [*base, str(tmp_path / "run.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "run.json").read_text())["scenario"] == "deepseek-v3-h800"
    for place, message in (("run.txt", "must end in .json or .json.gz"), ("none/run.json", "does not exist")):
        done = CliRunner().invoke(app, [*base, str(tmp_path / place)])
        assert isinstance(done.exception, DataError)
        assert message in str(done.exception)
