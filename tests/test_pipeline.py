"""Pipeline schedules: orders, bubbles and peaks against torch.distributed.pipelining and their authors' formulas."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from perfmodel.errors import SpecError
from perfmodel.training.pipeline.actions import Action, Kind, Schedule
from perfmodel.training.pipeline.closed_forms import bubble, peak_in_flight
from perfmodel.training.pipeline.coded import coded
from perfmodel.training.pipeline.continued import bounds, run_at_first, run_next, steady
from perfmodel.training.pipeline.occupancy import beside_backward, occupancy
from perfmodel.training.pipeline.program import compiled, makespans, waits
from perfmodel.training.pipeline.schedules import RULES, schedule, schedule_problem
from perfmodel.training.pipeline.simulate import DeadlockError, simulate
from perfmodel.training.pipeline.times import StageTimes

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
TORCH = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved-1f1b": "Interleaved1F1B",
    "zb-h1": "InterleavedZeroBubble",
    "zb-v": "ZBVZeroBubble",
    "dualpipe-v": "DualPipeV",
}
SHAPES = [(2, 4), (2, 6), (4, 8), (4, 10), (4, 16), (8, 16), (8, 20), (8, 24)]


def chunks_of(name):
    chunks = RULES[name].chunks
    return (1, 2, 3) if chunks is None else (chunks,)


def torch_orders(name, p, m, v):
    """torch's orders, without bubbles, transfers and gradient reductions.

    1F1B's metadata is wrong on the last rank (torch 2.13, schedules.py:1179): it begins at F1 and ends with F(m). What
    torch runs (``_step_microbatches``) begins at F0.
    """
    visualizer = pytest.importorskip("torch.distributed.pipelining._schedule_visualizer")
    orders = []
    for rank, actions in enumerate(visualizer.get_schedule_ops(TORCH[name], p, m, v)):
        texts = [str(one).replace("OVERLAP_F_B", "") for one in actions if one is not None]
        texts = [text for text in texts if "REDUCE" not in text]
        if name == "1f1b" and rank == p - 1:
            texts = [
                f"{rank}F{int(text.split('F')[1]) - 1}" if f"{rank}F" in text else text for text in texts
            ]
        orders.append(texts)
    return orders


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_orders_equal_torch(name, p, m):
    compared = 0
    for v in chunks_of(name):
        if name in ("interleaved-1f1b", "zb-h1") and v == 1:
            continue  # torch wants several chunks per rank
        if schedule_problem(name, p, m, v):
            with pytest.raises((ValueError, AssertionError)):
                torch_orders(name, p, m, v)
            continue
        ours = [[str(action) for action in order] for order in schedule(name, p, m, v).orders]
        assert ours == torch_orders(name, p, m, v)
        compared += 1
    assert compared or schedule_problem(name, p, m, 2)


def shapes():
    return st.tuples(st.integers(2, 8), st.integers(1, 5), st.integers(1, 3))


def possible(name, p, rounds_, v):
    """(m, v) of a full pipeline that the schedule takes."""
    v = RULES[name].chunks or v
    p += p % 2 if name == "dualpipe" else 0
    return p, (2 * rounds_ + 2) * p, v


@pytest.mark.parametrize("name", RULES)
@QUICK
@given(shape=shapes(), input_=st.floats(1.0, 3.0), weight=st.floats(0.3, 1.0))
def test_bubbles_have_their_closed_forms(name, shape, input_, weight):
    """F : I : W = 1 : at least 1 : at most 1, as layers of attention and products are."""
    p, m, v = possible(name, *shape)
    own = schedule(name, p, m, v)
    run = simulate(own, StageTimes.even(own.num_stages, 1.0, input_, weight))
    beyond = run.makespan_s - m * v * (1.0 + input_ + weight)
    expected = bubble(name, p, m, v, 1.0, input_, weight)
    inside = max(run.own_idle_s(rank) for rank in range(p))
    if expected.own_span_s is not None:
        assert inside == pytest.approx(expected.own_span_s, abs=1e-6)
    if expected.makespan_s is not None:
        if name.startswith("dualpipe"):  # exact for F = I = W; else a little below the authors' formula
            turns = (p // 2 if name == "dualpipe" else p) - 1
            below = min(1.0, turns * (input_ - weight))
            assert expected.makespan_s - below - 1e-6 <= beyond <= expected.makespan_s + 1e-6
        else:
            assert beyond == pytest.approx(expected.makespan_s, abs=1e-6)


@pytest.mark.parametrize("name", RULES)
@QUICK
@given(shape=shapes())
def test_equal_times_give_the_textbook_bubble(name, shape):
    p, m, v = possible(name, *shape)
    own = schedule(name, p, m, v)
    run = simulate(own, StageTimes.even(own.num_stages, 1.0, 1.0, 1.0))
    beyond = run.makespan_s - 3.0 * m * v
    inside = max(run.own_idle_s(rank) for rank in range(p))
    if name in (
        "zb-h2",
        "zb-v",
    ):  # zero inside a rank's span, and p - 1 chunks over the makespan all the same
        assert (inside, beyond) == (0.0, p - 1)
    else:
        assert beyond == bubble(name, p, m, v, 1.0, 1.0, 1.0).makespan_s


@pytest.mark.parametrize(
    ("p", "times", "beyond"),
    [(4, (1, 1.2, 0.9), 3.6), (8, (1, 1.2, 0.9), 8.4), (4, (1, 1.5, 0.5), 6), (8, (1, 1.5, 0.5), 14)],
)
def test_zb_v_has_no_closed_form_but_known_values(p, times, beyond):
    own = schedule("zb-v", p, 3 * p, 2)
    run = simulate(own, StageTimes.even(2 * p, *times))
    assert run.makespan_s - 6 * p * sum(times) == pytest.approx(beyond)


@pytest.mark.parametrize("name", RULES)
@QUICK
@given(shape=shapes(), m=st.integers(1, 30))
def test_peaks_in_flight(name, shape, m):
    p, full, v = possible(name, *shape)
    m = m if name in ("gpipe", "1f1b") else full
    own = schedule(name, p, m, v)
    run = simulate(own, StageTimes.even(own.num_stages, 1.0, 1.0, 1.0))
    peaks = [occupancy(run, rank, [1.0] * own.num_stages).peak_bytes for rank in range(p)]
    assert peaks == [peak_in_flight(name, p, m, v, rank) for rank in range(p)]


@pytest.mark.parametrize("name", RULES)
@QUICK
@given(shape=shapes(), m=st.integers(1, 40), paired=st.booleans(), seed=st.integers(0, 2**31))
def test_every_micro_batch_passes_every_stage_once_and_both_forms_agree(name, shape, m, paired, seed):
    p, _, v = possible(name, *shape)
    assume(schedule_problem(name, p, m, v) is None)
    own = schedule(name, p, m, v, paired=paired)
    parts = [part for order in own.orders for action in order for part in action.parts()]
    streams = range(m)
    forwards = {(part.stage, part.micro_batch) for part in parts if part.kind is Kind.FORWARD}
    assert forwards == {(stage, k) for stage in range(own.num_stages) for k in streams}
    for kinds in ((Kind.INPUT, Kind.BACKWARD), (Kind.WEIGHT, Kind.BACKWARD)):
        found = [(part.stage, part.micro_batch) for part in parts if part.kind in kinds]
        assert sorted(found) == sorted(forwards)

    rng = np.random.default_rng(seed)
    times = rng.uniform(0.5, 2.0, (3, own.num_stages, 5))
    pairs = {(a, b): rng.uniform(1.0, 4.0, 5) for a in range(own.num_stages) for b in range(own.num_stages)}
    transfer, factor = rng.uniform(0.0, 0.5, 5), rng.uniform(1.0, 1.5, p)
    many = makespans(own, StageTimes(*times, pair_s=pairs, transfer_s=transfer, rank_factor=factor))
    for i in range(5):
        one = {key: float(value[i]) for key, value in pairs.items()}
        alone = StageTimes(*times[:, :, i], pair_s=one, transfer_s=float(transfer[i]), rank_factor=factor)
        assert simulate(own, alone).makespan_s == pytest.approx(many[i], rel=1e-12)
        assert makespans(own, alone) == pytest.approx(many[i], rel=1e-12)


def test_a_pair_is_one_action():
    """If F's output left before the pair ends, DualPipeV's bubble would be half as large: 3 instead of 6 at p = 4."""
    own = schedule("dualpipe-v", 4, 20, 2)
    run = simulate(own, StageTimes.even(8, 1.0, 1.0, 1.0))
    assert run.makespan_s - 3 * 40 == 6.0
    faster = {(a, b): 2.4 for a in range(8) for b in range(8)}
    overlapped = simulate(own, StageTimes.even(8, 1.0, 1.0, 1.0, pair_s=faster))
    pairs = sum(action.kind is Kind.PAIR for action in own.orders[0])
    assert run.makespan_s - overlapped.makespan_s >= 0.6 * 2.0 * 0.5 * pairs


def test_deepseek_v3s_order():
    """p = 16, m = 120: half-rank 7 has 17 forwards without a partner and 103 pairs, half-rank 0 23 and 97."""
    own = schedule("dualpipe", 16, 120)
    for rank in range(16):
        half_rank = min(rank, 15 - rank)
        kinds = [action.kind for action in own.orders[rank]]
        pairs = kinds.count(Kind.PAIR)
        assert pairs == {7: 103}.get(half_rank, 97 + half_rank)
        assert kinds.count(Kind.FORWARD) == 120 - pairs
        assert own.stages_of(rank) == tuple(sorted({rank, 15 - rank}))


def test_slower_stages_and_transfers_lengthen_a_step():
    own = schedule("1f1b", 4, 8)
    even = StageTimes.even(4, 1.0, 1.0, 1.0)
    base = simulate(own, even).makespan_s
    assert simulate(own, StageTimes.even(4, 1.0, 1.0, 1.0, transfer_s=0.5)).makespan_s > base
    slow = StageTimes(np.array([1.0, 1.0, 1.0, 2.0]), even.input_s, even.weight_s)
    assert simulate(own, slow).makespan_s == pytest.approx(3 + 8 * 4 + 3 * 2)
    straggler = StageTimes.even(4, 1.0, 1.0, 1.0, rank_factor=np.array([1.0, 2.0, 1.0, 1.0]))
    assert simulate(own, straggler).makespan_s >= 8 * 6


def forward(stage, micro_batch):
    return Action(Kind.FORWARD, stage, micro_batch)


def backward(stage, micro_batch):
    return Action(Kind.BACKWARD, stage, micro_batch)


def test_orders_that_wait_for_each_other_are_found():
    stuck = Schedule.of("stuck", ((forward(0, 0), backward(0, 0)), (backward(1, 0), forward(1, 0))), 1, 1, 2)
    for run in (simulate, makespans):
        with pytest.raises(DeadlockError, match="stuck"):
            run(stuck, StageTimes.even(2, 1.0, 1.0, 1.0))


def test_what_a_gradient_frees():
    own = schedule("zb-h1", 2, 4)
    run = simulate(own, StageTimes.even(2, 1.0, 1.0, 1.0))
    later = occupancy(run, 1, [100.0, 100.0])
    earlier = occupancy(run, 1, [100.0, 100.0], freed_by_input=0.5)
    assert later.peak_bytes == 200.0
    assert earlier.peak_bytes == 150.0
    assert later.held_bytes[-1] == earlier.held_bytes[-1] == 0.0
    assert 0.0 < later.peak_at_s < run.makespan_s


@pytest.mark.parametrize(
    ("name", "p", "m", "v", "words"),
    [
        ("zigzag", 4, 8, 1, "must be one of gpipe"),
        ("1f1b", 4, 8, 2, "virtual_stages = 2: schedule 1f1b has 1"),
        ("zb-v", 4, 8, 1, "virtual_stages = 1"),
        ("dualpipe", 5, 20, 1, "must be even"),
        ("dualpipe", 4, 6, 1, "at least 2 x pp = 8"),
        ("dualpipe-v", 4, 7, 2, "at least 2 x pp = 8"),
        ("interleaved-1f1b", 4, 9, 2, "must be a multiple"),
    ],
)
def test_numbers_that_a_schedule_does_not_take(name, p, m, v, words):
    with pytest.raises(SpecError, match=words):
        schedule(name, p, m, v)


def test_compiled_once():
    own = schedule("1f1b", 4, 8)
    assert compiled(own) is compiled(schedule("1f1b", 4, 8))
    assert Action(Kind.PAIR, 1, 2, 3, 4).parts() == (forward(1, 2), backward(3, 4))


@given(
    name=st.sampled_from(list(RULES)),
    p=st.integers(2, 8),
    rounds_=st.integers(2, 14),
    more=st.integers(0, 7),
    v=st.integers(1, 3),
    paired=st.booleans(),
    spread=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    transfer_s=st.sampled_from([0.3, 3.0, 20.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_steps_lie_between_what_fewer_rounds_say(name, p, rounds_, more, v, paired, spread, transfer_s, seed):
    """Stages unlike each other, with transfers: the whole step is never outside, and in the end it is exact."""
    m = rounds_ * p + (0 if RULES[name].chunks is None else more % p)
    if schedule_problem(name, p, m, v):
        return
    rng, scenarios = np.random.default_rng(seed), 8

    def order(number):
        return schedule(name, p, number, v, paired=paired)

    whole = order(m)
    stages = whole.num_stages
    times = rng.uniform(0.5, 2.0, (3, 1, scenarios)) * np.exp(
        spread * rng.normal(size=(3, stages, scenarios))
    )
    together = {
        (a, b): rng.uniform(0.6, 1.0, scenarios) * (times[0, a] + times[1, b] + times[2, b])
        for a in range(stages)
        for b in range(stages)
    }
    own = StageTimes(*times, pair_s=together, transfer_s=rng.uniform(0.0, transfer_s, scenarios))
    exact = makespans(whole, own)
    number, micro_batches = run_at_first(name, p, m), np.full(scenarios, m)
    first = None
    while True:
        least, most = bounds(order(number), micro_batches, own)
        assert (least <= exact * (1 + 1e-12)).all()
        assert (most >= exact * (1 - 1e-12)).all()
        first = most if first is None else first
        if number == m:
            break
        number = run_next(number, p, micro_batches)
    assert most == pytest.approx(exact, rel=1e-12)
    assert np.isfinite(first).all()
    if transfer_s < 0.5:
        assert (first <= 1.06 * exact).all()


@pytest.mark.parametrize("name", [name for name in RULES if name != "gpipe"])
@pytest.mark.parametrize("paired", [False, True])
def test_one_more_round_of_micro_batches_is_put_in_and_changes_nothing_else(name, paired):
    """Which is why steps may be continued: order and waits before it are the same, those behind it as much later."""
    for p, v, more in itertools.product((2, 3, 4, 8), (1, 2, 3), (0, 1)):
        few = run_at_first(name, p, 20 * p + more)
        if few == 20 * p + more or schedule_problem(name, p, few, v):
            continue
        short, long = (schedule(name, p, m, v, paired=paired) for m in (few, few + p))
        a, b = coded(short), coded(long)
        latest, before = steady(short)
        period, number = int((latest - before)[0]), np.arange(len(a.rank))
        assert np.diff(b.starts) == pytest.approx(np.diff(a.starts) + period)
        last = np.maximum.reduceat(np.where(np.isin(number, latest), number, -1), a.starts[:-1])
        there = np.append(number + period * a.rank, len(b.rank))
        later = there + period * (np.arange(len(there)) < len(number))
        ahead = number <= last[a.rank]
        again = number > last[a.rank] - period
        for moved, own in ((there, ahead), (later, again)):
            at = moved[:-1][own]
            for column in ("rank", "kind", "stage", "back_stage"):
                assert (getattr(a, column)[own] == getattr(b, column)[at]).all()
            assert (moved[waits(short)[:, own]] == waits(long)[:, at]).all()


def test_what_is_run_at_first_is_a_step_of_its_schedule():
    """Interleaved micro-batches go in rounds of more than p where p does not divide them (35 by 6: rounds of 7)."""
    for name, p, m, v in itertools.product(RULES, (4, 6, 8, 13), range(1, 200), (1, 2)):
        if not schedule_problem(name, p, m, v):
            assert schedule_problem(name, p, run_at_first(name, p, m), v) is None
    assert run_at_first("interleaved-1f1b", 6, 35) == 35


@pytest.mark.parametrize("name", ["1f1b", "zb-h2", "zb-v", "dualpipe"])
def test_ranks_own_spans(name):
    own = schedule(name, 4, 16, RULES[name].chunks or 1)
    times = np.random.default_rng(3).uniform(0.5, 2.0, (3, own.num_stages))
    run = simulate(own, StageTimes(*times, transfer_s=0.1))
    longest = max(spans[-1].end_s - spans[0].start_s for spans in run.spans)
    arrays = StageTimes(*times[..., None], transfer_s=np.array([0.1]))
    least, most = bounds(own, np.array([16]), arrays, own_spans=True)
    assert least == most == pytest.approx([longest])
    assert (longest < run.makespan_s) == name.startswith("zb")


@given(forward=st.integers(1, 9), backward=st.integers(1, 9), layers=st.integers(1, 8))
def test_a_pair_holds_what_it_does_layer_by_layer(forward, backward, layers):
    """A forward's layer is taken as its partner's backward begins, whose layer is freed as both end."""
    held = most = 0
    for _ in range(layers):
        most = max(most, held + forward)
        held += forward - backward
    whole = float(forward * layers), float(backward * layers)
    assert beside_backward(*whole, float(backward)) == pytest.approx(most)
    assert beside_backward(*whole, whole[1]) == whole[0]  # nothing is freed before the end
