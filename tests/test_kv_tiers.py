"""Memories below the GPU's: stack distances, both forms of the simulation, and what a tier buys."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_compiled_core import FRONT_ENDS, LAYOUTS, batchings, both, faults, traffic

from perfmodel.answers.serve import answer_serve
from perfmodel.errors import PerfModelError, SpecError, UnsupportedError
from perfmodel.load import load_scenario
from perfmodel.ops.memory import cached_token_bytes, checkpoint_bytes
from perfmodel.serving.batching import Batching
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.pool import Layout
from perfmodel.serving.prefix_cache import Checkpoints, PrefixCache
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import serve, tiers_of
from perfmodel.serving.tiers import IN_HOST, IN_STORAGE, NOWHERE, Below, Store, Tiers

TIERS = st.builds(
    Tiers,
    host_blocks=st.sampled_from([0, 3, 20, 10_000]),
    storage_blocks=st.sampled_from([0, 5, 60, 10_000]),
    ranks_per_host=st.integers(1, 3),
    local=st.booleans(),
    write_back=st.booleans(),
    host_s=st.sampled_from([0.0, 1e-4]),
    node_s=st.sampled_from([0.0, 5e-5]),
    storage_s=st.sampled_from([0.0, 1e-3]),
    latency_s=st.sampled_from([0.0, 0.01]),
    overlapped=st.booleans(),
    prefetch=st.booleans(),
    state_tokens=st.sampled_from([0, 90]),
)


@given(traffic(), LAYOUTS, batchings(), TIERS, FRONT_ENDS, st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_forms_give_the_same_records(asked, layout, batching, tiers, front_end, data):
    """States among them, where memories are filled write-through."""
    requests, seed = asked
    layout = dataclasses.replace(
        layout, checkpoints=None if tiers.write_back else layout.checkpoints, prefix_cache=True
    )
    batching = dataclasses.replace(batching, tiers=tiers)
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    changes = data.draw(faults(layout.replicas))
    found = both(requests, layout, batching, steps, changes, front_end=front_end)
    assert (found.host_tokens + found.storage_tokens <= found.cached_tokens).all()


def distances(keys):
    """Of each access how many other keys were used since the same one was, and one; None: it is the first."""
    stack, found = [], []
    for key in keys:
        found.append(len(stack) - stack.index(key) if key in stack else None)
        if key in stack:
            stack.remove(key)
        stack.append(key)
    return found


def tier_of(distance, gpu, below):
    """Where LRU memories of so many blocks have a key of that distance; ``below`` reaches so far."""
    if distance is None:
        return "none"
    return "gpu" if distance <= gpu else "host" if distance <= below else "none"


KEYS = st.lists(st.integers(0, 11), min_size=1, max_size=120)


@given(KEYS, st.integers(1, 6), st.integers(1, 8), st.booleans())
@settings(max_examples=200, deadline=None)
def test_independent_blocks_are_found_by_their_stack_distance(keys, gpu, host, write_back):
    """Write-back: the host's memory goes on where the GPU's ends. Write-through: it has all that was used lately."""
    cache = PrefixCache(16, below=Below(Tiers(host, write_back=write_back), None))
    reach = gpu + host if write_back else max(host, gpu)
    for key, distance in zip(keys, distances(keys), strict=True):
        path = ((key, 16),)
        here, nodes = cache.lock(path)
        host_tokens, *_ = cache.load(path, nodes)
        found = "gpu" if here else "host" if host_tokens else "none"
        assert found == tier_of(distance, gpu, reach)
        cache.unlock(path, nodes)
        cache.add(path)
        cache.shrink(gpu)
        assert cache.below.host.blocks == len(cache.below.host._nodes) <= host
        if write_back:
            assert not set(cache._nodes) & set(cache.below.host._nodes)


@given(KEYS, st.integers(1, 6), st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_independent_blocks_with_states_are_too(keys, gpu, host, state):
    """Each is its block and its checkpoint, in either memory."""
    cache = PrefixCache(16, Checkpoints(16, state), Below(Tiers(host * (1 + state)), None, state))
    for key, distance in zip(keys, distances(keys), strict=True):
        path = ((key, 16),)
        here, nodes = cache.lock(path)
        host_tokens, _, where_state = cache.load(path, nodes)[0], 0, cache.load(path, nodes)[2]
        found = "gpu" if here else "host" if host_tokens else "none"
        assert found == tier_of(distance, gpu, max(host, gpu))
        assert (where_state == IN_HOST) == (found == "host")
        cache.unlock(path, nodes)
        cache.add(path)
        cache.shrink(gpu * (1 + state))
        assert cache.below.host.blocks == (1 + state) * len(cache.below.host._nodes)


def test_a_state_below_goes_on_where_a_checkpoint_was_kept():
    """What the GPU let go is read up to the last node with a checkpoint, with that one state; what lies behind it, and
    what has none, is computed again.
    """
    storage = Store(10_000)
    cache = PrefixCache(16, Checkpoints(64, 10), Below(Tiers(10_000, 10_000), storage, 10))
    first, second = (1, 640), (2, 330)
    cache.add((first, second))  # one checkpoint, at the end
    assert cache.below.host.blocks == 970 // 16 + 10 == storage.blocks
    cache.shrink(0)
    assert cache.blocks == 0
    assert cache.load((first, second, (3, 50)), 0) == (
        960,
        0,
        IN_HOST,
    )  # of 970 tokens: whole intervals
    assert cache.load((first, (4, 50)), 0) == (0, 0, NOWHERE), "its blocks are here, but no state of it"
    cache.add((first, second))
    cache.add((first, (4, 50)))  # paths have parted: now there is one at 640, in both memories
    cache.shrink(0)
    assert cache.load((first, (5, 50)), 0) == (640, 0, IN_HOST)
    cache.below.host.clear()
    assert cache.load((first, (5, 50)), 0) == (0, 640, IN_STORAGE)
    assert cache.known((first, (5, 50))) == 0 == cache.found((first,))[0]


class Naive:
    """Trees and what lies below by their definition: every node has a time, leaves go first, the oldest first."""

    def __init__(self, gpu, host, write_back):
        self.gpu, self.host, self.write_back = gpu, host, write_back
        self.here, self.below, self.clock, self.parents = {}, {}, 0, {}

    def touch(self, memory, path):
        for key in reversed(path):
            self.clock += 1
            if key in memory:
                memory[key] = self.clock

    def ask(self, path):
        hits = next((at for at, key in enumerate(path) if key not in self.here), len(path))
        more = next((at for at, key in enumerate(path[hits:]) if key not in self.below), len(path) - hits)
        self.touch(self.here, path)
        self.touch(self.below, path)
        if self.write_back:
            for key in path[hits : hits + more]:
                del self.below[key]
        for key, parent in zip(path, (None, *path), strict=False):
            self.here.setdefault(key, 0)
            self.parents[key] = parent
        self.touch(self.here, path)
        if self.write_back:
            for key in path:
                self.below.pop(key, None)
        else:
            for key in path:
                self.below.setdefault(key, 0)
            self.touch(self.below, path)
            while len(self.below) > self.host:
                del self.below[min(self.below, key=self.below.get)]
        while len(self.here) > self.gpu:
            inner = {self.parents[key] for key in self.here}
            gone = min((key for key in self.here if key not in inner), key=self.here.get)
            del self.here[gone]
            if self.write_back:
                self.clock += 1
                self.below[gone] = self.clock
                while len(self.below) > self.host:
                    del self.below[min(self.below, key=self.below.get)]
        return hits, more


PATHS_OF_NODES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=60)


@given(PATHS_OF_NODES, st.integers(5, 9), st.integers(1, 12), st.booleans())
@settings(max_examples=200, deadline=None)
def test_trees_agree_with_their_definition(paths, gpu, host, write_back):
    cache = PrefixCache(16, below=Below(Tiers(host, write_back=write_back), None))
    naive = Naive(gpu, host, write_back)
    for steps in paths:
        keys = [int("".join(map(str, [1, *steps[: i + 1]]))) for i in range(len(steps))]
        path = tuple((key, 16) for key in keys)
        _, nodes = cache.lock(path)
        loaded, *_ = cache.load(path, nodes)
        assert (nodes, loaded // 16) == naive.ask(keys)
        cache.unlock(path, nodes)
        cache.add(path)
        cache.shrink(gpu)
        assert set(cache._nodes) == set(naive.here)
        assert set(naive.below) == set(cache.below.host._nodes)


def one_block_each(keys):
    """Requests far apart, each a prompt of one block that is shared by key and one token more."""
    n = len(keys)
    return Requests(
        arrival_s=np.arange(n) * 10.0, input_tokens=np.full(n, 17), output_tokens=np.ones(n, np.int64),
        parent=np.full(n, -1), prefix=np.full(n, -1), prefix_tokens=np.zeros(n, np.int64), think_s=np.zeros(n),
        hash_ids=np.array(keys), hash_offsets=np.arange(n + 1), hash_block_tokens=16,
    )  # fmt: skip


@given(KEYS, st.integers(3, 7), st.integers(1, 8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_replica_finds_independent_blocks_by_their_stack_distance(keys, blocks, host, write_back):
    """A request that runs takes two of its rank's blocks and leaves one: the next one finds all but one in use."""
    batching = Batching("mixed", 64, 1, tiers=Tiers(host, write_back=write_back))
    found = both(
        one_block_each(keys), Layout(blocks=blocks, block_tokens=16), batching, np.zeros(len(keys), np.int64)
    )
    gpu = blocks - 1
    reach = gpu + host if write_back else max(host, gpu)
    for row, distance in enumerate(distances(keys)):
        where = "host" if found.host_tokens[row] else "gpu" if found.cached_tokens[row] else "none"
        assert where == tier_of(distance, gpu, reach)


def test_what_a_node_shares_is_read_one_after_the_other():
    """Two prompts come at once, each to a rank of its own, and read 16 tokens from storage: 10 ms and 16 x 1 ms."""
    keys = [1, 2, 3, 4, 1, 2]
    requests = dataclasses.replace(
        one_block_each(keys), arrival_s=np.array([0.0, 0.0, 50.0, 50.0, 100.0, 100.0])
    )
    seconds = {}
    for ranks_per_host, storage_s in ((1, 0.0), (1, 1e-3), (2, 1e-3)):
        own = Tiers(0, 100, ranks_per_host, storage_s=storage_s, latency_s=10 * storage_s, overlapped=False)
        layout = Layout(
            ranks=2, blocks=2, block_tokens=16, rank_router="round-robin"
        )  # nothing stays in the GPU
        found = both(requests, layout, Batching("mixed", 64, 1, tiers=own), np.zeros(6, np.int64))
        assert found.storage_tokens.tolist() == [0, 0, 0, 0, 16, 16]
        seconds[ranks_per_host, storage_s] = (found.first_token_s - found.arrival_s)[4:]
    assert seconds[1, 1e-3] - seconds[1, 0.0] == pytest.approx(0.026)
    assert seconds[2, 1e-3] - seconds[1, 0.0] == pytest.approx(2 * 0.026)


SMALL = "gpt-oss-120b-h100"
AGENTS = (
    "workload={num_requests: 400, request_rate: 2, input_tokens: 4000, output_tokens: 200, turns: 6, turn_tokens: 500, "
    "tool_pause_s: {mean: 20}}"
)
FEW = "serving.kv_tokens=60000"


def served(*sets, core=None):
    return serve(load_scenario(SMALL, [AGENTS, FEW, *sets]), core=core)


def test_nothing_below_changes_nothing():
    plain, none = (
        served(*sets)
        for sets in (
            (),
            ("serving.host_cache_gb=0", "serving.storage_cache_tokens=0", "serving.offload={load: before}"),
        )
    )
    for one in dataclasses.fields(plain.records):
        if one.name != "load":
            assert np.array_equal(getattr(plain.records, one.name), getattr(none.records, one.name)), one.name
    assert plain.scenario.hash == load_scenario(SMALL, [AGENTS, FEW, "serving.host_cache_gb=0"]).hash
    assert "cache_hits_by_tier_pct" not in answer_serve(plain.scenario).values


def test_a_tier_saves_agents_what_the_gpu_let_go():
    plain = served()
    host = served("serving.host_cache_gb=400")
    both_tiers = served(
        "serving.host_cache_tokens=40000",
        "serving.storage_cache_gb=2000",
        "serving.offload.storage_gb_per_s=50",
    )
    computed = [
        int((one.records.input_tokens - one.records.cached_tokens).sum()) for one in (plain, host, both_tiers)
    ]
    assert computed[1] < 0.6 * computed[0]
    assert computed[2] < 0.6 * computed[0]
    assert host.records.host_tokens.sum() > 0 == host.records.storage_tokens.sum()
    assert both_tiers.records.storage_tokens.sum() > 0
    values = answer_serve(both_tiers.scenario).values
    parts = values["cache_hits_by_tier_pct"]
    assert sum(parts.values()) == pytest.approx(values["cache_hit_pct"])
    assert min(parts.values()) > 0.0


def test_reading_takes_time_unless_it_hides():
    """A slow host is felt where a step waits for it, and less where it reads while layers compute."""
    slow = ["serving.host_cache_gb=400", "serving.offload.host_node_gb_per_s=2"]
    before, beside, fast = (
        served(*sets).records
        for sets in (
            (*slow, "serving.offload.load=before"),
            (*slow, "serving.offload.load=layer-wise"),
            slow[:1],
        )
    )
    ttft = [float((one.first_token_s - one.arrival_s).mean()) for one in (before, beside, fast)]
    assert ttft[0] > ttft[1] > ttft[2]


def test_storage_is_read_while_a_request_waits():
    crowd = [
        "serving.storage_cache_gb=4000",
        "serving.offload={storage_gb_per_s: 5, load: before}",
        "serving.max_running=4",
    ]
    early, late = (served(*crowd, f"serving.offload.prefetch={what}").records for what in ("true", "false"))
    assert (early.first_token_s - early.arrival_s).mean() < (late.first_token_s - late.arrival_s).mean()


def test_engines_fill_and_read_as_they_are_documented():
    kept = "serving.host_cache_gb=10"
    policies = {}
    for engine in ("sglang", "vllm", "trtllm"):
        own = tiers_of(load_scenario(SMALL, [f"engine={engine}", kept]))
        policies[engine] = (own.write_back, own.overlapped, own.prefetch)
    assert policies == {
        "sglang": (False, True, True),
        "vllm": (False, False, False),
        "trtllm": (True, False, False),
    }
    stated = tiers_of(
        load_scenario(SMALL, ["engine=vllm", kept, "serving.offload={write: write-back, load: layer-wise}"])
    )
    assert (stated.write_back, stated.overlapped) == (True, True)


def test_capacities_are_a_nodes_shared_by_its_gpus():
    scenario = load_scenario(SMALL, ["serving.host_cache_gb=100"])
    each, tp = cached_token_bytes(scenario), scenario.deployment.attention_tp
    own = tiers_of(scenario)
    blocks = int(100e9 / 8 / each) // scenario.serving.block_tokens
    assert own.host_blocks == blocks
    assert own.host_s == pytest.approx(each / (scenario.cluster.gpu.host_gb_per_s * 1e9))
    assert own.ranks_per_host == 8 // tp
    shared = tiers_of(
        load_scenario(SMALL, ["serving.host_cache_gb=100", "serving.offload.host_node_gb_per_s=200"])
    )
    assert shared.node_s == pytest.approx(each * tp / 200e9)


BAD = [
    (["serving.host_cache_gb=1", "serving.host_cache_tokens=1"], "state one of them"),
    (["serving.storage_cache_gb=1"], "needs offload.storage_gb_per_s"),
    (["serving.host_cache_gb=1", "serving.prefix_cache=false"], "prefix_cache must be true"),
    (["serving.host_cache_gb=1", "cluster.gpu.host_gb_per_s=null"], "needs cluster.gpu.host_gb_per_s"),
    (["serving.host_cache_gb=-1"], "serving.host_cache_gb"),
    (["serving.host_cache_tokens=1.5"], "serving.host_cache_tokens"),
    (["serving.offload.write=maybe"], "serving.offload.write"),
    (["serving.offload.storage_gb_per_s=0"], "serving.offload.storage_gb_per_s"),
]


@pytest.mark.parametrize(("sets", "message"), BAD)
def test_bad_tiers_are_refused_in_one_line(sets, message):
    with pytest.raises(SpecError) as error:
        load_scenario(SMALL, sets)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


PROMPTS = (
    "workload={num_requests: 40, request_rate: 5, input_tokens: 3000, output_tokens: 20, turns: 3, "
    "turn_tokens: 200}"
)


def test_what_is_apart_has_its_tiers_where_prompts_are_computed():
    with pytest.raises(SpecError, match=r"state them in prefill\.serving"):
        load_scenario("longcat-flash-h800-pd", ["serving.host_cache_gb=10"])
    scenario = load_scenario(
        "longcat-flash-h800-pd",
        ["prefill.serving.host_cache_gb=100", PROMPTS],
    )
    one, other = (serve(scenario, core=core).records for core in ("plain", "compiled"))
    assert np.array_equal(one.first_token_s, other.first_token_s)


STATES = (
    "workload={num_requests: 240, request_rate: 2, input_tokens: 4000, output_tokens: 150, turns: 6, "
    "turn_tokens: 500, tool_pause_s: {mean: 20}}"
)


def with_states(*sets, engine="sglang"):
    own = [STATES, "serving.kv_tokens=400000", f"deployment.engine={engine}", *sets]
    return load_scenario("qwen3.5-397b-h200", own)


def test_a_model_with_a_state_keeps_its_checkpoints_below():
    """Qwen3.5: a checkpoint is as large as the caches of thousands of tokens, and counts and is read as such."""
    plain, kept = with_states(), with_states("serving.host_cache_gb=1500")
    tiers = tiers_of(kept)
    assert tiers.state_tokens == pytest.approx(checkpoint_bytes(kept) / cached_token_bytes(kept), abs=1)
    assert tiers.state_tokens > 1000
    none, host = (serve(one).records for one in (plain, kept))
    computed = [int((one.input_tokens - one.cached_tokens).sum()) for one in (none, host)]
    assert host.host_tokens.sum() > 0
    assert computed[1] < 0.8 * computed[0]
    other = serve(kept, core="compiled").records
    for name in ("first_token_s", "end_s", "host_tokens", "cached_tokens"):
        assert np.array_equal(getattr(host, name), getattr(other, name)), name
    slow = with_states("serving.host_cache_gb=1500", "serving.offload={host_node_gb_per_s: 2, load: before}")
    later = serve(slow).records
    assert (later.first_token_s - later.arrival_s).mean() > (host.first_token_s - host.arrival_s).mean()


@pytest.mark.parametrize(
    ("engine", "sets", "why"),
    [
        ("trtllm", (), r"nothing read says that they are offloaded; leave them out, or use sglang or vllm$"),
        (
            "sglang",
            ("serving.offload.write=write-back",),
            r"set serving\.offload\.write = write-through, or leave them out$",
        ),
    ],
)
def test_where_engines_keep_no_states_they_are_refused(engine, sets, why):
    scenario = with_states("serving.host_cache_gb=10", *sets, engine=engine)
    with pytest.raises(UnsupportedError, match=why) as refused:
        serve(scenario)
    assert "\n" not in str(refused.value)


TIER_KEYS = ["host_cache_tokens", "host_cache_gb", "storage_cache_tokens", "storage_cache_gb", "offload"]
OFFLOAD_KEYS = ["write", "load", "prefetch", "storage", "storage_gb_per_s"]
INSIDE = st.one_of(st.integers(-1, 9), st.booleans(), st.sampled_from(["auto", "local", "before"]))
VALUES = st.one_of(
    st.integers(-2, 10**13),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.dictionaries(st.sampled_from(OFFLOAD_KEYS), INSIDE, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(TIER_KEYS), VALUES, max_size=3))
def test_whatever_is_stated_is_answered_or_refused_in_one_line(serving):
    scenario = told = None
    try:
        scenario = load_scenario(
            SMALL, [f"serving.{key}={json.dumps(value)}" for key, value in serving.items()]
        )
    except PerfModelError as error:
        told = str(error)
    if scenario is None:
        assert len(told.splitlines()) == 1
    else:
        tiers = tiers_of(scenario)
        assert tiers is None or tiers.host_blocks >= 0
