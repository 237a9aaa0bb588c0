"""Scenarios that several tests start from."""

BARE = ('calibration=""', 'deployment.engine=""')
"""Overrides of the main job that leave fractions of the peaks alone: no calibration (whose times belong to one device)
and no engine's constants.
"""
