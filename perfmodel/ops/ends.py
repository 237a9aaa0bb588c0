"""What surrounds the layers: embedding, head, sampling and the draft layer's extra parts. Per GPU."""

from perfmodel.numeric import Num
from perfmodel.ops.build import LOGIT_BYTES, bmm, gemm, memory_bound, norm
from perfmodel.ops.collective import all_gather
from perfmodel.ops.op import Op, OpClass
from perfmodel.ops.work import Work
from perfmodel.spec.formats import BYTES_PER_ELEMENT
from perfmodel.spec.scenario import Scenario


def embedding_ops(work: Work, scenario: Scenario) -> tuple[Op, ...]:
    """Row gathers from the embedding, and from n-gram tables with their projections."""
    model = scenario.model
    tokens = work.tokens * (scenario.deployment.attention_tp if scenario.deployment.replicated else 1)
    dtype = scenario.deployment.precision.activations
    ops = [_gather("embedding.gather", OpClass.EMBEDDING, tokens, model.hidden_size, dtype)]
    ngram = model.ngram_embedding
    if ngram:
        tables, width = ngram.num_tables, ngram.table_width
        ops.append(_gather("embedding.ngram_gather", OpClass.EMBEDDING, tokens * tables, width, dtype))
        ops.append(
            bmm(
                "embedding.ngram_project",
                OpClass.EMBEDDING,
                groups=tables,
                m=tokens,
                n=model.hidden_size,
                k=width,
                dtype=dtype,
            )
        )
    if model.embedding_norm:
        ops.append(norm("embedding.norm", tokens=tokens, width=model.hidden_size, dtype=dtype))
    return tuple(ops)


def head_ops(work: Work, scenario: Scenario, prefix: str = "head", *, draft: bool = False) -> tuple[Op, ...]:
    """Final norm, logits for the rows that need them, sampling.

    The head is sharded over the attention group's vocabulary (attention_tp), which first gathers the rows of
    its members; with attention_tp = 1 each GPU reads the whole matrix for its own rows. A serving engine samples
    (:data:`SAMPLING`); without one the likeliest token is taken in one pass over the shard.
    """
    model, deployment = scenario.model, scenario.deployment
    tp = deployment.attention_tp
    rows = work.logit_rows * tp
    own_rows = rows if deployment.replicated else work.logit_rows
    shard = model.vocab_size / tp
    dtype = deployment.precision.activations
    ops = [norm(f"{prefix}.norm", tokens=own_rows, width=model.hidden_size, dtype=dtype)]
    if tp > 1 and not deployment.replicated:
        ops.append(all_gather(f"{prefix}.gather", rows, model.hidden_size, deployment, scenario.cluster, tp))
    ops.append(
        gemm(
            f"{prefix}.logits",
            OpClass.HEAD,
            m=rows,
            n=shard,
            k=model.hidden_size,
            dtype=deployment.precision.embedding,
        )
    )
    if not deployment.engine:
        return (*ops, _sampling(f"{prefix}.sample", LOGIT_BYTES, rows, shard, dtype))
    if tp > 1:
        ops.append(
            all_gather(f"{prefix}.gather_logits", rows, model.vocab_size, deployment, scenario.cluster, tp)
        )
    chain = DRAFT_SAMPLING if draft else SAMPLING
    ops += [
        _sampling(f"{prefix}.{name}", moved, own_rows, model.vocab_size, dtype)
        for name, moved in chain.items()
    ]
    return tuple(ops)


def _sampling(name: str, moved: float, rows: Num, width: Num, dtype: str) -> Op:
    """One pass over logits or probabilities: ``moved`` bytes of each."""
    return memory_bound(
        name,
        OpClass.HEAD,
        "sample",
        hbm_bytes=moved * rows * width,
        dtype=dtype,
        shape={"rows": rows, "width": width},
    )


def sampling_op(name: str, rows: Num, width: Num, dtype: str) -> Op:
    """Logits that are added to, and the likeliest of them: two passes read, one written."""
    return _sampling(name, 3.0 * LOGIT_BYTES, rows, width, dtype)


SAMPLING = {"to_fp32": 6.0, "temperature": 8.0, "softmax": 12.0, "sample": 4.0}
"""Kernels of an engine's sampler -> bytes that each moves per logit: BF16 to FP32; division in place; softmax in two
passes over its input, written once; one reading of the probabilities, to draw or to compare a draft with. As
``python/sglang/srt/layers/sampler.py`` and ``logits_processor.py`` of SGLang 0.5 (https://github.com/sgl-project/sglang)
with a temperature and neither top-k nor top-p; every rank of a tensor-parallel group samples all gathered logits."""
DRAFT_SAMPLING = {"to_fp32": 6.0, "softmax": 12.0, "sample": 4.0}
"""A draft is the likeliest token: no temperature."""


def draft_ops(work: Work, scenario: Scenario) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """What a draft pass has around its layer: norms, the projection of [embedding; hidden] to hidden; the head.

    Only the last position of each request needs draft logits.
    """
    hidden = scenario.model.hidden_size
    deployment = scenario.deployment
    tokens = work.tokens * (deployment.attention_tp if deployment.replicated else 1)
    before = (
        _gather("embedding.gather", OpClass.DRAFT, tokens, hidden, deployment.precision.activations),
        norm("join.norm", tokens=2.0 * tokens, width=hidden, dtype=deployment.precision.activations),
        gemm(
            "join.project",
            OpClass.DRAFT,
            m=tokens,
            n=hidden,
            k=2 * hidden,
            dtype=deployment.precision.linear,
        ),
    )
    last = Work(
        tuple(type(group)(group.kind, group.requests, 1.0, group.cached_tokens) for group in work.groups)
    )
    return before, head_ops(last, scenario, draft=True)


def _gather(name: str, op_class: OpClass, rows: Num, width: Num, dtype: str) -> Op:
    """Rows of a table, read and written once."""
    moved = 2.0 * BYTES_PER_ELEMENT[dtype] * rows * width
    return memory_bound(
        name, op_class, "gather", hbm_bytes=moved, dtype=dtype, shape={"rows": rows, "width": width}
    )
