"""Measured times on the measured device with other figures, and transfers beside compute."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scenarios import told

from perfmodel.kernels.calibration import MODULES
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import beside_compute, stretches
from perfmodel.kernels.cost import cost
from perfmodel.load import load_scenario
from perfmodel.ops.op import OpClass
from perfmodel.step import predict_steps, simulate_step, step_segments

CALIBRATION = load_calibration("h800-sxm", "sglang")
MAIN = load_scenario("longcat-flash-h800")


def ops_of(scenario):
    return [task.op for segment in step_segments(scenario) for task in segment.tasks]


def op_named(name, scenario=MAIN):
    return next(op for op in ops_of(scenario) if op.name == name)


def seconds(op, *overrides):
    return float(CALIBRATION.cost(op, load_scenario("longcat-flash-h800", list(overrides)).cluster).seconds)


@pytest.mark.parametrize(
    ("name", "figure", "baseline", "bound"),
    [
        ("attention0.core", "cluster.gpu.hbm_gb_per_s", 3350.0, "memory"),
        ("head.logits", "cluster.gpu.bf16_tflops", 989.4, "compute"),
    ],
)
def test_twice_the_figure_that_bounds_a_kernel_halves_what_is_beyond_its_latency(
    name, figure, baseline, bound
):
    op = op_named(name, load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=256"]))
    before = CALIBRATION.cost(op, MAIN.cluster)
    assert before.bound == bound
    after = CALIBRATION.cost(op, load_scenario("longcat-flash-h800", [f"{figure}={2 * baseline}"]).cluster)
    assert after.latency_s == before.latency_s
    part = f"{bound}_s"
    assert getattr(after, part) == pytest.approx(getattr(before, part) / 2, rel=0.01)
    assert after.seconds < before.seconds


def test_dispatch_is_as_fast_as_its_network():
    op = op_named("dispatch")
    before = seconds(op)
    assert (
        seconds(op, "cluster.network.gb_per_s_per_gpu=100")
        < before
        < seconds(op, "cluster.network.gb_per_s_per_gpu=25")
    )
    large = replace(
        op, shape={**op.shape, "bytes": op.shape["bytes"] * 64}, network_bytes=op.network_bytes * 64
    )
    assert seconds(large, "cluster.network.gb_per_s_per_gpu=100") == pytest.approx(
        seconds(large) / 2, rel=0.25
    )


@pytest.mark.parametrize("figure", ["gpu.hbm_gb_per_s", "gpu.fp8_tflops", "network.gb_per_s_per_gpu"])
def test_better_hardware_is_no_slower_and_the_answer_says_it_is_scaled(figure):
    section, key = figure.split(".")
    value = getattr(getattr(MAIN.cluster, section), key)
    changed = load_scenario(
        "longcat-flash-h800", ["deployment.overlap=sequential", f"cluster.{figure}={2 * value}"]
    )
    alone = load_scenario("longcat-flash-h800", ["deployment.overlap=sequential"])
    assert predict_steps(changed).step_time_s < predict_steps(alone).step_time_s
    said = [text for text in told(simulate_step(changed)) if f"cluster.{figure}" in text]
    assert len(said) == 1
    assert "scaled by what bounds each kernel" in said[0]
    assert not any("scaled by what bounds" in text for text in told(simulate_step(alone)))


def test_another_device_takes_the_times_as_they_are():
    cluster = load_scenario("longcat-flash-h800", ["cluster=h200-ib"]).cluster
    op = op_named("attention0.core")
    assert CALIBRATION.cost(op, cluster).seconds == CALIBRATION.cost(op, MAIN.cluster).seconds


def test_figures_may_be_arrays():
    from perfmodel.spec.arrays import with_arrays

    values = np.array([3350.0, 4800.0, 8000.0])
    many = with_arrays(MAIN, {"cluster.gpu.hbm_gb_per_s": values})
    together = np.broadcast_to(predict_steps(many).step_time_s, values.shape)
    for value, step_time_s in zip(values, together, strict=True):
        one = load_scenario("longcat-flash-h800", [f"cluster.gpu.hbm_gb_per_s={value}"])
        assert simulate_step(one).step_time_s == pytest.approx(step_time_s, rel=1e-9)


# --- transfers beside compute ----------------------------------------------------------------------------------


def test_deepep_was_timed_beside_compute_and_another_architecture_is_flagged():
    normal, low, hybrid = stretches()
    assert hybrid.stretch == normal.stretch  # nobody timed it: DeepEP's, with a spread of its own
    assert hybrid.log_std > 0.0
    dispatch = replace(op_named("dispatch"), backend="deepep-normal")
    assert beside_compute(dispatch, "hopper") == (normal.stretch, 0.0, "")
    stretch, _, flag = beside_compute(dispatch, "blackwell")
    assert stretch == normal.stretch
    assert "hopper" in flag
    assert beside_compute(replace(dispatch, kernel="all_gather"), "hopper") == (1.0, 0.0, "")
    # one published figure of low latency, whose tokens are not certain: the middle of what it allows, and its width
    stretch, spread, flag = beside_compute(op_named("dispatch"), "hopper")
    assert (stretch, spread) == (low.stretch, low.log_std)
    assert stretch == pytest.approx((170.0 / 108.4) ** 0.5, rel=2e-3)
    assert spread == pytest.approx(math.log(170.0 / 108.4) / math.sqrt(12.0), rel=5e-3)
    assert "not certain" in flag


def test_it_counts_only_where_a_schedule_overlaps():
    """Alone, under sequential, a transfer takes its time alone; under SBO as long as beside compute."""
    prefill = ["deployment.phase=prefill", "deployment.prefill_tokens=4096"]
    for overlap, expected in (("sequential", 1.0), ("sbo", stretches()[0].stretch)):
        scenario = load_scenario("longcat-flash-h800", [*prefill, f"deployment.overlap={overlap}"])
        found = 0
        for segment in step_segments(scenario):
            for task, timing in zip(segment.tasks, segment.timings, strict=True):
                if task.op.kernel in ("dispatch", "combine") and segment.name.startswith("layer"):
                    assert task.op.backend == "deepep-normal"
                    alone = cost(task.op, scenario.cluster, calibration=CALIBRATION)
                    assert timing.seconds == pytest.approx(expected * alone.seconds)
                    found += 1
        assert found


# --- DeepSeek's attention module ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "overrides", "asked"),
    [
        ("deepseek-v3-h800", [], True),
        ("deepseek-v3-h800", ["deployment.phase=prefill", "deployment.prefill_tokens=4096"], False),
        ("deepseek-v3-h800", ["model.q_lora_rank=768"], False),
        ("longcat-flash-h800", [], False),
    ],
)
def test_a_measured_module_is_asked_for_its_own_widths_alone(base, overrides, asked):
    ops = ops_of(load_scenario(base, overrides))
    inside = {key[0] for op in ops if op.op_class is OpClass.ATTENTION for key in op.inside}
    assert bool(inside & set(MODULES)) == asked
