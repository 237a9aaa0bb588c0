"""Reading packages of tables: wheels, folders, versions, tables that lack columns, and what is none of these."""

import shutil
import zipfile

import pandas as pd
import pytest
from typer.testing import CliRunner

from calibrate.cli import app
from calibrate.public.source import Source
from perfmodel.errors import DataError

ROW = {"gemm_dtype": "bfloat16", "m": 1, "n": 64, "k": 64, "latency": 0.01}
PROVENANCE = {"framework": "SGLang", "version": "0.5.14", "device": "NVIDIA H200", "op_name": "gemm"}


def write(systems, version, rows, engine="sglang", family="gemm", system="h200_sxm"):
    folder = systems / "data" / system / family / engine / version
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / f"{family}_perf.parquet")


@pytest.fixture
def unpacked(tmp_path):
    """An unpacked pre-release of aisimulate, with a usual version, a newer one and a drop of one shape."""
    root = tmp_path / "unpacked"
    systems = root / "aisimulate_core" / "systems"
    full = ROW | PROVENANCE | {"kernel_source": "torch"}
    write(systems, "0.5.14", [full, full | {"m": 2}, full | {"m": 2, "latency": 0.02}])
    write(systems, "0.5.20", [full])
    write(systems, "dev-1aa0e962b206102b7c439a4a0c4981cfec6e87bc", [ROW])
    write(systems, "0.24.0", [full | {"latency": 0.06}], engine="vllm")
    write(systems, "0.25.0", [full | {"latency": 0.005}], engine="vllm")
    (root / "aisimulate-0.13.0.dev1.dist-info").mkdir()
    (root / "aisimulate-0.13.0.dev1.dist-info" / "METADATA").write_text("Name: aisimulate")
    return root


@pytest.fixture
def wheel(unpacked, tmp_path):
    return zip_to(unpacked, tmp_path / "aisimulate-0.13.0.dev1-cp311-abi3-manylinux_2_28_x86_64.whl")


def zip_to(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


def test_a_wheel_is_read_as_it_is_and_as_it_unpacks(unpacked, wheel):
    for place in (unpacked, unpacked / "aisimulate_core", unpacked / "aisimulate_core" / "systems", wheel):
        source = Source.find(place)
        assert source.label == "PyPI package aisimulate 0.13.0.dev1"
        assert source.has("h200_sxm")
        assert not source.has("h100_sxm")
        frame = source.read("h200_sxm", "gemm", "sglang", "gemm")
        assert sorted(frame["seconds"]) == pytest.approx([1e-5, 1e-5])


def test_the_usual_version_goes_before_newer_ones_and_drops_are_no_versions(unpacked):
    source = Source.find(unpacked)
    assert source.versions("h200_sxm", "gemm", "sglang", "gemm") == ("0.5.14", "0.5.20")
    assert source.version("h200_sxm", "gemm", "sglang", "gemm") == "0.5.14"
    assert source.version("h200_sxm", "gemm", "vllm", "gemm") == "0.25.0"
    assert source.version("h200_sxm", "gemm", "trtllm", "gemm") == ""


def test_columns_that_a_table_lacks_are_those_of_its_folder(unpacked):
    name = "dev-1aa0e962b206102b7c439a4a0c4981cfec6e87bc"
    frame = Source.find(unpacked).read("h200_sxm", "gemm", "sglang", "gemm", name)
    assert frame[["version", "device", "framework"]].values.tolist() == [[name, "h200_sxm", "sglang"]]


def test_what_holds_no_tables_is_one_clear_line(tmp_path, unpacked):
    stub = tmp_path / "stub"
    (stub / "aisimulate").mkdir(parents=True)
    (stub / "aisimulate" / "__init__.py").write_text("")
    text = tmp_path / "text.whl"
    text.write_text("no archive")
    for place, said in (
        (tmp_path / "nowhere.whl", "no such wheel or folder"),
        (text, "neither a folder nor a wheel"),
        (zip_to(stub, tmp_path / "stub.whl"), "hold no tables"),
        (tmp_path, "has no systems/data"),
    ):
        with pytest.raises(DataError, match=said) as raised:
            Source.find(place)
        assert str(place) in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_damaged_table_and_one_without_its_columns_are_one_clear_line(tmp_path, unpacked):
    broken = tmp_path / "broken"
    shutil.copytree(unpacked, broken)
    path = broken / "aisimulate_core/systems/data/h200_sxm/gemm/sglang/0.5.14/gemm_perf.parquet"
    path.write_bytes(path.read_bytes()[:200])
    lacking = tmp_path / "lacking"
    shutil.copytree(unpacked, lacking)
    rows = [{"m": 1, "latency": 0.01} | PROVENANCE]
    pd.DataFrame(rows).to_parquet(
        lacking / "aisimulate_core/systems/data/h200_sxm/gemm/sglang/0.5.14/gemm_perf.parquet"
    )
    for folder, said in ((broken, "can't be read"), (lacking, "lacks the column 'gemm_dtype'")):
        asked = [
            "import-tables",
            "--tables",
            str(folder),
            "--system",
            "h200-sxm",
            "--out",
            str(tmp_path / "out"),
        ]
        result = CliRunner().invoke(app, asked)
        assert isinstance(result.exception, DataError), result.output
        assert said in str(result.exception)
        assert "\n" not in str(result.exception)
