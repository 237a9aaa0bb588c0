"""``python -m calibrate.engines`` (``make engine-constants``): fit, and write the constants file."""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor

from calibrate.engines.document import document
from perfmodel.engines.profile import FITTED
from perfmodel.files import atomic_write


def main() -> None:
    """Fit and write ``data/engines/fitted.yaml``."""
    from ruamel.yaml import YAML
    from ruamel.yaml.compat import StringIO

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: the machine's cores)")
    asked = parser.parse_args()
    with ProcessPoolExecutor(asked.workers) as pool:
        found = document(pool, lambda text: print(text, file=sys.stderr, flush=True))
    text = StringIO()
    yaml = YAML()
    yaml.width = 120
    yaml.dump(found, text)
    head = "# Constants of serving engines, written by calibrate.engines (make engine-constants)."
    atomic_write(FITTED, f"{head} Do not edit by hand.\n" + text.getvalue())
    for name, values in found.items():
        print(name, values)


if __name__ == "__main__":
    main()
