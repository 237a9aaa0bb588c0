"""Lists the files of calibrations anew: ``python -m calibrate.device.sums FOLDER...`` (none: those that ship)."""

import sys
from pathlib import Path

from perfmodel.kernels.sums import write_sums
from perfmodel.spec import catalogue


def main() -> None:
    """Write SHA256SUMS of every folder named, and of those inside."""
    own = [catalogue.calibration_path(name).parent for name in catalogue.names("calibrations")]
    for folder in map(Path, sys.argv[1:]) if sys.argv[1:] else own:
        for one in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
            write_sums(one)


if __name__ == "__main__":
    main()
