"""AMD's GPUs: aiter's tuning files read with their traps, what is made of them, and scenarios that rest on it."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from calibrate.cli import app as calibrate_app
from calibrate.public import aiter, amd
from calibrate.tables import amd as fractions
from perfmodel.cli import app
from perfmodel.engines.launch import launches, unsaid
from perfmodel.engines.server_flags import read_command
from perfmodel.errors import DataError
from perfmodel.kernels import achievable
from perfmodel.kernels.achievable import lookup
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.kernels.communication import lookup_collective
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.build import gemm
from perfmodel.ops.op import OpClass
from perfmodel.spec import catalogue
from perfmodel.spec.formats import BYTES_PER_ELEMENT

GPUS = ("mi300x", "mi325x", "mi355x")
TP8 = [f"deployment.{name}=8" for name in ("attention_tp", "dense_tp", "moe_tp")]
R1_ON_EIGHT = [
    "deployment.engine=sglang",
    "deployment.all_to_all=auto",
    "deployment.overlap=sequential",
    "deployment.attention_dp=1",
    "deployment.ep=1",
    *TP8,
    "deployment.batch_per_gpu=8",
    "deployment.context_tokens=8704",
    "deployment.mtp.draft_tokens=0",
]
GEMM_HEAD = "gfx,cu_num,M,N,K,libtype,kernelId,splitK,us,kernelName,tflops,bw,errRatio"
MOE_HEAD = "cu_num,token,model_dim,inter_dim,expert,topk,dtype,q_dtype_a,q_dtype_w,q_type,use_g1u1,us"


def answer(*sets, name="deepseek-v3-h800", command="step"):
    found = CliRunner().invoke(
        app, [command, str(name), "--json", *(part for one in sets for part in ("--set", one))]
    )
    return found, json.loads(found.stdout)


@pytest.mark.parametrize(
    ("name", "memory_gib", "tb_per_s", "bf16", "fp8", "link"),
    [
        ("mi300x", 192, 5.3, 1307.4, 2614.9, 448),
        ("mi325x", 256, 6.0, 1307.4, 2614.9, 448),
        ("mi355x", 288, 8.0, 2516.6, 5033.2, 538),
    ],
)
def test_the_catalogue_says_what_the_data_sheets_say(name, memory_gib, tb_per_s, bf16, fp8, link):
    """AMD Instinct data sheets; links: seven to the other GPUs of the board, 64 and 76.8 GB/s each way."""
    gpu, node = catalogue.gpu(name), catalogue.entry("clusters", name)["node"]
    assert gpu.memory_bytes / 2**30 == pytest.approx(memory_gib, rel=0.001)
    assert (gpu.hbm_gb_per_s, gpu.bf16_tflops, gpu.fp8_tflops) == (1000 * tb_per_s, bf16, fp8)
    assert gpu.peak_flops("mxfp4") == pytest.approx(10066.3e12 if name == "mi355x" else bf16 * 1e12)
    assert (node["num_gpus"], node["link_domain_gpus"]) == (8, 8)
    assert node["link_gb_per_s"] == pytest.approx(7 * {448: 64, 538: 76.8}[link], rel=0.001)
    assert gpu.source
    assert gpu.date


def files(folder, rows, moe=()):
    folder.mkdir(exist_ok=True)
    (folder / "a8w8_blockscale_tuned_gemm.csv").write_text("\n".join([GEMM_HEAD, *rows]) + "\n")
    (folder / "x_untuned_gemm.csv").write_text("M,N,K\n1,2,3\n")
    (folder / "tuned_fmoe.csv").write_text("\n".join([MOE_HEAD, *moe]) + "\n")
    return folder


def product_row(m=16, us="20", gfx="gfx942", units=304):
    return f"{gfx},{units},{m},7168,2048,ck,1,0,{us},k,1,1,0"


def test_rows_that_hold_no_timing_are_left_out(tmp_path):
    """Placeholders, a chip of another kind, and a time that the memory can't make: 14.7 MB in 2 us are 7.3 TB/s."""
    rows = [product_row(us=us) for us in ("0", "inf", "1.0", "nan", "x", "", "-3", "2.0")]
    rows += [product_row(gfx="gfx1250", units=256), product_row(units=228)]
    found = aiter.products(files(tmp_path, [*rows, product_row(us="7.5"), product_row(us="6.5")]))
    assert [(one.gpu, one.dtype, one.m, one.n, one.k) for one in found] == [("mi300x", "fp8", 16, 7168, 2048)]
    assert found[0].seconds == pytest.approx(6.5e-6), "of two kernels of a shape the faster"


def test_experts_count_what_a_rank_holds(tmp_path):
    row = "304,64,7168,2048,33,9,torch.bfloat16,torch.float8_e4m3fnuz,torch.float8_e4m3fnuz,QuantType.per_1x128,{},{}"
    found = aiter.experts(
        files(tmp_path, [], [row.format(1, "363.4"), row.format(0, "3"), row.format(1, "0.0")])
    )
    assert found == [aiter.Experts("mi300x", "fp8", 64, 7168, 2048, 33, 9, pytest.approx(363.4e-6))]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=60), max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_broken_file_is_refused_or_gives_rows_that_are_possible(tmp_path_factory, lines):
    folder = files(tmp_path_factory.mktemp("aiter"), [product_row(), *lines])
    found, message = [], ""
    try:
        found = aiter.products(folder)
    except DataError as error:
        message = str(error)
    assert "\n" not in message
    assert all(np.isfinite(one.seconds) and one.seconds > 1e-6 for one in found)


def test_import_tables_makes_a_calibration_of_them_or_says_why_not(tmp_path):
    rows = [product_row(m, us) for m, us in ((1, 7), (16, 7.5), (64, 9), (256, 14), (1024, 30), (4096, 95))]
    rows += [
        product_row(m, us).replace("7168,2048", "4096,512") for m, us in ((1, 5), (8, 5), (64, 6), (512, 9))
    ]
    folder, run = files(tmp_path / "configs", rows), CliRunner().invoke
    made = run(
        calibrate_app,
        ["import-tables", "--tables", str(folder), "--system", "mi300x", "--out", str(tmp_path / "out")],
    )
    assert made.exit_code == 0, made.output
    calibration = load_calibration(str(tmp_path / "out" / "mi300x"))
    cluster = load_scenario("deepseek-v3-h800", ["cluster=mi300x"]).cluster
    op = gemm("x", OpClass.DENSE_FFN, m=64.0, n=7168.0, k=2048.0, dtype="fp8")
    assert float(calibration.cost(op, cluster).seconds) == pytest.approx(9e-6, rel=0.5)
    other = gemm("x", OpClass.DENSE_FFN, m=64.0, n=7168.0, k=2049.0, dtype="fp8")
    assert calibration.cost(other, cluster) is None, "a shape that nobody tuned is a roofline"
    assert "MIT License" in (tmp_path / "out" / "mi300x" / "NOTICE").read_text()
    for arguments in (["--system", "mi300x"], ["--tables", str(tmp_path / "none"), "--system", "mi355x"]):
        refused = run(calibrate_app, ["import-tables", *arguments, "--out", str(tmp_path / "out")])
        assert isinstance(refused.exception, (DataError, SystemExit))


def test_the_rows_that_ship_are_possible_and_make_the_shipped_fractions():
    rows = achievable.read_rows(fractions.ROWS)
    assert len(rows) > 4000
    for row in rows:
        if row["kernel"] == "gemm":
            m, n, k, seconds = *(int(row[name]) for name in "mnk"), float(row["us"]) * 1e-6
            gpu, width = aiter.chip(row["gpu"]), BYTES_PER_ELEMENT[row["dtype"]]
            assert 2.0 * m * n * k / seconds < 1.001 * gpu.peak_flops(row["dtype"]), row
            assert (width * (n * k + m * k) + 2 * m * n) / seconds < 1.001 * gpu.hbm_bytes_per_s, row
    for architecture, gpu in fractions.ARCHITECTURES.items():
        for kernel, dtypes in fractions.FORMATS[architecture].items():
            for dtype in dtypes:
                own = lookup(kernel, dtype, architecture)
                assert own.num_rows == len(fractions.samples(kernel, gpu, dtype)), (kernel, dtype)
                assert own.flag == ""
                assert "MIT" in own.source


def test_left_out_shapes_are_as_far_off_as_the_page_says():
    """docs/gpus.md: medians of 8 to 24 % by class."""
    for kernel, dtype, gpu, rows, median, _ in fractions.left_out_errors():
        assert median < 25.0, (kernel, dtype, gpu, rows, median)


def test_fused_experts_reach_what_was_timed():
    """DeepSeek-V3 EP8 on MI300X, 64 tokens: 33 experts of 44 MB in 363.5 us, 4.0 TB/s."""
    row = lookup("grouped_gemm", "fp8", "cdna3")
    gpu = catalogue.gpu("mi300x")
    [timed] = [
        one
        for one in fractions.samples("grouped_gemm", "mi300x", "fp8")
        if "m64 n2048 k7168 9 of 33" in one.label
    ]
    predicted = sum(
        row.latency_s
        + max(
            flops / (row.compute_fraction * gpu.peak_flops("fp8")),
            moved / (row.memory_fraction * gpu.hbm_bytes_per_s),
        )
        for flops, moved in timed.parts
    )
    assert predicted == pytest.approx(timed.seconds, rel=0.15)


@pytest.mark.parametrize("architecture", ["cdna3", "cdna4"])
def test_what_nobody_timed_is_hoppers_and_less_sure(architecture):
    for kernel, dtype in (("mla_decode", "bf16"), ("gqa_prefill", "bf16"), ("elementwise", "any")):
        own, hopper = lookup(kernel, dtype, architecture), lookup(kernel, dtype, "hopper")
        assert own.memory_fraction == hopper.memory_fraction
        assert own.log_std == pytest.approx(np.hypot(hopper.log_std, fractions.ACROSS_LOG_STD), rel=1e-3)
        assert f"no timings on {architecture}" in own.flag


def test_collectives_of_a_node_are_as_rccl_was_timed():
    """rccl-tests, 8 MI300X: 13.8 us for 8 KB, 1.54 ms for 268 MB (305 GB/s of bus bandwidth, of 448)."""
    row = lookup_collective("nccl", "all_reduce", "cdna3")
    assert row.alpha_us == pytest.approx(13.8, rel=0.15)
    assert 268.4e6 * 2 * 7 / 8 / (row.link_fraction * 448e9) == pytest.approx(1.54e-3, rel=0.15)
    assert lookup_collective("deepep-low-latency", "dispatch", "cdna4").log_std > 0.5


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("engine", ["sglang", "vllm", "atom"])
def test_an_answer_says_that_no_row_of_amd_is_at_hand(gpu, engine):
    found, values = answer(
        *R1_ON_EIGHT, f"cluster={gpu}", f"deployment.engine={engine}", "prices.usd_per_gpu_hour=2"
    )
    assert found.exit_code == 0
    assert any("no published serving row of cdna" in text for text in values["warnings"])
    low, high = values["intervals"]["tpot_s"]
    assert low < 0.85 * values["tpot_s"] < values["tpot_s"] < 1.25 * values["tpot_s"] < high
    weights = 671e9 / 8 * (8 - 7 * 0.15) / 8  # at least what the sparse layers' share reads from memory
    assert values["step_time_s"] > 0.3 * weights / (catalogue.gpu(gpu).hbm_gb_per_s * 1e9)


def test_amd_is_not_surer_than_nvidia_with_the_same_engine():
    def width(cluster):
        values = answer(*R1_ON_EIGHT, f"cluster={cluster}", "prices.usd_per_gpu_hour=2")[1]
        low, high = values["intervals"]["tpot_s"]
        return np.log(high / low)

    assert width("mi300x") > 1.1 * width("h200-ib")


def test_a_user_s_own_mapping_of_the_same_gpu_gives_the_catalogue_s_answer(tmp_path):
    own = {
        "name": "mi300x-node",
        "gpu": {
            "name": "mine",
            "architecture": "cdna3",
            "memory_bytes": 206141652992,
            "hbm_gb_per_s": 5300,
            "bf16_tflops": 1307.4,
            "fp8_tflops": 2614.9,
            "num_sms": 304,
        },
        "node": {"num_gpus": 8, "link_gb_per_s": 448, "link_domain_gpus": 8},
        "network": {"gb_per_s_per_gpu": 50},
    }
    scenario = {
        "base": "deepseek-v3-h800",
        "cluster": own,
        "prices": {"usd_per_gpu_hour": 2},
        "calibration": "",
    }
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(scenario))
    mine = answer(*R1_ON_EIGHT, name=path)[1]
    shipped = answer(*R1_ON_EIGHT, "cluster=mi300x", "calibration=''", "prices.usd_per_gpu_hour=2")[1]
    assert mine["tpot_s"] == shipped["tpot_s"]
    assert mine["intervals"]["tpot_s"] == shipped["intervals"]["tpot_s"]


def test_own_rows_of_amd_are_validated(tmp_path):
    """``validate --data`` takes a user's measurements on AMD."""
    row = {"id": "mine", "model": "deepseek-v3", "system": "MI300X", "backend": "sglang", "precision": "fp8"}
    row |= {"mode": "agg", "isl": "1024", "osl": "256", "concurrency": "8", "gpus": "8", "tpot_ms": "20"}
    row |= {"parallel_or_prefill": "tp8 dp1 moe_tp8 ep1", "ttft_ms": "300"}
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    found = CliRunner().invoke(app, ["validate", "--data", str(path), "--json"])
    assert found.exit_code == 0, found.output
    rows = {one["quantity"]: one for one in json.loads(found.stdout)["rows"]}
    assert rows["tpot_s"]["predicted"] is not None, rows["tpot_s"]["reason"]
    assert rows["tpot_s"]["measured"] == pytest.approx(0.02)


def test_what_ships_is_made_of_the_files_that_it_names():
    for name in amd.TIMED:
        folder = catalogue.calibration_path(name).parent
        assert "MIT License" in (folder / "NOTICE").read_text()
        calibration = load_calibration(name)
        assert all(curve.log_std >= aiter.EITHER_LOG_STD[name] - 1e-4 for curve in calibration.all_curves)
        assert aiter.SOURCE in calibration.document["source"]


ATOM = {
    "attention data-parallel, experts divided": (
        {"attention_dp": 8, "ep": 8, "precision": {"kv_cache": "fp8"}},
        "--tensor-parallel-size 8 --enable-dp-attention --enable-expert-parallel --kv_cache_dtype fp8",
    ),
    "tensor-parallel, drafts": (
        {"attention_tp": 8, "moe_tp": 8, "mtp": {"draft_tokens": 3, "acceptance": 0.8}},
        "--tensor-parallel-size 8 --method mtp --num-speculative-tokens 3",
    ),
    "both": (
        {"attention_tp": 4, "attention_dp": 2, "ep": 8, "overlap": "tbo"},
        "--tensor-parallel-size 4 --data-parallel-size 2 --enable-expert-parallel --enable-tbo all",
    ),
}


def atom(**deployment):
    return build_scenario(
        {
            "model": "deepseek-v3",
            "cluster": "mi355x",
            "engine": "atom",
            "prices": {"usd_per_gpu_hour": 3},
            "deployment": deployment,
            "serving": {"max_running": 32, "max_batched_tokens": 2048},
        }
    )


@pytest.mark.parametrize("name", ATOM)
def test_atom_is_told_the_layout_and_reads_it_back(name):
    """Its flags as its guides have them; what they say is read as the layout that it was written from."""
    deployment, flags = ATOM[name]
    scenario = atom(**deployment)
    assert not unsaid(scenario)
    (one,) = launches(scenario, "deepseek-v3")
    words = one.command.replace(" \\\n ", "")
    assert words.startswith("python -m atom.entrypoints.openai_server --model deepseek-v3")
    for flag in flags.split(" --"):
        assert f"--{flag.removeprefix('--')}" in words
    assert all(source.startswith("https://github.com/ROCm/ATOM/") for source in one.sources)
    server = read_command(one.command)
    assert server.settings["serving.max_running"] == 32
    for key in ("attention_tp", "attention_dp"):
        assert server.settings.get(f"deployment.{key}", 1) == deployment.get(key, 1)
    assert server.settings.get("deployment.ep", 1) == deployment.get("ep", 1)


def test_what_atom_has_no_flag_for():
    assert any("several" in text for text in unsaid(atom(attention_dp=16, ep=16)))
    sliced = atom(attention_tp=4, attention_dp=2, moe_tp=8)
    assert any("moe_tp = 8" in text for text in unsaid(sliced))
    assert not unsaid(atom(attention_dp=8, moe_tp=8))
    (one,) = launches(atom(attention_tp=8, moe_tp=8, lora_adapters=2), "M")
    assert any("LoRA" in text for text in one.cannot)
