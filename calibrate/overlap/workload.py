"""What the overlap experiment runs, and what perfmodel is asked about it.

Two ranks share the experts of one shortcut-connected block (ScMoE); each has tokens of its own. Experts are forced, at
random and not evenly, so that the load of each rank is known and is not one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrate.device.case import SHAPES, Case
from calibrate.device.curves import MIN_ROWS
from calibrate.device.needs import reference_scenario
from perfmodel.overlap.graph import Segment
from perfmodel.spec.models.reader import model_from_config
from perfmodel.spec.scenario import Scenario
from perfmodel.step import step_segments
from reference_model.config import Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_RANKS = 2
DTYPE = "fp32"
ELEMENT_BYTES = 4.0
CONFIG = Config(
    vocab_size=512,
    hidden_size=512,
    num_layers=4,
    num_attention_heads=8,
    q_lora_rank=128,
    kv_lora_rank=64,
    qk_nope_head_dim=64,
    qk_rope_head_dim=32,
    v_head_dim=64,
    ffn_hidden_size=1024,
    expert_ffn_hidden_size=512,
    n_routed_experts=8,
    zero_expert_num=4,
    moe_topk=4,
    max_position_embeddings=2048,
    mtp_num_layers=0,
)
"""Four blocks, run in turn so that weights are cold: 30 MB of them per block and rank."""
POPULARITY_STD = 0.35
"""Spread of the logarithm of the experts' popularity."""
OTHER_TOKENS = tuple(2.0 ** (step / 7) for step in range(-7, 8) if step)
"""Calibration times the block's ops at these multiples of its tokens: never at the one that is predicted."""
MIN_TIMED = MIN_ROWS + 2
TIMED_PER_MATRIX = 6
SCHEDULES = {False: "sequential", True: "sbo"}
"""perfmodel's name of what ``overlapped`` selects in the reference model."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One block on two ranks."""

    tokens: int
    """Of each rank: one request that is prefilled."""
    ids: tuple["NDArray[np.int64]", ...]
    """Of each rank: the experts of each token, [N, K]; those from ``n_routed_experts`` up compute nothing."""
    config: Config = CONFIG

    @property
    def pairs(self) -> "NDArray[np.float64]":
        """Pairs (token, real expert) from each rank (row) for each rank's experts (column)."""
        local = self.config.n_routed_experts // NUM_RANKS
        return np.array(
            [
                [float(((ids >= r * local) & (ids < (r + 1) * local)).sum()) for r in range(NUM_RANKS)]
                for ids in self.ids
            ]
        )

    @property
    def mean_real_experts(self) -> float:
        """Real experts per token, as drawn."""
        return float(self.pairs.sum()) / (NUM_RANKS * self.tokens)

    @property
    def rank_loads(self) -> tuple[float, ...]:
        """Pairs that each rank computes, relative to the mean."""
        received = self.pairs.sum(axis=0)
        return tuple((received / received.mean()).tolist())

    @property
    def remote_rows(self) -> int:
        """Rows in the busier direction of the link."""
        pairs = self.pairs
        return int(max(pairs[0, 1], pairs[1, 0]))

    @property
    def row_bytes(self) -> float:
        """Bytes of one row."""
        return ELEMENT_BYTES * self.config.hidden_size


def draw_workload(tokens: int, seed: int) -> Workload:
    """Experts drawn without replacement for each token, popular ones more often.

    The heavier rank is always the first, which is no loss: ranks are alike.
    """
    config, random = CONFIG, np.random.default_rng(seed)
    popularity = random.normal(scale=POPULARITY_STD, size=config.num_experts)
    popularity[: config.n_routed_experts] = np.sort(popularity[: config.n_routed_experts])[::-1]
    keys = popularity + random.gumbel(size=(NUM_RANKS, tokens, config.num_experts))
    ids = np.argsort(-keys, axis=-1)[..., : config.moe_topk]
    return Workload(tokens, tuple(np.ascontiguousarray(own) for own in ids))


def scenario(workload: Workload, *, overlapped: bool, tokens: int | None = None, **sections: Any) -> Scenario:
    """The question that perfmodel is asked: a step whose layers are such blocks.

    With ``tokens`` of each rank in place of the workload's own, routed as those are on average.

    Raises:
        SpecError: a section has a value that is not allowed.
    """
    deployment = {
        "phase": "prefill",
        "prefill_requests_per_gpu": 1,
        "prefill_tokens": tokens or workload.tokens,
        "attention_dp": NUM_RANKS,
        "ep": NUM_RANKS,
        "all_to_all": "all-to-all",
        "overlap": SCHEDULES[overlapped],
    }
    routing = {"mean_real_experts": workload.mean_real_experts, "rank_loads": workload.rank_loads}
    model = model_from_config(workload.config.as_hugging_face(), name="overlap-block")
    return reference_scenario(model, DTYPE, deployment, routing=routing, **sections)


def block_segment(asked: Scenario) -> Segment:
    """One block out of a step."""
    (segment,) = (one for one in step_segments(asked) if one.name.startswith("layers"))
    return Segment(segment.name, segment.tasks, segment.timings)


def kernel_cases(workload: Workload, seed: int) -> list[Case]:
    """What to time: every compute kernel of the block, at other numbers of tokens than the block's.

    At least :data:`MIN_TIMED` shapes of each class, six of each matrix of a product, in random order.
    """
    random = np.random.default_rng(seed)
    found: dict[str, dict[Case, None]] = {}
    for case in _cases_elsewhere(workload):
        found.setdefault(case.kernel, {})[case] = None
    chosen: list[Case] = []
    for cases in map(list, found.values()):
        # one matrix after another, each over all numbers of tokens: equal steps take of each alike
        wanted = min(len(cases), max(MIN_TIMED, TIMED_PER_MATRIX * len(cases) // len(OTHER_TOKENS)))
        chosen += [cases[round(index)] for index in np.linspace(0, len(cases) - 1, wanted)]
    return [chosen[index] for index in random.permutation(len(chosen))]


def _cases_elsewhere(workload: Workload) -> Iterator[Case]:
    """Ops of the block at other numbers of tokens, op by op."""
    numbers = [max(round(factor * workload.tokens), 1) for factor in OTHER_TOKENS]
    segments = [block_segment(scenario(workload, overlapped=False, tokens=number)) for number in numbers]
    for tasks in zip(*(segment.tasks for segment in segments), strict=True):
        for op in (task.op for task in tasks if not task.op.is_communication):
            shape = {name: max(round(float(op.shape[name])), 1) for name in SHAPES[op.kernel]}
            yield Case(op.kernel, op.dtype, shape)


def exchange_rows(workload: Workload, factors: Sequence[float]) -> list[int]:
    """Rows in one direction for exchanges around the one that the block needs."""
    return [max(round(factor * workload.remote_rows), 1) for factor in factors]
