"""The compiled form of the simulation against the plain one that defines it: every record, to the last bit."""

import ast
import dataclasses
import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_laws import equal

from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.jit import Program, compiled
from perfmodel.load import load_scenario
from perfmodel.ops.memory import NOTHING, Beside
from perfmodel.overlap import compiled as rounds
from perfmodel.overlap import kernel
from perfmodel.serving import cores
from perfmodel.serving.batching import Batching
from perfmodel.serving.changes import Change
from perfmodel.serving.cluster import FrontEndTimes, PrefillSide
from perfmodel.serving.compiled import jit, tables, window
from perfmodel.serving.drafts import decode_steps
from perfmodel.serving.grid import Grid
from perfmodel.serving.handoff import KvPath
from perfmodel.serving.pool import Layout
from perfmodel.serving.prefix_cache import Checkpoints
from perfmodel.serving.requests import Requests
from perfmodel.serving.serve import serve
from perfmodel.serving.sharing import STRETCHES, Sharing
from perfmodel.serving.step_times import GridStepTimes
from perfmodel.serving.stretch import Stretched

pytest.importorskip("numba")

EVEN, BATCHES, CONTEXTS = [0.3, 1.0], [1.0, 3.0, 16.0], [8.0, 50.0, 300.0]
PROMPTS, ATTENDED = [1.0, 30.0, 500.0], [0.5, 100.0]


def on_grids(base=0.01):
    """Step times with kinks, so that runs cross cells; half of the base is sent, over a wire that caches may share."""
    axes = (EVEN, BATCHES, CONTEXTS)

    def step(s, e, n, k):
        return base / 2 * (1 + s) + 1e-3 * n**0.7 + 1e-6 * n * k**1.1 + 1e-3 * e

    return GridStepTimes(
        Grid.of(axes, lambda *where: step(1.0, *where)),
        Grid.of((EVEN, PROMPTS, ATTENDED), lambda e, p, a: base + 1e-4 * p**0.9 + 1e-7 * p * a + 1e-3 * e),
        Grid.of(
            (EVEN, BATCHES, CONTEXTS, PROMPTS, ATTENDED),
            lambda e, n, k, p, a: base + 1e-3 * n**0.7 + 1e-6 * n * k + 1e-4 * p**0.9 + 1e-7 * p * a + 1e-3 * e,
        ),
        Sharing(
            Grid.of((STRETCHES, *axes), step),
            Grid.of((EVEN, BATCHES, CONTEXTS[:1]), lambda e, n, k: 1.0 - base / 2 / step(2.0, e, n, k)),
        ),
    )  # fmt: skip


def both(requests, layout, batching, steps, changes=(), times=None, **more):
    """The plain form against the compiled one, with a window over all requests and with one over a few, and little
    room for what is noted.
    """
    own = times or on_grids()
    found = []
    for core, rows in (("plain", None), ("compiled", window.ROWS), ("compiled", 2)):
        room = 1 if rows == 2 else tables.LEAST_ROOM
        with mock.patch.object(window, "ROWS", rows), mock.patch.object(tables, "LEAST_ROOM", room):
            records, ran = cores.simulate(
                core, requests, lambda _: own, layout, batching, steps, changes=list(changes), **more
            )
        assert ran == core
        found.append(records)
    equal(*found[:2])
    equal(found[0], found[2])
    return found[1]


@st.composite
def traffic(draw):
    """Requests that come alone, in sessions, with shared beginnings or with hashes; in an open or a closed loop."""
    n, seed = draw(st.integers(1, 50)), draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    inputs = rng.integers(1, draw(st.sampled_from([2, 60, 200])), n)
    outputs = rng.integers(1, draw(st.sampled_from([2, 40, 150])), n)
    kind = draw(st.sampled_from(["alone", "sessions", "prefixes", "hashes"]))
    parent, prefix, more = np.full(n, -1), np.full(n, -1), {}
    arrival = rng.exponential(draw(st.sampled_from([0.0, 0.02, 0.5])), n).cumsum()
    if kind == "sessions":
        follows = rng.random(n) < 0.6
        follows[0] = False
        parent = np.where(follows, np.arange(n) - 1, -1)
        arrival[follows] = rng.exponential(0.2, follows.sum())
        for row in np.flatnonzero(follows):
            inputs[row] = min(inputs[row - 1] + outputs[row - 1] + rng.integers(1, 40), 300)
            inputs[row] = max(inputs[row], inputs[row - 1] + outputs[row - 1])
            if inputs[row] + outputs[row] > 450:
                inputs[row], outputs[row] = rng.integers(1, 60), 2
                parent[row], arrival[row] = -1, 0.1 * row
        roots = parent < 0
        arrival[roots] = np.sort(arrival[roots])
    elif kind == "prefixes":
        prefix = rng.integers(0, 3, n)
        inputs = inputs + 40
    elif kind == "hashes":
        inputs = inputs + 512 * rng.integers(0, 3, n)
        counts = inputs // 512
        ids = np.concatenate([rng.integers(0, 3) * 10 + np.arange(k) for k in counts] + [np.zeros(0, int)])
        more = {"hash_ids": ids.astype(np.int64), "hash_offsets": np.concatenate([[0], np.cumsum(counts)])}
    asked = Requests(
        arrival_s=arrival, input_tokens=inputs, output_tokens=outputs, parent=parent, prefix=prefix,
        prefix_tokens=np.where(prefix >= 0, 40, 0), think_s=rng.choice([0.0, 0.1], n),
        max_concurrency=draw(st.sampled_from([None, None, 1, 5])), **more,
    )  # fmt: skip
    return asked, seed


ROUTERS = ["central", "round-robin", "least-tokens", "prefix-aware"]
# states and windows, in blocks: whole ones, and none of a half
BESIDE = st.sampled_from(
    [NOTHING, NOTHING, Beside(2.0), Beside(1.5, ((32, 0.0625),)), Beside(0.0, ((40, 0.03), (200, 0.01)))]
)
LAYOUTS = st.builds(
    Layout,
    replicas=st.integers(1, 4),
    ranks=st.integers(1, 4),
    blocks=st.sampled_from([116, 130, 100_000]),
    block_tokens=st.just(16),
    max_running=st.sampled_from([1, 4, 1000]),
    watermark=st.sampled_from([0.0, 0.05]),
    router=st.sampled_from(ROUTERS),
    rank_router=st.sampled_from(ROUTERS[1:]),
    prefix_cache=st.booleans(),
    beside=BESIDE,
    checkpoints=st.sampled_from([None, None, Checkpoints(32, 2), Checkpoints(16, 9)]),
)
PATHS = st.builds(
    KvPath,
    st.sampled_from([1.0, 100.0]),
    st.sampled_from([1e3, 2e4, 1e9]),
    st.sampled_from([1e3, 2e4, 1e9]),
    st.sampled_from([0.0, 0.01]),
    layers=st.sampled_from([1, 10]),
    layer_wise=st.booleans(),
    shared=st.sampled_from(["", "network"]),
    beside=st.sampled_from([NOTHING, Beside(500.0, ((32, 1.0),))]),
)


@st.composite
def batchings(draw):
    poll, hold = draw(st.sampled_from([(1, 0), (1, 0), (3, 0), (1, 6)]))
    return Batching(
        draw(st.sampled_from(["mixed", "prefill-first"])),
        draw(st.sampled_from([16, 64, 500])),
        draw(st.sampled_from([1, 2])),
        graph_batches=draw(st.sampled_from([(), (1, 4, 8)])),
        poll_steps=poll,
        hold_steps=hold,
        swap_s_per_token=draw(st.sampled_from([None, 1e-5])),
    )


@st.composite
def faults(draw, replicas, links=False):
    """Losses, drains and stragglers (or links that are), each of a replica that is up before it and up after it."""
    found = []
    for r in range(replicas):
        at = 0.0
        for _ in range(draw(st.integers(0, 2))):
            at += draw(st.sampled_from([0.0, 0.1, 0.7]))
            kind = draw(st.sampled_from(["lost", "draining", "slow", *["link"] * links]))
            until = at + draw(st.sampled_from([0.05, 0.5]))
            if kind == "slow":
                found += [Change(at, r, times=on_grids(0.03)), Change(until, r, times=on_grids())]
            elif kind == "link":
                found += [Change(at, r, link_bytes_per_s=300.0), Change(until, r, link_bytes_per_s=1e5)]
            else:
                found += [Change(at, r, state=kind), Change(until, r, state="up")]
            at = until
    return sorted(found, key=lambda one: one.at_s)


FRONT_ENDS = st.sampled_from([None, None, FrontEndTimes(0.01, 0.002)])


@given(traffic(), LAYOUTS, batchings(), FRONT_ENDS, st.sampled_from([0.0, 0.7]), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_forms_give_the_same_records(asked, layout, batching, front_end, acceptance, data):
    requests, seed = asked
    steps = decode_steps(requests.output_tokens, 1, acceptance, seed)
    changes = data.draw(faults(layout.replicas))
    both(requests, layout, batching, steps, changes, front_end=front_end)


@given(traffic(), LAYOUTS, LAYOUTS, batchings(), batchings(), PATHS, FRONT_ENDS, st.booleans(), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_both_forms_give_the_same_records_where_prompts_are_computed_apart(
    asked, layout, own, batching, prompts, path, front_end, unlike, data
):
    """With replicas that are equal, so that much happens at one instant and order decides, and with unequal ones.

    Where both pools are full of requests that wait for the other one (which a lost decode replica can bring about
    where either holds few), neither form comes to an end.
    """
    requests, seed = asked
    steps = decode_steps(requests.output_tokens, 1, 0.7, seed)
    kinds = [on_grids(0.01 + 0.001 * r * unlike) for r in range(4)]
    side = PrefillSide(own, prompts, lambda r: kinds[r], path)
    changes = data.draw(faults(layout.replicas + own.replicas, links=True))
    asked = (requests, layout, batching, steps, changes)
    try:
        both(*asked, times=kinds[0], prefill=side, front_end=front_end)
    except InfeasibleError as plain:
        with pytest.raises(InfeasibleError, match=re.escape(str(plain))):
            cores.simulate(
                "compiled", requests, lambda _: kinds[0], layout, batching, steps, prefill=side,
                changes=changes, front_end=front_end,
            )  # fmt: skip
        assert changes


def crowd(n, *, gap=0.002, inputs=60, outputs=200, seed=1):
    rng = np.random.default_rng(seed)
    none = np.full(n, -1)
    return Requests(
        arrival_s=rng.exponential(gap, n).cumsum(), input_tokens=rng.integers(1, inputs, n),
        output_tokens=rng.integers(1, outputs, n), parent=none, prefix=none, prefix_tokens=none * 0,
        think_s=np.zeros(n),
    )  # fmt: skip


def test_tables_grow_in_the_middle_of_a_run():
    """Preemptions without end, and a tree of a thousand sessions, leave more than there is room for at first."""
    requests = crowd(400)
    records = both(
        requests, Layout(blocks=30, block_tokens=16), Batching("mixed", 64, 1), requests.output_tokens - 1
    )
    assert records.preemptions.sum() > 400
    assert len(records.gap_s) > 4 * 400 + 1024
    rows = np.arange(3000)
    sessions = dataclasses.replace(
        crowd(3000, outputs=20),
        parent=np.where(rows % 3 == 0, -1, rows - 1),
        input_tokens=50 + 60 * (rows % 3),
    )
    sessions.arrival_s[rows % 3 > 0] = 0.01
    for layout in (
        Layout(replicas=3, ranks=2, block_tokens=16, rank_router="prefix-aware"),
        Layout(block_tokens=16),
    ):
        found = both(sessions, layout, Batching("mixed", 256, 1), sessions.output_tokens - 1)
        assert found.cached_tokens.sum() > 0


def test_factors_on_steps_are_taken_over():
    requests = crowd(50)
    plain, slow = (
        both(requests, Layout(), Batching("mixed", 64, 1), requests.output_tokens - 1, times=times)
        for times in (on_grids(), Stretched(on_grids(), 2.0, 3.0))
    )
    assert slow.end_s.max() > 1.8 * plain.end_s.max()


def test_who_waits_for_a_replica_that_never_comes_back_is_told():
    requests = crowd(5)
    with pytest.raises(InfeasibleError, match="5 requests wait for a replica that never comes back"):
        cores.simulate(
            "compiled", requests, lambda _: on_grids(), Layout(), Batching("mixed", 64, 1), requests.output_tokens - 1,
            changes=[Change(0.0, 0, state="lost")],
        )  # fmt: skip


def test_progress_is_told_and_may_stop_a_run():
    requests, told = crowd(1000, outputs=5), []

    def progress(done, total):
        told.append((done, total))
        if done > 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cores.simulate(
            "compiled", requests, lambda _: on_grids(), Layout(), Batching("mixed", 64, 1), requests.output_tokens - 1,
            progress=progress,
        )  # fmt: skip
    assert [done // 256 for done, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total in told} == {1000}


# --- which one runs -------------------------------------------------------------------------------------------------


def test_runs_that_are_worth_it_are_compiled(monkeypatch):
    monkeypatch.delenv(cores.ENVIRONMENT, raising=False)
    monkeypatch.setattr(cores, "compiled_before", lambda: True)
    assert cores.chosen(cores.WORTH_LOADING) == "compiled"
    assert cores.chosen(cores.WORTH_LOADING - 1) == "plain"
    monkeypatch.setattr(cores, "compiled_before", lambda: False)
    assert cores.chosen(cores.WORTH_LOADING) == "plain"
    assert cores.chosen(cores.WORTH_COMPILING) == "compiled"
    monkeypatch.setattr(cores, "available", lambda: False)
    assert cores.chosen(cores.WORTH_COMPILING) == "plain"


@pytest.mark.parametrize(("name", "core"), [("plain", "plain"), ("compiled", "compiled")])
def test_the_environment_names_the_form(monkeypatch, name, core):
    monkeypatch.setenv(cores.ENVIRONMENT, name)
    assert cores.chosen(1) == cores.chosen(10**9) == core
    monkeypatch.setenv(cores.ENVIRONMENT, "rust")
    with pytest.raises(SpecError, match="PERFMODEL_CORE = rust: must be one of plain, compiled"):
        cores.chosen(1)


def test_steps_one_by_one_run_plain():
    requests = crowd(5)
    asked = (requests, lambda _: on_grids(), Layout(), Batching("mixed", 64, 1, together=False))
    assert cores.simulate("compiled", *asked, requests.output_tokens - 1)[1] == "plain"


NODE = (
    "cluster=h200-ib", "calibration=h200-sxm", "deployment.attention_dp=1", "deployment.attention_tp=8",
    "deployment.dense_tp=8", "deployment.ep=8", "deployment.overlap=sequential", "deployment.batch_per_gpu=8",
)  # fmt: skip
SESSIONS = (
    "workload.trace=''", "workload.request_rate=40", "workload.turns={mean: 6}", "workload.input_tokens=2000",
    "workload.turn_tokens={min: 50, max: 400}", "workload.output_tokens={min: 20, max: 400}",
    "workload.tool_pause_s={mean: 2}", "serving.kv_tokens=120000",
)  # fmt: skip


@pytest.mark.parametrize("model", ["qwen3.5-35b-a3b", "gpt-oss-120b"])
def test_a_model_with_states_and_one_with_windows_run_compiled(model):
    scenario = load_scenario(
        "deepseek-v3-h800", [*NODE, *SESSIONS, f"model={model}", "workload.num_requests=150"]
    )
    records = of_both(scenario)
    assert records.cached_tokens.sum() > 0


def test_prefill_apart_runs_compiled():
    asked = ["workload.num_requests=300", "workload.time_scale=8"]
    records = of_both(load_scenario("longcat-flash-h800-pd", asked))
    assert (records.first_token_s > records.prefilled_s).sum() > 250  # caches were on their way


def of_both(scenario):
    """What a scenario gives the cores, from the cache's bytes to the way of caches, through both."""
    plain = serve(scenario, core="plain")
    core = serve(scenario, fleet=plain.fleet, core="compiled")
    assert (plain.core, core.core) == ("plain", "compiled")
    equal(plain.records, core.records)
    return core.records


def test_without_numba_everything_runs_plain():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'numba' else find(name, *rest)\n"
        "from perfmodel.serving import cores; assert cores.chosen(10**9) == 'plain'\n"
        "from perfmodel.load import load_scenario; from perfmodel.serving.serve import serve\n"
        "served = serve(load_scenario('longcat-flash-h800', ['workload.num_requests=50']))\n"
        "assert served.core == 'plain' and len(served.records.end_s) == 50"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {cores.ENVIRONMENT: "compiled"})


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_what_is_compiled_is_kept_in_a_folder_of_the_users_own_or_not_at_all(tmp_path, monkeypatch, mode):
    from perfmodel.serving.compiled import jit

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = jit.cache_folder()
    assert own is not None
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(mode)
    assert jit.cache_folder() == (own if mode == 0o700 else None)
    own.rmdir()
    other = tmp_path / "elsewhere"
    other.mkdir(mode=0o700)
    own.symlink_to(other)
    assert jit.cache_folder() is None


def test_what_a_run_took_can_go_to_another_process():
    """Step times of the run, stretched ones and all that it leaves."""
    from perfmodel.serving.stretch import stretched

    scenario = load_scenario("longcat-flash-h800", ["workload.num_requests=30"])
    served = serve(scenario)
    again = pickle.loads(pickle.dumps(served))
    fleet = pickle.loads(pickle.dumps(stretched(served.fleet, 1.1, 1.2)))
    assert np.array_equal(
        serve(scenario, requests=again.requests, fleet=again.fleet).records.end_s, served.records.end_s
    )
    assert (serve(scenario, fleet=fleet).records.end_s > served.records.end_s).all()


def test_pools_that_wait_for_each_other_are_told_so():
    none = np.full(3, -1)
    requests = Requests(
        arrival_s=np.zeros(3), input_tokens=np.ones(3, int), output_tokens=np.array([34, 25, 20]), parent=none,
        prefix=none, prefix_tokens=none * 0, think_s=np.zeros(3),
    )  # fmt: skip
    layout = Layout(
        blocks=116, block_tokens=16, max_running=1, watermark=0.0, router="central", prefix_cache=False
    )
    batching = Batching("mixed", 16, 1)
    steps = decode_steps(requests.output_tokens, 1, 0.7, 0)
    side = PrefillSide(
        layout,
        batching,
        lambda _: on_grids(0.01),
        KvPath(1.0, 1000.0, 1000.0, latency_s=0.0, layers=1, layer_wise=False),
    )
    lost = [Change(0.1, 1, state="lost"), Change(0.15, 1, state="up")]
    for core in ("plain", "compiled"):
        with pytest.raises(
            InfeasibleError, match="wait for ever: after a lost replica, prefill holds caches"
        ):
            cores.simulate(
                core, requests, lambda _: on_grids(0.01), layout, batching, steps, prefill=side, changes=lost
            )


def test_a_function_is_compiled_once_for_whole_numbers_of_any_width():
    numba = pytest.importorskip("numba")

    @compiled
    def twice(number, factor):
        return number * factor

    @numba.njit
    def total(narrow, wide):
        return twice(narrow[0], 2) + twice(wide[0], 3) + twice(4, wide[0])

    assert total(np.array([5], dtype=np.int32), np.array([7])) == 10 + 21 + 28
    assert len(twice.signatures) == 1
    assert (
        total(np.array([2**30], dtype=np.int32), np.array([0])) == 2**31
    )  # nothing is cut to what was narrow


def test_what_was_compiled_belongs_to_its_sources_wherever_they_are(tmp_path, monkeypatch):
    """All files with compiled functions, and what those read: else what an older one gave would answer. The same files
    in another folder, a clone's or another environment's, are compiled no second time.
    """
    numba = pytest.importorskip("numba")
    folder = Path(jit.__file__).parent
    holders = {
        path.stem for path in folder.glob("*.py") if re.search(r"^@(compiled|entry)$", path.read_text(), re.M)
    }
    assert holders <= set(jit.SOURCES)
    own = {f"perfmodel.serving.compiled.{name}" for name in jit.SOURCES}
    own |= {f"perfmodel.serving.{name}" for name in jit.CONSTANTS}
    own |= {f"perfmodel.overlap.{Path(name).stem}" for name in rounds._SOURCES}
    own |= {"perfmodel.jit", "perfmodel.serving.compiled.jit", "perfmodel.overlap.compiled"}
    for path in (*(folder / f"{name}.py" for name in jit.SOURCES), Path(kernel.__file__)):
        for one in ast.walk(ast.parse(path.read_text())):
            if isinstance(one, ast.ImportFrom) and one.module.startswith("perfmodel"):
                whole = {f"{one.module}.{name.name}" for name in one.names}
                assert one.module in own or whole <= own, path
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES
    found = []
    for name, factor in (("one", 2), ("other", 2), ("changed", 3)):
        path = tmp_path / name / "twice_as_much.py"
        path.parent.mkdir()
        path.write_text(f"def times(number):\n    return {factor} * number\n")
        program = Program([path])
        assert program.compiled_before() == (name == "other")
        module = load_module(path)
        times = program.entry(module.times)
        found.append((times(21), sum(times.stats.cache_hits.values())))
        assert program.compiled_before()
    assert found == [(42, 0), (42, 1), (63, 0)]
    assert before == (numba.config.CACHE_DIR, numba.config.CACHE_LOCATOR_CLASSES)


def load_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
