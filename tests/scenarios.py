"""Scenarios that several tests start from."""

BARE = ('calibration=""', 'deployment.engine=""', 'routing.popularity=""')
"""Overrides of the main job that leave fractions of the peaks alone: no calibration (whose times belong to one device)
no engine's constants, and loads that are balanced.
"""
