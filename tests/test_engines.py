"""Constants of serving engines: fitted on ``fit`` rows alone, written whole, neutral where there are none."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from calibrate import engines
from calibrate.engines import LOADS, MIN_ROWS, FitRow, document, fit_engine, fit_rows
from perfmodel.errors import DataError
from perfmodel.spec import engine
from perfmodel.spec.deployment import Deployment
from perfmodel.spec.engine import EngineConstants, engine_constants
from perfmodel.spec.load import load_scenario
from perfmodel.step import predict_steps
from perfmodel.validation import roles, serving, silicon

TRUTH = np.array([3000.0, 12.0, 1.37])
"""Host gap us, synchronisation us, imbalance."""


def made_rows(count=24, truth=TRUTH, noise=0.0, name="sglang", seed=0, imbalance=True, groups=3):
    """Rows that an engine of known constants would give; some feel the imbalance, some do not. A fit is made per group
    left out and set of constants, so that its time grows with the groups.
    """
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        own = random.uniform(2e-3, 4e-2)
        share = random.uniform(0.1, 0.6) if imbalance and number % 2 else 0.0
        base = own * (1.0 + share * (np.array(LOADS) - 1.0))
        slope = np.array([1e-6, 61e-6 if number % 3 else 94e-6]) * random.uniform(1.0, 1.5, 2)
        exact = FitRow("", name, "", 1.0, base, slope).predicted_s(truth)
        found.append(
            FitRow(
                f"row{number}",
                name,
                f"group{number % groups}",
                exact * np.exp(noise * random.standard_normal()),
                base,
                slope,
            )
        )
    return found


# --- the fit -------------------------------------------------------------------------------------------------


def test_a_row_is_linear_in_times_and_between_imbalances():
    row = FitRow("a", "sglang", "g", 1.0, np.array([1.0, 1.5, 2.0, 4.0, 8.0]), np.array([2.0, 3.0]))
    assert row.predicted_s(np.array([0.0, 0.0, 1.0])) == 1.0
    assert row.predicted_s(np.array([0.1, 0.01, 1.125])) == pytest.approx(1.25 + 0.2 + 0.03)
    assert row.predicted_s(np.array([0.0, 0.0, 1.75])) == pytest.approx(3.0)


def test_known_constants_are_found_again():
    constants, residuals = fit_engine(made_rows(groups=6))
    assert constants == pytest.approx(TRUTH, rel=0.01)
    assert np.abs(residuals).max() < 1e-3


def test_rows_that_are_wrong_do_not_bend_them():
    rows = made_rows(count=60, noise=0.01)
    bent = [
        replace(row, measured_s=row.measured_s * (3.0 if number % 10 == 0 else 1.0))
        for number, row in enumerate(rows)
    ]
    constants, _ = fit_engine(bent)
    assert constants == pytest.approx(TRUTH, rel=0.25)


def test_an_engine_whose_rows_feel_no_imbalance_keeps_none():
    constants, _ = fit_engine(made_rows(imbalance=False))
    assert constants[2] == pytest.approx(1.0, abs=1e-6)
    assert constants[:2] == pytest.approx(TRUTH[:2], rel=0.01)


def test_constants_are_never_negative():
    constants, _ = fit_engine(made_rows(truth=np.array([-2000.0, -5.0, 1.0])))
    assert constants[:2] == pytest.approx([0.0, 0.0], abs=0.5)


def test_the_document_has_engines_with_enough_rows_and_the_spread_that_is_left():
    few = made_rows(count=MIN_ROWS - 1, name="vllm")
    rows = [*made_rows(noise=0.1, count=60), *few, *made_rows(count=MIN_ROWS, name="trtllm")]
    found = document(rows)
    assert set(found) == {"sglang", "trtllm"}
    assert found["sglang"]["log_std"] == pytest.approx(0.1, rel=0.35)
    assert found["trtllm"]["log_std"] < 0.005
    assert (found["sglang"]["rows"], found["trtllm"]["rows"]) == (60, MIN_ROWS)
    for values in found.values():
        assert EngineConstants.model_validate(values).source


# --- which rows ----------------------------------------------------------------------------------------------


def picked(file, role, count, wanted=lambda record: True):
    committed = roles.committed()
    own = [r for r in roles.read_published(file) if committed[file, r["id"]] == role and wanted(r)]
    assert len(own) >= count
    return own[:count]


def clean(record):
    return not record["note"] and record["mode"] == "agg" and bool(record["tpot_ms"])


@pytest.fixture(scope="module")
def published():
    """A few rows of each role, as the files hold them."""
    return {
        silicon.FILE: [
            *picked(silicon.FILE, "fit", 2, clean),
            *picked(silicon.FILE, "check", 2, clean),
            *picked(
                silicon.FILE,
                "fit",
                1,
                lambda r: bool(r["note"]) and r["mode"] == "agg" and bool(r["tpot_ms"]),
            ),
            *picked(
                silicon.FILE,
                "fit",
                1,
                lambda r: not r["note"] and r["mode"] == "disagg" and bool(r["tpot_ms"]),
            ),
        ],
        "serving.csv": [
            *picked("serving.csv", "fit", 1, serving.answerable),
            *picked("serving.csv", "check", 4, serving.answerable),
        ],
    }


def fitted_on(tables):
    """The fit's rows with ``tables`` for the published files; whatever else it might read fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "read_published", lambda name: tables[name])
        return fit_rows(progress=lambda text: None)


@pytest.fixture(scope="module")
def found(published):
    return fitted_on(published)


def changed(tables, role, **cells):
    """The tables with other measured figures in the rows of a role."""
    committed = roles.committed()
    return {
        file: [
            {**record, **{key: value for key, value in cells.items() if key in record}}
            if committed[file, record["id"]] == role
            else record
            for record in records
        ]
        for file, records in tables.items()
    }


def same(first, second):
    return len(first) == len(second) and all(
        (a.id, a.engine, a.measured_s) == (b.id, b.engine, b.measured_s)
        and np.array_equal(a.base_s, b.base_s)
        and np.array_equal(a.slope, b.slope)
        for a, b in zip(first, second, strict=True)
    )


def test_what_check_rows_measured_changes_nothing(published, found):
    committed = roles.committed()
    files = {record["id"]: file for file, records in published.items() for record in records}
    assert {committed[files[row.id], row.id] for row in found} == {"fit"}
    assert {files[row.id] for row in found} == set(published)
    garbled = changed(published, "check", tpot_ms="never", value="never", concurrency="never")
    assert same(fitted_on(garbled), found)
    moved = fitted_on(changed(published, "fit", tpot_ms="77", value="77"))
    assert not same(moved, found)  # the proof can fail
    assert all(np.array_equal(a.base_s, b.base_s) for a, b in zip(moved, found, strict=True))


def test_check_rows_are_not_even_predicted(monkeypatch, published):
    asked = []
    base = SimpleNamespace(tpot_s=0.02)
    monkeypatch.setattr(silicon, "predict", lambda r, **constants: asked.append(r["id"]) or (base, None))
    monkeypatch.setattr(
        serving, "throughput", lambda r, **constants: asked.append(r["id"]) or (1000.0, 900.0)
    )
    fitted_on(published)
    committed = roles.committed()
    files = {record["id"]: file for file, records in published.items() for record in records}
    assert asked
    assert {committed[files[name], name] for name in asked} == {"fit"}


def test_rows_with_a_remark_or_of_several_instances_set_nothing(published, found):
    left_out = [r for r in published[silicon.FILE] if r["note"] or r["mode"] == "disagg"]
    assert {r["mode"] for r in left_out} == {"agg", "disagg"}
    assert not {r["id"] for r in left_out} & {row.id for row in found}


def test_a_fit_rows_time_is_per_step_and_per_token(published, found):
    rows = {row.id: row for row in found}
    for record in published[silicon.FILE]:
        if record["id"] in rows:
            row = rows[record["id"]]
            assert row.measured_s == pytest.approx(float(record["tpot_ms"]) / 1000)
            assert row.engine == record["backend"]
            assert row.slope[0] == pytest.approx(1e-6, rel=0.3)  # one host gap per step
            assert np.all(np.diff(row.base_s) >= -1e-9)
    record = published["serving.csv"][0]
    row = rows[record["id"]]
    measured, _ = serving.throughput(record)
    assert row.measured_s == pytest.approx(1.0 / measured)
    assert row.engine == "sglang"


def test_constants_already_fitted_do_not_enter_a_new_fit(monkeypatch, published, found, tmp_path):
    use(monkeypatch, tmp_path / "constants.yaml", "sglang: {host_gap_us: 9000, layer_sync_us: 90, imbalance: 1.9}\n"
        "trtllm: {host_gap_us: 9000, imbalance: 1.9}\nvllm: {host_gap_us: 9000}\n")  # fmt: skip
    try:
        assert same(fitted_on(published), found)
    finally:
        engine_constants.cache_clear()


# --- the file ------------------------------------------------------------------------------------------------


def use(monkeypatch, path, text=None):
    """``path`` as the constants file."""
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(engine, "FILE", path)
    engine_constants.cache_clear()


@pytest.fixture
def file(monkeypatch, tmp_path):
    use(monkeypatch, tmp_path / "constants.yaml")
    yield tmp_path / "constants.yaml"
    engine_constants.cache_clear()


def test_what_is_written_is_what_a_step_reads(monkeypatch, file, capsys):
    monkeypatch.setattr(engines, "fit_rows", made_rows)
    monkeypatch.setattr(engines, "fit_engine", lambda rows: (TRUTH, np.zeros(len(rows))))
    engines.main()
    assert "sglang" in capsys.readouterr().out
    engine_constants.cache_clear()
    read = engine_constants("sglang")
    assert (read.host_gap_us, read.layer_sync_us, read.imbalance) == pytest.approx(tuple(TRUTH), rel=0.01)
    assert read.rows == 24
    assert "role fit" in read.source
    assert file.read_text().startswith("# Constants of serving engines")
    assert engine_constants("vllm") == EngineConstants()


def test_a_write_that_fails_leaves_the_old_file(monkeypatch, file):
    file.write_text("sglang: {host_gap_us: 1}\n")
    monkeypatch.setattr(engines, "fit_rows", made_rows)
    monkeypatch.setattr(engines, "fit_engine", lambda rows: (TRUTH, np.zeros(len(rows))))

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="No space left"):
        engines.main()
    assert file.read_text() == "sglang: {host_gap_us: 1}\n"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_no_engine_and_no_file_are_neutral(monkeypatch, file):
    neutral = EngineConstants()
    assert (neutral.host_gap_us, neutral.layer_sync_us, neutral.imbalance, neutral.log_std) == (
        0.0,
        0.0,
        1.0,
        0.0,
    )
    assert engine_constants("sglang") == neutral  # no file
    use(monkeypatch, file, "sglang: {host_gap_us: 2000, layer_sync_us: 7, imbalance: 1.5, log_std: 0.2}\n")
    assert engine_constants("") == neutral
    assert engine_constants("vllm") == neutral
    assert engine_constants("sglang").host_gap_us == 2000


def test_a_constant_of_another_name_is_refused(monkeypatch, file):
    use(monkeypatch, file, "sglang: {host_gap_ms: 2}\n")
    with pytest.raises(ValueError, match="host_gap_ms"):
        engine_constants("sglang")


def test_a_deployment_has_its_engines_constants_and_its_own_over_them(monkeypatch, file):
    use(monkeypatch, file, "sglang: {host_gap_us: 2000, layer_sync_us: 7, imbalance: 1.5, log_std: 0.2}\n")
    assert Deployment().constants == EngineConstants()
    fitted = Deployment(engine="sglang").constants
    assert (fitted.host_gap_us, fitted.layer_sync_us, fitted.imbalance) == (2000, 7, 1.5)
    stated = Deployment(engine="sglang", host_gap_us=0.0, layer_sync_us=3.0).constants
    assert (stated.host_gap_us, stated.layer_sync_us, stated.log_std) == (0.0, 3.0, 0.2)


def test_a_step_takes_them(monkeypatch, file):
    """Host gap once, synchronisation once a layer (28 blocks), imbalance on the experts."""
    use(
        monkeypatch,
        file,
        "sglang: {host_gap_us: 2000}\nvllm: {layer_sync_us: 10}\ntrtllm: {imbalance: 1.5}\n",
    )

    def seconds(name, *overrides):
        scenario = load_scenario(
            "longcat-flash-h800",
            [
                'calibration=""',
                f"deployment.engine={name}",
                "deployment.overlap=sequential",
                "deployment.mtp.draft_tokens=0",
                "deployment.host_gap_us=null",
                *overrides,
            ],
        )
        return float(predict_steps(scenario).step_time_s[0])

    base = seconds("vllm", "deployment.layer_sync_us=0")  # an engine's sampler is in it
    assert base > seconds("''")
    assert seconds("sglang") - base == pytest.approx(2e-3, rel=1e-6)
    assert seconds("vllm") - base == pytest.approx(28 * 10e-6, rel=1e-6)
    assert seconds("trtllm") > base * 1.005
    assert seconds("trtllm") == pytest.approx(base - seconds("''") + seconds("''", "routing.imbalance=1.5"))
    assert seconds("trtllm", "routing.imbalance=1.0") == pytest.approx(base)
