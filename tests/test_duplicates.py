"""One measurement in several rows, and how far repeated measurements differ."""

import math
import statistics
from collections import Counter

import pytest

from perfmodel.validation import duplicates, roles
from perfmodel.validation.duplicates import Floor, is_same, repeat_floor, repeated

FILE = "silicon_serving.csv"
RECORDS = {(file, record["id"]): record for file in roles.SILICON for record in roles.read_published(file)}
CELLS = dict.fromkeys(RECORDS[next(iter(RECORDS))], "") | {
    "model": "m", "isl": "1024", "osl": "1024", "concurrency": "8", "measured": "2026-03-01",
    "ttft_ms": "100.0", "tpot_ms": "10.0",
}  # fmt: skip


@pytest.fixture
def files(monkeypatch):
    """Published files of made-up rows."""

    def make(**files):
        monkeypatch.setattr(roles, "read_published", lambda name: files.get(name.removesuffix(".csv"), []))
        repeated.cache_clear()

    yield make
    repeated.cache_clear()


def row(name, **changes):
    return CELLS | {"id": name} | changes


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("12.907", "12.91", True), ("12.175", "12.17", True), ("12.175", "12.18", True), ("34.958", "34.96", True),
        ("12.907", "12.90", False), ("12.9", "12.91", True), ("12.907", "12.907", True), ("12.907", "12.908", False),
        ("10", "10.4", True), ("10", "10.6", False), ("", "", True), ("", "10", False),
    ],
)  # fmt: skip
def test_figures_are_compared_to_the_digits_that_both_print(first, second, same):
    for one, other in ((first, second), (second, first)):
        assert is_same(row("a", tpot_ms=one), row("b", tpot_ms=other)) is same
    assert not is_same(row("a", tpot_ms=first, ttft_ms="1"), row("b", tpot_ms=second, ttft_ms="2"))


def test_kept_is_the_clean_dated_first_one(files):
    files(
        silicon_serving=[
            row("undated", measured="", tpot_ms="10.00"), row("noted", note="twin"), row("dated"), row("again"),
            row("other", concurrency="9"), row("older", backend_version="1"), row("slower", tpot_ms="10.2"),
        ],
        silicon_2026=[row("elsewhere", tpot_ms="9.98", measured="")],
    )  # fmt: skip
    kept = (FILE, "dated")
    assert repeated() == {
        (FILE, "undated"): kept, (FILE, "noted"): kept, (FILE, "again"): kept,
        ("silicon_2026.csv", "elsewhere"): kept,
    }  # fmt: skip


def test_the_floor_by_hand(files):
    files(
        silicon_serving=[
            row("a"), row("b", tpot_ms="11", ttft_ms="100"), row("c", tpot_ms="12", ttft_ms="150"),
            row("again"), row("noted", tpot_ms="30", note="twin"), row("other", isl="2", tpot_ms="99"),
            row("no load", concurrency="", tpot_ms="50"), row("no load either", concurrency="", tpot_ms="60"),
        ],
    )  # fmt: skip
    logs = sorted(math.log(ratio) for ratio in (1.1, 1.2, 12 / 11))
    assert repeat_floor(FILE)["tpot_s"] == pytest.approx(Floor(3, logs[1]))
    assert repeat_floor(FILE)["ttft_s"] == pytest.approx(Floor(3, math.log(1.5)))


def test_a_cold_start_is_no_repetition_of_a_warm_run(files):
    cold = {"origin": "2026-03-25.csv", "mode": "agg", "measured": "2026-01-01", "ttft_ms": "900"}
    files(silicon_serving=[row("a", mode="agg"), row("b", tpot_ms="11", **cold)])
    found = repeat_floor(FILE)
    assert found["tpot_s"].pairs == 1
    assert found["ttft_s"].pairs == 0
    assert math.isnan(found["ttft_s"].median_abs_log)


def test_published_rows_that_repeat_another():
    found = repeated()
    assert Counter(file for file, _ in found) == {FILE: 12, "silicon_2026.csv": 31}
    assert not set(found) & set(found.values())  # what is kept repeats nothing
    committed = roles.committed()
    undated = 0
    for dropped, kept in found.items():
        one, other = RECORDS[dropped], RECORDS[kept]
        assert all(one[name] == other[name] for name in duplicates.SET_UP)
        for name in ("ttft_ms", "tpot_ms"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=6e-4)
        assert committed[dropped] == committed[kept]
        undated += bool(one["measured"]) != bool(other["measured"])
    assert (
        undated == 8 + 31
    )  # of undated files, whose figures stand elsewhere with their day and a digit more


def test_once_leaves_each_measurement_once_and_reads_no_file(monkeypatch):
    monkeypatch.setattr(roles, "read_published", None)
    own = {
        FILE: [row("undated", measured=""), row("other", isl="2"), row("dated")],
        "b.csv": [row("b", note="n")],
    }
    found = duplicates.once(own)
    assert {file: [one["id"] for one in records] for file, records in found.items()} == {
        FILE: ["other", "dated"], "b.csv": [],
    }  # fmt: skip


def test_a_fit_sees_each_measurement_once():
    from calibrate.engines.rows import jobs, taken

    seen = [record["id"] for file, record in jobs() if file == FILE]
    assert len(seen) > 80
    assert {record["id"] for file, record in taken(jobs()) if file == FILE} <= set(seen)
    assert not {name for file, name in repeated() if file == FILE} & set(seen)
    assert {name for file, name in repeated().values() if file == FILE} & set(seen)


@pytest.mark.parametrize(("file", "pairs"), [(FILE, 10), ("silicon_2026.csv", 90)])
def test_repeated_measurements_differ_by_a_percent_of_tpot_and_four_of_ttft(file, pairs):
    found = repeat_floor(file)
    assert found["tpot_s"].pairs >= found["ttft_s"].pairs >= pairs - 1
    assert 0.002 < found["tpot_s"].median_abs_log < 0.015
    assert 0.02 < found["ttft_s"].median_abs_log < 0.06
    assert statistics.fmean(one.median_abs_log for one in found.values()) < 0.05
