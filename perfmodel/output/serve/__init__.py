"""A serving run, told."""
