"""Prefix caches: the tree alone, and what it does to sessions, shared prefixes, hashed traces and KV blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_serving import Linear, Watching

from perfmodel.ops.memory import Beside
from perfmodel.serving import cluster as module
from perfmodel.serving.batching import Batching
from perfmodel.serving.cluster import simulate
from perfmodel.serving.pool import Layout
from perfmodel.serving.prefix_cache import Checkpoints, PrefixCache, paths_of, prompt_path
from perfmodel.serving.requests import Requests, requests_of
from perfmodel.spec.workload import Workload

AGENTS = Workload(
    request_rate=2.0, num_requests=120, turns={"mean": 4}, input_tokens=400, output_tokens={"min": 20, "max": 60},
    turn_tokens={"min": 30, "max": 90}, tool_pause_s={"mean": 0.5},
)  # fmt: skip


def served(requests, *, layout=None, policy="mixed", budget=256, together=True):
    return simulate(
        requests,
        lambda _: Linear(),
        layout or Layout(block_tokens=16),
        Batching(policy, budget, 1, together=together),
        requests.output_tokens - 1,
    )


# --- the tree -------------------------------------------------------------------------------------------------------


def test_a_path_is_found_up_to_its_first_missing_node_in_whole_blocks():
    cache = PrefixCache(16)
    cache.add(((1, 40), (2, 33)))
    assert cache.blocks == 73 // 16  # blocks are counted from the first token, not from each node's
    assert cache.found(((1, 40), (2, 33), (3, 9))) == (64, 4)
    assert cache.found(((1, 40),)) == (32, 2)
    assert cache.found(((9, 5),)) == (0, 0)
    cache.add(((1, 40), (7, 5), (8, 4)))  # less than a block alone, but the third whole one together
    assert cache.found(((1, 40), (7, 5))) == (32, 2)
    assert cache.found(((1, 40), (7, 5), (8, 4))) == (48, 3)


def test_a_state_goes_on_where_a_checkpoint_was_kept():
    """At a path's end; where paths part, once they have; at multiples of an interval. Each takes blocks."""
    cache = PrefixCache(16, Checkpoints(interval_tokens=100, blocks=7))
    cache.add(((1, 640), (2, 333)))
    assert cache.blocks == 973 // 16 + 7
    assert cache.found(((1, 640), (2, 333), (9, 50))) == (900, 973 // 16)
    assert cache.found(((1, 640), (3, 50))) == (0, 0), "it is here, but no state of it"
    cache.add(((1, 640), (3, 50)))
    assert cache.found(((1, 640), (4, 50))) == (600, 40), "now paths have parted"
    assert cache.lock(((1, 640), (4, 50))) == (600, 1)
    assert cache.tokens_of(((1, 640), (4, 50)), 1) == 600
    assert (cache.blocks, cache.locked_blocks) == (973 // 16 + 690 // 16 - 40 + 3 * 7, 40)
    cache.shrink(40 + 7)
    assert cache.blocks == 47, "leaves went with their checkpoints"
    cache.shrink(40)
    assert cache.blocks == 40, "a state may go while its tokens are in use"
    assert cache.found(((1, 640), (4, 50))) == (0, 0)
    assert cache.emptied().checkpoints == cache.checkpoints
    assert cache.emptied().blocks == 0


def test_turns_go_on_from_their_checkpoint_and_less_is_found_than_of_a_cache():
    """Of each history the part behind the last multiple of the interval is computed again."""
    requests = requests_of(AGENTS, 0)
    turns = requests.parent >= 0
    cut = served(requests, layout=Layout(block_tokens=16, **STATES))
    coarse = {"beside": Beside(5), "checkpoints": Checkpoints(interval_tokens=256, blocks=5)}
    coarser = served(requests, layout=Layout(block_tokens=16, **coarse))
    for records, unit in ((cut, 24), (coarser, 256)):
        assert (records.cached_tokens[turns] == requests.history_tokens[turns] // unit * unit).all()


def test_the_oldest_leaf_goes_first_and_what_is_locked_stays():
    cache = PrefixCache(1)
    for key in (2, 3, 4):
        cache.add(((1, 10), (key, 10)))
    tokens, nodes = cache.lock(((1, 10), (2, 10)))
    assert (tokens, nodes) == (20, 2)
    assert cache.locked_blocks == 20
    cache.shrink(30)
    assert cache.found(((1, 10), (3, 10)))[0] == 10  # 3 was the oldest that nobody held
    assert cache.found(((1, 10), (4, 10)))[0] == 20
    cache.shrink(0)
    assert cache.blocks == 20
    cache.unlock(((1, 10), (2, 10)), nodes)
    assert cache.locked_blocks == 0
    cache.shrink(0)
    assert cache.blocks == 0


def test_a_prompt_holds_the_nodes_that_lie_whole_inside_it():
    path = ((1, 100), (2, 50), (3, 70))
    assert prompt_path(path, 149) == ((1, 100),)
    assert prompt_path(path, 150) == ((1, 100), (2, 50))
    assert prompt_path(path, 10) == ()


def test_paths_are_sessions_prefixes_or_hashes():
    plain = requests_of(Workload(num_requests=5), 0)
    assert paths_of(plain) is None
    agents = requests_of(AGENTS, 0)
    paths = paths_of(agents)
    for row, path in enumerate(paths):
        whole = sum(tokens for _, tokens in path)
        assert whole == agents.input_tokens[row] + agents.output_tokens[row]
        if agents.parent[row] >= 0:
            assert path[:-1] == paths[agents.parent[row]]
    shared = requests_of(Workload(num_requests=50, prefix_tokens=200, num_prefixes=2, input_tokens=30), 0)
    assert len({path[0] for path in paths_of(shared)}) == 2
    assert {path[0][1] for path in paths_of(shared)} == {200}


# --- in a replica ---------------------------------------------------------------------------------------------------


def test_a_session_computes_only_what_is_new():
    requests = requests_of(AGENTS, 1)
    with_, without = (
        served(requests, layout=Layout(block_tokens=16, prefix_cache=on)) for on in (True, False)
    )
    turns = requests.parent >= 0
    history = requests.history_tokens[turns]
    found = with_.cached_tokens[turns]
    assert (found <= history).all()
    assert (
        found > history - 16 - 1
    ).all()  # of the whole history less than a block is lost, and the last token
    assert with_.cached_tokens[~turns].sum() == 0
    assert with_.load.prefilled_tokens == requests.input_tokens.sum() - with_.cached_tokens.sum()
    assert without.cached_tokens.sum() == 0
    assert with_.end_s.max() < without.end_s.max()
    later = (one.first_token_s - one.arrival_s for one in (with_, without))
    first, second = (values[turns].mean() for values in later)
    assert first < 0.7 * second


def test_a_shared_prefix_is_computed_once_per_rank():
    asked = Workload(
        request_rate=5.0, num_requests=60, prefix_tokens=1_600, input_tokens=20, output_tokens=10
    )
    requests = requests_of(asked, 0)
    records = served(requests)
    later = records.scheduled_s > records.first_token_s.min()
    assert (records.cached_tokens[later] == 1_600).all()
    assert records.cached_tokens[~later].sum() == 0


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token():
    ids = np.array([7, 8, 7, 8])
    requests = Requests(
        arrival_s=np.array([0.0, 50.0]), input_tokens=np.array([1024, 1024]), output_tokens=np.array([3, 3]),
        parent=np.array([-1, -1]), prefix=np.array([-1, -1]), prefix_tokens=np.zeros(2, int), think_s=np.zeros(2),
        hash_ids=ids, hash_offsets=np.array([0, 2, 4]),
    )  # fmt: skip
    records = served(requests)
    assert records.cached_tokens.tolist() == [0, 1023]
    assert records.load.prefilled_tokens == 1025


def test_a_cache_without_room_forgets_and_a_router_that_looks_remembers():
    """Sessions in turn on little memory lose what they had; among replicas a turn must go where the first was."""
    requests = requests_of(AGENTS, 2)
    roomy, tight = (
        served(requests, layout=Layout(block_tokens=16, blocks=blocks)) for blocks in (1 << 30, 130)
    )
    assert tight.cached_tokens.sum() < 0.5 * roomy.cached_tokens.sum()
    looks, blind = (
        served(requests, layout=Layout(block_tokens=16, replicas=3, router=router))
        for router in ("prefix-aware", "round-robin")
    )
    assert looks.cached_tokens.sum() > 1.3 * blind.cached_tokens.sum()


STATES = {"beside": Beside(5), "checkpoints": Checkpoints(interval_tokens=24, blocks=5)}
"""A layout of a model whose requests keep a state."""


@given(
    st.integers(0, 1000),
    st.sampled_from([70, 120, 100_000]),
    st.sampled_from(["mixed", "prefill-first"]),
    st.sampled_from([{}, STATES]),
)
@settings(max_examples=40, deadline=None)
def test_blocks_are_conserved_and_single_steps_give_the_same(seed, blocks, policy, states):
    requests = requests_of(AGENTS.model_copy(update={"num_requests": 40}), seed)
    blocks = max(blocks, int(-(-(requests.input_tokens + requests.output_tokens).max() // 16)) + 9)
    cluster = []

    def check():
        for replica in cluster[0].replicas:
            for rank in replica.ranks:
                assert 0 <= rank.used_blocks(replica.step) <= rank.blocks
                assert 0 <= rank.cache.locked_blocks <= rank.cache.blocks
                assert rank._private_blocks(replica.step) + rank.cache.blocks <= rank.blocks

    layout = Layout(
        ranks=2, blocks=blocks, block_tokens=16, watermark=0.02, rank_router="prefix-aware", **states
    )
    run = module._Cluster(
        requests, lambda _: Watching(check), layout, Batching(policy, 64, 1, together=False),
        requests.output_tokens - 1,
    )  # fmt: skip
    cluster.append(run.decode)
    single = run.run()
    for rank in run.decode.replicas[0].ranks:
        assert rank.used_blocks(run.decode.replicas[0].step) == 0  # nothing is locked, the rest may go
    together = served(requests, layout=layout, policy=policy, budget=64)
    for name in ("first_token_s", "end_s", "cached_tokens", "preemptions"):
        assert getattr(single, name) == pytest.approx(getattr(together, name), rel=1e-9), name
