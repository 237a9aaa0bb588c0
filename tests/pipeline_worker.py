"""One rank of a real pipeline: torch's own runtime over gloo, with stages that sleep.

A stage's forward, input gradient and weight gradient each sleep for a stated time, in autograd functions of their own:
torch splits I and W by the graph, and one function with input and weight would run its whole backward twice.
"""

import json
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed import pipelining

WIDTH = 4


def sleeper(forward_s, backward_s):
    class Sleep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            time.sleep(forward_s)
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            time.sleep(backward_s)
            return gradient.clone()

    return Sleep.apply


class Stage(torch.nn.Module):
    def __init__(self, forward_s, input_s, weight_s):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(WIDTH))
        self.of_input, self.of_weight = sleeper(forward_s, input_s), sleeper(0.0, weight_s)

    def forward(self, x):
        return self.of_input(x) + self.of_weight(self.weight)


def main():
    asked = json.loads(open(sys.argv[1]).read())
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
        stages = [
            pipelining.PipelineStage(Stage(*asked["seconds"]), index, total, torch.device("cpu"))
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
        results[name] = times
    if rank == 0:
        with open(asked["result"], "w") as file:
            json.dump(results, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
