"""Parts of a calibration: kernel classes that few models ask for, in files of their own that are read when one does.

A part is a folder inside the calibration's, in the same format and with an id of its own. So what most scenarios rest
on stays as small, and as it was, when classes are added.
"""

from pathlib import Path

MIXERS = "mixers"
MODULES = "modules"
FORMATS = "formats"
RACKS = "racks"
"""Collectives over more GPUs than a node has, inside one link domain (an NVL72)."""
NAMES = (MIXERS, MODULES, FORMATS, RACKS)

OF_MIXERS = ("dsa_", "index_", "mla_sparse_", "hca_", "gdn_", "kda_", "conv_", "mhc_")
"""How the kernel classes of mixers begin (:mod:`perfmodel.ops.mixers`) that a part may hold."""
OF_MODULES = ("csa_flash_", "csa_pro_", "hca_flash_", "hca_pro_", "msa_module_")
"""How whole attentions of single models begin that are in a part of their own."""
RARE_FORMATS = ("mxfp4", "mxfp8", "int8")
"""Number formats whose products are in a part."""


def part_of(kernel: str, dtype: str) -> str:
    """The part that may hold the curve of a class in a number format; empty: none does."""
    if kernel.startswith(OF_MODULES):
        return MODULES
    if kernel.startswith(OF_MIXERS):
        return MIXERS
    return FORMATS if dtype in RARE_FORMATS else ""


def found_in(folder: Path, file_name: str) -> dict[str, Path]:
    """Part -> its file, of the parts that a calibration's folder has."""
    files = {name: folder / name / file_name for name in NAMES}
    return {name: path for name, path in files.items() if path.is_file()}
