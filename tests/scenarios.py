"""Scenarios that several tests start from."""

BARE = ('calibration=""', 'deployment.engine=""', 'routing.popularity=""')
"""Overrides of the main job that leave fractions of the peaks alone: no calibration (whose times belong to one device)
no engine's constants, and loads that are balanced.
"""


def told(step):
    """Everything that is said of a simulated step: warnings and standing caveats."""
    from perfmodel.answers.basis import rest_of
    from perfmodel.answers.caveats import caveat_values, step_caveats

    values = caveat_values(step_caveats(rest_of([(step, 1.0)])))
    return [*values["warnings"], *values["caveats"]]
