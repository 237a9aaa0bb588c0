"""calibrate import-tables: from a package's tables to a calibration that a step is predicted with."""

import csv
import io
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from calibrate.cli import app
from calibrate.public import build as builder
from calibrate.public import gemm
from calibrate.public.build import available, build, system_of
from calibrate.public.source import Source
from perfmodel.errors import DataError
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.load import load_scenario
from perfmodel.ops.build import gemm as gemm_op
from perfmodel.ops.op import OpClass
from perfmodel.spec import catalogue

DATE = "2026-11-24T00:00:00+00:00"
PACKAGE = os.environ.get("PERFMODEL_TABLES", "")
"""Folder of the unpacked package, where it is not installed."""
SIZES = (128, 512, 2048, 8192)


def milliseconds(m, n, k):
    return 0.004 + n * k * 4e-10 + m * n * k * 4e-12


def columns(system_version="0.5.14"):
    return {"framework": "X", "version": system_version, "device": "NVIDIA B200", "kernel_source": "kernel"}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A package with GEMMs and absorbed products of B200, in SGLang's two number formats; each product timed twice."""
    folder = tmp_path_factory.mktemp("package")
    rows = [
        {"gemm_dtype": dtype, "m": m, "n": n, "k": k, "latency": milliseconds(m, n, k) * share}
        for dtype, share in (("bfloat16", 1.0), ("fp8_block", 0.6))
        for m, n, k in itertools.product((1, 2, 4, 8, 16, 32, 64, 128, 256), SIZES, SIZES)
    ]
    products = [
        {
            "op_name": op,
            "bmm_dtype": "bfloat16",
            "num_tokens": m,
            "num_heads": heads,
            "latency": (0.005 + m * heads * 1e-3) * repeat,
        }
        for op in ("mla_gen_pre", "mla_gen_post")
        for m in (1, 8, 64, 512, 4096)
        for heads in (16, 64, 128)
        for repeat in (1.0, 1.01)
    ]
    for family, frame in (("gemm", pd.DataFrame(rows)), ("mla_bmm", pd.DataFrame(products))):
        path = folder / "aiconfigurator_core" / "systems" / "data" / "b200_sxm" / family / "sglang" / "0.5.14"
        path.mkdir(parents=True)
        frame = frame.assign(**columns())
        (frame.assign(op_name="gemm") if family == "gemm" else frame).to_parquet(
            path / f"{family}_perf.parquet"
        )
    (folder / "aiconfigurator_core-0.12.0.dist-info").mkdir()
    return folder


@pytest.fixture(scope="module")
def built(tables, tmp_path_factory):
    return build(Source.find(tables), "b200-sxm", tmp_path_factory.mktemp("out") / "b200-sxm", created=DATE)


def test_folder_holds_a_calibration_of_the_catalogue_gpu(built):
    assert {path.name for path in built.folder.iterdir()} == {
        "calibration.json",
        "tables.npz",
        "heldout.csv",
        "errors.csv",
        "NOTICE",
        "SHA256SUMS",
    }
    loaded = load_calibration(str(built.folder))
    document = loaded.document
    assert (document["format"], document["created"]) == (2, DATE)
    assert loaded.gpu == "b200-sxm"
    assert document["cluster"]["node"] == catalogue.entry("clusters", "b200-ib")["node"]
    assert document["environment"]["device_name"] == "NVIDIA B200"
    assert "aiconfigurator-core 0.12.0" in document["source"]
    assert "Apache License 2.0" in (built.folder / "NOTICE").read_text()


def test_a_gemm_costs_what_was_measured(built):
    calibration = load_calibration(str(built.folder))
    cluster = load_scenario("longcat-flash-h800").cluster
    op = gemm_op("x", OpClass.DENSE_FFN, m=64.0, n=2048.0, k=2048.0, dtype="bf16")
    timing = calibration.cost(op, cluster)
    assert timing is not None
    total = timing.latency_s + max(timing.compute_s, timing.memory_s)
    assert total == pytest.approx(milliseconds(64, 2048, 2048) * 1e-3, rel=0.03)
    assert "aiconfigurator-core" in timing.source


def test_same_tables_and_date_give_the_same_bytes(tables, built, tmp_path):
    again = build(Source.find(tables), "b200-sxm", tmp_path / "again", created=DATE)
    for path in built.folder.iterdir():
        assert path.read_bytes() == (again.folder / path.name).read_bytes(), path.name


def test_held_out_rows_are_measured_ones_and_predicted_within_the_stated_errors(built):
    rows = list(csv.DictReader(io.StringIO((built.folder / "heldout.csv").read_text())))
    assert rows
    calibration = load_calibration(str(built.folder))
    errors = []
    for row in rows:
        shape = {name: float(value) for name, value in (part.split("=") for part in row["shape"].split())}
        if row["kernel"] != "gemm":
            continue
        measured = milliseconds(**shape) * 1e-3 * (0.6 if row["dtype"] == "fp8" else 1.0)
        assert float(row["seconds"]) == pytest.approx(measured, rel=1e-5)
        curve = calibration.curves["gemm", row["dtype"], ""]
        errors.append(100.0 * abs(curve.seconds(shape) / measured - 1.0))
    stated = next(e for e in built.errors if (e.kernel, e.dtype) == ("gemm", "bf16"))
    assert np.median(errors) < 2.0 * stated.median_pct + 1.0
    assert max(sum(1 for row in rows if row["dtype"] == dtype) for dtype in ("bf16", "fp8")) <= 120


def test_error_table_is_in_the_file_and_beside_it(built):
    document = json.loads((built.folder / "calibration.json").read_text())
    beside = list(csv.DictReader(io.StringIO((built.folder / "errors.csv").read_text())))
    assert len(document["errors"]) == len(beside) == len(built.errors)
    assert {error["left_out"] for error in document["errors"]} >= {"random 20 %", "k=2048", "m 96..256"}


def test_noise_is_that_of_shapes_timed_twice(tables):
    noise = builder.repeat_log_std(Source.find(tables))
    assert noise == pytest.approx(np.log(1.01) / 1.2816 / np.sqrt(2.0), rel=0.01)


def test_noise_that_cannot_be_told_is_refused(tmp_path):
    (tmp_path / "systems" / "data").mkdir(parents=True)
    with pytest.raises(DataError, match="timed twice"):
        builder.repeat_log_std(Source.find(tmp_path))


def test_two_curves_of_one_key_are_refused():
    curve = {"kernel": "gemm", "dtype": "bf16", "backend": "", "engine": "sglang"}
    with pytest.raises(DataError, match="two curves of gemm bf16 sglang"):
        builder._check_keys([curve, dict(curve)])


def test_names_of_gpus_and_of_folders_are_known():
    assert system_of("h100_sxm") == system_of("h100-sxm") == "h100-sxm"
    assert system_of("h800-sxm") == "h800-sxm"
    with pytest.raises(DataError, match="--system h99: no tables of it; known: h100-sxm"):
        system_of("h99")


def test_only_gpus_with_tables_are_available(tables):
    assert available(Source.find(tables)) == ["b200-sxm"]
    with pytest.raises(DataError, match="h800-sxm: no tables of it"):
        build(Source.find(tables), "h800-sxm", tables / "nowhere")


def test_command_writes_prints_and_warns(tables, tmp_path):
    result = CliRunner().invoke(
        app, ["import-tables", "--tables", str(tables), "--out", str(tmp_path / "all")]
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "all" / "b200-sxm" / "calibration.json").is_file()
    assert "b200-sxm: median |error| of curves" in result.output
    assert "gemm" in result.output


def test_unknown_system_is_one_clear_error(tables, tmp_path):
    result = CliRunner().invoke(app, ["import-tables", "--tables", str(tables), "--system", "h99"])
    assert isinstance(result.exception, DataError)
    assert "--system h99" in str(result.exception)


def test_shipped_calibrations_stay_small():
    """Below 3 MB of tables and curves per GPU, and 300 kB of held-out rows."""
    for name in catalogue.names("calibrations"):
        folder = catalogue.calibration_path(name).parent
        if (folder / "tables.npz").is_file():
            assert (folder / "tables.npz").stat().st_size + (folder / "calibration.json").stat().st_size < 3e6
            assert (folder / "heldout.csv").stat().st_size < 3e5


def test_h800_has_h100s_kernels_and_transfers_of_its_own(tmp_path, monkeypatch):
    try:
        source = Source.find(Path(PACKAGE) if PACKAGE else None)
    except DataError:
        pytest.skip(
            "aiconfigurator-core is not installed: pip install 'perfmodel[tables]', or set PERFMODEL_TABLES"
        )
    monkeypatch.setattr(builder, "READERS", (gemm.samples,))  # a tenth of the time
    builder._fits.cache_clear()
    for name in ("h100-sxm", "h800-sxm"):
        build(source, name, tmp_path / name, created=DATE)
    builder._fits.cache_clear()
    h100, h800 = (load_calibration(str(tmp_path / name)) for name in ("h100-sxm", "h800-sxm"))
    shape = {"m": 64.0, "n": 2112.0, "k": 7168.0}
    key = ("gemm", "fp8", "")
    assert h100.curves[key].seconds(shape) == h800.curves[key].seconds(shape)
    assert "same chip" in h800.curves[key].note
    assert h800.curves[key].flag == ""
    wire = {"bytes": 64e6, "ranks": 8.0}
    gather = ("all_gather", "any", "nccl")
    assert h800.curves[gather].seconds(wire) > 1.5 * h100.curves[gather].seconds(wire)
