"""Roles of published rows: the committed file is what the rule gives, and the rule is what the issue says."""

import csv
import hashlib
from collections import Counter

import pytest

from perfmodel.spec.catalogue import DATA
from perfmodel.validation import roles

PUBLISHED = DATA / "published"
FILES = (
    "serving.csv", "silicon_serving.csv", "longcat_table6_measured.csv",
    "silicon_2026_field.csv", "serving_2026.csv", "silicon_2026.csv",
)  # fmt: skip
SERVING = ("model", "system", "framework", "precision", "attn_parallel", "moe_parallel")
SILICON = ("model", "system", "backend", "precision", "parallel_or_prefill", "decode")
NAMED_TARGETS = {
    "ds_profile_decode", "ds_profile_prefill", "ds_profile_dispatch_layer",
    "lmsys_h100_decode_256", "lmsys_h100_decode_mtp", "lmsys_h100_decode_tbo_on", "lmsys_h100_decode_tbo_off",
    "lmsys_h100_tbo_decode_gain_bs32", "lmsys_h100_tbo_decode_gain_bs256", "lmsys_h100_tbo_decode_gain_sim_mtp_bs128",
    "lmsys_h100_eplb_gain_decode",
}  # fmt: skip


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


COMMITTED = table(roles.ROLES)


def test_the_committed_file_is_the_rule_row_by_row():
    assert list(COMMITTED[0]) == list(roles.SETUP_COLUMNS)
    assert list(roles.assigned()) == COMMITTED
    assert Counter(row["file"] for row in COMMITTED) == {name: len(table(PUBLISHED / name)) for name in FILES}


def test_a_row_has_one_role():
    keys = [(row["file"], row["id"]) for row in COMMITTED]
    assert len(set(keys)) == len(keys)
    assert roles.committed() == {key: row["role"] for key, row in zip(keys, COMMITTED, strict=True)}
    assert {row["role"] for row in COMMITTED} == {"fit", "check"}


def test_the_hash_decides_where_no_name_does():
    """Groups and digits worked out again from the columns, without the module."""
    columns = {
        "serving.csv": SERVING, "silicon_serving.csv": SILICON, "silicon_2026_field.csv": SILICON,
        "serving_2026.csv": SERVING, "silicon_2026.csv": SILICON,
    }  # fmt: skip
    field = {row["id"]: row["role"] for row in COMMITTED if row["file"] == "silicon_2026_field.csv"}
    hashed, twins = Counter(), 0
    for file, names in columns.items():
        for record, row in zip(
            table(PUBLISHED / file), [row for row in COMMITTED if row["file"] == file], strict=True
        ):
            cells = [record[name] for name in names]
            if names is SILICON and not cells[-1]:
                cells.pop()
            assert row["id"] == record["id"]
            assert row["group"] == "|".join(cells)
            if record["id"] in NAMED_TARGETS or record["id"] == "lmsys_h100_eplb_gain_prefill":
                continue
            run, _, metric = record["id"].partition("__")
            if file == "serving_2026.csv" and run in field:
                assert row["role"] == field[run], row["id"]
                assert metric
                twins += 1
                continue
            digit = hashlib.sha256(row["group"].encode("utf-8")).hexdigest()[file == "silicon_2026.csv"]
            assert row["role"] == ("check" if digit >= "8" and digit in "89abcdef" else "fit"), row["id"]
            hashed[file] += 1
    assert hashed["serving.csv"] + hashed["silicon_serving.csv"] > 400
    assert hashed["silicon_2026.csv"] == 596
    assert hashed["serving_2026.csv"] > 20
    assert twins > 200


def test_every_field_run_stands_in_both_files_and_fourteen_clean_ones_judge():
    serving = {record["id"].partition("__")[0] for record in table(PUBLISHED / "serving_2026.csv")}
    field = table(PUBLISHED / "silicon_2026_field.csv")
    assert {record["id"] for record in field} <= serving
    found = roles.committed()
    clean = [record for record in field if not record["note"]]
    assert sum(found["silicon_2026_field.csv", record["id"]] == "check" for record in clean) == 14


def test_the_first_digit_kept_the_rows_of_2026_apart():
    """Why the second one decides there: by the first all of them would be fit."""
    own = [row for row in COMMITTED if row["file"] == "silicon_2026.csv"]
    assert {hashlib.sha256(row["group"].encode()).hexdigest()[0] for row in own} <= set("01234567")
    assert {row["role"] for row in own} == {"fit", "check"}


def test_transfer_models_enter_no_fit_whatever_their_role():
    """MiniMax-M2.5 and Qwen3.5-397B; gpt-oss-120b and the older files may."""
    names = {"MiniMaxAI/MiniMax-M2.5", "Qwen/Qwen3.5-397B-A17B"}
    seen = Counter()
    for record in table(PUBLISHED / "silicon_2026.csv"):
        role = roles.committed()["silicon_2026.csv", record["id"]]
        fits = roles.may_fit("silicon_2026.csv", record)
        assert fits == (role == "fit" and record["model"] not in names)
        why = next(row["why"] for row in COMMITTED if row["id"] == record["id"])
        assert ("enters no fit" in why) == (record["model"] in names)
        seen[role, record["model"] in names, fits] += 1
    assert set(seen) == {
        ("fit", True, False), ("fit", False, True), ("check", True, False), ("check", False, False)
    }  # fmt: skip


def test_rows_of_one_group_are_not_torn_apart():
    """A set-up is fitted on or judged by, never both; named rows are the only exceptions."""
    found = {}
    for row in COMMITTED:
        if row["why"].startswith("sha256"):
            found.setdefault(row["group"], set()).add(row["role"])
    assert all(len(own) == 1 for own in found.values())
    assert Counter(next(iter(own)) for own in found.values())["fit"] > 20


def test_no_longcat_row_is_fit():
    longcat = [row for row in COMMITTED if "longcat" in row["group"].lower()]
    assert len(longcat) >= 5
    assert {row["role"] for row in longcat} == {"check"}
    assert {row["role"] for row in COMMITTED if row["file"] == "longcat_table6_measured.csv"} == {"check"}


@pytest.mark.parametrize("file", FILES)
def test_a_longcat_row_would_be_check_whatever_its_hash_and_name(file):
    blank = dict.fromkeys(table(PUBLISHED / file)[0], "")
    for number in range(20):
        row = blank | {"model": f"meituan/LongCat-Flash-{number}", "id": "lmsys_h100_eplb_gain_prefill"}
        assert roles.role_of(file, row)[1] == "check"


def test_named_targets_are_check():
    assert set(roles.TARGETS) == NAMED_TARGETS
    named = {row["id"]: row["role"] for row in COMMITTED if row["file"] == "serving.csv"}
    assert {named[name] for name in NAMED_TARGETS} == {"check"}


def test_the_gain_of_balancing_prefill_sets_the_skew_and_that_of_decode_judges():
    found = roles.committed()
    assert found["serving.csv", "lmsys_h100_eplb_gain_prefill"] == "fit"
    assert found["serving.csv", "lmsys_h100_eplb_gain_decode"] == "check"
