"""One rank of a real pipeline: torch's own runtime over gloo, with stages that sleep.

A stage's forward, input gradient and weight gradient each sleep for a stated time, in autograd functions of their own:
torch splits I and W by the graph, and one function with input and weight would run its whole backward twice.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import pipelining

WIDTH = 4


def sleeper(forward_s, backward_s, took):
    """Sleeps, and notes in ``took`` how long it really was: forwards and backwards."""

    def sleep(seconds, into):
        start = time.perf_counter()
        time.sleep(seconds)
        into.append(time.perf_counter() - start)

    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            sleep(forward_s, took[0])
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            sleep(backward_s, took[1])
            return gradient.clone()

    return Sleep.apply


class Stage(torch.nn.Module):
    def __init__(self, forward_s, input_s, weight_s, took):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(WIDTH))
        forwards, inputs, weights = took
        self.of_input = sleeper(forward_s, input_s, (forwards, inputs))
        self.of_weight = sleeper(0.0, weight_s, ([], weights))

    def forward(self, x):
        return self.of_input(x) + self.of_weight(self.weight)


def main():
    asked = json.loads(Path(sys.argv[1]).read_text())
    rank = int(sys.argv[2])
    torch.set_num_threads(1)
    p, m = asked["ranks"], asked["micro_batches"]
    dist.init_process_group("gloo", init_method=f"file://{asked['store']}", rank=rank, world_size=p)
    results = {}
    for name, chunks in asked["schedules"].items():
        cls = getattr(pipelining, name)
        total = p * chunks
        if name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV"):
            indices = [rank, total - 1 - rank]
        else:
            indices = [rank + p * chunk for chunk in range(chunks)]
        took = ([], [], [])
        stages = [
            pipelining.PipelineStage(Stage(*asked["seconds"], took), index, total, torch.device("cpu"))
            for index in indices
        ]
        single = chunks == 1
        schedule = cls(stages[0] if single else stages, m, loss_fn=lambda out, target: (out - target).sum())
        x = torch.ones(m, WIDTH, requires_grad=True)
        times = []
        for _ in range(asked["steps"]):
            dist.barrier()
            start = time.perf_counter()
            first = 0 in indices
            last = total - 1 in indices
            schedule.step(*((x,) if first else ()), **({"target": torch.zeros(m, WIDTH)} if last else {}))
            dist.barrier()
            times.append(time.perf_counter() - start)
        results[name] = {"times": times, "took": [statistics.median(one) for one in took]}
    if rank == 0:
        with open(asked["result"], "w") as file:
            json.dump(results, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
