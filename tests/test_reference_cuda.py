"""The same code on a CUDA device: kernels, steps, and the exchange on streams over NCCL (one GPU is enough)."""

from dataclasses import replace

import pytest
from oracle_env import required
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

if not torch.cuda.is_available():
    if required("cuda"):
        pytest.fail("no CUDA device; PERFMODEL_REQUIRE demands one", pytrace=False)
    pytest.skip("no CUDA device (torch.cuda.is_available() is false)", allow_module_level=True)

from reference_model import kernels
from reference_model.config import SIZES
from reference_model.generate import generate
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange
from reference_model.ranks import run_ranks
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

TINY = SIZES["tiny"]
LSA = replace(SIZES["lsa-tiny"], index_n_heads=16, index_topk=6, index_init_tokens=1, index_local_tokens=2)
IDS = torch.arange(18).view(2, 9) % TINY.vocab_size


def build(device, dtype=torch.float32, exchange=None, config=TINY):
    model = LongcatFlash(config, device=device, dtype=dtype, exchange=exchange)
    init_weights(model, 0)
    return model


@torch.no_grad()
def step(model, kind="prefill", **options):
    device, dtype = model.head.device, model.head.dtype
    cache = Cache(model.config, 2, 16, dtype=dtype, device=device)
    return model.step([Group(kind, IDS.to(device), cache)], all_logits=True, **options).float().cpu()


ROUTED = torch.tensor([[2, 0], [5, 4], [2, 7]])
KERNELS = {
    "linear": lambda d: kernels.linear(ramp(5, 8, d), ramp(6, 8, d)),
    "absorb": lambda d: kernels.absorb(ramp(5, 2 * 8, d).view(5, 2, 8), ramp(2, 8 * 4, d).view(2, 8, 4)),
    "grouped_linear": lambda d: kernels.grouped_linear(
        ramp(5, 8, d), ramp(3, 32, d).view(3, 4, 8), [2, 0, 3]
    ),
    "add_norm": lambda d: kernels.add_norm(ramp(5, 8, d), ramp(5, 8, d), ramp(1, 8, d)[0], 1e-5)[0],
    "swiglu": lambda d: kernels.swiglu(ramp(5, 8, d)),
    "permute": lambda d: kernels.permute(ramp(3, 8, d), ROUTED.to(d), 4)[0],
    "index_logits": lambda d: kernels.index_logits(
        ramp(2, 3 * 2 * 8, d).view(2, 3, 2, 8),
        ramp(2, 3 * 2 * 4, d).view(2, 3, 2, 4),
        ramp(2, 6, d).view(2, 3, 2),
        ramp(2, 5 * 8, d).view(2, 5, 8),
    ),
    "mla_sparse": lambda d: kernels.mla_sparse(
        ramp(2, 3 * 2 * 8, d).view(2, 3, 2, 8),
        ramp(2, 3 * 2 * 4, d).view(2, 3, 2, 4),
        ramp(2, 7 * 12, d).view(2, 7, 12)[:, :5],
        torch.tensor([[0, 2, 1], [3, 1, 2], [4, 0, 3]], device=d).expand(2, -1, -1),
        0.3,
    ),
    "join": lambda d: kernels.join(ramp(5, 8, d), ramp(5, 8, d)),
}


def ramp(rows, columns, device):
    return torch.linspace(-1, 1, rows * columns, device=device).view(rows, columns)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_equal_the_cpus(name):
    torch.testing.assert_close(KERNELS[name]("cuda").cpu(), KERNELS[name]("cpu"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, LSA], ids=["mla", "lsa"])
@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_step_equals_the_cpus(kind, config):
    expected = step(build("cpu", config=config), kind)
    model = build("cuda", config=config)
    torch.testing.assert_close(step(model, kind), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(step(model, kind, overlapped=True), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [TINY, LSA], ids=["mla", "lsa"])
def test_bf16_generates_with_drafts(config):
    assert generate(build("cuda", torch.bfloat16, config=config), IDS.cuda(), 5, draft=True).shape == (2, 5)


def over_nccl():
    torch.cuda.set_device(0)
    exchange = Exchange(TINY.n_routed_experts, device="cuda:0")
    model = build("cuda:0", exchange=exchange)
    sequential = step(model)
    overlapped = [step(model, overlapped=True) for _ in range(20)]
    exchange.close()
    return sequential, overlapped


def test_the_exchange_on_a_stream_changes_nothing():
    """Back to back, so that memory which is reused too early would show; sums of rows may come in another order."""
    ((sequential, overlapped),) = run_ranks(over_nccl, 1, backend="nccl")
    expected = step(build("cpu"))
    for logits in (sequential, *overlapped):
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
