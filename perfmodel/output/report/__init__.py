"""A cost report, told."""
