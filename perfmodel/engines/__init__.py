"""What a serving engine of a version does: its defaults, as data, filled into a scenario."""
