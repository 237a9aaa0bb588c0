"""The overlap experiment: its parts on made-up measurements, and the real thing in a short form where it may be run."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from oracle_env import required
from test_reference_env import NO_TORCH, has_torch

from calibrate.device.case import COMMUNICATION, Case
from calibrate.device.curves import MIN_ROWS
from calibrate.overlap import namespaces
from calibrate.overlap.experiment import Plan, compare, main, run_experiment
from calibrate.overlap.measure import BlockRun, ContentionRun, ExchangeRun, KernelRun, Measured
from calibrate.overlap.namespaces import Link, NoNamespacesError, parse_rate, shaping
from calibrate.overlap.predict import Predictor, compute_held, fit_exchange
from calibrate.overlap.report import chart, document, page, samples, table
from calibrate.overlap.result import summarise
from calibrate.overlap.workload import OTHER_TOKENS, block_segment, draw_workload, kernel_cases, scenario
from perfmodel.errors import UnsupportedError

RATE = 100e6
FLOPS_PER_S = 5e10
FIXED_S = 1e-5
PROBE_S = 1e-3
ENVIRONMENT = {
    "device": "cpu",
    "device_name": "Some CPU",
    "threads": 1,
    "memory_bytes": 2**34,
    "copy_bytes_per_s": 1e10,
    "torch": "2.0",
    "date": "2026-01-02T03:04:05+00:00",
}


def kernel_seconds(case):
    """A device whose kernels take a fixed time and one in proportion to the product of their shape."""
    return FIXED_S + 2.0 * math.prod(case.shape.values()) / FLOPS_PER_S


def exchange_seconds(rows, workload, rate):
    return rows * workload.row_bytes * 8 / rate


@pytest.fixture(scope="module")
def workload():
    return draw_workload(64, seed=3)


@pytest.fixture
def found(workload):
    """Measurements of a device that does exactly what perfmodel says, twice as slow in later rounds."""
    measured = Measured(workload, ENVIRONMENT, PROBE_S, rates=(RATE,))
    measured.kernels = [
        KernelRun(case, (kernel_seconds(case),) * 2, 0.01) for case in kernel_cases(workload, 0)
    ]
    for number, rows in enumerate(round(workload.remote_rows * size) for size in (0.5, 0.8, 1.2, 1.5)):
        seconds = exchange_seconds(rows, workload, RATE)
        measured.exchanges += [ExchangeRun(RATE, number, rows, seconds, seconds)] * 2
        measured.contention.append(ContentionRun(RATE, number, rows, 0.8e-3, 1e-3, seconds))
    measured.foreign_load = {RATE: [0.0, 0.1]}
    for number in range(4):
        slow = 1.0 + number // 2
        for overlapped in (False, True):
            probes, digests = (PROBE_S * slow,) * 2, ("left", "right")
            seconds = (0.04 if overlapped else 0.05) * slow
            measured.blocks.append(
                BlockRun(RATE, number, overlapped, (seconds, seconds / 2), probes, digests)
            )
    return measured


# --- the workload -------------------------------------------------------------------------------------------


def test_routing_is_forced_uneven_and_known(workload):
    experts = workload.config.num_experts
    for ids in workload.ids:
        assert ids.shape == (64, workload.config.moe_topk)
        assert all(len(set(row)) == len(row) and min(row) >= 0 and max(row) < experts for row in ids.tolist())
    loads = workload.rank_loads
    assert loads[0] > 1.03
    assert sum(loads) == pytest.approx(2.0)
    pairs = workload.pairs
    real = sum(int((ids < workload.config.n_routed_experts).sum()) for ids in workload.ids)
    assert pairs.sum() == real == pytest.approx(workload.mean_real_experts * 128)
    again = draw_workload(64, seed=3)
    assert all((a == b).all() for a, b in zip(workload.ids, again.ids, strict=True))


def test_perfmodel_is_asked_for_that_block(workload):
    for overlapped, name in ((False, "sequential"), (True, "sbo")):
        asked = scenario(workload, overlapped=overlapped)
        assert asked.deployment.overlap == name
        segment = block_segment(asked)
        assert segment.repeat == 1
        exchanges = [task.op for task in segment.tasks if task.op.is_communication]
        assert [op.name for op in exchanges] == ["dispatch", "combine"]
        expected = workload.remote_rows * workload.row_bytes
        assert all(op.network_bytes == pytest.approx(expected, rel=0.15) for op in exchanges)
        assert all(op.link_bytes == 0.0 for op in exchanges)


def test_kernels_are_timed_at_other_token_counts_and_enough_for_curves(workload):
    cases = kernel_cases(workload, 0)
    needed = {t.op.kernel for t in block_segment(scenario(workload, overlapped=True)).tasks} - set(
        COMMUNICATION
    )
    counts = {kernel: sum(case.kernel == kernel for case in cases) for kernel in needed}
    assert {case.kernel for case in cases} == needed
    assert min(counts.values()) >= MIN_ROWS
    assert len(set(cases)) == len(cases)
    assert all(case.shape["m"] != 64 for case in cases if case.kernel == "gemm")
    assert 1.0 not in OTHER_TOKENS
    assert kernel_cases(workload, 0) == cases != kernel_cases(workload, 1)


# --- prediction ---------------------------------------------------------------------------------------------


def test_a_device_that_is_as_calibrated_is_predicted(found, tmp_path):
    (row,), warnings = compare(found, tmp_path)
    assert warnings == ()
    segment = block_segment(scenario(found.workload, overlapped=False))
    compute_s = sum(
        kernel_seconds(Case(t.op.kernel, t.op.dtype, {n: t.op.shape[n] for n in case_variables(t.op)}))
        for t in segment.tasks
        if not t.op.is_communication
    )
    op = next(t.op for t in segment.tasks if t.op.name == "dispatch")
    communication_s = 2 * op.network_bytes * 8 / RATE
    assert row.communication_s == pytest.approx(communication_s, rel=1e-3)
    slow = 1.5  # the median probe of rounds, half of which are twice as slow
    assert row.compute_s == pytest.approx(slow * compute_s, rel=0.05)
    assert row.sequential.predicted_s == pytest.approx(row.compute_s + row.communication_s, rel=0.01)
    assert row.overlapped.free_s <= row.overlapped.predicted_s <= row.sequential.predicted_s
    assert row.overlapped.naive_s <= row.overlapped.free_s * 1.001
    assert row.compute_held == pytest.approx(0.2)


def case_variables(op):
    from calibrate.device.case import SHAPES

    return SHAPES[op.kernel]


def test_probes_slow_compute_and_leave_the_wire_alone(found, tmp_path):
    compare(found, tmp_path)
    predictor = Predictor(found, tmp_path / "100mbit")
    quick, slow = (predictor.predict(found.blocks[i]) for i in (0, -2))
    assert found.blocks[0].overlapped == found.blocks[-2].overlapped is False
    assert slow.compute_s == pytest.approx(2 * quick.compute_s)
    assert slow.communication_s == quick.communication_s
    assert slow.seconds == pytest.approx(slow.compute_s + slow.communication_s)


def test_each_rate_has_its_own_exchange_and_contention(found):
    other = 2 * RATE
    found.exchanges += [
        replace(run, rate=other, dispatch_s=run.dispatch_s / 2, combine_s=run.combine_s / 2)
        for run in found.exchanges
    ]
    found.contention.append(ContentionRun(other, 0, 10, 1e-3, float("nan"), 1e-4))
    at = {"bytes": found.workload.remote_rows * found.workload.row_bytes}
    assert fit_exchange(found, RATE).seconds(at) == pytest.approx(2 * fit_exchange(found, other).seconds(at))
    assert compute_held(found, RATE) == pytest.approx(0.2)
    assert compute_held(found, other) == 0.0  # every exchange was over before a slice


def test_row_and_summary_say_what_was_measured(found, tmp_path):
    (row,), _ = compare(found, tmp_path)
    assert row.rounds == 4
    assert row.sequential.measured_s == pytest.approx(0.075)
    assert row.speedups["measured"] == pytest.approx(1.25)
    assert row.speedup_quartiles == pytest.approx((1.25, 1.25))
    assert row.repeat_floor == pytest.approx(0.0)
    assert row.foreign_load == pytest.approx(0.05)
    assert row.bit_equal
    summary = summarise([row])
    assert summary.overlapped_error == pytest.approx(abs(row.overlapped.error))
    broken = replace(found.blocks[-1], digests=("left", "wrong"))
    found.blocks[-1] = broken
    (row,), _ = compare(found, tmp_path)
    assert not row.bit_equal
    assert "NOT bit-equal" in summarise([row]).verdict
    assert not summarise([row]).passed


def test_table_json_and_page(found, tmp_path):
    rows, _ = compare(found, tmp_path)
    lines = table(rows).splitlines()
    assert len(lines) == 2
    assert len({len(line) for line in lines}) == 1
    summary = summarise(rows)
    result = json.loads(json.dumps(document(found, rows, summary, ["a note"]), allow_nan=False))
    assert result["rows"][0]["rate"] == RATE
    assert result["summary"]["passed"] == summary.passed
    assert result["notes"] == ["a note"]
    unshaped = replace(rows[0], rate=math.inf)
    assert document(found, [unshaped], summary, [])["rows"][0]["rate"] is None
    assert "loopback" in table([unshaped])
    found.contention.append(ContentionRun(RATE, 9, 1, 1.0, float("nan"), 1.0))
    raw = json.loads(json.dumps(samples(found), allow_nan=False))
    assert len(raw["blocks"]) == len(found.blocks)
    assert raw["contention"][-1]["together_s"] is None
    text = page(found, rows, summary, ["<a note>"])
    assert "&lt;a note&gt;" in text
    assert 'src="http' not in text


def test_chart_shows_measured_predicted_and_naive(found, tmp_path):
    rows, _ = compare(found, tmp_path)
    other = replace(rows[0], rate=2 * RATE, communication_s=rows[0].communication_s / 2)
    figure = chart([*rows, other])
    names = [trace.name for trace in figure.data]
    assert len(names) == 4
    measured = next(trace for trace in figure.data if trace.name.startswith("measured"))
    assert list(measured.x) == sorted(measured.x)
    assert measured.y[0] == pytest.approx(1.25)
    naive = next(trace for trace in figure.data if trace.name.startswith("naive"))
    assert max(naive.y) <= 2.0
    assert np.all(np.asarray(naive.y) >= 1.0)


def test_dataclasses_are_plain(found, tmp_path):
    (row,), _ = compare(found, tmp_path)
    assert asdict(row)["sequential"]["measured_s"] == row.sequential.measured_s


# --- namespaces ---------------------------------------------------------------------------------------------


def test_rates_are_read_and_shaped():
    assert parse_rate("25mbit") == parse_rate(" 25 ") == 25e6
    for text in ("", "fast", "-3", "0", "1.2.3"):
        with pytest.raises(UnsupportedError, match="must be a positive number"):
            parse_rate(text)
    assert shaping(8e6) == ["rate", "8000000bit", "burst", "73728b", "latency", "200ms"]
    assert shaping(800e6)[3] == "400000b"  # what the link carries in 4 ms


def test_missing_rights_and_tools_are_named(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: None)
    with pytest.raises(NoNamespacesError, match="ip is not installed"):
        Link().__enter__()
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    with pytest.raises(NoNamespacesError, match=r"takes root.*--loopback"):
        Link().__enter__()


def test_what_the_kernel_says_reaches_the_user(monkeypatch):
    refused = subprocess.CompletedProcess([], 1, stdout="", stderr="Operation not permitted\n")
    monkeypatch.setattr(namespaces, "check_tools", lambda: None)
    monkeypatch.setattr(namespaces.subprocess, "run", lambda *args, **options: refused)
    with pytest.raises(NoNamespacesError, match=r"ip netns add .*Operation not permitted"):
        Link().__enter__()


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for arguments in (["--out", str(file / "x")], ["--out", str(tmp_path), "--rates", "quick"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "calibrate.overlap: " in capsys.readouterr().err


# --- the real thing -----------------------------------------------------------------------------------------


@pytest.fixture
def torch_is_there():
    if not has_torch():
        pytest.skip(NO_TORCH)


@pytest.fixture
def may_make_namespaces(torch_is_there):
    try:
        with Link() as link:
            link.set_rate(RATE)
    except NoNamespacesError as error:
        if required("netns"):
            pytest.fail(f"{error}; PERFMODEL_REQUIRE demands it")
        pytest.skip(str(error))


def own_namespaces():
    return [name for name in namespaces.existing() if name.split("-")[1] == str(os.getpid())]


def test_link_comes_and_goes(may_make_namespaces):
    with Link() as link, Link() as other:
        assert len(own_namespaces()) == 4
        ping = [*link.ends[0].command, "cat", "/proc/net/dev"]
        assert "veth-a" in subprocess.run(ping, capture_output=True, text=True, check=True).stdout
        link.set_rate(10e6)
        link.set_rate(20e6)
        shown = ["tc", "-n", link.ends[1].namespace, "qdisc", "show", "dev", "veth-b"]
        assert "rate 20Mbit" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        other.set_rate(None)
    assert own_namespaces() == []


def test_namespaces_of_a_killed_process_are_removed(may_make_namespaces):
    code = "import os; from calibrate.overlap.namespaces import Link; Link().__enter__(); os._exit(9)"
    dead = subprocess.Popen([sys.executable, "-c", code])
    assert dead.wait(60) == 9
    assert len([name for name in namespaces.existing() if f"-{dead.pid}-" in name]) == 2
    with Link():
        assert [name for name in namespaces.existing() if f"-{dead.pid}-" in name] == []


@pytest.mark.alone
def test_overlap_is_measured(may_make_namespaces, tmp_path):
    result = run_experiment(
        tmp_path,
        workload=draw_workload(256, seed=0),
        plan=Plan(seconds_per_rate=4.0, passes=2, kernel_samples=3),
        ratios=(0.4, 0.9, 2.0),
    )
    print(table(result.rows))
    print(result.summary.verdict)
    assert len(result.rows) == 3
    for row in result.rows:
        assert row.bit_equal
        assert row.overlapped.measured_s < 0.97 * row.sequential.measured_s
        allowed = max(3 * row.repeat_floor, 0.25)
        assert abs(row.sequential.error) < allowed
        assert abs(row.overlapped.error) < allowed
    assert own_namespaces() == []
    assert {path.name for path in tmp_path.iterdir()} >= {"overlap.json", "overlap.html", "overlap.txt"}


@pytest.mark.alone
def test_loopback_form_needs_no_rights(torch_is_there, tmp_path):
    result = run_experiment(
        tmp_path,
        workload=draw_workload(64, seed=0),
        plan=Plan(seconds_per_rate=1.0, passes=1, kernel_samples=2),
        loopback=True,
    )
    (row,) = result.rows
    assert row.bit_equal
    assert math.isinf(row.rate)
    assert "loopback" in result.notes[0]
