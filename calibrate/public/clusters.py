"""The catalogue's cluster of a GPU, as a calibration file holds it."""

from typing import Any

from perfmodel.errors import DataError
from perfmodel.spec import catalogue


def cluster_section(gpu: str) -> dict[str, Any]:
    """The catalogue's cluster of a GPU, with the GPU written out: what ``cluster: calibrated`` stands for.

    Raises:
        DataError: the catalogue has none.
    """
    for name in catalogue.names("clusters"):
        entry = catalogue.entry("clusters", name)
        if entry["gpu"] == gpu:
            return {"name": name, **entry, "gpu": {"name": gpu, **catalogue.entry("gpus", gpu)}}
    raise DataError(f"{gpu}: the catalogue has no cluster of it")
