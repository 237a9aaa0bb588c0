"""``calibrate profile``: what it writes, and that no end of the process costs more than the kernel being timed."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import pandas as pd

from calibrate.device.case import Case
from calibrate.device.journal import JOURNAL, PARQUET, open_journal, read_journal, read_metadata, read_timings
from calibrate.device.profile import profile
from calibrate.device.timing import Bench
from perfmodel.errors import DataError

NUM_CASES = 40
PROGRAM = f"""
import sys, types
from calibrate.device.case import Case
shapes = [{{"m": m, "n": 64, "k": 64}} for m in range(1, {NUM_CASES + 1})]
design = types.ModuleType("calibrate.device.design")
design.design_cases = lambda models, **_: [Case("gemm", "fp32", shape) for shape in shapes]
sys.modules["calibrate.device.design"] = design
from calibrate.cli import main
main()
"""


def start(folder, *options):
    """The real command on a short list of kernels."""
    command = [sys.executable, "-c", PROGRAM, "profile", "--out", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines(folder):
    path = folder / JOURNAL
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def wait_for_lines(process, folder, count):
    end = time.monotonic() + 60
    while len(lines(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no records came"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def bench():
    return Bench("cpu")


def gemms(count):
    return [Case("gemm", "fp32", {"m": m, "n": 32, "k": 32}) for m in range(1, count + 1)]


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    process = start(tmp_path)
    wait_for_lines(process, tmp_path, 8)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = [line for line in lines(tmp_path) if line.endswith(b"\n")]
    assert 8 <= len(kept) <= NUM_CASES
    assert not (tmp_path / PARQUET).exists()
    assert len(read_timings(tmp_path)) == len(kept) - 1

    process = start(tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"timed {NUM_CASES - len(kept) + 1} of {NUM_CASES} kernels ({len(kept) - 1} were there)" in errors
    assert lines(tmp_path)[: len(kept)] == kept
    frame = pd.read_parquet(tmp_path / PARQUET)
    assert sorted(frame["m"]) == list(range(1, NUM_CASES + 1))
    assert (frame["seconds"] > 0).all()


def test_sigterm_ends_it_cleanly_after_the_kernel(tmp_path):
    process = start(tmp_path)
    wait_for_lines(process, tmp_path, 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "run it again to go on" in errors
    assert "Traceback" not in errors
    assert len(read_timings(tmp_path)) == len(lines(tmp_path)) - 1 >= 2
    assert (tmp_path / PARQUET).exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_users_mistake_is_two_lines_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    processes = [start(tmp_path / "file"), start(tmp_path / "a", "--dtype", "fp7")]
    for process in processes:
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert out == ""
        assert "Traceback" not in errors
        assert errors.startswith("calibrate: ")
        assert len(errors.splitlines()) <= 2


def test_out_of_time_it_stops_and_later_goes_on(tmp_path, bench):
    outcome = profile(gemms(5), tmp_path, minutes=1e-9, bench=bench, progress=False)
    assert (outcome.timed, outcome.left, outcome.stopped) == (0, 5, "time")
    assert len(read_timings(tmp_path)) == 0
    outcome = profile(gemms(5) * 2, tmp_path, minutes=1, bench=bench, progress=False)
    assert (outcome.total, outcome.before, outcome.timed, outcome.left, outcome.stopped) == (5, 0, 5, 0, "")
    before = lines(tmp_path)
    outcome = profile(gemms(6), tmp_path, minutes=1, bench=bench, progress=False)
    assert (outcome.before, outcome.timed) == (5, 1)
    assert lines(tmp_path)[: len(before)] == before


def test_resumed_it_keeps_the_reference_probe(tmp_path, bench):
    profile(gemms(1), tmp_path, minutes=1, bench=bench, progress=False, requested={"models": ["x"]})
    header = json.loads(lines(tmp_path)[0])
    other = Bench("cpu", reference_probe_s=10 * bench.reference_probe_s)
    profile(gemms(2), tmp_path, minutes=1, bench=other, progress=False)
    assert other.reference_probe_s == header["reference_probe_s"] == bench.reference_probe_s
    metadata = read_metadata(tmp_path)
    assert metadata["requested"] == {"models": ["x"]}
    assert metadata["environment"]["copy_bytes_per_s"] > 0
    frame = read_timings(tmp_path)
    factor = frame["seconds"] / frame["raw_seconds"]
    assert ((factor > 0.1) & (factor < 10)).all()
    assert ((frame["foreign_load"] >= 0) & (frame["foreign_load"] <= 1)).all()


def test_what_can_not_be_timed_is_skipped_and_said(tmp_path, bench):
    cases = [
        Case("all_to_all", "fp32", {"ranks": 2, "bytes": 1024}),
        Case("rope", "fp32", {"rows": 1, "heads": 1, "rope": 3, "latent": 4}),
        *gemms(1),
    ]
    outcome = profile(cases, tmp_path, minutes=1, bench=bench, progress=False)
    assert (outcome.timed, outcome.left) == (1, 0)
    assert [word in line for word, line in zip(("--ranks", "even"), outcome.skipped, strict=True)] == [
        True,
        True,
    ]
    assert len(read_journal(tmp_path).records) == 1


@pytest.mark.parametrize("minutes", [0, -1, math.nan])
def test_a_budget_must_be_positive(tmp_path, bench, minutes):
    with pytest.raises(DataError, match="minutes"):
        profile(gemms(1), tmp_path, minutes=minutes, bench=bench)
    assert not (tmp_path / JOURNAL).exists()


def test_another_threads_journal_is_refused(tmp_path, bench):
    profile(gemms(1), tmp_path, minutes=1, bench=bench, progress=False)
    header = read_journal(tmp_path).header
    header["environment"]["threads"] = 64
    with pytest.raises(DataError, match="threads"):
        open_journal(tmp_path, header)


def test_some_are_timed_twice(tmp_path, bench, monkeypatch):
    monkeypatch.setattr("calibrate.device.profile.REPEAT_EVERY", 4)
    monkeypatch.setattr("calibrate.device.profile.REPEAT_AFTER_S", 0.0)
    profile(gemms(10), tmp_path, minutes=1, bench=bench, progress=False)
    contents = read_journal(tmp_path)
    assert [repeat.case for repeat in contents.repeats] == [gemms(10)[index] for index in (0, 4, 8)]
    assert len(contents.records) == len(read_timings(tmp_path)) == 10
    first = {record.case: record.measurement["seconds"] for record in contents.records}
    assert all(repeat.first_seconds == first[repeat.case] for repeat in contents.repeats)


def test_signal_handlers_are_put_back(tmp_path, bench):
    before = signal.getsignal(signal.SIGTERM)
    profile(gemms(1), tmp_path, minutes=1, bench=bench, progress=False)
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_finishes_the_kernel(tmp_path, bench, monkeypatch):
    measure, calls = bench.measure, []

    def interrupted(run):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return measure(run)

    monkeypatch.setattr(bench, "measure", interrupted)
    outcome = profile(gemms(5), tmp_path, minutes=1, bench=bench, progress=False)
    assert (outcome.timed, outcome.left, outcome.stopped) == (2, 3, "SIGINT")


def test_help_needs_no_torch():
    code = "import sys, calibrate.cli as c; c.app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith("False")
    assert "profile" in done.stdout
