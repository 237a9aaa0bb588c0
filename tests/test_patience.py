"""Waits of tests stretch with what a plain loop takes at that moment."""

import patience
import pytest


@pytest.mark.parametrize(
    ("took", "waits"), [(0.01, 60.0 * patience.MARGIN), (7.0 * patience.NOMINAL_S, 420.0 * patience.MARGIN)]
)
def test_a_wait_is_ample_on_a_quiet_machine_and_stretched_on_a_slow_one(took, waits, monkeypatch):
    clock = iter([5.0, 5.0 + took])
    monkeypatch.setattr(patience.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(patience, "LOOP", 10)
    assert patience.patient_s(60.0) == pytest.approx(waits)
