"""perfmodel: how fast a mixture-of-experts model runs on a cluster, what it costs, and how sure that is."""

from importlib import metadata

__version__ = metadata.version("perfmodel")

__all__ = ["__version__"]
