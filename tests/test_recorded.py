"""The record of all validation rows: what ships, what it says of where it comes from, and when it is written anew."""

from dataclasses import replace

import pytest

from calibrate.trust import write_record
from perfmodel.errors import DataError
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.load import load_scenario
from perfmodel.output.validation.markdown import validation_markdown
from perfmodel.spec import catalogue
from perfmodel.validation import recorded
from perfmodel.validation.ceilings import owner
from perfmodel.validation.evidence import closest
from perfmodel.validation.recorded import FILE, Recorded, content, differences, read, recorded_results
from perfmodel.validation.rows import Row, summarise
from perfmodel.validation.suites import SUITES, Validation, run_suites

SHIPPED = recorded_results()


def row(**changes):
    values = {
        "suite": "silicon", "id": "one", "model": "m", "quantity": "tpot_s", "unit": "s", "measured": 0.02,
        "predicted": 0.021, "role": "check", "source": "a table",
    }  # fmt: skip
    return Row(**(values | changes))


def result(*rows):
    return Validation(rows=rows, above_ceiling=(), calibrations=("c-1",))


def test_what_ships_is_small_and_its_bytes_follow_from_its_rows():
    assert FILE.stat().st_size < 1_200_000  # thirteen GPUs, their held-out rows among them
    assert content(SHIPPED) == content(read.__wrapped__(FILE))
    assert read.__wrapped__(FILE) == SHIPPED


@pytest.mark.parametrize("suite", ["longcat-theory", "kernels", "collectives"])
def test_the_record_is_what_a_suite_says_now(suite):
    """The other suites: test_published.py, which computes them anyway. Remake it: make trust."""
    assert list(differences(run_suites(suite).rows, SHIPPED.about(suites=[suite]).rows)) == []


def test_it_rests_on_the_calibrations_that_ship():
    names = {text.rpartition("-")[0] for text in SHIPPED.calibrations}
    for name in names - {"roofline"}:
        assert f"{name}-{load_calibration(name).id}" in SHIPPED.calibrations, f"{name} changed: make trust"
    assert len(names) >= 6


def test_every_suite_is_there_and_the_summary_is_the_commands():
    assert {owner(row.suite) for row in SHIPPED.rows} == set(SUITES)
    assert SHIPPED.summary() == summarise(SHIPPED.rows)
    assert validation_markdown(result(*SHIPPED.rows)).count("\n| silicon") > 8


def test_rows_name_gpus_and_engines_of_the_catalogue():
    assert {row.system for row in SHIPPED.rows} - {""} <= set(catalogue.names("gpus"))
    assert {row.engine for row in SHIPPED.rows} == {"", "deepseek", "sglang", "trtllm", "vllm"}
    named = [row for row in SHIPPED.rows if row.predicted is not None]
    assert all(row.system for row in named)
    for name in ("h800-sxm", "gb200-nvl72"):
        assert load_calibration(name).gpu == name  # a calibration's name stands for its GPU's


def test_rows_about_something():
    table6 = SHIPPED.about(model="longcat-flash", engine="sglang", system="h800-sxm")
    assert {row.suite for row in table6.rows} == {"longcat-measured", "longcat-measured-serving"}
    deepseek = SHIPPED.about(model="deepseek-v3")
    assert {"silicon", "deepseek", "longcat-theory"} <= {row.suite for row in deepseek.rows}
    assert all(row.engine == "vllm" for row in SHIPPED.about(engine="vllm").rows)
    assert SHIPPED.about(suites=["silicon"]).summary() == [
        line for line in SHIPPED.summary() if line["suite"] == "silicon"
    ]
    assert SHIPPED.about(model="no-such-model").rows == ()
    assert SHIPPED.about() == SHIPPED


def test_a_record_comes_back_as_it_was(tmp_path):
    odd = row(id="ü <b>", measured=float("inf"), predicted=None, reason="why", matches_printed=False)
    found = Recorded((row(), odd), "2026-11-28", "0.1.0", ("c-1", "c-2"))
    (tmp_path / "r.parquet").write_bytes(content(found))
    assert read(tmp_path / "r.parquet") == found


@pytest.mark.parametrize("damage", [b"", b"PAR1", None], ids=["empty", "cut", "missing"])
def test_a_broken_record_is_told(tmp_path, damage):
    if damage is not None:
        (tmp_path / "r.parquet").write_bytes(damage)
    with pytest.raises(DataError, match="make trust"):
        read(tmp_path / "r.parquet")


def test_a_parquet_file_of_something_else_is_told(tmp_path):
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="make trust"):
        read(tmp_path / "r.parquet")


def test_differences_are_named():
    assert list(differences([row()], [row(predicted=0.021 * (1 + 1e-7))])) == []
    (text,) = differences([row()], [row(predicted=0.022)])
    assert text == "silicon one tpot_s: predicted is 0.021, recorded 0.022"
    assert list(differences([row(predicted=None)], [row()]))
    assert list(differences([row(reason="a")], [row(reason="b")]))
    assert list(differences([], [row()])) == ["silicon one tpot_s: not computed any more"]
    assert list(differences([row()], [])) == ["silicon one tpot_s: not on record"]


def test_a_record_that_says_the_same_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "read", read.__wrapped__)
    path = tmp_path / "r.parquet"
    write_record(result(row()), path)
    old = replace(recorded.read(path), date="2020-01-01")
    path.write_bytes(content(old))
    write_record(result(row(predicted=0.021 * (1 + 1e-9))), path)
    assert path.read_bytes() == content(old)
    write_record(result(row(predicted=0.022)), path)
    assert recorded.read(path).rows[0].predicted == 0.022
    assert recorded.read(path).date != old.date


# --- which rows are most like a scenario ------------------------------------------------------------------------------


def test_the_closest_measurements_come_first_and_count_once():
    found = closest(load_scenario("longcat-flash-h800"), SHIPPED)
    assert found[0].words == "same model, GPU and engine"
    assert {line["suite"] for line in found[0].summary} == {"longcat-measured", "longcat-measured-serving"}
    assert [one.words for one in found[1:]] == [
        "same GPU, another model and engine", "same engine, another model and GPU",
    ]  # fmt: skip
    lines = [line for one in found for line in one.summary]
    assert {line["role"] for line in lines} == {"check"}
    assert not {line["suite"] for line in lines} & {"kernels", "collectives", "planning"}
    answered = [
        r for r in SHIPPED.rows
        if r.role == "check" and r.predicted is not None
        and not r.suite.startswith(("kernels", "collectives", "planning"))
        and not r.suite.endswith(("-noted", "-cold", "-repeated"))
        and (r.model == "LongCat-Flash" or r.system == "h800-sxm" or r.engine == "sglang")
    ]  # fmt: skip
    assert sum(line["answered"] for line in lines) == len(answered)


def test_without_an_engine_no_row_shares_it():
    found = closest(load_scenario("longcat-flash-h800", ["deployment.engine=''"]), SHIPPED)
    assert found[0].words == "same model and GPU, another engine"
    assert all("engine" not in one.alike for one in found)


def test_nothing_is_like_a_device_that_nobody_published():
    assert closest(load_scenario("reference-cpu"), SHIPPED) == []


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_rows_that_are_summed_up_apart_are_no_measurements_to_compare_with(name):
    """Stacks called broken, runs without a warm-up, duplicates: on record, and never the nearest."""
    apart = ("-noted", "-cold", "-repeated")
    on_record = {row.suite for row in SHIPPED.rows if row.suite.endswith(apart)}
    assert {"silicon-noted", "silicon-cold", "silicon-2026-repeated"} <= on_record
    found = {line["suite"] for one in closest(load_scenario(name), SHIPPED) for line in one.summary}
    assert not found & on_record
