"""Which published rows may set a constant (``fit``) and which judge the result (``check``).

The roles are in ``data/published/roles.csv``, committed before the first fit (those of the files of 2026 before the
first fit on them). The rule that made it is :func:`role_of`; a test applies it again to every row. No constant is
fitted on a ``check`` row, no LongCat row is ever ``fit``, and rows of ``TRANSFER`` models enter no fit whatever their
role.
"""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from perfmodel.spec.catalogue import DATA

ROLES = DATA / "published" / "roles.csv"
FILES = (
    "serving.csv",
    "silicon_serving.csv",
    "longcat_table6_measured.csv",
    "silicon_2026_field.csv",
    "serving_2026.csv",
    "silicon_2026.csv",
)
"""The measured files, in the order of the roles file."""
SILICON = ("silicon_serving.csv", "silicon_2026_field.csv", "silicon_2026.csv")
"""Those in the columns of ``silicon_serving.csv``; ``serving_2026.csv`` has those of ``serving.csv``."""
DIGIT = {"silicon_2026.csv": 1}
"""Which hex digit decides, where it is not the first: rows of ``silicon_2026.csv`` were kept apart by the first."""
TRANSFER = ("MiniMaxAI/MiniMax-M2.5", "Qwen/Qwen3.5-397B-A17B")
"""Models that show how far constants travel: their rows keep the rule's role and enter no fit."""
SETUP_COLUMNS = ("file", "id", "group", "role", "why")
FIT_BY_NAME = {"lmsys_h100_eplb_gain_prefill": "for the routing skew alone"}
"""Rows that are ``fit`` whatever their hash says."""
TARGETS = (
    *(f"ds_profile_{name}" for name in ("decode", "prefill", "dispatch_layer")),
    *(f"lmsys_h100_decode_{name}" for name in ("256", "mtp", "tbo_on", "tbo_off")),
    *(f"lmsys_h100_tbo_decode_gain_{name}" for name in ("bs32", "bs256", "sim_mtp_bs128")),
    "lmsys_h100_eplb_gain_decode",
)
"""Named targets, ``check`` by rule: DeepSeek-V3 on H800 in its published profile, and SGLang's EP72 decode on H100."""


def role_of(file: str, row: Mapping[str, str]) -> tuple[str, str, str]:
    """(group, role, why) of a row of one of :data:`FILES`.

    A group is ``model|system|engine|precision|parallelism``, cells as printed; where a row has a decode layout of its
    own, ``|decode`` follows. It is ``check`` if the first hex digit of its SHA-256 (UTF-8) is 8 to f; in
    ``silicon_2026.csv`` the second. A figure of ``serving_2026.csv`` whose run stands in ``silicon_2026_field.csv``
    too has that row's role.
    """
    group = "|".join(_cells(file, row))
    if "longcat" in row["model"].lower():
        return group, "check", "LongCat"
    if file == "longcat_table6_measured.csv":
        return group, "check", "repeats a named target or DeepSeek's production average"
    if row.get("id") in FIT_BY_NAME:
        return group, "fit", FIT_BY_NAME[row["id"]]
    if row.get("id") in TARGETS:
        return group, "check", "named target"
    twin = _field_runs().get(run_of(row)) if file == "serving_2026.csv" else None
    if twin is not None:
        _, role, _ = role_of("silicon_2026_field.csv", twin)
        return group, role, f"the run {twin['id']} of silicon_2026_field.csv"
    place = DIGIT.get(file, 0)
    digit = hashlib.sha256(group.encode()).hexdigest()[place]
    why = f"sha256 begins with {digit}" if place == 0 else f"digit {place + 1} of sha256 is {digit}"
    if is_transfer(row):
        why += "; transfer: enters no fit"
    return group, "check" if digit in "89abcdef" else "fit", why


def is_transfer(row: Mapping[str, str]) -> bool:
    """Whether the row is of a model that no fit may see."""
    return row["model"] in TRANSFER


def may_fit(file: str, row: Mapping[str, str]) -> bool:
    """Whether a fit of constants may see the row, by its role and its model."""
    return committed()[file, row_id(row)] == "fit" and not is_transfer(row)


def run_of(row: Mapping[str, str]) -> str:
    """The run that a figure of ``serving_2026.csv`` belongs to: ``run__metric``."""
    return row["id"].partition("__")[0]


@cache
def _field_runs() -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_published("silicon_2026_field.csv")}


def _cells(file: str, row: Mapping[str, str]) -> tuple[str, ...]:
    if file in SILICON:
        decode = (row["decode"],) if row["decode"] else ()
        names = "model system backend precision parallel_or_prefill"
        return (*(row[name] for name in names.split()), *decode)
    if file in ("serving.csv", "serving_2026.csv"):
        names = "model system framework precision attn_parallel moe_parallel"
        return tuple(row[name] for name in names.split())
    return (row["model"], "", "", row["attention_dtype"], "")


def row_id(row: Mapping[str, str]) -> str:
    """A row's own id; the report's Table 6 has none, so model, format, context and throughput name it."""
    return row.get("id") or "-".join(
        row[name]
        for name in ("model", "attention_dtype", "avg_context_tokens", "output_tokens_per_s_per_gpu")
    )


def assigned() -> Iterator[dict[str, str]]:
    """The roles file's records as the rule gives them, row by row of the published files."""
    for file in FILES:
        for row in read_published(file):
            group, role, why = role_of(file, row)
            yield {"file": file, "id": row_id(row), "group": group, "role": role, "why": why}


@cache
def committed() -> dict[tuple[str, str], str]:
    """Role by (file, id), as committed."""
    with ROLES.open(newline="", encoding="utf-8") as file:
        return {(row["file"], row["id"]): row["role"] for row in csv.DictReader(file)}


def read_published(name: str) -> list[dict[str, Any]]:
    """The records of a file of ``data/published``."""
    with (DATA / "published" / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
