"""What an import of tables prints: held-out errors per kernel class, and which aims were missed."""

from itertools import groupby
from statistics import median

from calibrate.public.build import Built
from calibrate.public.heldout import RANDOM, Errors


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
