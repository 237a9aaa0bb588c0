"""Expert parallelism over gloo: the same numbers on one, two and four ranks, whatever the routing, and either form."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch
import torch.distributed as dist

from reference_model.config import SIZES
from reference_model.model import LongcatFlash
from reference_model.parallel import Exchange, expert_order
from reference_model.ranks import run_ranks
from reference_model.weights import init_weights
from reference_model.work import Cache, Group

torch.set_num_threads(1)
TINY = SIZES["tiny"]
TOP_K, EXPERTS = TINY.moe_topk, TINY.n_routed_experts


def routings(rank, num_ranks, num_tokens):
    """Name -> forced experts of this rank's tokens (None: the router's choice)."""
    pair = torch.arange(num_tokens * TOP_K).view(num_tokens, TOP_K)
    local = EXPERTS // num_ranks
    zero = torch.full((num_tokens, TOP_K), EXPERTS)
    return {
        "router": None,
        "rank 0 alone computes": pair % local,
        "rank 0 receives nothing": local + pair % (EXPERTS - local),
        "nothing is sent": zero,
        "only rank 1 sends": pair % EXPERTS if rank == 1 else zero,
    }


def groups(rank, dtype=torch.float32):
    """This rank's own work: decode and prefill, as many tokens as no other rank has; the last of four has none."""
    generator = torch.Generator().manual_seed(rank)

    def ids(requests, new):
        return torch.randint(TINY.vocab_size, (requests, new), generator=generator)

    requests = (0, 0) if rank == 3 else (2, 1)
    decode, prefill = (Cache(TINY, number, 16, dtype=dtype) for number in requests)
    return [
        Group("decode", ids(requests[0], 1 + rank), decode),
        Group("prefill", ids(requests[1], 5), prefill),
    ]


def build(exchange=None, dtype=torch.float32):
    model = LongcatFlash(TINY, exchange=exchange, dtype=dtype)
    init_weights(model, 0)
    return model


def logits(model, rank, num_ranks, *, overlapped=False, dtype=torch.float32):
    """Routing -> logits of every token of a rank."""
    num_tokens = sum(group.ids_BT.numel() for group in groups(rank))
    options = {"overlapped": overlapped, "all_logits": True}
    return {
        name: model.step(groups(rank, dtype), routed_ids_NK=ids, **options)
        for name, ids in routings(rank, num_ranks, num_tokens).items()
    }


def on_a_rank():
    """(sequential, overlapped, both in BF16) of this rank; the overlapped steps also run in inference mode."""
    exchange = Exchange(EXPERTS)
    where = (dist.get_rank(), dist.get_world_size())
    model, half = build(exchange), build(exchange, torch.bfloat16)
    with torch.no_grad():
        results = [logits(model, *where), logits(model, *where, overlapped=True)]
        results += [logits(half, *where, overlapped=o, dtype=torch.bfloat16)["router"] for o in (False, True)]
    with torch.inference_mode():
        again = logits(model, *where, overlapped=True)
    assert all(torch.equal(again[name], value) for name, value in results[1].items())
    exchange.close()
    return results


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request):
    return run_ranks(on_a_rank, request.param)


def test_ranks_together_equal_one_rank(ranks):
    model = build()
    for rank, (sequential, *_) in enumerate(ranks):
        with torch.no_grad():
            alone_by_name = logits(model, rank, len(ranks))
        for name, alone in alone_by_name.items():
            torch.testing.assert_close(
                sequential[name], alone, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


def test_overlapped_equals_sequential_to_the_bit(ranks):
    for sequential, overlapped, *half in ranks:
        assert all(torch.equal(overlapped[name], value) for name, value in sequential.items())
        assert torch.equal(*half)
        assert half[0].dtype == torch.bfloat16


def test_rows_are_put_in_the_order_of_experts_and_back():
    received = torch.tensor([[2, 0, 1], [1, 1, 0]])  # of each rank for each local expert
    rows = torch.tensor([0, 0, 2, 0, 1])  # the expert of each row, as they come
    order, back = expert_order(received)
    assert order.tolist() == [0, 1, 3, 4, 2]
    assert rows[order].tolist() == [0, 0, 0, 1, 2]
    assert rows[order][back].tolist() == rows.tolist()


def alone_in_a_group():
    """An exchange whose only rank is this one: rows come back as they went, errors come out, nothing waits."""
    exchange = Exchange(4)
    rows, counts = torch.randn(5, 3), [2, 0, 3, 0]
    received = exchange.dispatch(rows, counts, overlapped=True).wait()
    back = exchange.combine(received.rows_PH, received, overlapped=True).wait()
    assert torch.equal(back, rows)
    assert received.counts == counts
    errors = []
    for tensor, numbers in ((rows.clone().requires_grad_(), counts), (rows, [2, 0, 4, 0])):
        try:
            exchange.dispatch(tensor, numbers, overlapped=True).wait()
        except RuntimeError as error:
            errors.append(str(error))
    gate, swap = threading.Event(), exchange.swap
    exchange.swap = lambda *args: swap(*args) if gate.wait(10) else pytest.fail("not beside the caller")
    pending = exchange.dispatch(rows, counts, overlapped=True)
    gate.set()
    assert torch.equal(pending.wait().rows_PH, rows)
    exchange.close()
    return errors


def failing():
    if dist.get_rank() == 1:
        raise ValueError("one is broken")
    dist.barrier()  # would wait for ever


def test_an_exchange_refuses_gradients_and_reports_errors():
    (errors,) = run_ranks(alone_in_a_group, 1)
    assert len(errors) == 2
    assert "no_grad" in errors[0]
    assert "split" in errors[1]


def test_a_failing_rank_ends_all():
    with pytest.raises(RuntimeError, match=r"rank 1 failed:\n(.|\n)*one is broken"):
        run_ranks(failing, 2, timeout_s=60)


BY_HAND = """
import torch.distributed as dist
from reference_model.parallel import Exchange
from reference_model.ranks import joined
with joined():
    exchange = Exchange(2)
    try:
        Exchange(3)
    except ValueError as error:
        print(error)
    exchange.close()
    print(dist.get_rank(), dist.get_world_size())
"""


def test_ranks_can_be_started_by_hand():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parent.parent
    where = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BY_HAND],
            env=os.environ | where | {"RANK": str(rank), "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].split("\n") for process in processes]
    assert outputs == [["3 experts must be a multiple of the 2 ranks", f"{rank} 2", ""] for rank in range(2)]
