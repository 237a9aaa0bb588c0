"""How long to wait for what another process does: longer on a slow machine, and where other work shares its cores."""

import time

LOOP = 4_000_000
NOMINAL_S = 0.1
"""Of the loop on a machine that does nothing else, with two cores of 2024: 0.09 s."""
MARGIN = 2.0
"""A browser and a server together feel other work more than one loop does, and it may come after the loop."""


def slowness():
    """Time of a plain loop, relative to the nominal one; at least 1. Takes about as long as NOMINAL_S."""
    started, x = time.perf_counter(), 0
    for i in range(LOOP):
        x += i
    return max((time.perf_counter() - started) / NOMINAL_S, 1.0)


def patient_s(seconds):
    """``seconds`` that are ample on a quiet machine, stretched for this one as it is now."""
    return seconds * MARGIN * slowness()
