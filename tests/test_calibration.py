"""Calibration files: read, refused, and used by a step for every op that they cover."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import perfmodel
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError, SpecError
from perfmodel.kernels.calibration import Calibration
from perfmodel.kernels.calibration_file import content_id, load_calibration
from perfmodel.load import load_scenario
from perfmodel.ops.build import MEMORY_BOUND, gemm
from perfmodel.ops.op import OpClass
from perfmodel.spec.arrays import with_arrays
from perfmodel.spec.hardware import Cluster
from perfmodel.step import predict_steps, simulate_step, step_segments

COMPUTE = ("gemm", "bmm", "grouped_gemm", "mla_decode", "mla_prefill", *sorted(MEMORY_BOUND))
SCENARIO = """
model:
  model_type: longcat_flash
  architectures: [LongcatFlashForCausalLM]
  attention_method: MLA
  hidden_size: 512
  num_layers: 4
  num_attention_heads: 8
  q_lora_rank: 128
  kv_lora_rank: 64
  qk_nope_head_dim: 64
  qk_rope_head_dim: 32
  v_head_dim: 64
  ffn_hidden_size: 1024
  expert_ffn_hidden_size: 192
  n_routed_experts: 32
  zero_expert_num: 16
  zero_expert_type: identity
  moe_topk: 12
  routed_scaling_factor: 6.0
  vocab_size: 4096
  max_position_embeddings: 8192
  rope_theta: 1.0e7
  rms_norm_eps: 1.0e-5
cluster: calibrated
prices: {usd_per_gpu_hour: 1}
deployment:
  batch_per_gpu: 8
  context_tokens: 100
  precision: {linear: fp32, experts: fp32, attention: fp32, kv_cache: fp32, router: fp32, embedding: fp32,
              activations: fp32, dispatch: fp32, combine: fp32}
"""


def curve(kernel, terms, domain=None, log_std=0.1, dtype="fp32"):
    return {
        "kernel": kernel,
        "dtype": dtype,
        "terms": terms,
        "domain": domain or {},
        "log_std": log_std,
        "rows": 50,
        "leave_out_median_pct": 5.0,
        "leave_out_p90_pct": 12.0,
    }


def document(**changes):
    content = {
        "format": 1,
        "created": "2026-11-24T10:00:00+00:00",
        "perfmodel": perfmodel.__version__,
        "source": "invented",
        "environment": {"device_name": "test"},
        "clock": {"reference_probe_s": 1e-3, "repeat_log_std": 0.02},
        "cluster": {
            "name": "test-device",
            "gpu": {
                "name": "test-cpu",
                "architecture": "cpu",
                "memory_bytes": 10**10,
                "hbm_gb_per_s": 20,
                "fp32_tflops": 1.0,
                "num_sms": 1,
            },
            "node": {"num_gpus": 1, "link_domain_gpus": 1, "link_gb_per_s": 1},
            "network": {"gb_per_s_per_gpu": 1},
        },
        "contention": {"compute_held": 0.25},
        "curves": [
            *(curve(kernel, [["1", 1e-5]]) for kernel in COMPUTE),
            curve("all_to_all", [["1", 5e-4], ["bytes", 1e-9]], dtype="any"),
        ],
    }
    content |= changes
    return content | {"id": content_id(content)}


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "mine", document())


def write(path, content):
    path.mkdir()
    (path / "calibration.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def scenario_file(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SCENARIO)
    return path


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "perfmodel", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# --- reading -------------------------------------------------------------------------------------------------


def test_it_is_found_by_folder_and_by_file(folder):
    assert load_calibration(str(folder)).id == load_calibration(str(folder / "calibration.json")).id
    assert load_calibration(str(folder)).gpu == "test-cpu"


def test_an_unknown_name_lists_the_catalogue():
    with pytest.raises(SpecError, match="calibrations: 'nothing' is not in the catalogue"):
        load_calibration("nothing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text.replace("1e-05", "2e-05", 1), "damaged or edited"),
        (lambda text: text.replace('"format": 1', '"format": 3'), "format = 3, this version reads 1 and 2"),
        (lambda text: text.replace('"id"', '"name"'), "damaged or edited"),
        (lambda text: "[]", "must hold a mapping"),
        (lambda text: "", "not valid JSON"),
        (lambda text: text.replace("1e-05", "NaN", 1), "NaN"),
    ],
)
def test_a_damaged_file_is_refused(folder, damage, message):
    path = folder / "calibration.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message):
        load_calibration(str(folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"curves": "none"},
        {"curves": [{"kernel": "gemm"}]},
        {"cluster": {}},
        {"contention": {"compute_held": 1.0}},
        {"contention": {}},
        {"clock": {"repeat_log_std": "little"}},
        {"clock": {"repeat_log_std": -1}},
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path, changes):
    folder = write(tmp_path / "broken", document(**changes))
    with pytest.raises(DataError):
        load_calibration(str(folder))


def test_timings_of_another_fit_are_refused(tmp_path):
    folder = write(tmp_path / "mixed", document(timings={"sha256": "0" * 64}))
    assert load_calibration(str(folder))
    (folder / "timings.parquet").write_bytes(b"others")
    (folder / "calibration.json").touch()
    with pytest.raises(DataError, match="not the timings"):
        load_calibration(str(folder))


def test_the_command_line_says_it_in_one_line(folder, scenario_file):
    (folder / "calibration.json").write_text("{")
    done = run("step", scenario_file, "--set", f"calibration={folder}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


# --- costing -------------------------------------------------------------------------------------------------


def scenario(folder, scenario_file, *overrides):
    return load_scenario(str(scenario_file), [f"calibration={folder}", *overrides])


def test_every_op_takes_its_curves_time(folder, scenario_file):
    step = simulate_step(scenario(folder, scenario_file))
    ops = [timing for segment in step.segments for timing in segment.timings]
    assert {timing.source for timing in ops} == {f"fitted: calibration mine ({step.calibration.id})"}
    count = sum(len(segment.tasks) * segment.repeat for segment in step.segments)
    assert step.step_time_s == pytest.approx(count * 1e-5)


def test_coverage_is_said(tmp_path, folder, scenario_file):
    found = answer_step(scenario(folder, scenario_file)).values["provenance"]
    assert found["calibration"] == f"mine-{load_calibration(str(folder)).id}"
    assert found["calibrated_ops"] == found["ops"] > 30
    partial = write(tmp_path / "partial", document(curves=[curve("gemm", [["1", 1e-5]])]))
    values = answer_step(scenario(partial, scenario_file)).values
    assert 0 < values["provenance"]["calibrated_ops"] < values["provenance"]["ops"]
    assert any("covers" in text and "the rest by roofline" in text for text in values["dangers"])
    assert "intervals" not in values


def test_another_device_or_version_is_used_with_a_warning(tmp_path, folder):
    old = write(tmp_path / "old", document(perfmodel="0.0.1"))
    for path, text in ((folder, "made on test-cpu, used for h800-sxm"), (old, "made by perfmodel 0.0.1")):
        values = answer_step(load_scenario("longcat-flash-h800", [f"calibration={path}"])).values
        assert any(text in warning for warning in values["warnings"])
    same = answer_step(load_scenario("longcat-flash-h800")).values["warnings"]
    assert not any("made " in warning for warning in same)


def test_outside_the_domain_is_answered_and_flagged(tmp_path, scenario_file):
    curves = [
        *(curve(kernel, [["1", 1e-5]]) for kernel in COMPUTE if kernel != "gemm"),
        curve("gemm", [["m", 1e-6]], {"m": [1, 4]}),
    ]
    folder = write(tmp_path / "small", document(curves=curves))
    values = answer_step(scenario(folder, scenario_file)).values
    assert any(
        "outside what was timed: dense GEMMs (m 8; timed up to 4)" in text for text in values["dangers"]
    )
    logits = next(op for op in values["ops"] if op["name"] == "head.logits")
    assert logits["time_s"] == pytest.approx(8e-6)


def test_the_report_costs_ask_no_calibration(folder):
    step = simulate_step(load_scenario("table7-longcat-flash", [f"calibration={folder}"]))
    assert step.calibration is None


def test_a_cluster_is_needed_for_calibrated(scenario_file):
    with pytest.raises(SpecError, match="needs a calibration"):
        load_scenario(str(scenario_file))


def test_parts_add_up_to_the_curves_time():
    calibration = parsed(curves=[curve("gemm", [["1", 2e-6], ["m*n*k", 1e-11]])])
    op = gemm("x", OpClass.HEAD, m=np.array([1.0, 64.0]), n=128.0, k=64.0, dtype="fp32")
    for architecture in ("cpu", "hopper"):
        timing = calibration.cost(op, cluster(architecture))
        expected = 2e-6 + 1e-11 * np.array([1.0, 64.0]) * 128 * 64
        assert np.allclose(timing.seconds, expected)
        assert np.allclose(timing.latency_s, 2e-6)
    assert calibration.cost(op, cluster("cpu")).bound in ("compute", "latency")


def parsed(**changes) -> Calibration:
    from perfmodel.kernels.calibration_file import parse

    return parse(document(**changes), name="mine")


def cluster(architecture):
    fields = document()["cluster"]
    return Cluster.model_validate(fields | {"gpu": fields["gpu"] | {"architecture": architecture}})


# --- exchange, twin, intervals -------------------------------------------------------------------------------

PAIR = ("deployment.attention_dp=2", "deployment.ep=2", "deployment.all_to_all=all-to-all")


def test_the_exchange_goes_by_bytes_and_holds_compute(folder, scenario_file):
    pair = scenario(folder, scenario_file, *PAIR, "routing.mean_real_experts=8", "routing.imbalance=1")
    tasks = {
        task.op.name: (task.op, timing)
        for segment in step_segments(pair)
        for task, timing in zip(segment.tasks, segment.timings, strict=True)
    }
    op, timing = tasks["dispatch"]
    sent = 8 * 8 * 512 * 4 / 2  # tokens x real experts x hidden x FP32, half of them to the other rank
    assert op.network_bytes == sent
    assert timing.seconds == pytest.approx(5e-4 + 1e-9 * sent)
    assert timing.held_sms == 0.25
    names = list(tasks)
    for name in ("dispatch.pack", "experts.reorder_in", "experts.reorder_out", "combine.unpack", "join"):
        assert name in names


@pytest.mark.parametrize("overlap", ["sequential", "sbo", "sbo-engine"])
def test_timeline_and_twin_agree(folder, scenario_file, overlap):
    pair = scenario(folder, scenario_file, *PAIR, f"deployment.overlap={overlap}")
    swept = with_arrays(pair, {"deployment.batch_per_gpu": np.array([1.0, 8.0, 100.0])})
    times = predict_steps(swept).step_time_s
    for batch, seconds in zip((1, 8, 100), times, strict=True):
        one = scenario(
            folder,
            scenario_file,
            *PAIR,
            f"deployment.overlap={overlap}",
            f"deployment.batch_per_gpu={batch}",
        )
        assert simulate_step(one).step_time_s == pytest.approx(float(seconds), rel=1e-9)


def test_intervals_hold_the_median_and_widen_with_the_spread(tmp_path, folder, scenario_file):
    values = answer_step(scenario(folder, scenario_file)).values
    low, high = values["intervals"]["step_time_s"]
    assert low < values["step_time_s"] < high
    fast, slow = values["intervals"]["tokens_per_s_per_user"]
    assert fast < values["tokens_per_s_per_user"] < slow
    assert values["intervals"]["usd_per_million_output_tokens"][0] > 0
    wide = document()
    wide["curves"] = [one | {"log_std": 0.3} for one in wide["curves"]]
    other = write(tmp_path / "wide", wide | {"id": content_id(wide)})
    wider = answer_step(scenario(other, scenario_file)).values["intervals"]["step_time_s"]
    assert wider[1] - wider[0] > 2 * (high - low)


def test_one_curve_alone_gives_its_own_quantiles(tmp_path, scenario_file):
    """All time from one class on one shape: the interval is exp(+-1.28 x its spread)."""
    curves = [
        curve(kernel, [["1", 1e-12]] if kernel != "sample" else [["1", 1e-3]], log_std=0.2)
        for kernel in COMPUTE
    ]
    clock = {"reference_probe_s": 1e-3, "repeat_log_std": 0.0}
    folder = write(tmp_path / "one", document(curves=curves, clock=clock))
    values = answer_step(scenario(folder, scenario_file)).values
    low, high = (bound / values["step_time_s"] for bound in values["intervals"]["step_time_s"])
    assert low == pytest.approx(np.exp(-1.2816 * 0.2), rel=0.03)
    assert high == pytest.approx(np.exp(1.2816 * 0.2), rel=0.03)


def test_same_question_same_bytes(folder, scenario_file):
    first, second = (run("step", scenario_file, "--set", f"calibration={folder}", "--json") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    text = run("step", scenario_file, "--set", f"calibration={folder}").stdout
    assert "100 % of the step's time is timed on this CPU" in text
    assert "with 80 % probability" in text


def test_show_prints_a_calibration_of_a_path(folder):
    done = run("show", "calibrations", folder, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["id"] == document()["id"]
    assert shown["curves"]["gemm fp32"]["leave_out_median_pct"] == 5.0


def test_a_launch_is_added_to_every_op_of_a_cpu_and_to_none_of_a_gpu():
    fields = {"curves": [curve("gemm", [["m", 1e-6]])], "launch_s": 7e-6}
    op = gemm("x", OpClass.HEAD, m=2.0, n=8.0, k=8.0, dtype="fp32")
    nothing = replace(op, flops=0.0, hbm_bytes=0.0)
    assert parsed(**fields).cost(op, cluster("cpu")).seconds == pytest.approx(9e-6)
    assert parsed(**fields).cost(nothing, cluster("cpu")).seconds == 0.0
    on_gpu = document()["cluster"] | {"gpu": document()["cluster"]["gpu"] | {"architecture": "hopper"}}
    assert parsed(**fields, cluster=on_gpu).cost(op, cluster("hopper")).seconds == pytest.approx(2e-6)
    with pytest.raises(DataError, match="launch_s"):
        parsed(**fields | {"launch_s": -1})


def test_transfers_over_another_wire_are_flagged(folder, scenario_file):
    pair = scenario(folder, scenario_file, *PAIR)
    flags = {t.flag for s in step_segments(pair) for t in s.timings if "all_to_all" in t.flag}
    assert flags == {"calibration mine: all_to_all was timed over the link, not the network"}


def test_a_given_time_has_no_spread(folder, scenario_file):
    given = scenario(folder, scenario_file, "given.attention_us=100")
    timings = [t for s in step_segments(given) for t in s.timings if t.source == "given"]
    assert len(timings) > 1
    assert not any(t.spread_key for t in timings)
