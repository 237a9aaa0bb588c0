"""A plan of a training run as a table, a scenario file."""
