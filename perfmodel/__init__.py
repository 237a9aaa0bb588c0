"""perfmodel: how fast a mixture-of-experts model runs on a cluster, what it costs, and how sure that is."""

__version__ = "0.1.0"
"""The package's metadata takes it from here: reading it there costs as much as importing numpy."""

__all__ = ["__version__"]
