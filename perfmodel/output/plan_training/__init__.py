"""A plan of a training run as a table, a page, a scenario file."""
