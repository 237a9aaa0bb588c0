"""Calibrations of AMD's GPUs out of aiter's tuning files, and the rows of them that ship for the fractions.

Only products are curves, and only of shapes that were tuned: whatever else a step asks (attention, experts, other
shapes, transfers) is answered by fractions (:mod:`calibrate.tables.amd`), which need no more than a thinned file.
"""

import csv
import io
import sys
from pathlib import Path

from calibrate.public import aiter
from calibrate.public.build import Built, Origin, written
from calibrate.public.heldout import hold_out
from perfmodel.errors import DataError
from perfmodel.files import atomic_write
from perfmodel.kernels.achievable import FOLDER
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.units import US

TIMED = {"mi300x": "gfx942 with 304 compute units (MI300X or MI325X)", "mi355x": "gfx950 (MI350X or MI355X)"}
"""Catalogue GPU that is made from the files -> what the files call it."""
NOISE_OF = "h200-sxm"
"""No shape was tuned twice in these files: the noise of a timing is taken from NVIDIA's tables."""
NOTICE = """Fitted on tuning files of aiter (https://github.com/ROCm/aiter): {source}.
Changes: units converted, a subset selected, impossible and untimed rows left out, times made to grow with the work;
heldout.csv holds single rows of them. Their licence:

Copyright (c) Advanced Micro Devices, Inc. All rights reserved.

MIT License

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
ROWS = "measured_amd.csv"
"""The rows that fractions are fitted on, in perfmodel/data/kernels."""
FIELDS = ("kernel", "gpu", "dtype", "m", "n", "k", "experts", "top_k", "us")
SIZES = tuple(4**i for i in range(9))
"""Sizes of which a row ships: 1 to 65,536 tokens, so that every tuned shape weighs alike whatever else of it was
tuned."""


def build(folder: Path, gpu: str, out: Path, created: str | None = None) -> Built:
    """Make the calibration of an AMD GPU in ``out`` from a copy of aiter/configs.

    Raises:
        DataError: another GPU, no files, or one that can't be read or written.
    """
    if gpu not in TIMED:
        raise DataError(f"--system {gpu}: aiter has no tuning files of it; known: {', '.join(TIMED)}")
    held = [hold_out(one) for one in aiter.samples(aiter.products(folder), gpu)]
    origin = Origin(
        label=aiter.SOURCE,
        tables="products tuned for one shape each",
        device_name=TIMED[gpu],
        repeat_log_std=load_calibration(NOISE_OF).repeat_log_std,
        repeats=f"no shape was timed twice: as {NOISE_OF}",
        notice=NOTICE.format(source=aiter.SOURCE),
    )
    left = [
        "attention, fused experts, transfers: fractions (perfmodel/data/kernels/achievable.csv, communication.csv)"
    ]
    return written(origin, gpu, out, held, [], left, created, most_held_out=300)


def write_rows(folder: Path, out: Path = FOLDER / ROWS) -> int:
    """Write the thinned rows for the fractions; how many there are.

    Raises:
        DataError: as :func:`build`.
    """
    rows: list[tuple[object, ...]] = [
        ("gemm", one.gpu, one.dtype, one.m, one.n, one.k, "", "", f"{one.seconds / US:.4g}")
        for one in aiter.products(folder)
        if one.m in SIZES
    ]
    for moe in aiter.experts(folder):
        sizes = (moe.tokens, moe.width, moe.hidden, moe.experts, moe.top_k)
        if moe.tokens in SIZES or moe.gpu == "mi300x":  # of which there are few
            rows += [("grouped_gemm", moe.gpu, moe.dtype, *sizes, f"{moe.seconds / US:.4g}")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(rows)
    atomic_write(out, text.getvalue())
    return len(rows)


if __name__ == "__main__":
    print(f"wrote {write_rows(Path(sys.argv[1]))} rows to {FOLDER / ROWS}")
