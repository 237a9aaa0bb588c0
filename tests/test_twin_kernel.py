"""The twin's compiled rounds against those in numpy, which define them: every scenario, to the last bit."""

import numpy as np
import pytest

from perfmodel.load import load_scenario
from perfmodel.overlap import twin
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import step_segments

pytest.importorskip("numba")

LAUNCHES = "deployment.host={launch_us: 8, uncounted_us: 0}"


@pytest.mark.parametrize("contention", [True, False])
@pytest.mark.parametrize("more", [(), (LAUNCHES,)], ids=["launched", "host launches"])
@pytest.mark.parametrize("overlap", ["tbo", "sbo", "sbo-engine", "sequential"])
def test_compiled_rounds_leave_the_same_numbers(overlap, more, contention):
    size = 150
    scenario = with_arrays(
        load_scenario("longcat-flash-h800", [f"deployment.overlap={overlap}", *more]),
        {
            "deployment.batch_per_gpu": np.linspace(1, 128, size),
            "deployment.context_tokens": np.linspace(1000, 9000, size),
        },
    )
    segments = step_segments(scenario)
    plain, fast = (
        twin.step_times(segments, contention=contention, compiled=compiled) for compiled in (False, True)
    )
    assert np.array_equal(plain.step_time_s, fast.step_time_s)
    assert np.array_equal(plain.exposed_communication_s, fast.exposed_communication_s)


def test_they_are_loaded_where_many_scenarios_are_asked_for(monkeypatch):
    monkeypatch.setattr(type(twin_kernel()), "compiled_before", lambda _: True)
    assert twin._worth_compiled(twin.WORTH_COMPILED)
    assert not twin._worth_compiled(twin.WORTH_COMPILED - 1)
    monkeypatch.setattr(twin, "available", lambda: False)
    assert not twin._worth_compiled(twin.WORTH_COMPILED)


def twin_kernel():
    from perfmodel.overlap.compiled import KERNEL

    return KERNEL
