"""FLOPs and saved bytes of a training step against PyTorch's own counts; model FLOPs against published ones."""

from dataclasses import replace

import pytest
from test_reference_env import NO_TORCH, has_torch

from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.backward import CORES, core_flops
from perfmodel.spec import catalogue
from perfmodel.spec.training import Training
from perfmodel.training.flops import model_flops_per_token
from perfmodel.training.layout import inner
from perfmodel.training.parts import embedding_part, head_part, layer_parts
from perfmodel.training.saved import eager_block_saved, layer_saved
from perfmodel.units import GIGA

needs_torch = pytest.mark.skipif(not has_torch(), reason=NO_TORCH)


def reference_scenario(size, tokens):
    from reference_model.config import SIZES

    config = replace(SIZES[size], mtp_num_layers=0, max_position_embeddings=8192)
    document = {
        "model": config.as_hugging_face(),
        "cluster": "h800-ib",
        "training": {"sequence_tokens": tokens, "global_batch_sequences": 1},
    }
    return config, build_scenario(document)


def run_reference(config, tokens, seed):
    """(model, inputs, pairs of every block) after one forward that recorded the routing."""
    import torch

    torch.set_num_threads(1)
    from reference_model.model import LongcatFlash
    from reference_model.training import recorded
    from reference_model.weights import init_weights
    from reference_model.work import Cache, Group

    torch.manual_seed(seed)
    model = LongcatFlash(config)
    init_weights(model, seed)
    ids = torch.randint(config.vocab_size, (1, tokens))

    def group():
        return [Group("prefill", ids, Cache(config, 1, tokens))]

    with torch.no_grad(), recorded([block.moe.router for block in model.blocks]) as routings:
        model.step(group(), all_logits=True)
    pairs = [int((one.ids_NK < config.n_routed_experts).sum()) for one in routings]
    return model, group, pairs


@needs_torch
@pytest.mark.parametrize(("size", "tokens"), [("tiny", 64), ("tiny", 96), ("small", 48)])
def test_flops_equal_pytorchs(size, tokens):
    """Math attention counts every query-key pair, ours the causal half: (S + 1) / 2 of S."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config, scenario = reference_scenario(size, tokens)
    model, group, pairs = run_reference(config, tokens, seed=0)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            logits = model.step(group(), all_logits=True)
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()

    mean = sum(pairs) / len(pairs) / tokens
    routing = scenario.routing.model_copy(update={"mean_real_experts": mean})
    own = inner(scenario.model_copy(update={"routing": routing}), scenario.training)
    layers = [layer_parts(layer, own, scenario.training) for layer in own.model.layers]
    parts = [
        embedding_part(own, scenario.training),
        *(
            part
            for layer, run in zip(layers, own.model.layers, strict=True)
            for part in layer.in_sequence() * run.count
        ),
        head_part(own, scenario.training),
    ]
    full = 2.0 * tokens / (tokens + 1.0)

    def flops(kernel, back):
        """Math attention keeps its scores, ours computes them again: 2 times the forward instead of ``core_flops``."""
        if kernel.base.kernel not in CORES:
            return kernel.op.flops
        return kernel.op.flops * full * (2.0 / core_flops(kernel.base) if back else 1.0)

    forwards = sum(flops(kernel, back=False) for part in parts for kernel in part.forward)
    backwards = sum(flops(kernel, back=True) for part in parts for kernel in (*part.input, *part.weight))
    assert forwards == pytest.approx(forward.get_total_flops(), rel=1e-9)
    assert backwards == pytest.approx(backward.get_total_flops(), rel=1e-9)
    assert backwards == pytest.approx(2.0 * forwards, rel=1e-9)


def saved_bytes(run, excluded):
    """Bytes of the unique storages that a forward keeps."""
    import torch

    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = run()
    return sum(size for key, size in storages.items() if key not in excluded), out


@needs_torch
@pytest.mark.parametrize(("size", "tokens", "seed"), [("tiny", 256, 0), ("tiny", 512, 1), ("small", 256, 0)])
def test_saved_bytes_of_a_block_equal_pytorchs(size, tokens, seed):
    """With and without recomputation of the whole block, to the byte."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.checkpoint import checkpoint

    config, scenario = reference_scenario(size, tokens)
    model, group, _ = run_reference(config, tokens, seed)
    block, own = model.blocks[0], group()
    places = model.rotary.places(own, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    residual, delta = (
        torch.randn(tokens, config.hidden_size, generator=generator).requires_grad_() for _ in range(2)
    )
    excluded = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for place in places:
        excluded |= {one.untyped_storage().data_ptr() for one in (place.cos_TR, place.sin_TR)}
    from reference_model.training import recorded

    with sdpa_kernel(SDPBackend.MATH), recorded([block.moe.router]) as routings:
        measured, _ = saved_bytes(lambda: block(residual, delta, places), excluded)
        pairs = int((routings[0].ids_NK < config.n_routed_experts).sum())
        again = group()
        places = model.rotary.places(again, torch.float32)
        checkpointed, _ = saved_bytes(
            lambda: checkpoint(block, residual, delta, places, use_reentrant=False), excluded
        )
    layer = scenario.model.layers[0]
    ours = eager_block_saved(
        layer.attention, layer.moe, layer.dense_ffn_size, config.hidden_size, tokens, pairs, 4.0
    )
    assert sum(ours.values()) == measured
    eager = Training(global_batch_sequences=1, sequence_tokens=tokens, kernels="eager", recompute="full")
    assert 2.0 * sum(layer_saved(layer, scenario, eager).values()) == checkpointed  # FP32 here, BF16 there


@pytest.mark.parametrize(
    ("model", "mtp", "published"),
    [("deepseek-v3", True, 260.6), ("deepseek-v3", False, 250.4), ("qwen3-235b-a22b", False, 148.3)],
)
def test_model_flops_per_token_as_published(model, mtp, published):
    """Megatron-Bridge's TFLOPS over tokens/s, and DeepSeek's 250 GFLOPs per token (facts of the training rows)."""
    scenario = build_scenario(
        {
            "model": model,
            "cluster": "h800-ib",
            "training": {"sequence_tokens": 4096, "global_batch_sequences": 1, "mtp": mtp},
        }
    )
    per_token = model_flops_per_token(scenario, scenario.training, causal=True) / GIGA
    assert per_token == pytest.approx(published, rel=2e-3)
    if model == "deepseek-v3" and not mtp:
        full = model_flops_per_token(scenario, scenario.training, causal=False) / GIGA
        assert full == pytest.approx(281.2, rel=2e-3)


def test_forward_flops_are_the_formulas():
    """What the ops of all stages add up to on one GPU without parallelism is what the closed formula says."""
    scenario = build_scenario(
        {
            "model": "deepseek-v3",
            "cluster": "h800-ib",
            "training": {"sequence_tokens": 4096, "global_batch_sequences": 1},
        }
    )
    own = inner(scenario, scenario.training)
    layers = [(layer_parts(run, own, scenario.training), run.count) for run in own.model.layers]
    total = sum(
        count * kernel.op.flops
        for layer, count in layers
        for part in layer.in_sequence()
        for kernel in part.forward
    )
    total += sum(kernel.op.flops for kernel in head_part(own, scenario.training).forward)
    expected = model_flops_per_token(scenario, scenario.training, causal=True) / 3.0 * 4096
    assert total == pytest.approx(expected, rel=1e-3)


def test_catalogue_has_training_scenarios():
    for name in ("deepseek-v3-train-h800", "longcat-flash-train-h800"):
        assert name in catalogue.names("scenarios")
        assert load_scenario(name).training is not None
