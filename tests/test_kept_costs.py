"""Times of ops that are kept: those of :func:`cost`, whatever was asked before."""

from dataclasses import fields, replace

import numpy as np
import pytest

from perfmodel.kernels import cost as module
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.cost import LONGEST_KEPT, _key, cost, costing
from perfmodel.load import load_scenario
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import step_segments

BATCHES = {"deployment.batch_per_gpu": np.array([8.0, 64.0, 96.0])}


def costs_of(ops, *how, **named):
    known = costing(*how, **named)
    return [known(op) for op in ops]


def ops_of(scenario):
    return [task.op for segment in step_segments(scenario) for task in segment.tasks]


@pytest.fixture
def scenario():
    return load_scenario("longcat-flash-h800")


def same(a, b):
    for field in fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name


@pytest.mark.parametrize("arrays", [{}, BATCHES], ids=["one", "arrays"])
def test_they_are_those_of_cost(scenario, arrays):
    many = with_arrays(scenario, arrays) if arrays else scenario
    calibration = load_calibration(scenario.calibration)
    ops = ops_of(many)
    for used in (calibration, None, calibration):
        for op, timing in zip(ops, costs_of(ops, many.cluster, calibration=used), strict=True):
            same(timing, cost(op, many.cluster, calibration=used))


def test_what_is_known_is_not_worked_out_again(scenario, monkeypatch):
    ops = ops_of(scenario)
    first = costs_of(ops, scenario.cluster)
    monkeypatch.setattr(module, "cost", None)
    again = load_scenario("longcat-flash-h800", ["deployment.context_tokens=5000", "seed=3"])
    assert all(a is b for a, b in zip(first, costs_of(ops, again.cluster), strict=True))


def test_everything_that_an_op_says_is_in_its_key(scenario):
    for op in ops_of(scenario):
        for field in fields(op):
            old = getattr(op, field.name)
            if field.name == "shape":
                other = {**old, "m": 12345.0}
            elif isinstance(old, bool):
                other = not old
            elif isinstance(old, (int, float)):
                other = old + 1.0
            else:
                other = (("gemm", "bf16", "x"),) if isinstance(old, tuple) else f"{old}?"
            assert _key(replace(op, **{field.name: other})) != _key(op), field.name
    many = ops_of(with_arrays(scenario, BATCHES))
    others = ops_of(with_arrays(scenario, {"deployment.batch_per_gpu": np.array([8.0, 64.0, 97.0])}))
    assert sum(_key(a) != _key(b) for a, b in zip(many, others, strict=True)) > len(many) // 2


def test_little_is_kept(scenario, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 5)
    monkeypatch.setattr(module, "MOST_CLUSTERS", 1)
    module._kept.clear()
    ops = ops_of(scenario)
    cheap = load_scenario("longcat-flash-h800", ["cluster.network.gb_per_s_per_gpu=20"]).cluster
    for cluster in (scenario.cluster, cheap):
        for op, timing in zip(ops, costs_of(ops, cluster), strict=True):
            same(timing, cost(op, cluster))
        assert len(module._kept) == 1
        assert all(len(kept) <= 5 for _, kept in module._kept.values())
    module._kept.clear()


def test_long_arrays_are_not_kept(scenario):
    module._kept.clear()
    swept = with_arrays(scenario, {"deployment.batch_per_gpu": np.linspace(1.0, 128.0, LONGEST_KEPT + 1)})
    ops_of(swept)
    assert not any(np.size(t.seconds) > 1 for _, kept in module._kept.values() for t in kept.values())
