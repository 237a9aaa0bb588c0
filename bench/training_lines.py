"""torchtitan's published tables of Llama 3 on H100, each row as the line that starts it, read by ``perfmodel init``
and answered by ``perfmodel train``: ``python -m bench.training_lines``.

A row states model, GPUs, degrees, batch, sequence, recomputation, number format and whether it is compiled; the rest
is what torchtitan does where nothing is said. The boards are stated there: 96 GB at 2.4 TB/s, capped at 500 W. Products
are the calibration's, of H100 boards at 3.35 TB/s, scaled by what bounds each.

The runs are older than the release whose settings are read (v0.2.2): their commits, 9dec370 of December 2024 and
820504e of June 2025, asked ``scaled_dot_product_attention`` for FlashAttention-2 on H100, and the first did not
compile the loss and cut a pipeline's batch into as many micro-batches as it has ranks. All three are stated here;
nothing is fitted on the rows.

Memory is what torchtitan logs, the most that PyTorch's allocator had reserved, which is more than was in use at once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from perfmodel.answers.train import answer_train
from perfmodel.engines.frameworks.command import training_command
from perfmodel.explore.first_training import TrainAsk, first_training
from perfmodel.load import build_scenario
from perfmodel.units import PERCENT
from perfmodel.validation.training_roles import MEASURED, read

BOARD = {"base": "h100-sxm", "hbm_gb_per_s": 2400}
CAP_W = 500
ATTENTION = "flash-attention-2"
LOSS_UNCOMPILED = "llama3_h100_202412"
"""Of a source whose commit left the loss as it was."""
SYSTEM = "H100-96G-500W(2.4TB/s)"
ROOM = 200 * 10**9
"""Memory of a board in the scenario, bytes: what a step needs is asked, not whether it fits."""


@dataclass(frozen=True, slots=True)
class Row:
    """A published row and what is predicted of it."""

    words: str
    tokens: float
    """Predicted tokens/s per GPU."""
    measured_tokens: float
    gib: float
    """Predicted memory of the fullest GPU, GiB."""
    measured_gib: float | None


def line_of(record: Mapping[str, str]) -> str:
    """The line that starts a row's run."""
    words = [f"NGPU={record['gpus']} ./run_train.sh --model.name llama3"]
    words.append(f"--model.flavor {record['model'].split('-')[1]} --training.seq_len {record['seq'] or 8192}")
    words.append(f"--training.local_batch_size {record['mbs']}")
    for column, name in (("tp", "tensor"), ("pp", "pipeline"), ("cp", "context")):
        if record[column]:
            words.append(f"--parallelism.{name}_parallel_degree {record[column]}")
    if record["pp"]:
        words.append(
            f"--parallelism.pipeline_parallel_microbatch_size {int(record['mbs']) // int(record['pp'])}"
        )
    if record["schedule"]:
        words.append(f"--parallelism.pipeline_parallel_schedule {record['schedule']}")
    if "float8" in record["precision"]:
        words.append("--model.converters quantize.linear.float8")
    if record["note"] != "FSDP":
        words.append("--compile.enable")
        if LOSS_UNCOMPILED in record["source"]:
            words.append("--compile.components model")
    mode = "full" if record["recompute"] == "full" else "selective"
    words.append(f"--activation_checkpoint.mode {mode} --activation_checkpoint.selective_ac_option op")
    return " ".join(words)


def rows(*, gpus: int | None = None) -> Iterator[Row]:
    """Every row of those boards, or those of so many GPUs."""
    for record in read(MEASURED):
        if record["system"] != SYSTEM or gpus not in (None, int(record["gpus"])):
            continue
        line = line_of(record)
        command = training_command(line)
        assert command is not None
        first = first_training(TrainAsk(command, line, f"{record['gpus']}xh100"))
        cluster = {"base": "h100-ib", "gpu": BOARD | {"memory_bytes": ROOM}}
        training = first.document["training"] | {"power_cap_w": CAP_W, "attention_kernels": ATTENTION}
        values = answer_train(
            build_scenario({**first.document, "cluster": cluster, "training": training})
        ).values
        held = max(rank["total"] for rank in values["memory_by_stage"])
        degrees = " ".join(f"{name.upper()}{record[name]}" for name in ("tp", "pp", "cp") if record[name])
        yield Row(
            f"{record['model']} {record['gpus']} GPUs {record['precision']} {degrees} {record['schedule']} "
            f"{record['seq']} {record['recompute']}, {record['note']}",
            values["tokens_per_s_per_gpu"],
            float(record["tok_s_gpu"]),
            held / 2**30,
            float(record["peak_mem"]) if record["peak_mem"] else None,
        )


def main() -> None:
    """Print each row, and the medians."""
    speeds, memories = [], []
    for row in rows():
        speeds.append(PERCENT * (row.tokens / row.measured_tokens - 1.0))
        text = f"{row.tokens:8,.0f} tokens/s per GPU for {row.measured_tokens:8,.0f} {speeds[-1]:+6.1f} %"
        if row.measured_gib:
            memories.append(PERCENT * (row.gib / row.measured_gib - 1.0))
            text += f"   {row.gib:5.1f} GiB for {row.measured_gib:5.1f} {memories[-1]:+6.1f} %"
        print(f"{row.words:95}{text}")
    print(f"median: speed {np.median(speeds):+.1f} %, memory {np.median(memories):+.1f} %")


if __name__ == "__main__":
    main()
