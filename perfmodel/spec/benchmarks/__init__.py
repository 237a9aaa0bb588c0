"""Readers of what other tools measured: a result file -> :class:`~perfmodel.spec.benchmarks.measured.Benchmark`."""
