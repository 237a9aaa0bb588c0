"""What an import of tables prints: held-out errors per kernel class, and which aims were missed."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from calibrate.public.build import Built
from calibrate.public.heldout import RANDOM, Errors
from perfmodel.units import MEGA


def print_errors(built: Built) -> None:
    """A table of held-out errors per kernel class, of the random fifth and of whole slices, to stdout."""
    from rich.table import Table

    from perfmodel.output.console import console

    table = Table(
        title=f"{built.gpu}: median |error| of curves on a random fifth left out, and on whole slices, %"
    )
    table.add_column("kernel", no_wrap=True)
    for heading in ("curves", "median", "worst", "aim", "slices", "median", "worst", "aim"):
        table.add_column(heading, justify="right")
    ordered = sorted(built.errors, key=lambda error: error.kernel)
    for kernel, found in groupby(ordered, key=lambda error: error.kernel):
        errors = list(found)
        at_random = [error for error in errors if error.left_out == RANDOM]
        slices = [error for error in errors if error.left_out != RANDOM]
        table.add_row(kernel, *_cells(at_random), *_cells(slices))
    console().print(table)


def gpus_markdown() -> str:
    """What ships for each GPU, as a Markdown table."""
    from perfmodel.kernels.calibration_file import load_calibration
    from perfmodel.spec import catalogue

    lines = [
        "| calibration | from | curves, of parts | shapes | random fifth, median over curves (worst) | slices | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in catalogue.names("calibrations"):
        calibration = load_calibration(name)
        if not calibration.derivation and "tables" not in calibration.document:
            continue  # a device that was timed by calibrate profile
        folder = catalogue.calibration_path(name).parent
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / MEGA
        if calibration.derivation:
            how = calibration.derivation.how
            lines.append(
                f"| {name} | {how}; spread {calibration.derivation.log_std:g} | - | - | - | - | {size:.3g} |"
            )
            continue
        held = [part for part in map(calibration.part, calibration.parts) if part]
        errors = [error for one in (calibration, *held) for error in one.document["errors"]]
        cells = (
            str(calibration.document["environment"]["device_name"]),
            f"{len(calibration.all_curves)}, {sum(len(part.all_curves) for part in held)}",
            f"{sum(curve.num_rows for curve in calibration.whole()):,}",
            _spread_of([error for error in errors if error["left_out"] == RANDOM]),
            _spread_of([error for error in errors if error["left_out"] != RANDOM]),
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {size:.3g} |")
    return "\n".join(lines)


def parts_markdown() -> str:
    """Held-out errors of the classes in parts, by GPU, as a Markdown table: random fifth / worst slice, %."""
    from perfmodel.kernels.calibration_file import load_calibration
    from perfmodel.spec import catalogue

    found: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}
    gpus = []
    for name in catalogue.names("calibrations"):
        calibration = load_calibration(name)
        if calibration.derivation or not calibration.parts:
            continue
        gpus.append(name)
        for part in map(calibration.part, calibration.parts):
            for error in part.document["errors"] if part else ():
                key = (error["kernel"], "mxfp4" if error["dtype"] == "mxfp4" else "")
                at_random = error["left_out"] == RANDOM
                pair = (error["median_pct"], 0.0) if at_random else (0.0, error["median_pct"])
                found.setdefault(key, {}).setdefault(name, []).append(pair)
    lines = [f"| class | {' | '.join(gpus)} |", "|---" * (len(gpus) + 1) + "|"]
    for (kernel, dtype), own in sorted(found.items()):
        cells = []
        for name in gpus:
            pairs = own.get(name)
            if not pairs:
                cells.append("-")
                continue
            at_random = [value for value, _ in pairs if value]
            first = f"{median(at_random):.1f}" if at_random else "-"
            cells.append(f"{first} / {max(value for _, value in pairs):.0f}")
        lines.append(f"| {' '.join(filter(None, (kernel, dtype)))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread_of(errors: Sequence[Mapping[str, Any]]) -> str:
    values = [float(error["median_pct"]) for error in errors]
    return f"{median(values):.1f} % ({max(values):.0f})" if values else "-"


def missed(built: Built) -> list[str]:
    """The curves whose median held-out error is above the aim, in words."""
    return [
        f"{' '.join(filter(None, (error.kernel, error.dtype, error.backend, error.engine)))}: {error.left_out}: median "
        f"error {error.median_pct:.1f} %, aim {error.target_pct:g} %"
        for error in built.errors
        if not error.met
    ]


def _cells(errors: list[Errors]) -> list[str]:
    if not errors:
        return ["0", "-", "-", "-"]
    values = [error.median_pct for error in errors]
    return [str(len(errors)), f"{median(values):.1f}", f"{max(values):.1f}", f"{errors[0].target_pct:g}"]
