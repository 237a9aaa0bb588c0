"""A fixed piece of work to set figures beside, so that a slow machine can be told from a regression."""

import time

import numpy as np

TURNS = 10_000_000
REFERENCE_S = 1.8
"""CPU seconds of the Python loop on the machine that budgets are stated for."""


def python_loop_s():
    """CPU seconds of a loop of additions in plain Python."""
    start, total = time.process_time(), 0
    for i in range(TURNS):
        total += i
    return time.process_time() - start


def numpy_loop_s():
    """CPU seconds of a hundred passes over a million numbers."""
    values = np.linspace(0.0, 1.0, 1_000_000)
    start = time.process_time()
    for _ in range(100):
        values = np.sqrt(values * 0.5 + 0.25)
    return time.process_time() - start
