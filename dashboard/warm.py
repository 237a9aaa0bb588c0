"""What the first screen needs, done once before anybody looks."""

from dashboard.asked import DEFAULT
from perfmodel.answers.step import answer_step
from perfmodel.explore.curve import batch_curve
from perfmodel.jit import available
from perfmodel.load import load_scenario
from perfmodel.output.charts.curve import trade_off_chart
from perfmodel.overlap.compiled import KERNEL


def warm_compiled() -> None:
    """Have the twin's compiled code in memory where there is any: half a second, which every process would take."""
    if available() and KERNEL.compiled_before():
        from perfmodel.overlap import kernel  # noqa: F401 - the twin takes it once it is loaded

        answer_step(load_scenario(DEFAULT, ["deployment.overlap=tbo"]), over_steps=False)


def warm() -> None:
    """Answer and draw the default scenario and throw it away: libraries, tables and calibrations are in memory then."""
    scenario = load_scenario(DEFAULT)
    answer_step(scenario, over_steps=False, ops=False)
    trade_off_chart(
        batch_curve(scenario), x="tokens_per_s_per_user", y="output_tokens_per_s_per_gpu", here=96
    )
