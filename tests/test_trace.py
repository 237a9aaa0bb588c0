"""The Kineto trace: its form, its files, and that it says what the timeline says."""

import gzip
import json
import os
import resource
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scenarios import BARE

from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.load import load_scenario
from perfmodel.output.step.spans import exposed_intervals, op_runs
from perfmodel.output.step.trace import trace_text, write_trace
from perfmodel.overlap.analysis import exposed_communication_s, slowest_rank
from perfmodel.step import Step, simulate_step

SCHEDULES = ("sequential", "sbo", "sbo-engine", "tbo")
LOADS = (0.6, 0.8, 0.9, 1.0, 1.0, 1.0, 1.7, 1.0)
EIGHT_RANKS = (
    "deployment.attention_dp=8",
    "deployment.ep=8",
    "deployment.ranks=all",
    f"routing.rank_loads={list(LOADS)}",
)


def step(*overrides: str) -> Step:
    return simulate_step(load_scenario("longcat-flash-h800", [*BARE, *overrides]))


@pytest.fixture(scope="module")
def sbo() -> Step:
    return step()


@pytest.fixture(scope="module")
def eight_ranks() -> Step:
    return step(*EIGHT_RANKS)


def events(text: str, **wanted: str) -> list[dict[str, Any]]:
    return [
        event
        for event in json.loads(text)["traceEvents"]
        if all(event.get(key) == value for key, value in wanted.items())
    ]


def test_head_is_what_readers_look_for(sbo: Step) -> None:
    text = trace_text(sbo, 0)
    trace = json.loads(text)
    assert trace["schemaVersion"] == 1
    assert trace["distributedInfo"]["rank"] == 0
    assert trace["distributedInfo"]["world_size"] == 128
    assert '"rank": 0' in text.splitlines()[0]  # HTA looks line by line for exactly this, blank included


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_op_is_a_kernel_and_has_its_launch(schedule: str) -> None:
    host = ("deployment.host.prepare_us=500", "deployment.host.asynchronous=false")
    simulated = step(f"deployment.overlap={schedule}", *host)
    text = trace_text(simulated, 0)
    kernels, launches = events(text, cat="kernel"), events(text, cat="cuda_runtime")
    ran = [run for run in op_runs(simulated, 0) if run.launch.stream != "host"]
    assert len(kernels) == len(launches) == len(ran)
    launched = {event["args"]["correlation"]: event for event in launches}
    assert len(launched) == len(launches)
    for kernel in kernels:
        args = kernel["args"]
        assert kernel["tid"] == args["stream"] > 0
        assert launched[args["correlation"]]["ts"] <= kernel["ts"]
        assert {"flops", "bytes", "bound", "source", "stage", "micro_batch"} <= set(args)
    (gap,) = events(text, cat="cpu_op")
    assert (gap["name"], gap["dur"]) == ("host.prepare", 500.0)
    assert max(k["ts"] + k["dur"] for k in kernels) == pytest.approx(simulated.step_time_s * 1e6, abs=2e-3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_eager_op_starts_after_its_launch_which_takes_time(schedule: str) -> None:
    eager = "deployment.host.decode=eager", "deployment.host.launch_us=7", "deployment.host.prepare_us=500"
    text = trace_text(step(f"deployment.overlap={schedule}", *eager), 0)
    launches = {e["args"]["correlation"]: e for e in events(text, cat="cuda_runtime")}
    kernels = events(text, cat="kernel")
    assert len(launches) == len(kernels) > 0
    for kernel in kernels:
        launch = launches[kernel["args"]["correlation"]]
        assert launch["dur"] == pytest.approx(7.0, abs=2e-3)
        assert launch["ts"] + launch["dur"] <= kernel["ts"] + 2e-3
    ordered = sorted(launches.values(), key=lambda event: event["ts"])
    assert ordered[0]["ts"] == 500.0
    gaps = [b["ts"] - a["ts"] - a["dur"] for a, b in pairwise(ordered)]
    assert max(gaps) < 2e-3 + 7.0  # one launch of an op that takes no time may lie between


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_times_are_in_order_and_streams_run_one_kernel_at_a_time(schedule: str) -> None:
    text = trace_text(step(f"deployment.overlap={schedule}"), 0)
    timed = [event for event in events(text) if event["ph"] != "M"]
    assert [event["ts"] for event in timed] == sorted(event["ts"] for event in timed)
    ends: dict[tuple[int, int], float] = defaultdict(float)
    for event in timed:
        if event["ph"] == "X":
            thread = event["pid"], event["tid"]
            assert event["dur"] >= 0
            assert event["ts"] >= ends[thread] - 1e-6
            ends[thread] = event["ts"] + event["dur"]


def test_only_communication_is_named_nccl(sbo: Step) -> None:
    for kernel in events(trace_text(sbo, 0), cat="kernel"):
        of_transfer = kernel["args"]["op class"] in ("dispatch", "combine", "tp_communication")
        is_communication = of_transfer and not kernel["name"].startswith(
            "combine.identity"
        )  # a sum on the GPU itself
        assert kernel["name"].startswith("ncclDevKernel_") == is_communication
        assert ("[layer " in kernel["name"]) == ("layer" in kernel["args"])


def test_flows_lead_from_dispatch_over_experts_to_combine(sbo: Step) -> None:
    text = trace_text(sbo, 0)
    names = {(k["tid"], k["ts"]): k["name"] for k in events(text, cat="kernel")}
    sources = {e["id"]: names[e["tid"], e["ts"]] for e in events(text, ph="s")}
    targets = {e["id"]: names[e["tid"], e["ts"]] for e in events(text, ph="f")}
    hops = [(sources[i], targets[i]) for i in sorted(sources)]
    assert ("ncclDevKernel_dispatch [layer 3]", "experts.gate_up [layer 3]") in hops
    assert ("experts.gate_up [layer 3]", "ncclDevKernel_combine [layer 3]") in hops
    assert len(hops) == 2 * 28
    assert set(sources) == set(targets)


def test_counter_ends_at_rest(sbo: Step) -> None:
    counters = [event["args"] for event in events(trace_text(sbo, 0), ph="C")]
    assert counters[-1] == {"compute": 0, "communication": 0}
    assert max(args["communication"] for args in counters) == 2  # dispatch beside the dense FFN's collectives
    assert all(value >= 0 for args in counters for value in args.values())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exposed_intervals_add_up_to_the_answer(schedule: str) -> None:
    simulated = step(f"deployment.overlap={schedule}")
    intervals = exposed_intervals(op_runs(simulated, 0))
    total = sum(end - start for start, end in intervals)
    assert total == pytest.approx(exposed_communication_s(simulated.timeline), rel=1e-9)
    assert all(a[1] < b[0] for a, b in pairwise(intervals))


def test_file_plain_and_compressed_hold_the_same(sbo: Step, tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    write_trace(sbo, plain)
    write_trace(sbo, packed)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    again = tmp_path / "b.json.gz"
    write_trace(step(), again)
    assert again.read_bytes() == packed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.json.gz", "b.json.gz"]


def test_folder_has_a_file_per_rank(eight_ranks: Step, tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    write_trace(eight_ranks, folder)
    assert {path.name for path in folder.iterdir()} == {f"rank_{rank}.json" for rank in range(8)}
    for rank in range(8):
        text = (folder / f"rank_{rank}.json").read_text()
        assert json.loads(text)["distributedInfo"]["rank"] == rank
        assert {event["pid"] for event in events(text, cat="kernel")} == {rank}
    experts = [
        events((folder / f"rank_{rank}.json").read_text(), name="experts.gate_up [layer 3]")[0]["args"][
            "flops"
        ]
        for rank in range(8)
    ]
    assert experts == pytest.approx([load * experts[3] for load in LOADS])


def test_file_of_several_ranks_holds_the_slowest(eight_ranks: Step, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(eight_ranks, path)
    assert json.loads(path.read_text())["distributedInfo"]["rank"] == slowest_rank(eight_ranks.timeline)


def test_folder_with_other_ranks_is_refused(sbo: Step, tmp_path: Path) -> None:
    write_trace(sbo, tmp_path)
    write_trace(sbo, tmp_path)  # its own files are replaced
    (tmp_path / "rank_1.json").write_text("{}")
    with pytest.raises(DataError, match=r"rank_1\.json of another trace"):
        write_trace(sbo, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/trace.json", "missing does not exist"),
        ("missing/folder", "missing does not exist"),
        ("trace.txt", "is a .json or .json.gz file, or a folder"),
        ("file", "is a file"),
    ],
)
def test_bad_paths(sbo: Step, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=message):
        write_trace(sbo, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_atomic_write_replaces_whole_files(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link.txt"
    atomic_write(path, "old")
    link.symlink_to(path)
    atomic_write(link, b"new")
    assert path.read_text() == "new"
    assert link.is_symlink()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.txt", "link.txt"]


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match=r"a.txt: can't be written: File too large"):
            atomic_write(path, "new" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_atomic_write_into_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(pipe, "text")
        assert os.read(reader, 10) == b"text"
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(DataError, match="is a folder"):
        atomic_write(tmp_path, "text")
