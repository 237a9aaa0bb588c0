"""The overlap experiment: two ranks over a slowed link, measured and predicted."""
