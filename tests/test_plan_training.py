"""`perfmodel plan-train`: layouts screened together equal those simulated one by one, and the best is the best."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from perfmodel.answers.train import answer_train
from perfmodel.cli import app
from perfmodel.engines.frameworks.megatron_launch import megatron_launch
from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.plan_training import graphs
from perfmodel.explore.plan_training.answer import plan_training
from perfmodel.explore.plan_training.pieces import WAYS, Workshop
from perfmodel.explore.plan_training.question import (
    Kind,
    Question,
    kinds_of,
    layouts,
    space_of,
    training_with,
)
from perfmodel.explore.plan_training.screen import ARRANGED, figures, screen
from perfmodel.explore.train_difference import train_difference
from perfmodel.explore.train_sensitivity import train_sensitivity
from perfmodel.load import build_scenario, load_scenario
from perfmodel.output.train.differences import told
from perfmodel.training.layout import training_of
from perfmodel.training.overlap import pair_phase
from perfmodel.training.pipeline.flight import in_flight
from perfmodel.training.pipeline.occupancy import occupancy
from perfmodel.training.pipeline.schedules import schedule, schedule_problem
from perfmodel.training.pipeline.simulate import simulate
from perfmodel.training.pipeline.times import StageTimes
from perfmodel.training.step import StepBuilder, simulate_training

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
SMALL = """
model: {base: qwen3-30b-a3b, num_hidden_layers: 8}
cluster: h100-ib
training: {sequence_tokens: 4096, global_batch_sequences: 128, dp: 8, pp: 2, ep: 8, tokens: 1.0e+10}
"""


RUN = {"sequence_tokens": 4096, "global_batch_sequences": 128, "dp": 8, "pp": 2, "ep": 8}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def small(file):
    return load_scenario(file)


PYTORCHS = {
    "kernels": ["pytorch-eager", "pytorch-compiled"], "loss_kernels": ["pytorch-eager", "fused"],
    "attention_kernels": ["cudnn", "flash-attention-2"],
    "recompute": ["none", ["norms", "activations", "every_second_product"]],
}  # fmt: skip


def step_of(scenario, keys):
    training = training_with(training_of(scenario), keys)
    return simulate_training(scenario.model_copy(update={"training": training}))


def sample(scenario, gpus, stated, number, seed=0):
    found = list(layouts(scenario, gpus, space_of(scenario, gpus, stated), stated))
    chosen = np.random.default_rng(seed).choice(len(found), min(number, len(found)), replace=False)
    return [found[i] for i in chosen]


@pytest.mark.parametrize(
    ("name", "gpus", "stated"),
    [
        ("", 16, {}),
        ("", 8, {"zero": [0, 2, 3], "deterministic": [False, True]}),
        ("", 16, PYTORCHS),
        ("longcat-flash-train-h800", 7168, {}),
        (
            "deepseek-v3-train-h800",
            2048,
            {"schedule": ["gpipe", "1f1b", "zb-h1", "zb-h2", "zb-v", "dualpipe"]},
        ),
    ],
)
def test_screened_steps_and_bytes_are_those_of_single_steps(small, name, gpus, stated):
    """To rounding where no stage's forward runs beside another's backward; there within a tenth."""
    scenario = load_scenario(name) if name else small
    if "deterministic" in stated:
        odd = {
            "slowest_rank": 1.2,
            "optimizer": {"kind": "muon", "gradients": "bf16"},
            "overlap_gradients": False,
            "post_validation": True,
        }
        scenario = build_scenario({**_document(), "training": training_of(small).model_dump() | odd})
    found = sample(scenario, gpus, stated, 12)
    step_s, memory = figures(scenario, found)
    for keys, seconds, held in zip(found, step_s, memory, strict=True):
        one = step_of(scenario, keys)
        exact = keys["moe_overlap"] != "forward-backward"
        assert seconds == pytest.approx(one.step_time_s, rel=1e-3 if exact else 0.1), keys
        assert held == pytest.approx(max(rank.total for rank in one.memory.ranks), rel=1e-9), keys


def test_the_best_are_told_as_if_all_were():
    """A long step is continued from fewer rounds, for sure only where it may be among the best that fit."""
    scenario = load_scenario("deepseek-v3-train-h800")
    found = sample(
        scenario, 2048, {"micro_batch_sequences": [1], "schedule": ["interleaved-1f1b", "zb-h2"]}, 400
    )
    every, memory = figures(scenario, found)
    few, same = figures(scenario, found, best=20)
    assert np.array_equal(memory, same)
    fits = np.flatnonzero(memory <= scenario.cluster.gpu.memory_bytes)
    order = [fits[np.argsort(steps[fits], kind="stable")][:20].tolist() for steps in (every, few)]
    assert order[0] == order[1]
    assert few[order[1]] == pytest.approx(every[order[0]], rel=1e-12)
    assert (few >= every * (1 - 1e-12)).all()
    assert (few <= 1.06 * every).all()
    assert (few != every).any()


@given(
    name=st.sampled_from(
        ["1f1b", "zb-h1", "zb-h2", "zb-v", "interleaved-1f1b", "dualpipe", "dualpipe-v", "gpipe"]
    ),
    p=st.integers(1, 6),
    m=st.integers(1, 20),
    v=st.integers(1, 3),
    pairs=st.booleans(),
    data=st.data(),
)
@QUICK
def test_what_is_in_flight_needs_no_times(name, p, m, v, pairs, data):
    if schedule_problem(name, p, m, v):
        return
    own = schedule(name, p, m, v, paired=pairs)
    times = data.draw(st.lists(st.floats(0.1, 3.0), min_size=3 * own.num_stages, max_size=3 * own.num_stages))
    run = simulate(own, StageTimes(*np.reshape(times, (3, -1))))
    sizes = st.lists(st.floats(0.0, 10.0), min_size=own.num_stages, max_size=own.num_stages)
    held, late = np.array(data.draw(sizes)), np.array(data.draw(sizes))
    for rank in range(p):
        stages = list(own.stages_of(rank))
        for leads in (held, late):
            peak = in_flight(own)[rank].most(held[stages], leads[stages])
            assert peak == pytest.approx(occupancy(run, rank, list(held), list(leads)).peak_bytes, abs=1e-9)


def test_the_best_of_a_small_space_is_the_best_of_all(file, small):
    """Every layout is simulated by itself: none that fits is cheaper."""
    stated = {"recompute": ["none"], "micro_batch_sequences": [1], "tp": [1, 2]}
    found = plan_training(Question(str(file), (Kind(16),), "gpu", stated), simulate=8)
    legal = list(layouts(small, 16, space_of(small, 16, stated), stated))
    device = small.cluster.gpu.memory_bytes
    best = np.inf
    for keys in legal:
        one = step_of(small, keys)
        if max(rank.total for rank in one.memory.ranks) <= device:
            best = min(best, one.step_time_s)
    assert found.values["considered"]["legal"] == len(legal) > 100
    assert found.candidates[0].answer.values["step_time_s"] == pytest.approx(best, rel=1e-9)
    shown = [row["tokens_per_s_per_gpu"] for row in found.values["candidates"] if row["simulated"]]
    assert shown == sorted(shown, reverse=True)


def test_no_layout_is_proposed_that_train_would_refuse(small):
    for keys in sample(small, 16, {}, 200):
        training = training_with(training_of(small), keys)
        assert training.num_gpus == 16
        training_of(build_scenario({**_document(), "training": training.model_dump()}))


def _document():
    return {"model": {"base": "qwen3-30b-a3b", "num_hidden_layers": 8}, "cluster": "h100-ib"}


def test_what_memory_leaves(file):
    """Less memory leaves fewer layouts, and those that are left hold less."""
    wide = screen(Question(str(file)), Kind(16))
    narrow = screen(Question(str(file), overrides=("cluster.gpu.memory_bytes=24e9",)), Kind(16))
    assert 0 < narrow.fits.sum() < wide.fits.sum()
    assert narrow.memory[narrow.fits].max() <= 24e9
    with pytest.raises(
        InfeasibleError,
        match=r"none fits; the nearest, .* needs .* GB of 2\.1: more GPUs \(some [0-9]+ hold as much\)",
    ):
        plan_training(Question(str(file), (Kind(16),), overrides=("cluster.gpu.memory_bytes=2.1e9",)))


def test_objectives_and_kinds(file):
    """With more GPUs a run is quicker and dearer; of two kinds the cheaper token wins."""
    space = {"tp": [1], "recompute": ["none"], "moe_overlap": ["none"], "schedule": ["1f1b"]}
    kinds = (Kind(8), Kind(64))
    quick = plan_training(Question(str(file), kinds, "time", space), simulate=4).candidates[0]
    cheap = plan_training(Question(str(file), kinds, "usd", space), simulate=4).candidates[0]
    assert (quick.kind.gpus, cheap.kind.gpus) == (64, 8)
    assert cheap.usd_per_million_tokens < quick.usd_per_million_tokens
    two = plan_training(Question(str(file), kinds_of("16xh100,16xb200"), "usd", space), simulate=24)
    by_kind = {}
    for one in two.candidates:
        by_kind.setdefault(one.kind.cluster, []).append(one.usd_per_million_tokens)
    assert two.candidates[0].usd_per_million_tokens == min(min(values) for values in by_kind.values())
    values = two.candidates[0].answer.values
    assert two.candidates[0].usd_per_million_tokens == pytest.approx(values["usd"] / 1e10 * 1e6)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"dp": [8]}, "dp follows from the number of GPUs"),
        ({"training.nothing": [8]}, "nothing"),
        ({"tp": [0]}, "whole number of at least 1"),
        ({"tp": {"range": [8]}}, "two whole numbers"),
        ({"tp": {"of": [8]}}, "must be a list"),
        ({"pp": []}, "no choices left"),
        ({"optimizer.moments": ["bf16"]}, "state it with --set"),
        ({"tokens": [1e9]}, "state it with --set"),
        ({"schedule": [{}]}, "list of values"),
        (
            {"precision": ["bf16", "nvfp4"]},
            "training.precision = nvfp4: h100-sxm does not multiply it; use fp8",
        ),
        ({"precision": ["foo"]}, "training.precision = 'foo': input should be 'bf16'"),
        ({"schedule": ["foo"]}, "training.schedule = 'foo': input should be 'gpipe'"),
        ({"power_cap_w": [100.0]}, "power_cap_w = 100: must be above cluster.gpu.idle_w"),
        ({"mtp": [True]}, "model qwen3-30b-a3b has no MTP layer"),
    ],
)
def test_a_bad_space_is_one_line(small, stated, words):
    with pytest.raises(SpecError, match=words) as error:
        space_of(small, 16, stated)
    assert "\n" not in str(error.value)


def test_of_several_kinds_each_takes_the_formats_that_it_multiplies(small):
    stated = {"precision": ["bf16", "nvfp4"]}
    assert space_of(small, 16, stated, of_several=True)["precision"] == ("bf16",)
    with pytest.raises(SpecError, match="nvfp4: h100-sxm does not multiply it"):
        space_of(small, 16, {"precision": ["nvfp4"]}, of_several=True)
    b200 = build_scenario({**_document(), "cluster": "b200-ib", "training": RUN})
    assert space_of(b200, 16, stated)["precision"] == ("bf16", "nvfp4")


def test_kernels_that_only_hopper_has_are_no_choice_elsewhere(small):
    stated = {"fp8_kernels": ["calibrated", "deepseek-2024"], "precision": ["fp8"]}
    assert space_of(small, 16, stated)["fp8_kernels"] == ("calibrated", "deepseek-2024")
    other = build_scenario({**_document(), "cluster": "b200-ib", "training": {**RUN, "precision": "fp8"}})
    assert space_of(other, 16, stated)["fp8_kernels"] == ("calibrated",)


def test_a_space_narrows_and_widens(small):
    found = space_of(small, 64, {"tp": {"range": [2, 4]}, "training.cp": {"choices": [2]}, "mtp": [False]})
    assert found["tp"] == (2, 4)
    assert found["cp"] == (2,)
    assert found["mtp"] == (False,)
    assert "gpipe" not in found["schedule"]


@pytest.mark.parametrize("text", ["x", "0", "8xv100", "8x", "-1", "8,,x"])
def test_bad_gpus_are_one_line(text):
    with pytest.raises(SpecError):
        kinds_of(text)


def test_a_difference_adds_up(small):
    a, b = answer_train(small), answer_train(small.model_copy(update={"training": training_with(
        training_of(small), {"pp": 1, "dp": 16, "virtual_stages": 1, "schedule": "1f1b"})}))  # fmt: skip
    there, back = train_difference(a, b), train_difference(b, a)
    for one in (there, back):
        for total, key in ((one.usd_a, "usd_a"), (one.usd_b, "usd_b"), (one.usd_b - one.usd_a, "delta_usd")):
            assert sum(row[key] for row in one.rows) == pytest.approx(total, rel=1e-9)
    assert there.usd_a == pytest.approx(a.values["usd"] / 1e10 * 1e6)
    parts = {row["component"]: row["delta_usd"] for row in back.rows}
    for row in there.rows:
        assert row["delta_usd"] == pytest.approx(-parts[row["component"]], abs=1e-15)
    prices = small.prices.model_copy(update={"usd_per_gpu_hour": 2 * small.prices.usd_per_gpu_hour})
    dear = answer_train(small.model_copy(update={"prices": prices}))
    twice = train_difference(a, dear)
    assert twice.usd_b == pytest.approx(2 * twice.usd_a)
    assert [row["component"] for row in twice.rows if abs(row["delta_usd"]) > 1e-12] == ["price"]


def run(*words):
    return CliRunner().invoke(app, ["plan-train", *map(str, words)])


def test_the_command(file, tmp_path):
    out, space = tmp_path / "best.yaml", tmp_path / "space.yaml"
    space.write_text("space:\n  tp: [1]\n  recompute: [none]\n  schedule: [1f1b, zb-h1]\n")
    words = (file, "--space", space, "--simulate", 3, "--out", out)
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    best = values["candidates"][0]
    again = answer_train(load_scenario(out)).values
    assert again["step_time_s"] == best["step_time_s"]
    assert again["usd"] == best["usd"]
    assert best["keys"]["training.tp"] == 1
    assert values["considered"]["simulated"] == 3
    assert values["own"]["num_gpus"] == 16
    assert values["why"]["usd_a"] == pytest.approx(best["usd_per_million_tokens"])
    shown = run(*words)
    assert "Best layouts, simulated" in shown.stdout
    assert "the scenario's own layout" in shown.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("longcat-flash-h800",), "training: missing"),
        (("deepseek-v3-train-h800", "--objective", "mfu"), "--objective mfu"),
        (("deepseek-v3-train-h800", "--gpus", "7x"), "--gpus"),
        (("deepseek-v3-train-h800", "--simulate", "0"), "--simulate 0"),
        (("deepseek-v3-train-h800", "--gpus", "7"), "no layout of 7"),
        (("no-such-scenario",), "no-such-scenario"),
    ],
)
def test_bad_input_is_one_line(words, says):
    done = CliRunner().invoke(app, ["plan-train", *words])
    assert done.exit_code != 0
    text = (
        str(done.exception) if done.exception and not isinstance(done.exception, SystemExit) else done.output
    )
    assert says in text
    assert "\n" not in text.strip()


# --- what moves a token's cost ----------------------------------------------------------------------------


def test_levers_move_what_they_should(small):
    """A price moves cost in proportion; more bandwidth never costs more; failures only cost where there are any."""
    small = _with(
        small, {"tokens": 2e12, "failures": {"restart_s": 3600.0}, "checkpoints": {"stall_s": 30.0}}
    )
    found = train_sensitivity(answer_train(small))
    swings = {one.lever: one for one in found.swings}
    widths = [one.width_usd for one in found.swings]
    assert widths == sorted(widths, reverse=True)
    price = swings["GPU price"]
    for end in (price.low, price.high):
        own = small.prices.usd_per_gpu_hour
        assert end.usd_per_million_tokens == pytest.approx(found.usd_per_million_tokens * end.value / own)
    for name in ("HBM bandwidth", "network bandwidth", "link bandwidth"):
        assert swings[name].low.usd_per_million_tokens >= swings[name].high.usd_per_million_tokens
    assert swings["batch"].low.usd_per_million_tokens > swings["batch"].high.usd_per_million_tokens
    assert swings["failures"].low.usd_per_million_tokens < swings["failures"].high.usd_per_million_tokens
    assert swings["slowest pipeline rank"].high.usd_per_million_tokens > found.usd_per_million_tokens
    alone = answer_train(_with(small, {"pp": 1, "dp": 8, "virtual_stages": 1, "schedule": "1f1b"}))
    left = train_sensitivity(alone).left_out
    assert {"slowest pipeline rank", "network bandwidth"} <= set(left)


def _with(scenario, keys):
    own = training_of(scenario)
    training = training_with(own, {"pp": own.pp, "virtual_stages": own.virtual_stages, **keys})
    return scenario.model_copy(update={"training": training})


def test_train_tells_difference_and_levers(file):
    words = ["train", str(file), "--against", str(file), "--sensitivity"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert all(row["delta_usd"] == 0.0 for row in values["difference"]["rows"])
    assert len(values["sensitivity"]["levers"]) >= 6
    shown = CliRunner().invoke(app, words).stdout
    assert "What moves" in shown
    assert "against small" in shown
    plain = CliRunner().invoke(app, ["train", str(file), "--json"])
    assert not {"difference", "sensitivity"} & set(json.loads(plain.stdout))


# --- the page -----------------------------------------------------------------------------------------------


def test_the_page_has_every_layout_the_pipeline_why_and_flags(file, tmp_path):
    page, space = tmp_path / "plan.html", tmp_path / "space.yaml"
    space.write_text("space:\n  tp: [1]\n  recompute: [none]\n  schedule: [1f1b]\n")
    words = (file, "--space", space, "--simulate", 3, "--gpus", "16xh100,16xb200", "--html", page)
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout[: done.stdout.rindex("}") + 1])
    html = page.read_text()
    assert "cdn.plot.ly" not in html.split("</script>", 1)[1]
    layouts_drawn = figure_of(html, "layouts")
    counts = {trace["name"]: len(trace["x"]) for trace in layouts_drawn}
    assert counts["fits"] + counts.get("does not fit", 0) == values["considered"]["legal"]
    assert counts["simulated"] + counts["the winner"] == values["considered"]["simulated"]
    winner = next(trace for trace in layouts_drawn if trace["name"] == "the winner")
    best = values["candidates"][0]
    assert winner["y"][0] == pytest.approx(1.0 / best["usd_per_million_tokens"])
    assert winner["x"][0] == pytest.approx(best["memory_bytes"] / 1e9)
    assert values["why"]["name_b"] in html
    assert {trace["name"] for trace in figure_of(html, "pipeline")} >= {"forward", "backward"}
    assert figure_of(html, "days")
    assert f"--pipeline-model-parallel-size {best['keys']['training.pp']}" in html
    assert 'data-key="mfu"' in html


def figure_of(html, name):
    """Traces of a figure of a page."""
    start = html.index("Plotly.newPlot(", html.index(f'id="figure-{name}"'))
    text = html[html.index("[{", start) :]
    return json.JSONDecoder().raw_decode(text)[0]


def test_a_page_where_none_can_be_written_is_refused_before_any_work(file, tmp_path):
    done = run(file, "--html", tmp_path / "none" / "page.html")
    assert done.exit_code != 0
    assert "does not exist" in (done.output + str(done.exception))


def test_flags_say_what_they_can_of_a_layout():
    scenario = load_scenario("deepseek-v3-train-h800")
    launch = megatron_launch(training_of(scenario), scenario.model)
    text = " ".join(launch.flags)
    for flag in (
        "--pipeline-model-parallel-size 16",
        "--expert-model-parallel-size 64",
        "--global-batch-size 15360",
        "--train-samples 3613281250",
        "--recompute-modules layernorm mla_up_proj moe_act",
        "--exp-avg-dtype bf16",
        "--fp8-recipe blockwise",
        "--mtp-num-layers 1",
        "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend deepep",
    ):
        assert flag in text
    assert any("dualpipe" in words for words in launch.cannot)
    assert any("FP8 kernels of 2024" in words for words in launch.cannot)
    paired = {"schedule": "interleaved-1f1b", "all_to_all": "hybrid-ep", "delay_weights": False}
    paired |= {"virtual_stages": 2, "stage_layers": None}
    hybrid = training_of(scenario).model_copy(update=paired)
    flags = megatron_launch(hybrid, scenario.model).flags
    assert "--moe-token-dispatcher-type flex --moe-flex-dispatcher-backend hybridep" in flags
    assert "--overlap-moe-expert-parallel-comm" in flags
    own = training_with(
        training_of(scenario),
        {
            "pp": 8, "virtual_stages": 2, "schedule": "interleaved-1f1b", "dp": 256, "zero": 2, "recompute": "full",
            "dp_replicate": 2, "offload": {"optimizer_fraction": 0.5, "overlap": True}, "stage_layers": None,
            "batch_ramp": {"start_sequences": 7680, "increment_sequences": 7680, "ramp_sequences": 10**6},
            "capacity": {"factor": 1.25, "pad": True}, "all_to_all": "all-to-all", "dispatch": "bf16",
            "fp8_kernels": "calibrated",
        },
    )  # fmt: skip
    launch = megatron_launch(own, scenario.model)
    text = " ".join(launch.flags)
    for flag in (
        "--num-virtual-stages-per-pipeline-rank 2",
        "--data-parallel-sharding-strategy optim_grads",
        "--num-distributed-optimizer-instances 2",
        "--optimizer-cpu-offload --optimizer-offload-fraction 0.5 --overlap-cpu-optimizer-d2h-h2d",
        "--step-batch-size-schedule '0:7680 4096000000:15360'",
        "--moe-expert-capacity-factor 1.25 --moe-token-drop-policy probs --moe-pad-expert-input-to-capacity",
        "--recompute-granularity full",
    ):
        assert flag in text
    assert [words for words in launch.cannot if "whole layers" not in words] == ["keep_gate_up: fp8"]
    assert (
        "--overlap-moe-expert-parallel-comm" not in text
    )  # Megatron-LM refuses it with whole layers recomputed


def test_graphs_run_in_compiled_code_as_without(small, monkeypatch):
    """Layouts whose exchanges hold other SMs are other graphs: the compiled core has one number of each task."""
    stated = {"moe_overlap": ["forward-backward"], "all_to_all": ["deepep-normal", "hybrid-ep", "all-to-all"]}
    chosen = sample(small, 16, stated, 6)
    found = []
    for compiled in (False, True):
        monkeypatch.setattr(graphs, "worth_compiled", lambda layouts, answer=compiled: answer)
        found.append(figures(small, chosen))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "stated",
    [
        {"moe_overlap": ["two-chunks"]},
        {"moe_overlap": ["none", "forward-backward"], "precision": ["bf16", "fp8"]},
        {"cp": [2], "cp_exchange": ["ring"], "moe_overlap": ["none"]},
    ],
)
def test_graphs_that_run_together_take_what_each_takes_alone(stated):
    """Pieces whose ops run beside others: the twin for all shapes at once, the timeline one by one."""
    name = "longcat-flash-train-h800" if "two-chunks" in stated["moe_overlap"] else ""
    scenario = load_scenario(name) if name else build_scenario(
        {**_document(), "training": RUN}
    )  # fmt: skip
    chosen = sample(scenario, training_of(scenario).num_gpus, stated, 5)
    shared = [{key: value for key, value in keys.items() if key not in ARRANGED} for keys in chosen]
    pieces, which = Workshop(scenario).pieces(shared)
    for keys, at in zip(chosen, which, strict=True):
        found = pieces.of(at)
        training = training_with(training_of(scenario), keys)
        builder = StepBuilder(scenario, training)
        layers = [layer.model_copy(update={"count": 1}) for layer in scenario.model.layers]
        for kind, layer in enumerate(layers):
            chain = builder.layer_chain(layer)
            for row, way in enumerate(WAYS):
                assert found.layer_s[row, kind] == pytest.approx(builder.phase(chain, way).seconds, rel=1e-9)
            if keys["moe_overlap"] == "forward-backward" and layer.moe:
                two = builder.layer_chain(layer, 2)
                pair = pair_phase(two, two, builder.costing).seconds / 2
                assert found.pair_s[kind] == pytest.approx(pair, rel=1e-9)
        for row, way in enumerate(WAYS):
            assert found.last_s[row] == pytest.approx(
                builder.phase(builder.last_chain(), way).seconds, rel=1e-9
            )


@given(
    parts=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=12),
    dearer=st.floats(1e-9, 1e6),
)
@QUICK
def test_a_difference_is_told_in_a_unit_that_can_be_read(parts, dearer):
    """Two decimals at most; rows add up to the whole but for rounding; nothing is minus nothing."""
    most = max(sum(a for a, _ in parts), sum(b for _, b in parts))
    if not most:
        return
    scale = dearer / most
    rows = [
        {"component": f"part_{i}", "usd_a": scale * a, "usd_b": scale * b, "delta_usd": scale * (b - a)}
        for i, (a, b) in enumerate(parts)
    ]
    whole = {key: sum(row[key] for row in rows) for key in ("usd_a", "usd_b")}
    found = told({**whole, "rows": rows}, 8)
    *shown, last = found.rows
    assert len(shown) <= 9
    assert last[0] == "all"

    def amount(text):
        return 0.0 if text == "0" else float(text.replace("$", "").replace(",", ""))

    amounts = np.array([[amount(text) for text in row[1:]] for row in found.rows])
    texts = [text for row in found.rows for text in row[1:]]
    if found.unit != "$ per trillion tokens" or dearer * 1e6 >= 10.0:
        decimals = max(len(text.partition(".")[2]) for text in texts)
        assert decimals <= 2
        assert np.abs(amounts[:-1].sum(axis=0) - amounts[-1]).max() <= (len(rows) + 1) * 10.0**-decimals
    assert not any(text in ("-$0", "+$0", "$-0", "-$0.0", "+$0.0", "-$0.00", "+$0.00") for text in texts)
    times = {"million": 1.0, "billion": 1e3, "trillion": 1e6}[found.unit.split()[2]]
    assert amounts[-1, :2].max() == pytest.approx(dearer * times, rel=1e-3, abs=1e-3)


def test_progress_says_how_many_layouts_are_screened(file):
    said = []
    space = {"tp": [1], "recompute": ["none"], "schedule": ["1f1b", "zb-h1"]}
    found = plan_training(
        Question(str(file), (Kind(16),), "gpu", space), simulate=2, progress=lambda *one: said.append(one)
    )
    legal = found.values["considered"]["legal"]
    screened = [(done, total) for what, done, total in said if what.startswith("screened on 16 ")]
    assert screened[0] == (0, legal)
    assert screened[-1] == (legal, legal)
    assert screened == sorted(screened)
    assert ("simulated", 2, 2) in said


def test_one_micro_batch_has_no_other_to_run_beside(file):
    """A forward beside a backward is no layout of its own in a step of one micro-batch; asked for, it is as none."""
    scenario = build_scenario(
        {**_document(), "training": {**RUN, "dp": 16, "pp": 1, "global_batch_sequences": 16}}
    )
    space = space_of(scenario, 16, {})
    found = list(layouts(scenario, 16, space, {}))
    paired = [keys for keys in found if keys["moe_overlap"] == "forward-backward"]
    assert found
    assert all(keys["dp"] * keys["micro_batch_sequences"] < 16 for keys in paired)
    assert any(keys["dp"] * keys["micro_batch_sequences"] == 16 for keys in found)
    stated = {
        "moe_overlap": ["forward-backward"],
        "pp": [1],
        "tp": [1],
        "micro_batch_sequences": [1],
        "ep": [8],
    }
    (first, *_) = layouts(scenario, 16, space_of(scenario, 16, stated), stated)
    alone, _ = figures(scenario, [{**first, "moe_overlap": "none"}])
    beside, _ = figures(scenario, [first])
    assert beside == pytest.approx(alone, rel=1e-12)


def test_kinds_of_which_nothing_is_left_are_named(file, tmp_path):
    """Eleven GPUs divide nothing, one holds nothing: said in table, page and JSON, and drawn without them."""
    page, space = tmp_path / "page.html", tmp_path / "space.yaml"
    space.write_text("space:\n  recompute: [none]\n  schedule: [1f1b]\n")
    words = (file, "--gpus", "11xh100,16xh100,1xa100", "--space", space, "--simulate", 1, "--html", page)
    done = run(*words)
    assert done.exit_code == 0, done.output
    for text in ("11 h100-ib: no layout divides batch and sequence", "1 a100-ib: none of its layouts fits"):
        assert text in " ".join(done.stdout.split())
        assert text in page.read_text()
    values = json.loads(run(*words[:-2], "--json").stdout)
    legal, fit = ([one[key] for one in values["kinds"]] for key in ("legal", "fit"))
    assert (legal[0], fit[0], fit[2]) == (0, 0, 0)
    assert (sum(legal), sum(fit)) == (values["considered"]["legal"], values["considered"]["fit"])


def test_numbers_of_gpus_close_by_are_named(file):
    with pytest.raises(InfeasibleError, match=r"no layout of 11 .*another number of GPUs \(8 or 16\)"):
        plan_training(Question(str(file), (Kind(11),)))
    with pytest.raises(InfeasibleError, match="another number of GPUs, another batch"):
        plan_training(Question(str(file), (Kind(999_983),)))
