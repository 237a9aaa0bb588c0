"""The journal survives any end, refuses what it can't continue, and becomes a Parquet file."""

import json
import math

import pandas as pd
import pytest

from calibrate.device.case import Case
from calibrate.device.journal import (
    JOURNAL,
    MEASURED,
    PARQUET,
    Contention,
    Record,
    Repeat,
    open_journal,
    read_journal,
    read_metadata,
    read_timings,
    to_parquet,
)
from perfmodel.errors import DataError

ENVIRONMENT = {"device": "cpu", "device_name": "test", "threads": 1, "torch": "2.13.0", "memory_bytes": 10**9}
HEADER = {"environment": ENVIRONMENT, "reference_probe_s": 3e-4, "requested": {"models": ["small"]}}


def record(m, seconds=1e-3):
    measured = dict(zip(MEASURED, (seconds, 2 * seconds, 0.01, 5, 10, 3e-4), strict=True))
    return Record(
        Case("gemm", "fp32", {"m": m, "n": 2, "k": 3}), measured, "2026-11-24T10:00:00.000+00:00", 0.25
    )


def write(folder, *records):
    journal = open_journal(folder, HEADER)
    for one in records:
        journal.append(one)
    journal.close()
    return folder / JOURNAL


def test_records_come_back_as_written(tmp_path):
    folder = tmp_path / "new" / "folder"
    write(folder, record(1), record(2))
    contents = read_journal(folder)
    assert contents.records == (record(1), record(2))
    assert contents.header == {"format": 1, **HEADER}


def test_appending_goes_on_after_the_last_record(tmp_path):
    write(tmp_path, record(1))
    journal = open_journal(tmp_path, HEADER | {"reference_probe_s": 9.0})
    assert journal.done == {record(1).case.key}
    assert journal.contents.header["reference_probe_s"] == 3e-4  # that of the first run
    journal.append(record(2))
    journal.close()
    assert read_journal(tmp_path).records == (record(1), record(2))


def test_cut_anywhere_at_most_the_last_record_is_lost(tmp_path):
    path = write(tmp_path, record(1), record(2))
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        lines = sum(end <= cut for end in ends)
        contents = read_journal(tmp_path)
        assert (contents is None) == (lines == 0)
        if contents is not None:
            assert len(contents.records) == lines - 1
    for cut in (ends[0] - 5, ends[0], ends[1] - 1, ends[2] - 3):
        path.write_bytes(whole[:cut])
        kept = read_journal(tmp_path)
        write(tmp_path, record(3))
        assert read_journal(tmp_path).records == (*(kept.records if kept else ()), record(3))


@pytest.mark.parametrize(
    ("field", "value"), [("device", "cuda"), ("device_name", "x"), ("threads", 2), ("torch", "3")]
)
def test_another_environment_is_refused_and_nothing_is_changed(tmp_path, field, value):
    path = write(tmp_path, record(1))
    before = path.read_bytes()
    with pytest.raises(DataError, match=rf"{field} = .*choose another --out"):
        open_journal(tmp_path, HEADER | {"environment": ENVIRONMENT | {field: value}})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda lines: [b'{"format": 99}\n', *lines[1:]], "format 99"),
        (lambda lines: [b"[1]\n", *lines[1:]], "format"),
        (lambda lines: [lines[0], b"\x00\xff garbage\n", *lines[1:]], "line 2 is not JSON"),
        (lambda lines: [lines[0], b"7\n", *lines[1:]], "line 2 is not a record"),
        (lambda lines: [lines[0], lines[1].replace(b"gemm", b"gemv"), lines[2]], "gemv"),
        (lambda lines: [lines[0], lines[1].replace(b'"seconds"', b'"second"'), lines[2]], "seconds"),
    ],
)
def test_damage_in_the_middle_is_an_error(tmp_path, change, word):
    path = write(tmp_path, record(1), record(2))
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
    before = path.read_bytes()
    for read in (read_journal, lambda folder: open_journal(folder, HEADER)):
        with pytest.raises(DataError, match=word):
            read(tmp_path)
    assert path.read_bytes() == before


def test_two_processes_can_not_write_one_journal(tmp_path):
    journal = open_journal(tmp_path, HEADER)
    with pytest.raises(DataError, match="another process"):
        open_journal(tmp_path, HEADER)
    journal.close()
    open_journal(tmp_path, HEADER).close()


def test_a_folder_that_can_not_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another --out"):
        open_journal(tmp_path / "file", HEADER)


def test_parquet_has_a_row_per_case_and_the_environment(tmp_path):
    write(tmp_path, record(1), record(2, seconds=5e-3))
    journal = open_journal(tmp_path, HEADER)
    journal.append(Record(Case("launch", "bf16", {}), record(1).measurement, "2026", 0.0))
    contention = Contention("fp32", 2, 1e6, 0.2, 1.5, "2026")
    journal.append(contention)
    repeat = Repeat(record(1).case, 1e-3, 1.1e-3, "2026")
    journal.append(repeat)
    journal.close()
    from_journal, metadata = read_timings(tmp_path), read_metadata(tmp_path)
    to_parquet(tmp_path)
    frame = pd.read_parquet(tmp_path / PARQUET)
    pd.testing.assert_frame_equal(frame, from_journal)
    pd.testing.assert_frame_equal(frame, read_timings(tmp_path))
    assert list(frame["kernel"]) == ["gemm", "gemm", "launch"]
    assert list(frame["m"][:2]) == [1.0, 2.0]
    assert math.isnan(frame["m"][2])
    assert list(frame["seconds"]) == [1e-3, 5e-3, 1e-3]
    assert set(MEASURED) | {"dtype", "time", "foreign_load", "context", "bytes"} <= set(frame)
    assert metadata == read_metadata(tmp_path)
    assert metadata["environment"] == ENVIRONMENT
    (stored,) = metadata["repeats"]
    assert Repeat(**stored | {"case": Case(**stored["case"])}) == repeat == read_journal(tmp_path).repeats[0]
    assert [Contention(**one) for one in metadata["contention"]] == [contention]
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_a_journal_newer_than_the_parquet_file_wins(tmp_path):
    write(tmp_path, record(1))
    to_parquet(tmp_path)
    write(tmp_path, record(2))
    assert len(read_timings(tmp_path)) == 2
    assert len(pd.read_parquet(tmp_path / PARQUET)) == 1


def test_no_timings_is_an_error(tmp_path):
    for read in (read_timings, read_metadata, to_parquet):
        with pytest.raises(DataError, match="holds no timings"):
            read(tmp_path)


def test_nan_never_gets_into_a_journal(tmp_path):
    journal = open_journal(tmp_path, HEADER)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append(record(1, seconds=math.nan))
    journal.close()
    assert json.loads((tmp_path / JOURNAL).read_text().splitlines()[-1])["format"] == 1


def test_a_foreign_parquet_file_is_an_error(tmp_path):
    (tmp_path / PARQUET).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"timings.parquet: can't be read"):
        read_metadata(tmp_path)
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / PARQUET)
    with pytest.raises(DataError, match="not written by calibrate"):
        read_metadata(tmp_path)


def test_another_request_is_refused(tmp_path):
    open_journal(tmp_path, HEADER).close()
    with pytest.raises(
        DataError, match=r"models = \['small'\], and this asks for \['medium'\]; choose another"
    ):
        open_journal(tmp_path, HEADER | {"requested": {"models": ["medium"]}})
    open_journal(tmp_path, HEADER).close()
