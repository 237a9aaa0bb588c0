"""From public measured kernel tables to calibrations of real GPUs (``calibrate import-tables``)."""
