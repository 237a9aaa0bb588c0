"""The timing loop: known times, the probe's factor, outliers, and what is left without a GPU."""

import math
import time

import numpy as np
import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from calibrate.device.builders import build
from calibrate.device.calls import BetweenOthers
from calibrate.device.case import Case
from calibrate.device.environment import ForeignLoad, describe, gpu_spec
from calibrate.device.samples import Sample, summarise
from calibrate.device.timing import Bench
from perfmodel.errors import DataError
from perfmodel.spec import catalogue

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


@pytest.fixture(scope="module")
def bench():
    return Bench("cpu")


class FakeClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


@pytest.fixture
def fake(monkeypatch):
    """A bench on a fake clock, whose probe takes 1 ms at the given speed, and the clock."""
    clock = FakeClock()
    bench = Bench("cpu", reference_probe_s=1e-3, clock=clock)
    clock.slowness = 1.0

    def probe(*_):
        clock.now += round(1e6 * clock.slowness)

    monkeypatch.setattr("calibrate.device.timing.torch.mm", probe)
    monkeypatch.setattr("calibrate.device.timing._forced_switches", lambda: 0)
    return bench, clock


def working(clock, seconds):
    def run():
        clock.now += round(1e9 * seconds * clock.slowness)

    return run


def test_a_slow_spell_is_divided_out(fake):
    bench, clock = fake
    fast = bench.measure(working(clock, 2e-3))
    clock.slowness = 1.7
    slow = bench.measure(working(clock, 2e-3))
    assert math.isclose(fast.seconds, 2e-3, rel_tol=1e-6)
    assert math.isclose(slow.seconds, 2e-3, rel_tol=1e-6)
    assert math.isclose(slow.raw_seconds, 3.4e-3, rel_tol=1e-6)
    assert math.isclose(slow.probe_s, 1.7e-3, rel_tol=1e-6)
    assert slow.spread == 0.0


def test_a_probe_that_a_kernel_made_cold_is_not_a_slow_machine(fake, monkeypatch):
    """What was measured beside a product of 6 ms, in units of a settled probe: 1.28, 1.09, 1.02, 1.01, 1.00, 1.00."""
    bench, clock = fake
    since = [0]

    def probe(*_):
        clock.now += round(1e6 * [1.28, 1.09, 1.02, 1.01, 1.0][min(since[0], 4)])
        since[0] += 1

    def kernel():
        clock.now += 6_000_000
        since[0] = 0

    monkeypatch.setattr("calibrate.device.timing.torch.mm", probe)
    assert bench.measure(kernel).seconds == pytest.approx(6e-3, rel=1e-3)


def test_repeats_fill_a_sample(fake):
    bench, clock = fake
    measured = bench.measure(working(clock, 10e-6))
    assert measured.repeats == 100
    assert math.isclose(measured.seconds, 10e-6, rel_tol=1e-6)
    assert bench.measure(working(clock, 1.0)).repeats == 1


def test_long_calls_are_cut_short_but_have_two_samples(fake, monkeypatch):
    bench, clock = fake
    monkeypatch.setattr("calibrate.device.timing.time.monotonic", lambda: clock.now * 1e-9)
    assert bench.measure(working(clock, 5.0), samples=5, max_s=2.0).samples == 2
    assert bench.measure(working(clock, 0.5), samples=5, max_s=2.2).samples == 5


def test_interleaved_calls_keep_their_ratio_through_slow_spells(fake):
    bench, clock = fake
    calls = iter(range(10**6))

    def drifting(seconds):
        def run():
            clock.slowness = 1.0 + 0.5 * (next(calls) // 4 % 2)
            clock.now += round(1e9 * seconds * clock.slowness)

        return run

    one, two = bench.interleaved([drifting(2e-3), drifting(6e-3)], 9)
    assert two.raw_seconds > one.raw_seconds
    assert math.isclose(two.seconds / one.seconds, 3.0, rel_tol=0.2)


def test_outliers_do_not_move_the_result():
    good = [Sample(1e-3 * (1 + 0.002 * (index % 5 - 2)), 1e-3) for index in range(15)]
    clean = summarise(good, 1e-3, 1)
    dirty = summarise([*good, Sample(4e-3, 1e-3), Sample(9e-3, 1e-3), Sample(1e-3, 5e-3)], 1e-3, 1)
    assert dirty.samples == clean.samples == 15
    assert math.isclose(dirty.seconds, clean.seconds, rel_tol=1e-9)
    assert math.isclose(clean.seconds, 1e-3, rel_tol=1e-3)
    assert 0.001 < clean.spread < 0.01


def test_samples_that_agree_by_luck_do_not_condemn_the_others():
    samples = [Sample(1e-3, 1e-3)] * 3 + [Sample(1.004e-3, 1e-3), Sample(0.996e-3, 1e-3)]
    assert summarise(samples, 1e-3, 1).samples == 5


def test_spread_is_a_standard_deviation_of_logarithms():
    random = np.random.default_rng(0)
    samples = [Sample(float(1e-3 * np.exp(random.normal(0, 0.05))), 1e-3) for _ in range(4000)]
    assert math.isclose(summarise(samples, 1e-3, 1).spread, 0.05, rel_tol=0.1)


def test_samples_that_lost_their_core_are_taken_again(fake, monkeypatch):
    bench, clock = fake
    switches, calls = [0], [0]

    def run():
        calls[0] += 1
        stolen = calls[0] % 3 == 0
        switches[0] += stolen
        clock.now += 50_000_000 if stolen else 2_000_000

    monkeypatch.setattr("calibrate.device.timing._forced_switches", lambda: switches[0])
    measured = bench.measure(run, samples=6)
    assert math.isclose(measured.seconds, 2e-3, rel_tol=1e-6)
    assert measured.samples == 6


def test_a_sleep_and_a_busy_loop_take_what_they_take(bench):
    def busy():
        end = time.perf_counter() + 2e-3
        while time.perf_counter() < end:
            pass

    for run in (busy, lambda: time.sleep(2e-3)):
        measured = bench.measure(run)
        assert 1.9e-3 < measured.raw_seconds < 10e-3
        assert 0.2e-3 < measured.seconds < 20e-3


def test_more_work_takes_longer(bench):
    one, many = (
        bench.measure(build(Case("gemm", "fp32", {"m": m, "n": 512, "k": 512}), bench)) for m in (16, 512)
    )
    assert many.seconds > 4 * one.seconds


def test_noise_floor_is_a_log_ratio(bench):
    floor = bench.noise_floor([build(Case("add", "fp32", {"rows": 64, "width": 256}), bench)] * 3)
    assert 0.0 <= floor < 2.0


def test_a_reference_that_is_given_is_kept():
    assert Bench("cpu", reference_probe_s=0.125).reference_probe_s == 0.125
    assert 1e-6 < Bench("cpu").reference_probe_s < 1.0


@pytest.mark.parametrize(
    ("device", "threads", "word"),
    [("tpu", 1, "cpu or cuda"), ("cpu", 0, "threads"), ("cpu", 10**6, "threads")],
)
def test_bad_devices_are_refused(device, threads, word):
    with pytest.raises(DataError, match=word):
        Bench(device, threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_cuda_without_a_gpu_is_refused():
    with pytest.raises(DataError, match="no CUDA GPU"):
        Bench("cuda")


def test_environment_is_json_and_makes_a_gpu(bench):
    import json

    environment = describe("cpu", 1)
    assert json.loads(json.dumps(environment, allow_nan=False)) == environment
    assert {"device_name", "torch", "python", "os", "threads", "date", "cache_bytes"} <= set(environment)
    spec = gpu_spec(environment, {"fp32": 1e11, "bf16": 4e10}, bench.copy_bytes_per_s())
    assert spec["architecture"] == "cpu"
    assert spec["num_sms"] == 1
    assert (spec["fp32_tflops"], spec["bf16_tflops"]) == (0.1, 0.04)
    assert 0.1 < spec["hbm_gb_per_s"] < 10_000
    assert spec["memory_bytes"] > 2**30


def test_a_gpu_of_the_catalogue_keeps_its_datasheet():
    environment = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}
    assert gpu_spec(environment, {"bf16": 1.0}, 1.0) == catalogue.gpu("h100-sxm").model_dump(
        exclude_unset=True
    )


def test_another_gpu_gets_what_it_reached():
    environment = {
        "device": "cuda", "device_name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 48 * 10**9,
        "num_sms": 142, "threads": 1, "date": "2026-11-24T10:00:00+00:00",
    }  # fmt: skip
    spec = gpu_spec(environment, {"bf16": 3e14}, 8e11)
    assert spec["name"] == "nvidia-l4"
    assert (spec["architecture"], spec["num_sms"], spec["hbm_gb_per_s"]) == ("ampere", 142, 800.0)


@pytest.mark.alone
def test_own_work_is_not_foreign():
    with ForeignLoad() as load:
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pass
    assert load.share < 0.3  # this process kept a core busy all the while: half of two cores, were it foreign


@needs_gpu
def test_gpu_times_come_from_events():
    bench = Bench("cuda")
    one, many = (
        bench.measure(build(Case("gemm", "bf16", {"m": m, "n": 8192, "k": 8192}), bench)) for m in (512, 8192)
    )
    assert one.seconds == one.raw_seconds
    assert many.seconds > 4 * one.seconds
    assert many.seconds > 2 * 8192**3 / 5e15
    assert describe("cuda", 1)["num_sms"] > 0


@needs_gpu
def test_gpu_copies_and_probes():
    bench = Bench("cuda")
    assert bench.reference_probe_s > 1e-6
    assert bench.copy_bytes_per_s() > 1e10


def test_a_kernel_is_timed_between_others():
    """Before each call the caches are swept and the inputs written; it runs once between two probes, not in a loop."""
    bench = Bench("cpu", 1)
    events, inputs = [], []

    def build_norm():
        inputs.append(bench.warm(4, 8, dtype="fp32"))
        return lambda: events.append("c")

    run = bench.between_others(build_norm)
    assert isinstance(run, BetweenOthers)
    assert [tensor is inputs[0] for tensor in run.inputs] == [True]
    version = inputs[0]._version
    found = bench.measure(BetweenOthers(run.run, run.inputs, lambda: events.append("s")))
    assert found.repeats == 1
    assert found.samples > 9, "short calls have more samples"
    timed = "".join(events).lstrip("c")
    assert timed == "sc" * (len(timed) // 2)
    assert inputs[0]._version - version == len(timed) // 2


def test_a_probe_whose_core_was_taken_away_runs_again(fake, monkeypatch):
    bench, clock = fake
    times, switches = iter([1.0, 9.0, 9.0, 1.0, 1.0]), iter([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    monkeypatch.setattr(
        bench, "run_probe", lambda: setattr(clock, "now", clock.now + round(1e6 * next(times)))
    )
    monkeypatch.setattr("calibrate.device.timing._forced_switches", switches.__next__)
    assert bench.probe() == pytest.approx(1e-3)
