"""Names of files that lead nowhere, or to what is no file, wherever one can be given."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.hostile.mutate import ODD_TEXTS

SUFFIXES = ("", ".yaml", ".json", ".csv", ".jsonl", ".parquet", ".npz", ".gz", ".html", "/")


def furnished(folder: Path) -> list[str]:
    """Names in a folder that are a loop, a pipe, closed, a link, too long, not UTF-8, and plain."""
    (folder / "loop").symlink_to("loop")
    (folder / "file.yaml").write_text("base: longcat-flash-h800\n")
    (folder / "link.yaml").symlink_to("file.yaml")
    (folder / "dangling.yaml").symlink_to("nothing")
    (folder / "closed").mkdir(mode=0o000)
    os.mkfifo(folder / "pipe.yaml")
    strange = os.fsdecode(os.fsencode(folder) + b"/a\xff.yaml")
    Path(strange).write_text("base: longcat-flash-h800\n")
    inside = (
        "",
        "loop",
        "loop/x.yaml",
        "file.yaml/x",
        "é" * 200,
        "closed/x.yaml",
        "link.yaml",
        "dangling.yaml",
        "missing.yaml",
        "a" * 240,
    )
    return [
        *(str(folder / one) for one in inside),
        strange,
        "/proc/self/mem",
        "/dev/full",
        "/dev/zero",
        "/dev/null",
        "/proc/self/fd",
        "/",
    ]


def path(chance: random.Random, folder: Path) -> str | None:
    """Any use of any name; what was there before stays."""
    from perfmodel.files import atomic_write, check_distinct, check_writable
    from perfmodel.kernels.calibration_file import load_calibration
    from perfmodel.load import load_scenario
    from perfmodel.output.inputs import check_outputs
    from perfmodel.spec.traces.read import read_trace
    from perfmodel.validation.user_data import read_measurements

    name = chance.choice([*ODD_TEXTS, *furnished(folder)])
    where = f"{name}{chance.choice(SUFFIXES)}"
    uses: list[Callable[[], Any]] = [
        lambda: load_scenario(where),
        lambda: load_scenario("longcat-flash-h800", [f"model={where}"]),
        lambda: load_scenario(
            "longcat-flash-h800", [f"routing.histogram={where}", "routing.popularity=histogram"]
        ),
        lambda: load_calibration(where),
        lambda: read_trace(where),
        lambda: read_measurements(Path(where)),
        lambda: check_writable(Path(where)),
        lambda: check_distinct({"--html": Path(where)}, {"x": folder / "file.yaml"}),
        lambda: check_outputs({"--html": Path(where)}, [str(folder / "link.yaml")]),
    ]
    if where.startswith(str(folder)):
        uses.append(lambda: atomic_write(folder / "out" / Path(where).name, "x"))
    try:
        chance.choice(uses)()
    finally:
        (folder / "closed").chmod(0o700)
        if (folder / "file.yaml").read_text() != "base: longcat-flash-h800\n":
            raise AssertionError("lost: file.yaml")
    return None
