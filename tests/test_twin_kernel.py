"""The twin's compiled rounds against those in numpy, which define them: every scenario, to the last bit."""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_timeline import segments

from perfmodel.load import load_scenario
from perfmodel.ops.op import COMMUNICATION_STREAMS, COMPUTE_STREAMS, Stream
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
    steps = step_segments(scenario)
    plain, fast = (
        twin.step_times(steps, contention=contention, compiled=compiled) for compiled in (False, True)
    )
    assert np.array_equal(plain.step_time_s, fast.step_time_s)
    assert np.array_equal(plain.exposed_communication_s, fast.exposed_communication_s)


STREAMS = (*COMPUTE_STREAMS, *COMMUNICATION_STREAMS, Stream.HOST, Stream.HOST)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.booleans().flatmap(lambda carries: segments(carries, STREAMS)), min_size=1, max_size=2),
    st.booleans(),
)
def test_any_graph_is_advanced_alike(parts, contention):
    """With a host in the way, ahead or behind from the segment before, and periods that are put on."""
    plain, fast = (
        twin.step_times(parts, contention=contention, compiled=compiled) for compiled in (False, True)
    )
    assert np.array_equal(plain.step_time_s, fast.step_time_s)
    assert np.array_equal(plain.exposed_communication_s, fast.exposed_communication_s)


def test_they_are_loaded_where_many_scenarios_are_asked_for(monkeypatch):
    monkeypatch.setattr(type(twin_kernel()), "compiled_before", lambda _: True)
    monkeypatch.setattr(twin, "_SPENT", [0.0])
    monkeypatch.delitem(sys.modules, "perfmodel.overlap.kernel", raising=False)
    assert twin.worth_compiled(twin.WORTH_COMPILED)
    assert not twin.worth_compiled(twin.WORTH_COMPILED - 1)
    monkeypatch.setattr(twin, "available", lambda: False)
    assert not twin.worth_compiled(twin.WORTH_COMPILED)


def test_they_are_loaded_once_as_much_time_has_gone(monkeypatch):
    monkeypatch.setattr(type(twin_kernel()), "compiled_before", lambda _: True)
    monkeypatch.setattr(twin, "_SPENT", [0.0])
    monkeypatch.delitem(sys.modules, "perfmodel.overlap.kernel", raising=False)
    steps = step_segments(load_scenario("longcat-flash-h800", ["deployment.overlap=tbo"]))
    assert not twin.worth_compiled(1)
    twin.step_times(steps, compiled=False)
    assert twin._SPENT[0] > 0.0
    monkeypatch.setattr(twin, "LOADING_S", twin._SPENT[0])
    assert twin.worth_compiled(1)


def test_what_is_loaded_is_used(monkeypatch):
    from perfmodel.overlap import kernel

    monkeypatch.setitem(sys.modules, "perfmodel.overlap.kernel", kernel)
    assert twin.worth_compiled(1)


def test_nothing_more_is_compiled_than_was_said():
    """One signature: what warming up compiles is what the twin asks for."""
    from perfmodel.overlap import kernel

    kernel.compile_all()
    twin.step_times(step_segments(load_scenario("longcat-flash-h800")), compiled=True)
    assert len(kernel.run_all.signatures) == 1


def twin_kernel():
    from perfmodel.overlap.compiled import KERNEL

    return KERNEL
