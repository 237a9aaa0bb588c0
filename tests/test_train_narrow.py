"""What narrow products ask beside themselves: bytes by hand, DeepSeek's own kernels against their authors' figures."""

import csv
from pathlib import Path

import pytest
import yaml
from test_reference_env import NO_TORCH, has_torch

from calibrate.tables.training_steps import errors
from perfmodel.answers.train import answer_train
from perfmodel.kernels.achievable import read_rows
from perfmodel.kernels.deepseek_rows import own_product
from perfmodel.kernels.training_rows import _alone, in_step, timed
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.backward import Kernel, core_flops, gradients
from perfmodel.ops.build import gemm
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.training import Training
from perfmodel.training.layout import inner
from perfmodel.training.memory import placeholder_bytes
from perfmodel.training.narrow import casts
from perfmodel.training.step import StepBuilder, simulate_training
from perfmodel.validation.training_profile import predicted_s, published_s
from perfmodel.validation.training_roles import BRIDGE, MEASURED, read
from perfmodel.validation.training_setups import PRICE, bridge, qwen_pair

M, N, K = 4096, 7168, 2048
PRODUCT = gemm("shared.down", OpClass.EXPERTS, m=M, n=N, k=K, dtype="fp8")


def moved(kernels):
    return {kernel.op.name.rpartition(".")[2]: kernel.op.hbm_bytes for kernel in kernels}


def built(*changes):
    scenario = load_scenario("deepseek-v3-train-h800", list(changes))
    return StepBuilder(scenario, scenario.training)


def of_layer(builder, way):
    parts = builder.layer_chain(builder.scenario.model.layers[-1]).layers[0]
    return {kernel.op.name: kernel for part in parts.in_sequence() for kernel in getattr(part, way)}


def test_a_linear_layers_casts_are_what_its_timing_leaves_out():
    """X along m, from FP8 as it was kept: a byte read, a byte written."""
    left = casts(PRODUCT, Training(global_batch_sequences=1, precision="fp8"))
    assert (left.forward, left.input) == ((), ())
    assert moved(left.weight) == {"input_again": 2 * M * K}
    kept = casts(PRODUCT, Training(global_batch_sequences=1, precision="fp8", keep_inputs="bf16"))
    assert moved(kept.weight) == {"input_again": 3 * M * K}
    assert not casts(
        gemm("x", OpClass.EXPERTS, m=M, n=N, k=K, dtype="bf16"), Training(global_batch_sequences=1)
    ).weight


def test_products_alone_have_every_cast_as_a_kernel():
    scales = 2 * 4 / 128
    own = casts(PRODUCT, Training(global_batch_sequences=1, precision="fp8", fp8_kernels="deepseek-2024"))
    assert moved(own.forward) == {"input_quantised": 3 * M * K, "scales_transposed": scales * M * K}
    assert moved(own.input) == {
        "gradient_quantised": 3 * M * N,
        "scales_transposed": scales * M * N,
        "weights_transposed": 2 * N * K,
    }
    assert moved(own.weight) == {"gradient_again": 3 * M * N, "input_again": 2 * M * K}


def test_rows_that_came_in_fp8_are_not_quantised_again():
    """DeepSeek-V3: 32,768 pairs of a rank, 7,168 wide; the dispatch quantised them, and their gradients."""
    pairs, hidden = 4096 * 8, 7168
    for dispatch, quantised in (("fp8", False), ("bf16", True)):
        builder = built(f"training.dispatch={dispatch}")
        forward, back, weight = (of_layer(builder, way) for way in ("forward", "input", "weight"))
        assert ("experts.gate_up.input_quantised" in forward) == quantised
        assert ("experts.down.gradient_quantised" in back) == quantised
        assert ("dispatch.quantised" in forward) != quantised
        again = weight["experts.down.gradient_again"].op.hbm_bytes
        assert again == pytest.approx((3 if quantised else 2) * pairs * hidden)
    wide, narrow = (
        of_layer(built(f"training.dispatch={d}"), "forward")["experts.permute"].op.hbm_bytes
        for d in ("bf16", "fp8")
    )
    assert narrow / wide == pytest.approx((1 + 4 / 128) / 2)


def test_latent_attention_lays_out_queries_keys_and_values():
    """Per token and head: 2 x 64 of queries, 128 read and 192 written of keys, 2 x 128 of values."""
    builder = built()
    op = of_layer(builder, "forward")["attention0.rope_cache"].op
    assert op.hbm_bytes == 2 * 4096 * 128 * (2 * 64 + 128 + 192 + 2 * 128)
    assert of_layer(builder, "input")["attention0.rope_cache.backward"].op.hbm_bytes == op.hbm_bytes


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
@pytest.mark.parametrize(("keys", "value"), [(128, 128), (192, 128), (96, 64)])
def test_attentions_backward_counts_what_pytorch_counts(keys, value):
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    wide, narrow = (2, 4, 64, keys), (2, 4, 64, value)
    forward = sdpa_flop_count(wide, wide, narrow)
    back = sdpa_backward_flop_count(narrow, wide, wide, narrow)
    shape = {"nope": keys - 32, "rope": 32, "value": value}
    op = Op("core", OpClass.ATTENTION, "mla_prefill", Stream.COMPUTE, flops=1.0, shape=shape)
    assert core_flops(op) == pytest.approx(back / forward)


def test_own_products_run_at_their_authors_rates():
    gpu = built().scenario.cluster.gpu
    for row in read_rows("training_deepseek.csv"):
        if row["kernel"] != "gemm":
            continue
        m, n, k = (int(row[name]) for name in ("m", "n", "k"))
        op = gemm("x", OpClass.ATTENTION, m=m, n=n, k=k, dtype="fp8")
        seconds = own_product(Kernel(op, op, row["way"]), gpu).seconds
        rate = float(row["tflops"]) / float(row["speedup"])
        assert 2e-12 * m * n * k / seconds == pytest.approx(rate)
    plain = gemm("x", OpClass.ATTENTION, m=M, n=N, k=K, dtype="bf16")
    assert own_product(Kernel.plain(plain), gpu) is None
    between = gradients(gemm("x", OpClass.ATTENTION, m=4096, n=9000, k=9000, dtype="fp8")).input[0]
    assert 590e12 < between.op.flops / own_product(between, gpu).seconds < 1358e12


def test_grids_leave_the_exchanges_sms_alone():
    """20 of 132 SMs: compute takes 132/112 of its time, exchanges take nothing from it."""
    builder = built()
    product = of_layer(builder, "forward")["attention0.o"]
    alone, beside = builder.costing.alone(product), builder.costing.beside(product)
    assert beside.compute_s / alone.compute_s == pytest.approx(132 / 112)
    assert builder.costing.beside(of_layer(builder, "forward")["dispatch"]).held_sms == 0.0


def test_the_published_profiles_parts_are_all_counted():
    """Every class of the profile on compute streams is in a part, and ours have each; their sum is close."""
    text = (DATA / "published" / "deepseek_v3_train_profile.csv").read_text(encoding="utf-8")
    compute = [
        row
        for row in csv.DictReader(text.splitlines())
        if not row["kernel_class"].startswith(("ep ", "TOTAL"))
    ]
    total = sum(float(row["total_us"]) * 1e-6 for row in compute)
    measured, _ = published_s()
    assert sum(measured.values()) == pytest.approx(total)
    ours = predicted_s(built(), layers=4)
    assert set(ours) == set(measured)
    assert sum(ours.values()) == pytest.approx(sum(measured.values()), rel=0.1)


def test_a_benchmarks_row_runs_as_its_releases_scripts_do():
    """Every row has a recipe; stages hold all layers; what changed between releases changes the scenario."""
    rows = [row for row in read(BRIDGE) if row["tp"] and row["model"] != "DeepSeek-V3"]
    documents = {row["id"]: bridge(row)["training"] for row in rows}
    assert len(documents) == 11
    stages = {sum(one["stage_layers"]) for one in documents.values() if one["stage_layers"]}
    assert stages == {61}
    by_release = {row["release"][:5]: documents[row["id"]] for row in rows if row["model"] == "DeepSeekV3"}
    assert [by_release[name]["moe_overlap"] for name in ("26.04", "26.06")] == ["none", "forward-backward"]
    assert {one["all_to_all"] for one in by_release.values()} == {"hybrid-ep"}
    with pytest.raises(KeyError):
        bridge({**rows[0], "release": "99.99 NeMo Container"})


def test_an_exchange_that_waits_for_weight_gradients_hides_less():
    record = next(row for row in read(MEASURED) if "overlap on" in row["note"] and row["seq"])
    document = qwen_pair(record)
    training = {**document["training"], "global_batch_sequences": 32, "all_to_all": "deepep-normal"}
    small = {**document, "model": {"base": "qwen3-30b-a3b", "num_hidden_layers": 2}}

    def seconds(delay):
        scenario = build_scenario({**small, "training": {**training, "delay_weights": delay}})
        return simulate_training(scenario).step_time_s

    assert seconds(delay=False) > seconds(delay=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [(["cluster=gb200-nvl72"], True), (["training.precision=bf16", "training.recompute=full"], False)],
)
def test_kernels_of_2024_are_hoppers_and_fp8s(changed, said):
    """Elsewhere nothing of them is left: neither their grids, nor the router's kernels, nor a copy in 12 bits."""
    asked, plain = (
        answer_train(load_scenario("deepseek-v3-train-h800", [*changed, f"training.fp8_kernels={kernels}"]))
        for kernels in ("deepseek-2024", "calibrated")
    )
    assert asked.values["step_time_s"] == plain.values["step_time_s"]
    assert asked.values["memory_by_stage"] == plain.values["memory_by_stage"]
    assert any("fp8_kernels: DeepSeek-V3's" in text for text in asked.values["warnings"]) is said


def test_the_page_s_recipe_is_what_validation_runs():
    """What a user copies from docs/train.md gives the step of the error table, to the digit."""
    text = Path("docs/train.md").read_text(encoding="utf-8")
    block = text.split("### As your framework runs it")[1].split("```yaml")[1].split("```")[0]
    stated = {**yaml.safe_load(block), "prices": PRICE}
    with (DATA / "published" / "training.csv").open(newline="", encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    assert (row["model"], row["system"], row["release"][:5]) == ("DeepSeekV3", "DGX-GB200", "26.06")
    mine, theirs = (build_scenario(one) for one in (stated, bridge(row)))
    assert mine.training == theirs.training
    seconds = simulate_training(mine).step_time_s
    assert seconds == simulate_training(theirs).step_time_s
    assert f"{seconds:.1f} s; without its last four lines" in text
    plain = {key: stated["training"][key] for key in list(stated["training"])[:-4]}
    without = simulate_training(build_scenario({**stated, "training": plain})).step_time_s
    assert f"without its last four lines {without:.1f} s" in text
    measured = 4096 * 4096 / 256 / float(row["tok_s_gpu"])
    assert f"256 GB200 ({measured:.1f} s measured)" in text


def b200(**training):
    document = {
        "model": {"base": "llama-3.1-70b", "num_hidden_layers": 4},
        "cluster": "b200-ib",
        "training": {"global_batch_sequences": 4, "tp": 2, "sequence_tokens": 4096, **training},
    }
    return build_scenario(document)


def test_placeholders_are_one_gradient_of_every_shape():
    """Llama 3 70B over TP2: query, key and value together, output, gate and up, down, 2 bytes a weight."""
    plain, kept = (
        simulate_training(b200(placeholder_gradients=on)).memory.ranks[0].workspace for on in (False, True)
    )
    h, ffn, keys = 8192, 28672, 2 * 8 * 128
    weights = h * (h + keys) + h * h + 2 * h * ffn + ffn * h
    assert kept - plain <= 2 * weights / 2 + 1
    assert placeholder_bytes_of(b200()) == pytest.approx(2 * weights / 2)


def placeholder_bytes_of(scenario):
    own = inner(scenario, scenario.training)
    return placeholder_bytes(own.model.layers[0], own, scenario.training)


def test_collectives_inside_a_b200_node_take_what_was_timed():
    """SimuMax's measured NCCL: a ring's bytes at 0.6735 of 900 GiB/s, 9.18 us a hop and 23.1 us."""
    scenario = b200(tp=8)
    builder = StepBuilder(scenario, scenario.training)
    parts = builder.layer_chain(builder.scenario.model.layers[0]).layers[0]
    kernel = next(k for part in parts.in_sequence() for k in part.forward if k.base.kernel == "all_gather")
    seconds = builder.costing.alone(kernel).seconds
    bytes_ = 4096 * 8192 * 2 * 7 / 8
    assert seconds == pytest.approx(bytes_ / (0.6735 * 900 * 2**30) + (7 * 9.1828 + 23.1049) * 1e-6)


def test_the_constant_of_b200_is_the_fit_rows():
    """It makes the geometric mean of predicted over measured steps 1; attention is as it was timed."""
    assert abs(sum(errors()) / len(errors())) < 1e-3
    assert len(errors()) == 23
    scenario = b200()
    builder = StepBuilder(scenario, scenario.training)
    parts = builder.layer_chain(builder.scenario.model.layers[0]).layers[0]
    ops = {k.op.name: k for part in parts.in_sequence() for k in part.forward}
    gpu = scenario.cluster.gpu
    product, core = ops["ffn0.down"], ops["attention0.prefill_core"]
    for kernel, factor in ((product, in_step("B200-SXM")), (core, 1.0)):
        alone = _alone(kernel, "B200-SXM", gpu).seconds
        assert timed(kernel, gpu).seconds / alone == pytest.approx(factor)
