"""Fits on public measured kernels and collectives: the tables that cost what no calibration covers."""
