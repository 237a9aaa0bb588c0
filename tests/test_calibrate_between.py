"""What lies between two kernels: a step less its kernels, per op of perfmodel's."""

import time

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from calibrate.device.between import SIZE, TOKENS
from calibrate.device.builders import build
from calibrate.device.case import Case
from calibrate.device.needs import load_model, reference_scenario, training_builder
from calibrate.device.timing import Bench
from perfmodel.step import step_segments
from perfmodel.training.overlap import parts_of
from reference_model import kernels
from reference_model.moe import MoE

LAUNCH, LAUNCH_FORWARD = Case("launch", "fp32", {}), Case("launch_forward", "fp32", {})


@pytest.fixture(scope="module")
def bench():
    torch.set_num_threads(1)
    return Bench("cpu", 1, reference_probe_s=3e-4, clock=time.process_time_ns)


def burning(seconds, function):
    def slow(*args, **named):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        return function(*args, **named)

    return slow


def seconds(bench, case=LAUNCH):
    return bench.measure(build(case, bench), samples=5).raw_seconds


def test_kernels_are_not_in_it_and_what_lies_between_them_is(bench, monkeypatch):
    plain = seconds(bench)
    assert 1e-6 < plain < 5e-4
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "swiglu", burning(5e-3, kernels.swiglu))
        assert seconds(bench) < plain + 2e-4  # six of 0.005 s over 70 kernels would be 4e-4
    with monkeypatch.context() as patched:
        patched.setattr(MoE, "forward", burning(2e-2, MoE.forward))
        assert seconds(bench) > plain + 3e-4  # two of 0.02 s: 6e-4


def test_it_is_per_op_that_perfmodel_counts(bench):
    run = build(LAUNCH, bench).run
    with torch.inference_mode():
        run()
    deployment = {"phase": "prefill", "prefill_requests_per_gpu": 1, "prefill_tokens": TOKENS}
    model = load_model(SIZE)
    segments = step_segments(reference_scenario(model, "fp32", deployment))
    own = [one for one in segments if not one.name.startswith("draft")]
    counted = sum(one.repeat * sum(not task.op.is_communication for task in one.tasks) for one in own)
    assert abs(run.count - counted) <= 2  # the rows that logits are for: one op of perfmodel's or two
    recorded = build(LAUNCH_FORWARD, bench).run
    with torch.inference_mode():
        assert recorded().requires_grad
    builder = training_builder(model, "fp32", 1, TOKENS, 4)
    chains = [
        builder.first_chain(),
        *(builder.layer_chain(layer, layer.count) for layer in model.layers),
        builder.last_chain(),
    ]
    forward = [kernel for chain in chains for part in parts_of(chain) for kernel in part.forward]
    local = [kernel for kernel in forward if not kernel.op.is_communication]
    assert recorded.count == len(local) - 1  # the loss is no kernel of the reference model
