"""From a folder of timings to a calibration, and its check: on an invented device, so that the truth is known."""

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

from typer.testing import CliRunner

from calibrate.cli import app
from calibrate.device import check as checking
from calibrate.device.assemble import fit_folder
from calibrate.device.case import SHAPES
from calibrate.device.check import Row, judge
from calibrate.device.curves import FORMS
from calibrate.device.design import design_cases, sample_points, with_work, work_of
from calibrate.device.environment import describe
from calibrate.device.journal import Record, open_journal
from calibrate.device.needs import load_model, needed_ranges, step_ops
from calibrate.device.steps import draw_steps, segments_of
from perfmodel.errors import DataError, SpecError
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.ops.op import Stream

ASKED = {"models": ["tiny"], "dtypes": ["fp32"], "max_tokens": 64, "max_context": 128, "ranks": 1, "seed": 0}
LIMITS = {key: value for key, value in ASKED.items() if key != "models"}


def truth(kernel, shape):
    """Seconds on the invented device: launch, 20 GFLOP/s, 10 GB/s."""
    flops, moved = work_of(kernel, shape)
    return 5e-6 + flops / 2e10 + moved / 1e10


def profiled(folder, seconds=truth, noise=0.02, count=1500, size="tiny"):
    """A folder as calibrate profile would leave it."""
    random = np.random.default_rng(0)
    environment = describe("cpu", 1) | {"copy_bytes_per_s": 1e10}
    header = {"environment": environment, "reference_probe_s": 1e-3, "requested": ASKED | {"models": [size]}}
    journal = open_journal(folder, header)
    for case in design_cases([size], **LIMITS)[:count]:
        value = float(seconds(case.kernel, case.shape) * np.exp(noise * random.standard_normal()))
        fields = {"seconds": value, "raw_seconds": value, "spread": noise, "samples": 5, "repeats": 3}
        journal.append(Record(case, fields | {"probe_s": 1e-3}, "2026-11-24T10:00:00.000+00:00", 0.0))
    journal.close()
    return folder


# --- design --------------------------------------------------------------------------------------------------


def test_every_prefix_of_a_design_has_every_class():
    cases = design_cases(ASKED["models"], **LIMITS)
    kernels = {case.kernel for case in cases}
    assert {case.kernel for case in cases[:60]} == kernels
    assert len({case.key for case in cases}) == len(cases)
    assert cases == design_cases(ASKED["models"], **LIMITS)
    assert Counter(case.kernel for case in cases[:200])["gemm"] > 30


def test_a_design_lies_where_the_model_needs_it():
    ranges = needed_ranges([load_model("tiny")], "fp32", 64, 128)
    for case in design_cases(ASKED["models"], **LIMITS):
        if (case.kernel, case.dtype) in ranges:
            own = ranges[case.kernel, case.dtype]
            for name, value in case.shape.items():
                small_rows = name == "m" and value <= 16
                partner = name in ("context", "rows")  # bounded by another variable too
                assert value <= 1.11 * own.high[name] + 1 or small_rows or partner, (case.label, own)
    widths = {
        (case.shape["n"], case.shape["k"])
        for case in design_cases(["tiny"], **LIMITS)
        if case.kernel == "gemm"
    }
    assert ranges["gemm", "fp32"].fixed <= {tuple(map(float, pair)) for pair in widths}


def test_ranks_add_transfers():
    cases = design_cases(["tiny"], **LIMITS | {"ranks": 2})
    assert {"all_to_all", "all_gather", "reduce_scatter", "all_reduce", "send_recv"} <= {
        case.kernel for case in cases
    }
    assert all(case.shape["ranks"] == 2 for case in cases if "ranks" in case.shape)


def test_gqa_models_are_designed_too():
    kernels = {case.kernel for case in design_cases(["qwen3-30b-a3b"], **LIMITS)}
    assert {"gqa_decode", "gqa_prefill", "gemm", "grouped_gemm"} <= kernels


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_work_is_counted_as_perfmodel_counts_it(dtype):
    for model in ("tiny", "lsa-tiny", "qwen3-30b-a3b"):
        for phase in ({"phase": "decode", "batch_per_gpu": 6}, {"phase": "prefill", "prefill_tokens": 24}):
            for op in step_ops(load_model(model), dtype, deployment={"context_tokens": 50, **phase}):
                if op.kernel in SHAPES and op.kernel != "select":
                    work = with_work(op.kernel, op.dtype, op.shape)
                    flops, moved = work["flops"], work["bytes"]
                    assert flops == pytest.approx(op.flops), op
                    # curves may go by bytes, so these are the very same; elsewhere they only limit the design
                    exact = "bytes" in FORMS[op.kernel].cut
                    assert moved == pytest.approx(op.hbm_bytes, rel=1e-9 if exact else 0.35), op


def test_bad_limits_and_models_are_refused():
    with pytest.raises(SpecError, match="sizes of the reference model"):
        design_cases(["huge"], **LIMITS)
    with pytest.raises(DataError, match="at least 1"):
        design_cases(["tiny"], **LIMITS | {"max_tokens": 0})


@pytest.mark.parametrize("dtypes", [["fp32"], ["bf16"]])
def test_every_op_of_a_step_over_two_ranks_is_designed(dtypes):
    cases = design_cases(["tiny"], **LIMITS | {"ranks": 2, "dtypes": dtypes})
    designed = {(case.kernel, case.dtype) for case in cases}
    layout = {"attention_dp": 2, "ep": 2, "all_to_all": "all-to-all", "batch_per_gpu": 8, "overlap": "sbo"}
    ops = step_ops(load_model("tiny"), dtypes[0], deployment=layout)
    assert {op.kernel for op in ops} >= {"reorder", "permute", "unpermute", "all_to_all"}
    for op in ops:
        assert (op.kernel, op.dtype) in designed or op.kernel == "host", (op.name, op.kernel, op.dtype)


def test_bf16_designs_reach_the_largest_bf16_op():
    own = needed_ranges([load_model("tiny")], "bf16", 64, 128)["gemm", "bf16"]
    largest = max(
        with_work("gemm", "bf16", case.shape)["bytes"]
        for case in design_cases(["tiny"], **LIMITS | {"dtypes": ["bf16"]})
        if (case.kernel, case.dtype) == ("gemm", "bf16")
    )
    assert largest >= 0.9 * own.max_bytes


# --- fit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["tiny", "lsa-tiny"])
def test_a_fit_of_an_invented_device_predicts_it(tmp_path, size):
    fitted = fit_folder(profiled(tmp_path / "mine", size=size))
    assert not fitted.left_out
    calibration = load_calibration(str(tmp_path / "mine"))
    assert calibration.id == fitted.document["id"]
    ranges = needed_ranges([load_model(size)], "fp32", 64, 128)
    assert {kernel for kernel, _ in ranges} == {curve.kernel for curve in calibration.all_curves}
    for (kernel, _), own in ranges.items():
        curve = calibration.find(kernel, "fp32")
        assert curve.median_error_pct < 6.0, kernel
        unseen = list(sample_points(kernel, own, "fp32", 20, seed=99))
        errors = [
            curve.seconds(with_work(kernel, "fp32", case.shape)) / truth(kernel, case.shape) - 1
            for case in unseen
        ]
        assert np.median(np.abs(errors)) < 0.06, kernel
    assert calibration.document["cluster"]["gpu"]["fp32_tflops"] == pytest.approx(0.02, rel=0.2)
    assert calibration.document["launch_s"] > 0
    for case in draw_steps([size], "fp32", 6, max_tokens=48, max_context=128, seed=0):
        segments, _ = segments_of(case, calibration, str(tmp_path / "mine"))
        timed = [(task.op, time) for s in segments for task, time in zip(s.tasks, s.timings, strict=True)]
        assert all(time.calibrated for op, time in timed if op.stream != Stream.HOST)


def test_what_is_fitted_is_what_lies_there_after_a_kill(tmp_path):
    """The journal has grown past the Parquet file: the file is written anew before it is fitted."""
    folder = profiled(tmp_path / "mine", count=400)
    fit_folder(folder)
    first = (folder / "timings.parquet").read_bytes()
    profiled(folder, count=420)  # 420 more records
    document = fit_folder(folder).document
    assert (folder / "timings.parquet").read_bytes() != first
    assert load_calibration(str(folder)).document["timings"] == document["timings"]


def test_the_same_timings_give_the_same_curves(tmp_path):
    first = fit_folder(profiled(tmp_path / "a")).document
    second = fit_folder(tmp_path / "a").document
    assert first["curves"] == second["curves"]


def test_too_few_timings_make_no_calibration(tmp_path):
    with pytest.raises(DataError, match="too few"):
        fit_folder(profiled(tmp_path / "few", count=20))
    assert not (tmp_path / "few" / "calibration.json").exists()
    with pytest.raises(DataError, match="no timings"):
        fit_folder(tmp_path / "nothing")


def test_a_class_with_few_timings_is_left_out_by_name(tmp_path):
    folder = profiled(tmp_path / "part", count=120)
    fitted = fit_folder(folder)
    assert any("sample" in text and "are needed" in text for text in fitted.left_out)


def test_fit_prints_its_errors_and_what_to_do_next(tmp_path):
    result = CliRunner().invoke(app, ["fit", str(profiled(tmp_path / "mine"))])
    assert result.exit_code == 0, result.output
    assert "gemm fp32" in result.output
    assert "--set calibration=" in result.output


# --- check ---------------------------------------------------------------------------------------------------


class InventedBench:
    """Measures what the invented device would take; ``factor`` makes it another device."""

    def __init__(self, factor=1.0, noise=0.01):
        self.device, self.threads, self.reference_probe_s = "cpu", 1, 1e-3
        self.factor, self.random, self.noise = factor, np.random.default_rng(5), noise

    def measure(self, run):
        seconds = self.factor * run * np.exp(self.noise * self.random.standard_normal())
        return SimpleNamespace(seconds=float(seconds))


@pytest.fixture
def invented(monkeypatch):
    """Cases 'run' as the seconds that they would take; steps as the calibration predicts them."""
    monkeypatch.setattr(checking, "build", lambda case, bench: truth(case.kernel, case.shape))

    def step_job(case, calibration, folder, models):
        found = checking.predict(case, calibration, str(folder))
        return checking._Job(
            case.what, case.label, "steps", lambda: found.seconds, found.seconds, found.low_s, found.high_s,
            float("nan"), found.outside,
        )  # fmt: skip

    monkeypatch.setattr(checking, "_step_job", step_job)


@pytest.fixture
def calibrated(tmp_path):
    fit_folder(profiled(tmp_path / "mine"))
    return tmp_path / "mine"


def test_a_true_calibration_passes_its_check(invented, calibrated):
    result = checking.check(calibrated, bench=InventedBench(), shapes_per_class=6, steps=12)
    assert result.failures == ()
    lines = {line["kind"]: line for line in result.summary}
    assert lines["all kernels"]["median_abs_pct"] < 5
    assert lines["all steps"]["coverage_pct"] > 70
    assert lines["block"]["n"] + lines["step"]["n"] == 12
    stored = json.loads((calibrated / "check.json").read_text())
    assert stored["calibration"] == load_calibration(str(calibrated)).id
    assert (calibrated / "check.parquet").exists()


def test_another_device_fails_it(invented, calibrated):
    result = checking.check(calibrated, bench=InventedBench(factor=1.5), shapes_per_class=6, steps=24)
    assert len(result.failures) == 2
    assert "held-out shapes err more" in result.failures[0]
    assert "lie in their interval" in result.failures[1]


def test_the_command_exits_with_1_when_claims_are_broken(invented, calibrated, monkeypatch):
    for factor, code in ((1.0, 0), (2.0, 1)):
        monkeypatch.setattr("calibrate.device.timing.Bench", lambda *a, f=factor, **k: InventedBench(f))
        result = CliRunner().invoke(app, ["check", str(calibrated), "--shapes", "4", "--steps", "8"])
        assert result.exit_code == code, result.output
        assert ("NOT KEPT" in result.output) == bool(code)
    page = (calibrated / "check.html").read_text()
    assert "Plotly.newPlot" in page
    assert "http" not in page.split("<body>")[0]


def test_another_machine_is_refused(invented, calibrated):
    bench = InventedBench()
    bench.threads = 2
    with pytest.raises(DataError, match="threads = 1, this is 2"):
        checking.check(calibrated, bench=bench)


def row(error, claim=10.0, group="kernels", interval=0.1):
    predicted = 1e-3
    measured = predicted / (1 + error / 100)
    return Row(
        "gemm fp32" if group == "kernels" else "step", "x", group, measured, measured, measured, predicted,
        predicted * (1 - interval), predicted * (1 + interval), claim, 0.0, False,
    )  # fmt: skip


def test_chance_alone_does_not_fail_a_check():
    """A tenth of the shapes may err more than claimed, and some more by chance; a third may not."""
    assert not judge([row(20 if i % 10 == 0 else 2) for i in range(100)]).failures
    assert judge([row(20 if i % 3 == 0 else 2) for i in range(100)]).failures
    assert not judge([row(20 if i % 5 == 0 else 2, group="steps") for i in range(50)]).failures
    assert judge([row(20 if i % 2 == 0 else 2, group="steps") for i in range(50)]).failures


def test_a_folder_without_a_calibration_is_refused_before_anything_is_measured(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", "epyc-zen4-1core"):
        result = CliRunner().invoke(app, ["check", str(path)])
        assert isinstance(result.exception, DataError)
        assert "must be the folder of a calibration" in str(result.exception)


def test_summary_by_hand():
    summary = judge([row(-4), row(8), row(2)]).summary[0]
    assert summary["median_abs_pct"] == pytest.approx(4)
    assert summary["bias_pct"] == pytest.approx(2)
    assert summary["coverage_pct"] == pytest.approx(100)
    assert summary["repeat_median_pct"] == 0


def test_held_out_shapes_are_in_no_design(invented, calibrated):
    result = checking.check(calibrated, bench=InventedBench(), shapes_per_class=6, steps=0)
    fitted = {case.label for case in design_cases(["tiny"], **LIMITS)}
    assert len(result.rows) > 60
    assert not fitted & {row.label for row in result.rows}
