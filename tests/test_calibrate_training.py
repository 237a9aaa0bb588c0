"""`calibrate profile --training`: gradients timed one way at a time, fitted, and asked by perfmodel's training step."""

import json
import re
import resource
import time
from collections import Counter

import numpy as np
import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch
from torch.nn import functional
from typer.testing import CliRunner

from calibrate.cli import app
from calibrate.device import training_ranks
from calibrate.device.assemble import fit_folder
from calibrate.device.builders import build
from calibrate.device.case import SHAPES, TRAINING, Case
from calibrate.device.design import design_cases, work_of
from calibrate.device.environment import describe
from calibrate.device.journal import Record, open_journal
from calibrate.device.needs import load_model, training_builder, training_kernels
from calibrate.device.steps import Models, forced_ids
from calibrate.device.timing import Bench
from calibrate.device.training_kernels import BUILDERS, GRAPHS, Operands
from calibrate.device.training_ranks import Half, measure
from calibrate.device.training_ranks import predict as predict_over_ranks
from calibrate.device.training_steps import (
    TrainingCase,
    as_segment,
    build_training_step,
    builder_for,
    predict,
)
from perfmodel.kernels.calibration_file import load_calibration
from perfmodel.training.overlap import parts_of
from perfmodel.training.pipeline.schedules import schedule
from reference_model.config import SIZES
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange
from reference_model.ranks import joined, run_ranks
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

torch.set_num_threads(1)
ASKED = {"max_tokens": 64, "max_context": 128, "ranks": 2, "seed": 0, "training": True}
FACTORS = {"input": 2.0, "weight": 3.0, "forward": 1.0}
"""How much longer than its forward a gradient takes on the invented device."""
CASE = TrainingCase("tiny", "fp32", 1, 48, 4)


def truth(case):
    """Seconds on the invented device: launch, 20 GFLOP/s, 10 GB/s, and a factor of its own for each way."""
    if "bytes" in case.shape:
        return 2e-5 + case.shape["bytes"] / 1e9
    flops, moved = work_of(case.kernel, case.shape)
    way = case.kernel.rpartition("_")[2] if case.kernel in TRAINING else "forward"
    return 5e-6 + FACTORS[way] * (flops / 2e10 + moved / 1e10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as calibrate profile --training and calibrate fit leave it."""
    path = tmp_path_factory.mktemp("training")
    environment = describe("cpu", 1) | {"copy_bytes_per_s": 1e10}
    requested = {"models": ["tiny"], "dtypes": ["fp32"], **ASKED}
    header = {"environment": environment, "reference_probe_s": 1e-3, "requested": requested}
    journal = open_journal(path, header)
    for case in design_cases(["tiny"], dtypes=["fp32"], **ASKED)[:2500]:
        value = truth(case)
        fields = {"seconds": value, "raw_seconds": value, "spread": 0.01, "samples": 5, "repeats": 3}
        journal.append(Record(case, fields | {"probe_s": 1e-3}, "2026-11-30T10:00:00.000+00:00", 0.0))
    journal.close()
    fit_folder(path)
    return path


def test_a_design_has_every_kernel_of_a_training_step():
    kernels = {case.kernel for case in design_cases(["tiny"], dtypes=["fp32"], **ASKED)[:400]}
    asked = training_kernels(load_model("tiny"), "fp32", 1, 64, 4)
    wanted = {
        k.timed_as if k.timed_as in SHAPES else k.base.kernel for k in asked if not k.op.is_communication
    }
    assert wanted - {"add"} <= kernels
    assert {
        "gemm_input",
        "gemm_weight",
        "grouped_gemm_weight",
        "mla_prefill_input",
        "sample_forward",
    } <= wanted
    assert "mla_decode" not in kernels


@pytest.fixture(scope="module")
def bench():
    return Bench("cpu", 1)


@pytest.mark.parametrize("kernel", sorted(BUILDERS))
def test_every_way_of_every_kernel_runs(bench, kernel):
    """Each on a small shape; a forward leaves a graph, a gradient is there for each thing that is asked for."""
    own = {"requests": 1, "new_tokens": 8, "context": 8, "heads": 2, "kv_heads": 1, "head_dim": 8}
    sizes = {"m": 4, "n": 6, "k": 5, "groups": 3, "rows": 12, "tokens": 6, "width": 24, "top_k": 3, "nope": 4,
             "rope": 4, "value": 4, "latent": 6, "vocabulary": 20} | own  # fmt: skip
    run = build(Case(kernel, "fp32", {name: sizes[name] for name in SHAPES[kernel]}), bench)
    for _ in range(2):
        run.prepare()
        with torch.inference_mode():
            found = run()
    found = [found] if isinstance(found, torch.Tensor) else found
    assert all(one is not None and torch.isfinite(one).all() for one in found)
    assert all(one.requires_grad == kernel.endswith("_forward") for one in found)


FREE = {
    "Alias",
    "View",
    "UnsafeView",
    "ReshapeAlias",
    "T",
    "Transpose",
    "Expand",
    "Unsqueeze",
    "Split",
    "_AsIs",
}
"""Nodes of a graph whose gradients are views, or nothing."""


def graph_nodes(outputs):
    """Nodes behind outputs that take time in a backward, counted by name."""
    found, seen = [one.grad_fn for one in outputs if one.grad_fn is not None], set()
    while found:
        node = found.pop()
        if node not in seen:
            seen.add(node)
            found += [after for after, _ in node.next_functions if after is not None]
    names = Counter(node.name().removeprefix("torch::autograd::") for node in seen)
    kinds = {name: re.sub(r"Backward\d*$", "", name) for name in names}
    return Counter({name: n for name, n in names.items() if kinds[name] not in {*FREE, "AccumulateGrad"}})


def test_what_is_timed_leaves_the_graph_that_a_step_leaves(bench):
    """Node by node: a copy, a sum or a slice that a step has and no timed kernel would be time that nobody counts."""
    step = graph_nodes([build_training_step(CASE, Models())()])
    builder = training_builder(load_model("tiny"), "fp32", CASE.sequences, CASE.tokens, CASE.real_experts)
    layers = [builder.layer_chain(layer, layer.count) for layer in load_model("tiny").layers]
    chains = [builder.first_chain(), *layers, builder.last_chain()]
    timed = Counter()
    for base in (kernel.base for chain in chains for part in parts_of(chain) for kernel in part.forward):
        name = f"{base.kernel}_forward"
        if name in TRAINING:
            case = Case(name, "fp32", {variable: base.shape[variable] for variable in SHAPES[name]})
            timed += graph_nodes(list(GRAPHS[base.kernel](Operands(case, bench, forward=True)).forward()))
    timed["AddBackward0"] -= 1  # the first norm adds nothing
    assert timed == step
    assert step["SliceBackward0"] > 0


def test_what_a_forward_leaves_stays(bench):
    """Outputs are not written where the last ones were: in a step those wait for the backward."""
    run = build(Case("activation_forward", "fp32", {"rows": 64, "width": 64}), bench)
    places = {run()[0].data_ptr() for _ in range(20)}
    assert len(places) == 20


def test_memory_for_what_stays_is_there_beforehand(bench):
    """48 MiB of outputs and graphs: without room that the process has already touched, 12,288 pages would fault."""
    run = build(Case("activation_forward", "fp32", {"rows": 2048, "width": 1024}), bench)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    outputs = [run() for _ in range(2)]
    assert len(outputs) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 3000


def test_products_gradients_are_autograds():
    """What is timed for a product are the products of its backward."""
    x, weight = torch.randn(7, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    came = torch.randn(7, 3)
    functional.linear(x, weight).backward(came)
    torch.testing.assert_close(came @ weight, x.grad)
    torch.testing.assert_close(came.t() @ x, weight.grad)
    kernels = {k.timed_as: k.base.shape for k in training_kernels(load_model("tiny"), "fp32", 1, 7, 4)}
    flops = {
        name: shape["m"] * shape["n"] * shape["k"]
        for name, shape in kernels.items()
        if name.startswith("gemm")
    }
    assert flops["gemm_input"] == flops["gemm_weight"] or len(set(flops.values())) <= 3


def test_a_step_asks_the_curves_of_its_own_device(folder):
    """Forwards, input and weight gradients cost what the invented device takes for each, not a forward's factor."""
    calibration = load_calibration(str(folder))
    assert calibration.times_training
    builder = builder_for(CASE, calibration, str(folder))
    layer = builder.layer_chain(builder.scenario.model.layers[0])
    seen = set()
    for part in parts_of(layer):
        for way in ("forward", "input", "weight"):
            for kernel in getattr(part, way):
                if kernel.timed_as not in TRAINING:
                    continue
                seen.add(kernel.timed_as)
                shape = {name: kernel.base.shape[name] for name in SHAPES[kernel.timed_as]}
                flops, moved = work_of(kernel.timed_as, shape)
                kind = kernel.timed_as.rpartition("_")[2]
                expected = 5e-6 + FACTORS[kind] * (flops / 2e10 + moved / 1e10)
                expected += (
                    calibration.launch_s if kind == "forward" else 0.0
                )  # what lies between two forwards
                timing = builder.costing.alone(kernel)
                assert timing.calibrated
                # a product of few rows has parts of its own, which so few timings tell within a fifth
                assert float(timing.seconds) == pytest.approx(expected, rel=0.2), kernel.timed_as
    ways = {f"{kernel}_{way}" for kernel in ("gemm", "grouped_gemm") for way in FACTORS}
    assert {*ways, "norm_forward", "norm_input", "add_forward", "select_forward"} <= seen
    found = predict(CASE, calibration, str(folder))
    assert found.low_s < found.seconds < found.high_s
    chains = [builder.first_chain(), layer, builder.last_chain()]
    parts = [as_segment(builder, chains, (way,)) for way in ("forward", "input", "weight")]
    sums = [sum(float(timing.seconds) for timing in one.timings) for one in parts]
    assert sums[1] + sums[2] > 2.0 * sums[0]


def test_a_calibration_of_serving_kernels_is_asked_as_before(folder):
    """Without --training a gradient takes its forward's time times the public factor."""
    shipped = load_calibration("h800-sxm")
    assert not shipped.times_training


def test_two_ranks_are_predicted(folder):
    """A pipeline of two halves takes longer than its busier half and less than both one after the other; experts of
    two ranks exchange what one has by itself.
    """
    calibration = load_calibration(str(folder))
    one = predict(CASE, calibration, str(folder)).seconds
    pipeline = predict_over_ranks("pipeline", CASE, calibration, str(folder), 4)
    assert 0.5 * 4 * one < pipeline < 4 * one
    assert predict_over_ranks("experts", CASE, calibration, str(folder), 4) > 0.9 * one


def test_a_training_step_of_the_reference_model_runs():
    """Forwards, loss and backwards: every weight has a gradient, but the draft layer's."""
    models = Models()
    loss = build_training_step(CASE, models)()
    model = models.get("tiny", "fp32")
    assert float(loss.detach()) > 0
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert all(name.startswith("mtp") for name in without)


# --- over two ranks ------------------------------------------------------------------------------------------


def gradients_on_a_rank():
    """Gradients of a model whose experts are divided, and of a pipeline's half, each for the same loss as alone."""
    import torch.distributed as dist

    config = SIZES["tiny"]
    exchange = Exchange(config.n_routed_experts)
    model = LongcatFlash(config, exchange=exchange)
    init_weights(model, 0)
    _loss(model, dist.get_rank()).backward()
    experts = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    exchange.close()
    half_model = LongcatFlash(config)
    init_weights(half_model, 0)
    half = Half(half_model, CASE, dist.get_rank())
    for action in schedule("1f1b", 2, 1).orders[dist.get_rank()]:
        for work in half.run(action):
            work.wait()
    pipeline = {
        name: weight.grad for name, weight in half_model.named_parameters() if weight.grad is not None
    }
    return experts, pipeline


def _loss(model, rank, case=CASE):
    random = np.random.default_rng(rank)
    text = torch.from_numpy(random.integers(0, model.config.vocab_size, (1, 33)))
    routed = forced_ids(model, 32, 4, random)
    group = Group("prefill", text[:, :-1], Cache(model.config, 1, 32))
    return functional.cross_entropy(model.step([group], routed_ids_NK=routed, all_logits=True), text[0, 1:])


def test_gradients_over_two_ranks_are_those_of_one():
    ranks = run_ranks(gradients_on_a_rank, 2)
    config = SIZES["tiny"]
    alone = LongcatFlash(config)
    init_weights(alone, 0)
    (_loss(alone, 0) + _loss(alone, 1)).backward()
    half = config.n_routed_experts // 2
    for name, weight in alone.named_parameters():
        if weight.grad is None:
            continue
        if "experts" in name:  # each rank has its own, with the gradients of both ranks' tokens
            for rank, (own, _) in enumerate(ranks):
                expected = weight.grad[rank * half : (rank + 1) * half]
                torch.testing.assert_close(own[name], expected, rtol=1e-3, atol=1e-5, msg=name)
        else:  # copies, each with its own tokens' part
            torch.testing.assert_close(
                ranks[0][0][name] + ranks[1][0][name], weight.grad, rtol=1e-3, atol=1e-5, msg=name
            )
    whole = Models()
    build_training_step(TrainingCase(CASE.size, CASE.dtype, 1, CASE.tokens, CASE.real_experts), whole)
    pieces = {**ranks[0][1], **ranks[1][1]}
    blocks = {name.split(".")[1] for name in pieces if name.startswith("blocks")}
    assert blocks == {"0", "1"}
    assert all(torch.isfinite(one).all() and float(one.abs().sum()) > 0 for one in pieces.values())


@pytest.mark.parametrize("kind", ["pipeline", "experts"])
def test_steps_over_two_ranks_are_measured(kind):
    seconds = measure(kind, CASE, 2, 3e-4)
    assert len(seconds) == 4
    assert all(0.0 < one < 60.0 for one in seconds)


def test_the_command_times_gradients(tmp_path):
    words = [
        "profile",
        "--out",
        str(tmp_path),
        "--model",
        "tiny",
        "--max-tokens",
        "16",
        "--max-context",
        "16",
    ]
    done = CliRunner().invoke(app, [*words, "--training", "--minutes", "0.03"])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert lines[0]["requested"]["training"] is True
    assert len(lines) > 1


def test_a_rank_s_own_time_is_without_its_exchanges_and_with_freed_memory_kept(tmp_path, monkeypatch):
    """As kernels are timed (bench.training_ranks): a step's CPU time does not grow with what its exchanges take."""
    kept = []
    monkeypatch.setattr("calibrate.device.timing.keep_freed_memory", lambda: kept.append(True))
    swap, spent = Exchange.swap, []

    def slow(self, x, send, receive):
        start = time.thread_time()
        while time.thread_time() < start + 0.05:
            pass
        spent.append(0.05)
        return swap(self, x, send, receive)

    with joined(init_method=f"file://{tmp_path}/meet", rank=0, world_size=1):
        plain = training_ranks._busy("experts", CASE, 1, 3e-4)
        monkeypatch.setattr(Exchange, "swap", slow)
        slowed = training_ranks._busy("experts", CASE, 1, 3e-4)
    assert kept == [True, True]
    assert len(slowed["step"]) == training_ranks.STEPS - 1
    each = sum(spent) / training_ranks.STEPS
    assert min(slowed["step"]) < min(plain["step"]) + 0.5 * each


def test_a_pipeline_of_two_equal_ranks_without_transfers_is_1f1bs_closed_form():
    """(m + p - 1)(F + B): what CPU times of actions are put together by (bench.training_ranks)."""
    from calibrate.device.training_ranks import pipeline_s

    forward, back = np.array([1.0, 1.0]), np.array([2.0, 2.0])
    assert pipeline_s(forward, back, 4) == pytest.approx((4 + 2 - 1) * 3.0)
    assert pipeline_s(np.array([1.0, 3.0]), np.array([2.0, 6.0]), 4) == pytest.approx(1.0 + 4 * 9.0 + 2.0)
