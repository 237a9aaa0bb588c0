"""Calibrations of GPUs that nobody timed: another's curves, scaled, flagged, with a wider spread."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from calibrate.cli import app
from calibrate.public import derived
from perfmodel.cli import app as perfmodel_app
from perfmodel.errors import PerfModelError
from perfmodel.kernels.calibration_file import content_id, load_calibration
from perfmodel.load import load_scenario
from perfmodel.ops.build import gemm
from perfmodel.ops.op import OpClass
from perfmodel.spec import catalogue

SHIPPED = tuple(derived.RULES)
LARGE = {"m": 16384.0, "n": 8192.0, "k": 8192.0}
"""Bound by arithmetic on every GPU."""
SMALL = {"m": 1.0, "n": 16384.0, "k": 16384.0}
"""Bound by reading the weights."""
TUNED = ({"m": 16.0, "n": 7168.0, "k": 2048.0}, "fp8")
"""A shape of which AMD's tuning files hold times (DeepSeek-V3's output projection on 8 GPUs)."""


def clusters(gpu):
    return next(
        name for name in catalogue.names("clusters") if catalogue.entry("clusters", name)["gpu"] == gpu
    )


def timing(name, shape, dtype="bf16"):
    scenario = load_scenario("deepseek-v3-h800", [f"cluster={clusters(name)}"])
    calibration = load_calibration(name, "sglang")
    op = gemm("x", OpClass.DENSE_FFN, **shape, dtype=dtype)
    found = calibration.cost(op, scenario.cluster)
    assert found is not None
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_made_of_the_base_that_ships(name):
    document = load_calibration(name).document
    assert document["derived"]["id"] == load_calibration(derived.RULES[name].base).id, (
        "run calibrate import-tables again"
    )
    assert load_calibration(name).gpu == name


def test_arithmetic_is_scaled_by_the_peaks_and_memory_by_the_bandwidths():
    h100, h20 = timing("h100-sxm", LARGE), timing("h20-sxm", LARGE)
    assert (h20.seconds - h20.latency_s) / (h100.seconds - h100.latency_s) == pytest.approx(
        989 / 148, rel=1e-6
    )
    h100, h20 = timing("h100-sxm", SMALL), timing("h20-sxm", SMALL)
    assert (h20.seconds - h20.latency_s) / (h100.seconds - h100.latency_s) == pytest.approx(
        3350 / 4000, rel=1e-6
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_so_and_is_less_sure(name):
    asked = TUNED if name == "mi325x" else (SMALL, "bf16")
    base, own = timing(derived.RULES[name].base, *asked), timing(name, *asked)
    assert "derived: " in own.flag
    assert derived.RULES[name].base in own.flag
    assert own.log_std == pytest.approx(np.hypot(base.log_std, derived.RULES[name].log_std))
    assert own.calibrated


def step_time(*changes):
    sets = [part for change in changes for part in ("--set", change)]
    found = CliRunner().invoke(perfmodel_app, ["step", "deepseek-v3-h800", "--json", *sets])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)["step_time_s"]


def test_a800_has_a100s_kernels_and_a_slower_link():
    assert timing("a800-sxm", LARGE).seconds == timing("a100-sxm", LARGE).seconds
    common = [
        "model=qwen3-235b-a22b",
        "deployment.attention_dp=1",
        "deployment.attention_tp=8",
        "deployment.ep=8",
    ]
    common += ["deployment.overlap=sequential", "deployment.batch_per_gpu=4"]
    common += ["deployment.precision.kv_cache=bf16", "deployment.precision.attention=bf16"]
    assert step_time("cluster=a800-ib", *common) > step_time("cluster=a100-ib", *common)


def test_deepseek_v3_fits_eight_h20():
    asked = ["cluster=h20-roce", "deployment.attention_dp=1", "deployment.attention_tp=8", "deployment.ep=1"]
    asked += [
        "deployment.moe_tp=8",
        "deployment.batch_per_gpu=2",
        "deployment.engine=vllm",
        "deployment.overlap=sequential",
    ]
    sets = [part for one in asked for part in ("--set", one)]
    found = CliRunner().invoke(perfmodel_app, ["step", "deepseek-v3-h800", "--json", *sets])
    assert found.exit_code == 0, found.output
    fractions = json.loads(found.stdout)["basis"]["fractions"]
    assert fractions["timed"] == 0.0
    assert fractions["derived"] > 0.5


def test_the_test_of_scaling_is_what_it_gives_now():
    """The errors that a derived file states: H200's held-out rows from H100's curves."""
    assert load_calibration("h20-sxm").document["derived"]["tested"] == derived.tested()
    whole = derived.tested()[-1]
    assert whole["kernel"] == "all"
    assert whole["rows"] > 1000
    assert whole["median_pct"] < 10.0
    assert whole["log_std"] < derived.RULES["h20-sxm"].log_std


def test_made_again_it_is_the_same_but_for_the_date(tmp_path):
    result = CliRunner().invoke(app, ["import-tables", "--system", "h20-sxm", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    again = json.loads((tmp_path / "h20-sxm" / "calibration.json").read_text())
    shipped = dict(load_calibration("h20-sxm").document)
    for document in (again, shipped):
        for key in ("created", "id", "perfmodel"):
            document.pop(key)
    assert again == shipped


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": "0123456789ab"}, "h100-sxm is"),
        ({"log_std": -1.0}, "log_std = -1"),
        ({"from": None}, "not in the catalogue"),
        ({"how": ...}, "lacks or garbles 'how'"),
    ],
)
def test_another_base_or_a_garbled_section_is_refused(tmp_path, change, said):
    folder = tmp_path / "mine"
    shutil.copytree(catalogue.calibration_path("h20-sxm").parent, folder)
    document = json.loads((folder / "calibration.json").read_text())
    document["derived"] |= change
    document["derived"] = {key: value for key, value in document["derived"].items() if value is not ...}
    document["id"] = content_id(document)
    (folder / "calibration.json").write_text(json.dumps(document))
    with pytest.raises(PerfModelError, match=said):
        load_calibration(str(folder))
