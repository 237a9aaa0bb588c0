"""What an answer rests on, and what makes it less certain: kinds of time, weights, and nothing that contradicts."""

import json
import re

import pytest
from command import run_here
from test_serve import node

from perfmodel.answers.basis import KINDS, kind_words, operations, rest_of
from perfmodel.answers.caveats import Caveat, Weight, caveat_values, merged
from perfmodel.answers.flags import beyond_of, op_words, other_texts
from perfmodel.answers.serve import answer_serve
from perfmodel.answers.step import answer_step
from perfmodel.explore.fleet import Traffic, with_fleet
from perfmodel.kernels.curves import describe_outside
from perfmodel.load import load_scenario
from perfmodel.ops.op import Op, OpClass, Stream
from perfmodel.output.step.page import question
from perfmodel.report.trust import validation_lines
from perfmodel.step import simulate_step

MAIN = "longcat-flash-h800"
OP = Op("core", OpClass.ATTENTION, "mla_decode", Stream.COMPUTE, shape={"context": 400002.0})


def values_of(*overrides, base=MAIN):
    return answer_step(load_scenario(base, list(overrides)), over_steps=False).values


def everything(values):
    return [*values["warnings"], *values["caveats"]]


# --- the basis ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [MAIN, "deepseek-v3-h800", "table7-longcat-flash", "reference-cpu"])
def test_fractions_add_up_to_the_step(base):
    fractions = values_of(base=base)["basis"]["fractions"]
    assert fractions.keys() == KINDS.keys()
    assert sum(fractions.values()) == pytest.approx(1.0)


def test_a_fraction_is_the_ops_share_of_the_critical_path():
    """What the host does is the engine's, and nothing hides what it prepares before a step."""
    before = ["deployment.host={prepare_us: 5000, asynchronous: false, node_us: 0, join_us: 0}"]
    answer = answer_step(load_scenario(MAIN, before), over_steps=False)
    share = answer.values["basis"]["fractions"]["engine"]
    assert share == pytest.approx(5e-3 / answer.step.step_time_s, rel=1e-9)
    beside = answer_step(
        load_scenario(MAIN, ["deployment.host={prepare_us: 5000, node_us: 0, join_us: 0}"]), over_steps=False
    )
    assert beside.values["basis"]["fractions"]["engine"] == 0.0
    assert values_of(*before, "deployment.engine=''")["basis"]["fractions"]["given"] > 0.0


def test_launches_that_the_gpu_waits_for_are_the_engines():
    eager = values_of("deployment.host={decode: eager, launch_us: 300}")
    fractions = eager["basis"]["fractions"]
    assert fractions["engine"] > 0.9
    assert fractions["given"] == 0.0


def test_gaps_in_a_graph_are_the_engines_and_leave_the_interval():
    """A gap per kernel is a constant: it is no timed kernel's time, also where a measured module holds the kernel."""
    none, gaps = (
        answer_step(
            load_scenario(
                "deepseek-v3-h800", ["deployment.overlap=sequential", f"deployment.host.node_us={us}"]
            ),
            over_steps=False,
        )
        for us in (0, 1)
    )
    more_s = gaps.step.step_time_s - none.step.step_time_s
    assert more_s > 1e-3
    assert gaps.values["basis"]["fractions"]["engine"] == pytest.approx(
        more_s / gaps.step.step_time_s, rel=0.05
    )
    low, high = gaps.values["intervals"]["step_time_s"]
    assert low < gaps.step.step_time_s < high


def test_a_device_timed_in_full_is_timed():
    assert values_of(base="reference-cpu")["basis"]["fractions"]["timed"] == pytest.approx(1.0)


def test_another_gpu_has_nothing_timed_and_that_is_the_first_danger():
    values = values_of("cluster=h200-ib", "calibration=h800-sxm")
    fractions = values["basis"]["fractions"]
    assert fractions["timed"] == 0.0
    assert fractions["other_gpu"] > 0.9
    assert values["warnings"][0] == values["dangers"][0]
    assert "made on h800-sxm, used for h200-sxm" in values["dangers"][0]
    assert values["dangers"][0].startswith(f"{100 * fractions['other_gpu']:.0f} % of the step's time")
    assert "(calibration: h200-sxm is h200-sxm's)" in values["dangers"][0]


def test_another_engines_kernels_are_named():
    """Transfers are no engine's; of the kernels, all that SGLang's own answer has timed and its experts besides."""
    values = values_of("deployment.engine=vllm")
    own = values_of("deployment.engine=sglang")["basis"]["fractions"]
    assert values["basis"]["fractions"]["other_engine"] > max(0.25, own["timed"])
    assert values["basis"]["fractions"]["timed"] < 0.1 * own["timed"]
    assert any(
        "vllm has no timings of these: sglang's kernels stand in" in text for text in values["warnings"]
    )
    assert values_of("deployment.engine=''")["basis"]["fractions"]["other_engine"] == 0.0


def test_without_a_calibration_nothing_is_timed_and_it_is_said():
    values = values_of("calibration=''")
    assert values["basis"]["fractions"]["timed"] == 0.0
    assert values["basis"]["fractions"]["derived"] > 0.5
    assert any("no calibration is named; calibration: h800-sxm" in text for text in values["dangers"])
    assert "no calibration" in values["basis"]["text"]


def test_a_what_if_on_hardware_is_derived():
    values = values_of("cluster.gpu.hbm_gb_per_s=5000")
    assert values["basis"]["fractions"]["timed"] == 0.0
    assert values["basis"]["fractions"]["derived"] > 0.9


def test_an_architecture_without_timings_is_another_gpus():
    values = values_of("cluster=a100-ib", "calibration=''")
    assert values["basis"]["fractions"]["other_gpu"] > 0.5
    assert any("Hopper's fractions" in text for text in values["dangers"])


def test_a_given_time_is_given():
    assert values_of(base="table7-longcat-flash")["basis"]["fractions"]["given"] > 0.1


# --- outside what was timed ------------------------------------------------------------------------------------------


def test_a_flag_of_a_curve_is_understood():
    """The words are made in one module and read in another: this holds them together."""
    (beyond,) = beyond_of(describe_outside("context", 400002.0, 2.0, 131072.0), OP)
    assert (beyond.name, beyond.value, beyond.side) == ("context", 400002.0, "above")
    assert beyond.times == pytest.approx(400002 / 131072, rel=1e-3)
    (beyond,) = beyond_of(describe_outside("m", 2.0, 8.0, 64.0), OP)
    assert (beyond.side, beyond.times) == ("below", 4.0)
    (beyond,) = beyond_of("calibration x: gemm: hidden = 6144 is scaled from the timed 7168", OP)
    assert beyond.words == "hidden 6,144; scaled from 7,168"


@pytest.mark.parametrize(
    ("flag", "texts"),
    [
        ("elementwise: 0.8 of HBM", ["elementwise: 0.8 of HBM"]),
        ("nvls all_gather on hopper: no public timings", ["no public timings"]),
        ("calibration a.b: gemm fp8: m = 8 is above the timed 1 to 4", []),
        ("calibration a.b: dispatch any x: derived: y; others as H100", ["derived: y; others as H100"]),
        (
            "calibration a.b: k d: one; calibration a.b: k was timed over the link",
            ["one", "k was timed over the link"],
        ),
        ("nccl beside compute: on hopper alone", ["nccl beside compute: on hopper alone"]),
        ("", []),
    ],
)
def test_what_else_a_flag_says(flag, texts):
    assert list(other_texts(flag, "a.b")) == texts


def test_every_flag_of_the_catalogues_scenarios_is_told_once():
    """Nothing that a timing says is lost, and one kind over many ops is one line."""
    step = simulate_step(load_scenario(MAIN))
    said = everything(values_of())
    assert sum("others as H100" in text for text in said) == 1
    assert sum("outside what was timed" in text for text in said) == 1
    flags = {t.flag for segment in step.segments for t in segment.timings if t.flag}
    for flag in flags:
        for text in other_texts(flag, "h800-sxm"):
            assert any(text in line for line in said), text


def test_far_and_long_is_a_danger_near_or_short_is_none():
    far = values_of(
        "model.max_position_embeddings=400000",
        "deployment.context_tokens=400000",
        "deployment.batch_per_gpu=2",
    )
    (text,) = (one for one in far["dangers"] if "outside what was timed" in one)
    assert "attention cores (context 400,002; timed up to 131,1" in text
    assert int(text.split(" %")[0]) > 50
    near = (
        values_of()
    )  # experts of width 6144 from 7168, 10 % of the time; a head of twice the width, 2 % of it
    assert not near["dangers"]
    assert any("experts' GEMMs (hidden 6,144; scaled from 7,168)" in one for one in near["warnings"])


# --- weights --------------------------------------------------------------------------------------------------------


def test_dangers_come_first_and_what_takes_most_time_first_of_them():
    caveats = [
        Caveat(Weight.NOTE, "note"),
        Caveat(Weight.STANDING, "standing", 0.9),
        Caveat(Weight.DANGER, "small", 0.1),
        Caveat(Weight.DANGER, "large", 0.6),
        Caveat(Weight.NOTE, "note"),
    ]
    values = caveat_values(caveats)
    assert values == {
        "dangers": ["large", "small"],
        "warnings": ["large", "small", "note"],
        "caveats": ["standing"],
    }
    more = merged(values, {"dangers": ["note"], "warnings": ["note", "other"], "caveats": []})
    assert more["warnings"] == ["large", "small", "note", "other"]
    assert more["dangers"] == ["large", "small", "note"]


def test_weights_of_several_steps_add_up():
    decode = simulate_step(load_scenario(MAIN))
    prefill = simulate_step(load_scenario(MAIN, ["deployment.phase=prefill"]))
    rest = rest_of([(decode, 3.0), (prefill, 1.0)])
    assert sum(rest.fractions.values()) == pytest.approx(1.0)
    for kind, share in rest.fractions.items():
        parts = [rest_of([(one, 1.0)]).fractions[kind] for one in (decode, prefill)]
        assert share == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])


# --- no message contradicts another ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["deployment.engine=trtllm"], False),
        (["deployment.engine=sglang", "deployment.host.prepare_us=0"], False),
        (["deployment.engine=''"], True),
        (["deployment.engine=''", "deployment.host.node_us=1"], False),
        (["deployment.engine=''", "deployment.host={prepare_us: 300}"], False),
    ],
)
def test_no_engine_is_named_is_said_where_none_is(overrides, said):
    assert any("names no engine" in text for text in everything(values_of(*overrides))) == said


SMALL = (
    "workload.trace=''",
    "workload.request_rate=2",
    "workload.num_requests=20",
    "workload.output_tokens=20",
)


def shown_of(*overrides, options=()):
    sets = [part for one in (*SMALL, *overrides) for part in ("--set", one)]
    return run_here("perfmodel", "serve", MAIN, *sets, *options)


def test_without_an_objective_nothing_is_within_it():
    shown = shown_of().stdout
    assert "within the SLO" not in shown
    assert "no objective is stated" in shown
    assert "within the SLO" in shown_of("slo.tpot_ms=500").stdout


def test_a_step_may_run_all_the_time_and_use_no_capacity():
    values = answer_serve(node("workload.request_rate=0.5", "workload.num_requests=40")).values
    assert values["capacity_used_pct"] < 0.2 * values["busy_pct"]
    more = answer_serve(node("workload.request_rate=1", "workload.num_requests=40")).values
    assert more["capacity_used_pct"] == pytest.approx(2 * values["capacity_used_pct"], rel=0.3)


def test_capacity_of_each_side():
    one = answer_serve(load_scenario("longcat-flash-h800-pd", ["workload.num_requests=100"])).values
    assert one["capacity_used_pct"] > 0.0
    assert one["prefill_capacity_used_pct"] > 0.0
    assert answer_serve(node("workload.num_requests=20")).values["prefill_capacity_used_pct"] is None


def test_a_full_loop_uses_most_of_its_capacity():
    """As many decode as full steps have, on prompts of a token: what a step gives is what the run gives."""
    batch = "deployment.batch_per_gpu=4"
    loop = ["workload.max_concurrency=32", "workload.num_requests=64", "workload.input_tokens=16"]
    scenario = node(batch, "deployment.context_tokens=200", *loop, "workload.output_tokens=400")
    assert 60.0 < answer_serve(scenario).values["capacity_used_pct"] < 115.0


def test_the_size_by_objectives_comes_first_and_the_other_says_what_it_is():
    day = ["--fleet-requests-per-day", "5e6", "--fleet-peak-to-mean", "2"]
    done = shown_of("slo.ttft_ms=5000", options=day)
    assert 0 < done.stdout.index("by SLO") < done.stdout.index("by throughput")
    assert "no objective is stated" not in done.stdout + done.stderr
    done = shown_of(options=day)
    assert "by SLO" not in done.stdout
    assert "fleet: no objective is stated" in done.stderr


@pytest.mark.parametrize(
    ("rate", "bound"),
    [
        ("workload.request_rate=0.5", "upper"),
        ("workload.request_rate=500", "lower"),
        ("workload.max_concurrency=4", None),
    ],
)
def test_what_a_size_by_throughput_bounds(rate, bound):
    answer = answer_serve(node(rate, "workload.num_requests=100", "workload.output_tokens=50"))
    fleet = with_fleet(answer, Traffic(2.0, requests_per_day=1e6)).values["fleet"]
    assert fleet["by_throughput"]["bound"] == bound


def test_serve_tells_of_its_prompts_too():
    """A run's steps with prompts have caveats that its decode steps have not."""
    values = answer_serve(load_scenario(MAIN, ["workload.num_requests=100"])).values
    assert any("dispatch and combine (ranks 128; timed up to 64)" in text for text in values["dangers"])
    assert "of the run's time" in values["dangers"][0]


# --- where it is told -----------------------------------------------------------------------------------------------


def test_json_holds_all_of_it():
    values = json.loads(run_here("perfmodel", "step", MAIN, "--json").stdout)
    assert values["basis"].keys() == {"fractions", "text"}
    assert values["warnings"][: len(values["dangers"])] == values["dangers"]
    assert not set(values["warnings"]) & set(values["caveats"])
    assert any("contention" in text for text in values["caveats"])


def test_the_terminal_folds_standing_caveats_unless_asked_why():
    values = values_of()
    folded = run_here("perfmodel", "step", MAIN)
    assert f"{len(values['caveats'])} standing caveats: --why" in folded.stdout
    assert "contention between ops" not in folded.stdout + folded.stderr
    assert "Basis: " in folded.stdout
    asked = run_here("perfmodel", "step", MAIN, "--why")
    assert "contention between ops" in asked.stdout
    assert "derived from timings" in asked.stdout
    assert "experts.gate_up" in asked.stdout
    dangerous = run_here("perfmodel", "step", MAIN, "--set", "calibration=''").stderr
    assert dangerous.startswith("warning: 100 % of the step's time: nothing was timed on h800-sxm")


def test_pages_fold_them_too(tmp_path):
    page = tmp_path / "step.html"
    run_here("perfmodel", "step", MAIN, "--set", "calibration=''", "--html", page)
    text = page.read_text()
    body = text[text.index("<header>") :]
    danger = body.index('class="dangers"')
    assert danger < body.index("figure-layer")  # in sight before the charts
    details = body[body.index('<details class="caveats">') :]
    assert "contention between ops" in details[: details.index("</details>")]
    assert "contention between ops" not in body[: body.index('<details class="caveats">')]


def test_a_report_says_whose_they_are():
    from perfmodel.report.content import build_report
    from perfmodel.report.part import Options

    first = load_scenario(MAIN)
    other = replace_name(load_scenario(MAIN, ["calibration=''"]), "bare")
    report = build_report([first, other], Options(serves=False)).values
    assert any(text.startswith("bare: ") and "nothing was timed" in text for text in report["dangers"])
    assert report["warnings"][: len(report["dangers"])] == report["dangers"]
    assert any(text.startswith("contention") for text in report["caveats"])  # everyone's


def replace_name(scenario, name):
    return scenario.model_copy(update={"name": name})


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.5.9", ""),
        ("0.9.0", "newer than all that were read, the last of them 0.5.9"),
        ("0.5.7", "between 0.5.6.post2 and 0.5.8.post1"),
        ("0.4.1", "older than all that were read"),
    ],
)
def test_a_version_that_nobody_read_is_told(version, words):
    told = [text for text in values_of(f"engine.version={version}")["warnings"] if "was not read" in text]
    assert len(told) == bool(words)
    assert not words or (words in told[0] and version in told[0])


def test_a_cpu_is_not_called_a_gpu():
    """On the reference CPU an answer was said to be timed on this GPU."""
    answer = answer_step(load_scenario("reference-cpu"), over_steps=False)
    assert "is timed on this CPU" in answer.values["basis"]["text"]
    assert {row["kind"] for row in operations(answer.rest)} <= set(kind_words(answer.scenario).values())
    assert "CPU with" in question(answer.scenario)
    assert "GPU with" not in question(answer.scenario)
    lines = [line["about"] for line in validation_lines(answer.step)]
    assert lines
    assert all("this CPU's kernels" in about for about in lines)
    on_gpu = values_of()["basis"]["text"]
    assert "timed on this GPU" in on_gpu
    assert "CPU" not in on_gpu


@pytest.mark.parametrize(
    "name", ["longcat-2.0-h200", "deepseek-v3-h200-vllm", "step-3-h800-afd", "kimi-k2-b200"]
)
def test_caveats_name_ops_in_words(name):
    """No id of an op is in what people read, whatever its weight; keys of scenarios stay."""
    values = values_of(base=name)
    texts = everything(values)
    assert any("roofline" in text for text in texts)
    ids = {row["name"] for row in values["ops"]}
    assert len(ids) > 20
    marked = [one for one in ids if re.search(r"[._\d]", one)]
    found = [one for one in marked for text in texts if re.search(rf"\b{re.escape(one)}\b", text)]
    assert found == []


def test_words_of_ops():
    assert op_words("draft.ffn0.gather") == "draft FFN gather"
    assert op_words("attention1.qkv_a") == "attention QKV down-projection"
