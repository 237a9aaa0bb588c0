"""CPU time of whole commands, over the yardstick's in the same run: `make bench`."""

import pytest

from bench.yardstick import cpu_s, yardstick_s

BUDGETS = {
    "--help": 0.22,
    "show models": 0.33,
    "step longcat-flash-h800 --json": 0.67,
    "step no-such-scenario": 0.33,
    "step longcat-flash-h800 --set deployment.ep=banana": 0.33,
}
"""Command -> most of the yardstick's time."""


@pytest.mark.parametrize("command", BUDGETS)
def test_a_command_is_short(benchmark, command):
    arguments = ["-m", "perfmodel", *command.split()]
    cpu_s(arguments, repeats=1)  # compiles
    ratio = benchmark.pedantic(lambda: cpu_s(arguments) / yardstick_s(), rounds=1)
    benchmark.extra_info["cpu_over_yardstick"] = round(ratio, 3)
    print(f"{command}: {ratio:.2f} of the yardstick, budget {BUDGETS[command]}")
    assert ratio < BUDGETS[command]
