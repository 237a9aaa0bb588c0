"""What surrounds the layers: host gap, embedding, head, sampling and the draft layer's extra parts. Per GPU."""

from perfmodel.ops.build import ACTIVATION_BYTES, LOGIT_BYTES, bmm, elementwise, gemm, norm
from perfmodel.ops.collective import all_gather
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.ops.work import Work
from perfmodel.spec.scenario import Scenario
from perfmodel.units import US


def host_op(scenario: Scenario) -> Op:
    """The host time per step that the GPU waits for."""
    seconds = scenario.deployment.host_gap_us * US
    return Op("host.gap", OpClass.HOST, "host", Stream.HOST, shape={"seconds": seconds})


def embedding_ops(work: Work, scenario: Scenario) -> tuple[Op, ...]:
    """Row gathers from the embedding, and from n-gram tables with their projections."""
    model = scenario.model
    tokens = work.tokens * (scenario.deployment.attention_tp if scenario.deployment.replicated else 1)
    row = 2.0 * ACTIVATION_BYTES * tokens
    ops = [elementwise("embedding.gather", OpClass.EMBEDDING, hbm_bytes=row * model.hidden_size)]
    ngram = model.ngram_embedding
    if ngram:
        tables, width = ngram.num_tables, ngram.table_width
        ops.append(elementwise("embedding.ngram_gather", OpClass.EMBEDDING, hbm_bytes=row * tables * width))
        ops.append(
            bmm(
                "embedding.ngram_project",
                OpClass.EMBEDDING,
                groups=tables,
                m=tokens,
                n=model.hidden_size,
                k=width,
            )
        )
    return tuple(ops)


def head_ops(work: Work, scenario: Scenario, prefix: str = "head") -> tuple[Op, ...]:
    """Final norm, logits for the rows that need them, sampling.

    The head is sharded over the attention group's vocabulary (attention_tp), which first gathers the rows of
    its members; with attention_tp = 1 each GPU reads the whole matrix for its own rows.
    """
    model, deployment = scenario.model, scenario.deployment
    tp = deployment.attention_tp
    rows = work.logit_rows * tp
    own_rows = rows if deployment.replicated else work.logit_rows
    shard = model.vocab_size / tp
    ops = [norm(f"{prefix}.norm", tokens=own_rows, width=model.hidden_size)]
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
    ops.append(elementwise(f"{prefix}.sample", OpClass.HEAD, hbm_bytes=LOGIT_BYTES * rows * shard))
    return tuple(ops)


def draft_ops(work: Work, scenario: Scenario) -> tuple[tuple[Op, ...], tuple[Op, ...]]:
    """What a draft pass has around its layer: norms, the projection of [embedding; hidden] to hidden; the head.

    Only the last position of each request needs draft logits.
    """
    hidden = scenario.model.hidden_size
    deployment = scenario.deployment
    tokens = work.tokens * (deployment.attention_tp if deployment.replicated else 1)
    before = (
        elementwise("embedding.gather", OpClass.DRAFT, hbm_bytes=2.0 * ACTIVATION_BYTES * tokens * hidden),
        norm("join.norm", tokens=2.0 * tokens, width=hidden),
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
    return before, head_ops(last, scenario)
