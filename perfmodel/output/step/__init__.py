"""One step, told."""
