"""Ops that ask the same of a GPU are costed once, and only those."""

from dataclasses import replace

import numpy as np
import pytest

from perfmodel.kernels.alike import timings_of
from perfmodel.kernels.timing import Timing
from perfmodel.load import load_scenario
from perfmodel.ops.build import gemm
from perfmodel.ops.op import OpClass
from perfmodel.step import step_segments

OP = gemm("one", OpClass.ATTENTION, m=np.array([1.0, 2.0]), n=64.0, k=32.0, dtype="bf16")


def costed(ops):
    asked = []

    def cost(op):
        asked.append(op)
        return Timing(compute_s=float(np.sum(op.flops)), source=op.name)

    return timings_of(ops, cost), asked


def test_a_name_alone_makes_no_kind():
    same = replace(OP, name="two", shape={**OP.shape, "m": np.array([1.0, 2.0])}, flops=OP.flops.copy())
    (first, second), asked = costed([OP, same])
    assert first is second
    assert len(asked) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"flops": 2.0 * OP.flops},
        {"hbm_bytes": OP.hbm_bytes + 1.0},
        {"link_bytes": 1.0},
        {"network_bytes": np.array([0.0, 1.0])},
        {"shape": {**OP.shape, "n": 65.0}},
        {"shape": {**OP.shape, "m": np.array([1.0, 3.0])}},
        {"shape": {**OP.shape, "groups": 1.0}},
        {"dtype": "fp8"},
        {"cache_dtype": "fp8"},
        {"backend": "masked"},
        {"inside": (("grouped_gemm", "bf16", "masked"),)},
        {"op_class": OpClass.EXPERTS},
        {"kernel": "bmm"},
    ],
    ids=str,
)
def test_anything_else_does(changed):
    timings, asked = costed([OP, replace(OP, **changed)])
    assert timings[0] is not timings[1]
    assert len(asked) == 2


def test_micro_batches_and_halves_of_a_block_share_their_timings():
    """LongCat-Flash under two-batch overlap: two micro-batches of two attentions and two FFNs."""
    (layers,) = (
        one
        for one in step_segments(load_scenario("longcat-flash-h800", ["deployment.overlap=tbo"]))
        if one.layers
    )
    assert len(layers.tasks) == 78
    assert len({id(timing) for timing in layers.timings}) <= 25
