"""A fixed amount of work, timed in the same run as what is measured: tells a slow machine from a slow program."""

import resource
import subprocess
import sys
import time

import numpy as np

YARDSTICK = "x = 0\nfor i in range(10**7): x += i"
"""Ten million turns at module level, in a Python of its own."""


def cpu_s(arguments, repeats=5):
    """CPU seconds of ``python *arguments`` with all its threads: the least of several runs."""
    least = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


def yardstick_s():
    """CPU seconds of the yardstick here and now."""
    return cpu_s(["-c", YARDSTICK], repeats=3)


SLOW_S = 1.8
"""What the yardstick takes on the machine that the design's budgets are stated for."""


def at_budget_s(call, repeats=3):
    """CPU seconds of ``call()`` in this process, the least of several, as on the machine of the budgets."""
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        least = min(least, time.process_time() - start)
    return least * SLOW_S / yardstick_s()


def numpy_s():
    """CPU seconds of a hundred passes over a million numbers."""
    values = np.linspace(0.0, 1.0, 1_000_000)
    start = time.process_time()
    for _ in range(100):
        values = np.sqrt(values * 0.5 + 0.25)
    return time.process_time() - start
