"""What the first screen needs, done once before anybody looks."""

from perfmodel.answers.step import answer_step
from perfmodel.explore.curve import batch_curve
from perfmodel.load import load_scenario
from perfmodel.output.charts.curve import trade_off_chart


def warm() -> None:
    """Answer and draw the default scenario and throw it away: libraries, tables and calibrations are in memory then."""
    from dashboard.asked import DEFAULT

    scenario = load_scenario(DEFAULT)
    answer_step(scenario, over_steps=False)
    trade_off_chart(
        batch_curve(scenario), x="tokens_per_s_per_user", y="output_tokens_per_s_per_gpu", here=96
    )
