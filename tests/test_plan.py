"""perfmodel plan: nothing proposed that would not run, the screen against simulation, selection, the command."""

import itertools
import json

import numpy as np
import pytest
from command import run_here
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.engines.launch import launchable, launches, unsaid
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.plan import answer as answers
from perfmodel.explore.plan import draws
from perfmodel.explore.plan.answer import nearest_miss, plan
from perfmodel.explore.plan.grids import BATCHES, grids_of
from perfmodel.explore.plan.layouts import document_of, legal_layouts
from perfmodel.explore.plan.question import Limits, Question, kinds_of, traffic_of
from perfmodel.explore.plan.race import half_width, race
from perfmodel.explore.plan.screen import lengths_of, screen
from perfmodel.explore.plan.simulate import Simulator, in_turn, simulate_survivors, step_of
from perfmodel.explore.space import CHUNK, DP, EP, RUNNING, TP, narrowed
from perfmodel.load import build_scenario, load_scenario
from perfmodel.ops.limits import check_runs
from perfmodel.output.plan.files import scenario_text
from perfmodel.output.plan.page import plan_html
from perfmodel.serving import cores
from perfmodel.serving.serve import serve
from perfmodel.serving.step_times import decode_leaves
from perfmodel.spec.arrays import with_arrays
from perfmodel.step import predict_steps

SMALL = {
    TP: [1, 2],
    DP: [1, 2],
    CHUNK: [4096],
    RUNNING: [64],
    "deployment.precision.kv_cache": ["bf16"],
    "weights": ["fp8"],
}


def question(model="qwen3-30b-a3b", gpus="4xh200", engine="vllm", *, space=SMALL, limits=None, **traffic):
    asked = {"isl": 1000, "osl": 200, "users": 64, "rate": None, "trace": ""} | traffic
    return Question(
        model, kinds_of(gpus, [engine]), traffic_of(**asked), limits or Limits(2.0, 0.05), space=space
    )


@pytest.fixture(scope="module")
def answer():
    return plan(question(), simulate=6, seconds=60.0)


# --- what is proposed ---------------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(
    model=st.sampled_from(["qwen3-30b-a3b", "deepseek-v3", "mixtral-8x22b", "longcat-flash"]),
    gpus=st.sampled_from(["8xh200", "8xh800", "8xb200"]),
    engine=st.sampled_from(["sglang", "vllm", "trtllm"]),
    data=st.data(),
)
def test_nothing_is_proposed_that_step_refuses(model, gpus, engine, data):
    asked = question(model, gpus, engine, space={CHUNK: [2048, 8192]}, users=32)
    kind = asked.kinds[0]
    fitting = [one for one in legal_layouts(asked, kind, asked.space_of(kind)) if min(one.kv_tokens) > 2000]
    if not fitting:
        return
    for place in data.draw(st.lists(st.integers(0, len(fitting) - 1), min_size=1, max_size=3)):
        one = fitting[place]
        built = build_scenario(document_of(asked.document(kind), one.keys))
        assert built.hash == one.scenario.hash  # what was screened is what a user gets
        assert not unsaid(built)
        deployment = built.deployment.model_copy(
            update={"batch_per_gpu": 1.0 / built.deployment.attention_tp}
        )
        check_runs(built.model_copy(update={"deployment": deployment}))


def test_every_candidate_of_an_answer_is_a_scenario_that_steps(answer):
    assert any(not one["simulated"] for one in answer.values["candidates"])
    for one in answer.values["candidates"]:
        built = build_scenario(
            document_of(answer.question.document(answer.question.kinds[0]), one["scenario"])
        )
        deployment = built.deployment.model_copy(
            update={"batch_per_gpu": 1.0 / built.deployment.attention_tp}
        )
        check_runs(built.model_copy(update={"deployment": deployment}))
        assert built.fleet_gpus == one["num_gpus"] <= 4


def test_the_winner_is_a_file_that_step_and_serve_take(answer, tmp_path):
    path = tmp_path / "winner.yaml"
    path.write_text(scenario_text(answer.document))
    scenario = load_scenario(path)
    check_runs(scenario)
    done = run_here("perfmodel", "serve", path, "--json")
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    first = answer.values["candidates"][0]
    for name in ("ttft_s", "tpot_s"):  # batch_per_gpu and context are a step's: traffic does not see them
        assert served[name] == pytest.approx(first[name])


# --- the space ------------------------------------------------------------------------------------------------------


def test_a_space_file_narrows_widens_and_adds():
    asked = question(space={**SMALL, TP: {"choices": [2]}, DP: [1], "deployment.redundant_experts": [0, 8]})
    kind = asked.kinds[0]
    found = list(legal_layouts(asked, kind, asked.space_of(kind)))
    assert {one.keys[TP] for one in found} == {2}
    assert {one.scenario.deployment.redundant_experts for one in found} == {0, 8}


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({TP: []}, "no choices left"),
        ({TP: [0]}, "at least 1"),
        ({TP: {"range": [8, 4]}}, "holds nothing"),
        ({TP: {"between": 3}}, "must be a list"),
        ({"deployment.atention_tp": [1]}, "did you mean"),
        ({"workload.request_rate": [1]}, "no choice of a deployment"),
        ({"weights": ["int2"]}, "must be of bf16, fp8, fp4"),
        ({"pools": ["alone"]}, "must be of together, apart"),
    ],
)
def test_a_bad_space_is_one_line(stated, words):
    asked = question()
    with pytest.raises(SpecError, match=words):
        narrowed(asked.space_of(asked.kinds[0]), stated)


def test_formats_follow_gpu_engine_and_checkpoint():
    def weights(model, gpus, engine):
        asked = question(model, gpus, engine, space={})
        return asked.space_of(asked.kinds[0]).keys["weights"]

    assert weights("deepseek-v3", "8xh200", "sglang") == ("fp8",)
    assert weights("qwen3-30b-a3b", "8xh200", "sglang") == ("bf16", "fp8")
    assert weights("deepseek-v3", "8xb200", "trtllm") == ("fp8", "fp4")
    assert weights("qwen3-30b-a3b", "8xh100", "trtllm") == ("bf16", "fp8")


# --- the screen -----------------------------------------------------------------------------------------------------


def test_stacked_steps_are_those_asked_alone():
    asked = question("longcat-flash", "16xh800", "sglang", space={CHUNK: [2048, 8192], RUNNING: [64]})
    kind = asked.kinds[0]
    layouts = list(legal_layouts(asked, kind, asked.space_of(kind)))
    overlaps = {one.scenario.deployment.overlap for one in layouts}
    assert {"sequential", "sbo"} <= overlaps
    chosen = [
        next(one for one in layouts if one.scenario.deployment.overlap == name) for name in sorted(overlaps)
    ]
    chosen += layouts[:2]
    lengths = lengths_of(asked)
    grids = grids_of(chosen, lengths, (2048, 8192))
    for row, one in enumerate(chosen):
        s = one.scenario
        deployment = s.deployment.model_copy(update={"phase": "decode"})
        leaves = decode_leaves(BATCHES / s.deployment.attention_tp, np.full(BATCHES.shape, lengths.context))
        alone = predict_steps(with_arrays(s.model_copy(update={"deployment": deployment}), leaves))
        assert grids.decode_s[row] == pytest.approx(alone.step_time_s, rel=1e-9)


def test_all_runs_of_a_plan_take_the_core_that_they_are_worth_together(monkeypatch):
    monkeypatch.setattr(cores, "available", lambda: True)
    monkeypatch.setattr(cores, "compiled_before", lambda: True)
    asked = question(users=96, limits=Limits(), space=SMALL)
    one = Simulator(asked, seconds=60.0, runs=1)
    assert one.traffic(0).num_requests < cores.WORTH_LOADING
    assert (one.core, Simulator(asked, seconds=60.0, runs=1000).core) == ("plain", "compiled")


def test_draws_count_among_the_runs_that_choose_the_core(monkeypatch):
    """Four candidates are 69 runs: 64 of them repeat the best four under drawn kernels."""
    told = []

    class Asked(Exception):
        pass

    def simulator(question, *, seconds, runs):
        told.append(runs)
        raise Asked

    monkeypatch.setattr(answers, "Simulator", simulator)
    for candidates in (4, 32, 1):
        with pytest.raises(Asked):
            plan(question(), simulate=candidates, screened=object())
    assert told == [4 + 64 + 1, 32 + 64 + 1, 1 + 16 + 1]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("traffic", [{"users": 96}, {"users": None, "rate": 12.0}])
def test_the_approximation_is_near_the_simulation(engine, traffic):
    found = screen(
        asked := question(engine=engine, limits=Limits(), space={**SMALL, RUNNING: [256]}, **traffic)
    )
    simulator = Simulator(asked, seconds=60.0, runs=1)
    ratios = []
    for b, i in found.ranked[:40:5]:
        batch = found.batches[b]
        run = simulator.first(batch.kind, batch.keys(i))
        assert run is not None
        ratios.append(batch.screen.tpot_s[i] / run.figures[0]["tpot_s"]["mean"])
        assert batch.usd[i] == pytest.approx(run.figures[0]["usd_per_million_output_tokens"], rel=0.25)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.12)
    assert max(np.abs(np.log(ratios))) < 0.25


def test_screening_finds_the_winner_of_exhaustive_simulation():
    """Small random spaces: the winner by simulating every candidate, against the winner of a few that the screen chose.
    ``python -m bench.planning`` counts over 200 of them; here some, for gross errors.
    """
    rng = np.random.default_rng(7)
    near = 0
    spaces = 4
    for _ in range(spaces):
        stated = {
            TP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
            DP: [int(n) for n in rng.choice([1, 2, 4], 2, replace=False)],
            CHUNK: [int(rng.choice([2048, 8192]))],
            RUNNING: [int(n) for n in rng.choice([8, 16, 32, 64], 2, replace=False)],
            "deployment.precision.kv_cache": ["bf16"],
            "weights": ["fp8"],
            "pools": ["together"],
        }
        asked = question(
            space=stated, limits=Limits(float(rng.uniform(0.5, 3.0)), float(rng.uniform(0.012, 0.04)))
        )
        found = screen(asked)
        every, _ = simulate_survivors(found, _patient(asked), most=10_000, per_pair=10_000)
        some, _ = simulate_survivors(found, _patient(asked), most=max(6, len(found.ranked) // 4))
        if not every[0].keeps:
            near += not some[0].keeps
            continue
        near += some[0].keeps and some[0].mean("usd_per_million_output_tokens") <= 1.02 * every[0].mean(
            "usd_per_million_output_tokens"
        )
    assert near >= spaces - 1


def test_a_pairs_other_candidates_come_when_the_budget_allows_and_equals_last():
    """Users of 16 never reach a ``max_running`` of 64, so half of these are the other half again."""
    stated = {
        TP: [1], DP: [1, 2], CHUNK: [2048], RUNNING: [16, 64], "deployment.precision.kv_cache": ["bf16"],
        "weights": ["fp8"], "pools": ["together"],
    }  # fmt: skip
    found = screen(question(users=16, space=stated))
    turns = list(in_turn(found, per_pair=1))
    assert sorted(turns) == sorted(found.ranked)
    said = [(found.batches[b].structure(i), float(found.batches[b].score[i])) for b, i in turns]
    pairs, scores = ([key(one) for one in said] for key in (lambda one: one[0], lambda one: one))
    different, structures = len(set(scores)), len(set(pairs))
    assert structures < different < len(turns)
    assert len(set(pairs[:structures])) == structures
    assert len(set(scores[:different])) == different
    runs, _ = simulate_survivors(found, _patient(question(users=16, space=stated)), most=3, per_pair=1)
    assert len(runs) == 3


def _patient(asked):
    return Simulator(asked, seconds=1e5, runs=1)


# --- selection ------------------------------------------------------------------------------------------------------


def test_a_race_drops_nobody_who_may_be_best():
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        common = rng.normal(0.0, 0.2, 40)
        means = {0: 1.0, 1: 1.02, 2: 1.3}
        own = {k: 1.0 * mean + common + rng.normal(0.0, 0.01, 40) for k, mean in means.items()}
        values, apart = race([0, 1, 2], lambda k, r: own[k][r], most=40, goes_on=lambda: True)  # noqa: B023
        best = min(values, key=lambda k: (-len(values[k]), np.mean(values[k])))
        wrong += best != 0
        assert len(values[2]) <= 12  # what is clearly worse costs little
        assert apart or len(values[0]) == 40
    assert wrong <= 10


@pytest.mark.filterwarnings("error")
def test_traffic_in_which_nobody_keeps_the_limits_tells_nothing_apart():
    infinite = {(0, 0), (1, 0), (2, 0), (2, 1)}
    values, _ = race(
        [0, 1, 2],
        lambda k, r: float("inf") if (k, r) in infinite else 3.0 + k + 0.01 * (r % 3),
        most=12,
        goes_on=lambda: True,
    )
    assert len(values[2]) <= len(values[1]) <= len(values[0])


def test_a_race_of_equals_ends_and_says_so():
    values, apart = race([0, 1], lambda k, r: 3.0, most=50, goes_on=lambda: True)
    assert not apart
    assert len(values[0]) == 2


def test_a_race_stops_when_the_budget_is_spent():
    left = itertools.count()
    values, apart = race(
        [0, 1], lambda k, r: float(k) + (r % 2) * 5 * k, most=50, goes_on=lambda: next(left) < 2
    )
    assert not apart
    assert sum(map(len, values.values())) == 4


def test_the_interval_of_a_race_holds_at_all_times():
    misses = 0
    for seed in range(400):
        x = np.random.default_rng(seed).normal(0.0, 1.0, 200)
        means = np.cumsum(x) / np.arange(1, 201)
        misses += any(abs(means[t - 1]) > half_width(1.0, t, 0.05) for t in range(1, 201))
    assert misses / 400 <= 0.05


# --- the answer -----------------------------------------------------------------------------------------------------


def test_an_answer_has_what_the_contract_says(answer):
    values = answer.values
    json.dumps(values, allow_nan=False)
    first = values["candidates"][0]
    assert {
        "layout",
        "scenario",
        "num_gpus",
        "ttft_s",
        "tpot_s",
        "goodput_requests_per_s",
        "intervals",
    } <= first.keys()
    assert first["simulated"]
    assert values["considered"]["legal"] >= values["considered"]["fit"] > 0
    assert values["considered"]["simulated"] == 6
    shares = [one["probability_best"] for one in values["candidates"] if one["probability_best"] is not None]
    assert sum(shares) == pytest.approx(1.0)
    for name, (low, high) in first["intervals"].items():
        assert low <= high, name
    low, high = first["intervals"]["usd_per_million_output_tokens"]
    assert low < first["usd_per_million_output_tokens"] < high
    assert values["launch"]["engine"] == "vllm"
    assert "--tensor-parallel-size" in values["launch"]["command"]
    assert all(values["candidates"][i]["simulated"] for i in values["pareto"])
    kept = [one for one in values["candidates"] if one["simulated"] and one["meets_limits"]]
    usd = [one["usd_per_million_output_tokens"] for one in kept]
    assert usd == sorted(usd)


def test_the_same_question_gives_the_same_answer():
    asked = question(isl=300, osl=40, rate=10.0, users=None)
    first, again = (plan(asked, simulate=3, seconds=1e5).values for _ in range(2))
    assert first == again


def test_the_winner_of_an_objective_is_least_by_it():
    asked = question(limits=Limits(), osl=50, users=32)
    for objective, key in (("gpus", "num_gpus"), ("tpot", "tpot_at_s"), ("ttft", "ttft_at_s")):
        own = Question(
            **{name: getattr(asked, name) for name in Question.__slots__} | {"objective": objective}
        )
        runs, _ = simulate_survivors(screen(own), _patient(own), most=5)
        values = [run.scenario.fleet_gpus if key == "num_gpus" else run.mean(key) for run in runs]
        assert len(values) == 5
        assert len(set(values)) > 1
        assert values[0] == min(values)


@pytest.fixture
def repeats(monkeypatch):
    """Scenarios of the runs that draws repeat."""
    repeated = []

    def watched(scenario, **stated):
        repeated.append(scenario.hash)
        return serve(scenario, **stated)

    monkeypatch.setattr(draws, "serve", watched)
    return repeated


def test_draws_end_with_their_time(repeats):
    """Whose time is up after a run says so instead of repeating all four eight times; the screen tells its progress."""
    space = {**SMALL, DP: [1]}
    told = []
    found = plan(
        question(users=16, space=space), simulate=2, seconds=1e-6, progress=lambda *one: told.append(one)
    )
    screened = [one for one in told if one[0].startswith("layouts of ")]
    assert [done for _, done, _ in screened] == list(range(screened[0][2]))
    assert told.index(screened[-1]) < len(told) - 1
    assert found.winner is not None
    assert len(repeats) == 1
    assert [one["intervals"] for one in found.values["candidates"][:1]] == [{}]
    assert any("raise --seconds" in text and "no intervals" in text for text in found.values["warnings"])


def test_finalists_are_as_many_as_can_be_drawn_often_enough(monkeypatch, answer):
    """Runs of a second each in 20 seconds: two candidates, eight times."""
    clock = itertools.count()
    now = [0.0]

    def served(scenario, **stated):
        now[0] += 1.0
        return answer.runs[0].served

    monkeypatch.setattr(draws, "serve", served)
    monkeypatch.setattr(draws.time, "monotonic", lambda: now[0] + 1e-9 * next(clock))
    told = []
    found = draws.joint_draws(
        answer.runs[:4],
        Limits(2.0, 0.05),
        "usd",
        seconds=20.0,
        progress=lambda done, total: told.append((done, total)),
    )
    assert len(found.best) == len(found.intervals) == 2
    assert now[0] == told[-1][0] == 20.0
    assert told[-1][1] == 32
    assert sum(found.best) == pytest.approx(1.0)
    assert found.of(2) == ({}, None)


def test_limits_that_nothing_keeps_name_the_nearest_miss(repeats):
    found = plan(question(limits=Limits(2.0, 0.0001), users=16), simulate=3, seconds=1e5)
    assert found.winner is None
    assert len(repeats) == draws.REPEATS  # of the nearest miss alone
    assert len(set(repeats)) == 1
    first = found.values["candidates"][0]
    assert first["intervals"]
    assert first["probability_best"] is None
    error = nearest_miss(found)
    assert error.exit_code == 3
    assert "TPOT" in str(error)
    assert "0.0001" in str(error)
    assert "(missed)" in str(error)


def test_a_model_that_fits_nowhere_exits_with_3():
    with pytest.raises(InfeasibleError, match="fits"):
        plan(question("deepseek-v3", "4xh100", "vllm"))


def test_the_page_says_what_the_table_says(answer):
    page = plan_html(answer)
    assert answer.values["candidates"][0]["layout"] in page
    assert "--tensor-parallel-size" in page
    assert "http-equiv" in page


def test_a_step_of_a_run_is_what_step_takes(answer):
    for run in answer.runs:
        check_runs(step_of(run))


# --- launching ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_a_launch_says_the_layout(engine):
    assert engine in launchable()
    scenario = build_scenario(
        {
            "model": "deepseek-v3",
            "cluster": "h200-ib",
            "engine": engine,
            "deployment": {"attention_tp": 1, "attention_dp": 16, "ep": 16, "precision": {"kv_cache": "fp8"}},
            "serving": {"max_running": 32, "max_batched_tokens": 2048},
        }
    )
    (one,) = launches(scenario, "deepseek-ai/DeepSeek-V3")
    text = one.command + "\n" + one.file
    wanted = {
        "sglang": (
            "--tp-size 16",
            "--dp-size 16",
            "--ep-size 16",
            "--chunked-prefill-size 32768",
            "fp8_e4m3",
            "512",
        ),
        "vllm": (
            "--tensor-parallel-size 1",
            "--data-parallel-size 16",
            "--enable-expert-parallel",
            "--max-num-seqs 32",
        ),
        "trtllm": (
            "tensor_parallel_size: 16",
            "moe_expert_parallel_size: 16",
            "enable_attention_dp: true",
            "dtype: fp8",
        ),
    }[engine]
    for words in wanted:
        assert words in text
    assert all(source.startswith("https://") for source in one.sources)
    assert serve(scenario.model_copy(update={})).scenario.deployment.engine == engine


def test_what_no_flag_says_is_said():
    scenario = build_scenario(
        {
            "model": "deepseek-v3",
            "cluster": "h200-ib",
            "engine": "vllm",
            "deployment": {"attention_tp": 8, "dense_tp": 1},
        }
    )
    assert any("dense_tp" in text for text in unsaid(scenario))


# --- the command ----------------------------------------------------------------------------------------------------

ASK = ("plan", "qwen3-30b-a3b", "--gpus", "2xh200", "--isl", "500", "--osl", "100")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*ASK,), "--users N or --rate R"),
        ((*ASK, "--users", "0"), "--users 0"),
        ((*ASK, "--users", "9" * 400), "must be from 1 to 10,000,000"),
        ((*ASK, "--users", "4", "--tpot", "-1"), "--tpot -1"),
        ((*ASK, "--users", "4", "--objective", "fame"), "--objective fame"),
        ((*ASK, "--users", "4", "--percentile", "0"), "--percentile 0"),
        ((*ASK, "--users", "4", "--engine", "tgi"), "tgi"),
        ((*ASK, "--users", "4", "--simulate", "0"), "--simulate 0"),
        ((*ASK, "--users", "4", "--set", "deployment.mtp.aceptance=1"), "did you mean"),
        ((*ASK, "--users", "4", "--out", "/nowhere/x.yaml"), "does not exist"),
        ((*ASK, "--users", "4", "--space", "missing.yaml"), "missing.yaml"),
        (
            ("plan", "qwen3-30b-a3b", "--gpus", "h200", "--isl", "5", "--osl", "5", "--users", "1"),
            "NUMBERxGPU",
        ),
        (("plan", "qwen3-30b-a3b", "--gpus", "2xv100", "--isl", "5", "--osl", "5", "--users", "1"), "v100"),
        (("plan", "no-model", "--gpus", "2xh200", "--isl", "5", "--osl", "5", "--users", "1"), "no-model"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path):
    done = run_here("perfmodel", *words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not done.stdout


def test_the_command_writes_all_that_it_is_asked_for(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("space:\n  deployment.attention_tp: [1, 2]\n  pools: together\n  weights: fp8\n")
    done = run_here(
        "perfmodel", *ASK, "--users", "16", "--engine", "sglang", "--space", space, "--simulate", "3",
        "--out", tmp_path / "w.yaml", "--html", tmp_path / "p.html", folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "python -m sglang.launch_server" in done.stdout
    assert (tmp_path / "p.html").stat().st_size > 1e6
    assert run_here("perfmodel", "step", tmp_path / "w.yaml").returncode == 0


def test_limits_out_of_reach_exit_with_3_and_print_no_table(tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text(
        "deployment.attention_tp: [1]\ndeployment.attention_dp: [1]\npools: together\nweights: fp8\n"
    )
    done = run_here(
        "perfmodel",
        *ASK,
        "--users",
        "16",
        "--tpot",
        "0.00001",
        "--simulate",
        "2",
        "--space",
        space,
        folder=tmp_path,
    )
    assert done.returncode == 3
    assert "nearest miss" in done.stderr
    assert not done.stdout


def test_expert_parallelism_of_all_gpus_is_written_out():
    asked = question()
    assert all(isinstance(one[EP], int) for one in asked.space_of(asked.kinds[0]).layouts())
