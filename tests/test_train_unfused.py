"""PyTorch's own kernels of a training step: attention's rates against the figures that they are from, bytes of what
lies between products against torch's dispatch, what is kept against its hooks on a Llama block of real modules.
"""

from dataclasses import replace
from functools import partial

import pytest
from test_reference_env import NO_TORCH, has_torch

from perfmodel.kernels.sdpa_rows import own_attention, rate_of
from perfmodel.load import build_scenario
from perfmodel.ops.backward import gradients
from perfmodel.ops.build import norm, swiglu
from perfmodel.ops.op import OpClass
from perfmodel.spec.training import Training
from perfmodel.training import unfused
from perfmodel.training.layout import inner, training_of
from perfmodel.training.saved import head_saved, layer_saved, loss_bytes
from perfmodel.training.step import StepBuilder, simulate_training
from perfmodel.units import TERA

HIDDEN, HEADS, GROUPS, FFN, VOCABULARY = 64, 4, 2, 160, 96
TOKENS = 32
LLAMA = {
    "base": "llama-3.1-70b", "num_hidden_layers": 2, "hidden_size": HIDDEN, "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS, "head_dim": HIDDEN // HEADS, "intermediate_size": FFN,
    "vocab_size": VOCABULARY,
}  # fmt: skip


def scenario(gpu="h100-ib", model=LLAMA, **keys):
    training = {"sequence_tokens": TOKENS, "global_batch_sequences": 1, **keys}
    return build_scenario({"model": model, "cluster": gpu, "training": training})


def builder(**keys):
    found = scenario(**keys)
    return StepBuilder(found, training_of(found))


def kernels(built, way):
    parts = built.layer_chain(built.scenario.model.layers[0]).layers[0]
    return {kernel.op.name: kernel for part in parts.in_sequence() for kernel in getattr(part, way)}


@pytest.mark.parametrize(
    ("sequence", "forward", "both"), [(2048, 298, 265), (8192, 333, 308), (16384, 335, 328)]
)
def test_flash_attention_2_takes_what_its_two_figures_say(sequence, forward, both):
    """FlashAttention-3's paper, figure 5, and FlashAttention-2's README; FLOPs 1 and 2.5 times the forward's."""
    there, back = (rate_of("FlashAttention-2", way, 128, sequence) / TERA for way in ("forward", "backward"))
    assert there == pytest.approx(forward)
    assert 3.5 / (1.0 / there + 2.5 / back) == pytest.approx(both)


def test_rates_lie_as_their_authors_say():
    """Of FlashAttention-2, cuDNN and FlashAttention-3 each is faster than the one before from 4k tokens on (648 and 561
    TFLOP/s without mask at 16k); cuDNN's backward loses by the mask; lengths between lie between; none beyond."""
    for way, most in (("forward", 648), ("backward", 561)):
        for sequence in (4096, 8192, 16384):
            two, cudnn = (rate_of(name, way, 128, sequence) / TERA for name in ("FlashAttention-2", "cuDNN"))
            assert 250 < two < cudnn < most
    assert 450 < rate_of("cuDNN", "backward", 128, 8192) / TERA < 518
    low, high = (rate_of("cuDNN", "forward", 128, tokens) for tokens in (4096, 8192))
    assert low < rate_of("cuDNN", "forward", 128, 6000) < high
    assert rate_of("cuDNN", "forward", 128, 10**6) == rate_of("cuDNN", "forward", 128, 16384)
    assert rate_of("FlashAttention-2", "forward", 80, 8192) == 295 * TERA


def test_attentions_core_is_asked_of_its_library_on_hopper_alone():
    """8192 tokens of 32 heads of 128, two sequences: 2 x 32 x 128 x 8192^2 FLOPs a sequence under the mask."""
    big = {**LLAMA, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    keys = {"model": big, "sequence_tokens": 8192, "global_batch_sequences": 2, "micro_batch_sequences": 2}
    core = kernels(builder(**keys), "forward")["attention0.prefill_core"]
    gpu = scenario(**keys).cluster.gpu
    alone = own_attention(core, gpu, "flash-attention-2")
    assert alone.compute_s == pytest.approx(2 * 2 * 32 * 128 * 8192**2 / (333 * TERA), rel=1e-3)
    assert own_attention(core, gpu, "calibrated") is None
    half = gpu.model_copy(update={"bf16_tflops": gpu.bf16_tflops / 2})
    assert own_attention(core, half, "cudnn").compute_s == pytest.approx(
        2 * own_attention(core, gpu, "cudnn").compute_s
    )
    seconds = [
        simulate_training(scenario(**keys, attention_kernels=name)).step_time_s
        for name in ("flash-attention-2", "cudnn", "calibrated")
    ]
    assert seconds[0] > seconds[1] > seconds[2]
    others = [
        simulate_training(scenario({"base": "h100-ib", "gpu": "b200-sxm"}, **keys, attention_kernels=name))
        for name in ("cudnn", "calibrated")
    ]
    assert others[0].step_time_s == others[1].step_time_s
    assert others[0].training.attention_kernels == "calibrated"


def dispatched(run):
    """(operation, bytes of what it reads and writes) of a run, views left out."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    found = []

    def size(values):
        return sum(
            one.numel() * one.element_size() for one in tree_leaves(values) if isinstance(one, torch.Tensor)
        )

    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            name = str(func).split(".")[1]
            if not func.is_view and name not in ("detach", "_unsafe_view", "_reshape_alias", "clone"):
                found.append((name, size((args, kwargs)) + size(result)))
            return result

    with Counted():
        run()
    return found


def big(found, least):
    """Bytes of operations on the whole tensors: scalars, angles and rows' statistics are left out."""
    return [moved for _, moved in found if moved >= least]


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_bytes_of_kernels_are_those_of_torchs_operations():
    import torch
    from torch.nn import functional

    rows, width = 64, 256
    elements = rows * width
    bf16 = {"dtype": torch.bfloat16, "requires_grad": True}

    def both(function, *inputs):
        """Bytes per element of the operations of a function, and of its backward."""
        result = []
        there = dispatched(lambda: result.append(function(*inputs)))
        gradient = torch.ones_like(result[0])
        back = dispatched(lambda: result[0].backward(gradient))
        return tuple([one / elements for one in big(found, elements)] for found in (there, back))

    gate, up = (torch.randn(rows, width, **bf16) for _ in range(2))
    there, back = both(lambda a, b: functional.silu(a) * b, gate, up)
    assert there == list(unfused.EAGER["activation"][0].values())
    assert back == list(unfused.EAGER["activation"][1].values())

    angles = torch.ones(1, 32) + 0j
    queries = torch.randn(rows, width // 64, 64, **bf16)

    def rotated(x):
        turned = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * angles
        return torch.view_as_real(turned).flatten(2).type_as(x)

    small = 64 * 4 / elements  # the angles, read
    there, back = both(rotated, queries)
    for counted, ours in ((there, unfused.EAGER["rope"][0]), (back, unfused.EAGER["rope"][1])):
        assert counted == pytest.approx(list(ours.values()), abs=small)

    left, right = (torch.randn(rows, width, **bf16) for _ in range(2))
    there, _ = both(lambda a, b: a + b, left, right)
    assert there == [unfused.EAGER["norm"][0]["residual"]]

    logits, labels = torch.randn(rows, width, **bf16), torch.zeros(rows, dtype=torch.long)
    there, back = both(lambda a: functional.cross_entropy(a.float(), labels, reduction="sum"), logits)
    ours = [list(each.values()) for each in unfused.LOSS["pytorch-eager"]]
    ours[0][1] -= 8.0  # read twice more inside the kernel, where a row does not fit on chip
    ours[1][1] -= 4.0
    choice = 4.0  # all of the log-softmax as an argument, of which one element a row is read
    assert there == pytest.approx([*ours[0], choice], abs=0.1)
    assert back[0] - choice == pytest.approx(ours[1][0], abs=0.1)
    assert back[1:] == pytest.approx(ours[1][1:], abs=0.1)


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_torch_has_a_norm_of_one_kernel_that_keeps_its_input_and_a_number_per_row():
    import torch

    there = torch.ops.aten._fused_rms_norm.default._schema
    back = torch.ops.aten._fused_rms_norm_backward.default._schema
    assert len(there.returns) == 2
    assert [one.name for one in back.arguments][:5] == [
        "grad_out",
        "input",
        "normalized_shape",
        "rstd",
        "weight",
    ]


def llama_block(torch):
    """A block of torchtitan's Llama (models/llama3 of v0.2.2, the same operations in the same order) on CPU; its norm
    is the CUDA one's, which CPU lacks: it keeps its input and a number per row.
    """
    from torch import nn
    from torch.nn import functional

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
            ctx.save_for_backward(x, weight, scale)
            return (x.float() * scale).to(x.dtype) * weight

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    dim = HIDDEN // HEADS

    def rotate(x, angles):
        turned = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2)) * angles
        return torch.view_as_real(turned).flatten(3).type_as(x)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {
                "wq": (HIDDEN, HIDDEN), "wk": (HIDDEN, GROUPS * dim), "wv": (HIDDEN, GROUPS * dim),
                "wo": (HIDDEN, HIDDEN), "w1": (HIDDEN, FFN), "w3": (HIDDEN, FFN), "w2": (FFN, HIDDEN),
            }  # fmt: skip
            for name, (into, out) in sizes.items():
                setattr(self, name, nn.Linear(into, out, bias=False, dtype=torch.bfloat16))
            self.norms = nn.ParameterList(
                nn.Parameter(torch.ones(HIDDEN, dtype=torch.bfloat16)) for _ in range(2)
            )

        def forward(self, x, angles):
            normed = Norm.apply(x, self.norms[0])
            q, k, v = (w(normed).view(1, TOKENS, -1, dim) for w in (self.wq, self.wk, self.wv))
            q, k = rotate(q, angles), rotate(k, angles)
            q, k, v = (one.transpose(1, 2) for one in (q, k, v))
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            out = out.transpose(1, 2).contiguous().view(1, TOKENS, -1)
            h = x + self.wo(out)
            normed = Norm.apply(h, self.norms[1])
            return h + self.w2(functional.silu(self.w1(normed)) * self.w3(normed))

    return Block()


def kept_by(torch, run, excluded):
    """Bytes of distinct storages that a run keeps for its backward."""
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in excluded:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result is not None
    return sum(size for size, _ in seen.values())


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_what_a_block_of_real_modules_keeps():
    import torch

    torch.manual_seed(1)
    block = llama_block(torch)
    angles = torch.polar(torch.ones(1, TOKENS, 1, HIDDEN // HEADS // 2), torch.zeros(1)).contiguous()
    x = torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    fixed = {one.untyped_storage().data_ptr() for one in (*block.parameters(), angles)}
    measured = kept_by(torch, lambda: block(x, angles), fixed)
    found = scenario(kernels="pytorch-eager")
    training = training_of(found)
    layer = found.model.layers[0]
    ours = sum(layer_saved(layer, inner(found, training), training).values())
    norms = 2 * 4 * TOKENS  # a number per row, which is left out
    assert ours + norms == measured
    fused = training.model_copy(update={"kernels": "fused"})
    assert ours - sum(layer_saved(layer, inner(found, fused), fused).values()) == 2 * TOKENS * FFN


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_every_second_product_again_is_torchs_selective_checkpoint():
    """torchtitan's policy (distributed/activation_checkpoint.py of v0.2.2) under torch's own checkpoint: FLOPs of the
    products that it runs again, and bytes of the outputs that it keeps.
    """
    import torch
    from torch.utils import checkpoint
    from torch.utils._python_dispatch import TorchDispatchMode

    torch.manual_seed(1)
    block, aten = llama_block(torch), torch.ops.aten
    angles = torch.polar(torch.ones(1, TOKENS, 1, HIDDEN // HEADS // 2), torch.zeros(1)).contiguous()
    cores = {aten._scaled_dot_product_flash_attention_for_cpu.default}
    counted, kept = {}, []

    def policy(ctx, func, *args, **kwargs):
        way = "again" if ctx.is_recompute else "forward"
        if func == aten.mm.default:
            counted[way] = counted.get(way, 0) + 1
            if counted[way] % 2 and way == "forward":
                kept.append(2 * args[0].shape[0] * args[1].shape[1])
        if func in cores and way == "forward":
            kept.append(2 * args[0].numel() + 4 * args[0].shape[1] * args[0].shape[2])
        saved = func in cores or (func == aten.mm.default and counted[way] % 2)
        return (
            checkpoint.CheckpointPolicy.MUST_SAVE if saved else checkpoint.CheckpointPolicy.PREFER_RECOMPUTE
        )

    class Products(TorchDispatchMode):
        flops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func == aten.mm.default:
                self.flops += 2 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1]
            return func(*args, **(kwargs or {}))

    def backward_flops(run):
        x = torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
        out = run(x)
        with Products() as products:
            out.backward(torch.ones_like(out))
        return products.flops

    plain = backward_flops(lambda x: block(x, angles))
    contexts = partial(checkpoint.create_selective_checkpoint_contexts, policy)
    selective = backward_flops(
        lambda x: checkpoint.checkpoint(block, x, angles, use_reentrant=False, context_fn=contexts)
    )
    own = {"kernels": "pytorch-eager", "recompute": ["norms", "activations", "every_second_product"]}
    built = builder(**own)
    again = [one for name, one in kernels(built, "input").items() if name.endswith(".again")]
    assert sum(one.op.flops for one in again) == selective - plain
    training = built.training
    ours = layer_saved(built.scenario.model.layers[0], built.inner, training)
    assert sum(ours.values()) == sum(kept) + 2 * TOKENS * HIDDEN  # and the block's input
    turned = [name for name in kernels(built, "input") if "rope" in name and "backward" not in name]
    assert len(turned) == 3  # the rotation runs again
    less = kernels(builder(**{**own, "recompute": ["norms", "activations"]}), "input")
    assert not [
        name for name in less if name.endswith(".again") or ("rope" in name and "backward" not in name)
    ]


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_the_loss_on_fp32_logits_holds_twelve_bytes_of_each():
    import torch
    from torch.nn import functional

    logits = torch.randn(TOKENS, VOCABULARY, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(TOKENS, dtype=torch.long)
    loss = []
    kept = kept_by(
        torch,
        lambda: loss.append(functional.cross_entropy(logits.float(), labels, reduction="sum")) or loss,
        {labels.untyped_storage().data_ptr()},
    )
    names = {name for name, _ in dispatched(loss[0].backward)}
    each = TOKENS * VOCABULARY
    assert kept == pytest.approx(4 * each, abs=8)  # and the number of tokens that count
    found = scenario(loss_kernels="pytorch-eager")
    training = training_of(found)
    norms = 2 * 2 * TOKENS * HIDDEN
    saved, held = head_saved(found, training) - norms, loss_bytes(found, training)
    assert saved == 4 * each
    assert held == 2 * 4 * each  # gradient of the choice, and of the log-softmax made of it
    assert {"nll_loss_backward", "_log_softmax_backward_data"} <= names
    for kernels, total in (("fused", 8), ("pytorch-compiled", 4), ("pytorch-eager", 12)):
        other = training.model_copy(update={"loss_kernels": kernels})
        assert head_saved(found, other) - norms + loss_bytes(found, other) == total * each


@pytest.mark.skipif(not has_torch(), reason=NO_TORCH)
def test_what_a_compiled_activation_and_loss_keep():
    """By the partitioner of torch.compile: gate, up and the activation, no silu; BF16 logits, two numbers per row."""
    import torch
    from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table
    from torch.nn import functional

    def kept(function, *inputs):
        """Bytes of what goes from forward to backward beside what is a parameter or a small number."""
        seen = []

        def backward(graph, given):
            seen.extend(one.numel() * one.element_size() for one in given if one.dim() == 2)
            return make_boxed_func(graph)

        compiled = aot_function(
            function, fw_compiler=lambda graph, _: make_boxed_func(graph), bw_compiler=backward,
            partition_fn=min_cut_rematerialization_partition, decompositions=select_decomp_table(),
        )  # fmt: skip
        compiled(*inputs).sum().backward()
        return seen

    rows, width, out = 64, 256, 8
    bf16 = {"dtype": torch.bfloat16, "requires_grad": True}
    gate, up = (torch.randn(rows, width, **bf16) for _ in range(2))
    weight = torch.randn(width, out, **bf16)
    found = kept(lambda a, b, w: (functional.silu(a) * b) @ w, gate, up, weight)
    assert sorted(found) == sorted([2 * rows * width] * 3 + [2 * width * out, 2 * rows * out])
    logits, labels = torch.randn(rows, width, **bf16), torch.zeros(rows, dtype=torch.long)
    found = kept(lambda a, b: functional.cross_entropy(a.float(), b, reduction="sum"), logits, labels)
    assert max(found) == 2 * rows * width
    assert sum(found) == 2 * rows * width + 2 * 4 * rows
    assert unfused.LOSS_KEPT["pytorch-compiled"] == 2.0
    assert unfused.silu_kept(Training(global_batch_sequences=1, kernels="pytorch-compiled")) == 0.0


def test_a_step_is_longer_by_the_bytes_that_are_more():
    """Forward of a dense layer: per token 2 norms and residuals of hidden, the rotation of queries and keys, SwiGLU."""
    wide = (HEADS + GROUPS) * HIDDEN // HEADS
    moved = {}
    for name in ("fused", "pytorch-compiled", "pytorch-eager"):
        found = kernels(builder(kernels=name), "forward").values()
        moved[name] = sum(
            one.op.hbm_bytes for one in found if one.op.kernel in ("norm", "rope", "activation")
        )
    values = GROUPS * HIDDEN // HEADS
    before = TOKENS * (4 * (wide + values) + 4 * values)  # values too, and keys and values as a cache's
    rotation = TOKENS * 20 * wide
    assert moved["pytorch-compiled"] - moved["fused"] == rotation - before
    more = TOKENS * (2 * 2 * HIDDEN + 4 * FFN)
    assert moved["pytorch-eager"] - moved["pytorch-compiled"] == more


def test_other_activations_latent_attention_and_the_default_are_as_they_were():
    eager = Training(global_batch_sequences=1, kernels="pytorch-eager")
    plain = Training(global_batch_sequences=1)
    assert unfused.table_of((), plain) == {}
    act = swiglu("x", OpClass.DENSE_FFN, tokens=4, width=8, dtype="bf16")
    own = gradients(act).input
    assert unfused.backwards(act, own, {}) is own
    assert [one.op for one in unfused.forwards(act, {})] == [act]
    other = replace(act, hbm_bytes=4.0 * 4 * 8)  # ReLU's square
    assert len(unfused.forwards(other, unfused.table_of((other,), eager))) == 1
    assert len(unfused.backwards(act, own, unfused.table_of((act,), eager))) == 3
    assert len(unfused.forwards(norm("n", tokens=4, width=8, dtype="bf16"), unfused.table_of((), eager))) == 2
    deep = builder(model="deepseek-v3", kernels="pytorch-eager")
    assert kernels(deep, "forward")["attention0.rope_cache"].op.kernel == "rope"
