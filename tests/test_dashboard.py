"""The dashboard's logic: what controls ask, what pages show, and ten people at once who must not disturb each other."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import pytest
from patience import patient_s
from sessions import Session, dashboard
from streamlit.testing.v1 import AppTest

from dashboard.adapt import usual_layout
from dashboard.asked import Asked
from dashboard.show import plain
from dashboard.words import NAMES
from perfmodel.answers.step import answer_step
from perfmodel.explore.first import Ask, first_scenario
from perfmodel.load import load_scenario
from perfmodel.ops.limits import limits, runs
from perfmodel.output.formats import duration, significant, usd
from perfmodel.output.start_dashboard import dashboard_command
from perfmodel.spec import catalogue

APP = Path(__file__).resolve().parent.parent / "dashboard" / "app.py"


def started(**query):
    """The dashboard, opened by a link of a scenario: What-if shows its answer."""
    query = query or {"v": "1", "scenario": "longcat-flash-h800"}
    test = AppTest.from_file(str(APP), default_timeout=patient_s(60.0))
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


def with_section(test, name):
    """With a section of the sidebar open, as a click on its title leaves it."""
    test.session_state[f"section-{name}"] = True
    return test.run()


def sets_of(test):
    """Overrides in the address."""
    stated = test.query_params.get("set", [])
    return sorted([stated] if isinstance(stated, str) else stated)


def plain_text(element):
    return element.value.replace("\\", "")


def shown(test):
    assert not test.exception
    return {metric.label: metric.value for metric in test.metric}


def answered(*sets, name="longcat-flash-h800"):
    return answer_step(load_scenario(name, sets), over_steps=False).values


def fits(test, values):
    found = shown(test)
    assert found["Tokens/s per user"] == significant(values["tokens_per_s_per_user"])
    assert found["$ per M output tokens"] == usd(values["usd_per_million_output_tokens"])


def test_the_first_screen_has_the_main_job_and_its_interval():
    test = started()
    fits(test, answered())
    intervals = [metric.delta for metric in test.metric if metric.label == "Tokens/s per user"]
    low, high = answered()["intervals"]["tokens_per_s_per_user"]
    assert intervals == [f"{significant(low)} to {significant(high)}"]
    assert test.query_params["scenario"] == "longcat-flash-h800"
    assert test.query_params["v"] == "1"


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_every_scenario_of_the_catalogue_opens(name):
    test = started(v="1", scenario=name)
    assert shown(test)
    assert not test.error


def test_controls_ask_what_the_command_line_would():
    test = started()
    test.number_input(key="ask-batch").set_value(40).run()
    test.number_input(key="ask-acceptance").set_value(0.75).run()
    test.segmented_control(key="ask-overlap").set_value("sequential").run()
    sets = ["deployment.batch_per_gpu=40", "deployment.mtp.acceptance=0.75", "deployment.overlap=sequential"]
    fits(test, answered(*sets))
    assert sorted(test.query_params["set"]) == sorted(sets)
    assert test.code[0].value.startswith("perfmodel step longcat-flash-h800 --set ")
    again = started(v="1", scenario="longcat-flash-h800", set=test.query_params["set"])
    assert shown(again) == shown(test)
    assert again.number_input(key="ask-batch").value == 40


def test_the_batch_slider_ends_at_what_fits():
    scenario = load_scenario("longcat-flash-h800")
    test = started()
    assert test.select_slider(key="ask-batch-slider").options[-1] == f"{limits(scenario).fits}" == "128"
    test = started(v="1", scenario="longcat-flash-h800", set=["serving.max_running=50"])
    assert (
        test.select_slider(key="ask-batch-slider").options[-1] == "96"
    )  # widened to the scenario's own batch, which is refused
    assert "96 requests per rank exceed" in test.error[0].value


def test_the_batch_slider_of_gpus_that_share_requests_has_fractions_up_to_what_fits():
    """An attention group of eight that holds three requests: 0.375 per GPU in tile, slider and curve."""
    sets = ["deployment.attention_dp=16", "deployment.attention_tp=8", "serving.max_running=3"]
    sets += ["deployment.batch_per_gpu=0.25", "deployment.dense_tp=8"]
    test = started(v="1", scenario="longcat-flash-h800", set=sets)
    slider = test.select_slider(key="ask-batch-slider")
    assert (slider.options, slider.value) == (["0.125", "0.25", "0.375"], 2 / 8)
    assert shown(test)["Requests per GPU that fit"] == "0.375"
    slider.set_value(3 / 8).run()
    assert "deployment.batch_per_gpu=0.375" in test.query_params["set"]
    assert shown(test)
    refused = started(
        v="1", scenario="longcat-flash-h800", set=[*sets[:3], "deployment.batch_per_gpu=0.5", sets[4]]
    )
    refused.button(key="refusal-batch").click().run()
    assert refused.number_input(key="ask-batch").value == 3 / 8
    assert shown(refused)


def test_a_slider_is_logarithmic_and_ends_at_the_longest_context_that_fits():
    """By bisection of what is refused, and not by what the slider itself asks."""
    slider = started().select_slider(key="ask-context-slider")
    stops = [int(one.replace(",", "")) for one in slider.options]
    assert (stops[0], slider.value) == (0, 5000)
    low, high = 5000, 131_072
    while high - low > 1:
        between = (low + high) // 2
        fits_so = runs(load_scenario("longcat-flash-h800", [f"deployment.context_tokens={between}"]))
        low, high = (between, high) if fits_so else (low, between)
    assert stops[-1] == low < 131_072
    above = [stop for stop in stops if stop >= 100 and stop not in (5000, low)]
    ratios = [b / a for a, b in pairwise(above)]
    assert max(ratios) < 2.2
    short = started(v="1", scenario="longcat-flash-h800", set="deployment.batch_per_gpu=1")
    assert short.select_slider(key="ask-context-slider").options[-1] == "131,072"  # the model's own


def test_a_session_opens_with_objectives_and_a_preset_brings_them():
    test = started(page="what-if")
    assert "slo.ttft_ms=2000" in test.code[0].value
    assert any("MLPerf" in one.value for one in test.caption)
    test.selectbox(key="ask-preset").set_value("DeepSeek-V3 decoding on 128 H800").run()
    assert sets_of(test) == ["slo.tpot_ms=80", "slo.ttft_ms=2000"]
    test.selectbox(key="ask-preset").set_value("LongCat-Flash as the report's Table 7 counts it").run()
    assert "set" not in test.query_params
    assert not test.error


@pytest.mark.parametrize("name", ["qwen3-235b-a22b", "kimi-k2", "llama-3.1-70b", "longcat-2.0"])
def test_another_model_is_offered_its_usual_layout_and_it_runs(name):
    test = started()
    test.selectbox(key="ask-model").set_value(name).run()
    assert any("kept: 128 GPUs as attention TP1 x DP128" in plain_text(note) for note in test.info)
    test.button(key="sidebar-usual").click().run()
    assert shown(test)
    (said,) = test.info
    assert "usual layout" in said.value
    sets = sets_of(test)
    usual = first_scenario(Ask(name, "128xh800-ib", "sglang", input_tokens=5000, output_tokens=1)).scenario
    scenario = load_scenario("longcat-flash-h800", sets)
    for key in ("attention_tp", "attention_dp", "ep", "moe_tp", "pp"):
        assert getattr(scenario.deployment, key) == getattr(usual.deployment, key)
    assert scenario.fleet_gpus == 128
    test.selectbox(key="ask-model").set_value("longcat-flash").run()
    assert load_scenario("longcat-flash-h800", sets_of(test)).deployment.attention_dp == 128


def test_a_refused_change_has_a_field_for_the_key_that_it_names():
    test = with_section(started(v="1", scenario="longcat-flash-h800"), "routing")
    test.number_input(key="ask-redundant").set_value(7).run()
    named = test.text_input(key="said-deployment.redundant_experts")
    assert not test.exception
    named.set_value("128").run()
    assert sets_of(test) == ["deployment.redundant_experts=128"]


def test_another_model_takes_back_what_it_cannot_do_and_says_so():
    test = started()
    test.selectbox(key="ask-model").set_value("qwen3-235b-a22b").run()
    assert any("overlap is tbo" in note.value and "draft tokens are 0" in note.value for note in test.info)
    scenario = [f"{key}={value}" for key, _, value in (s.partition("=") for s in test.query_params["set"])]
    assert load_scenario("longcat-flash-h800", scenario).model.name == "qwen3-235b-a22b"
    test.selectbox(key="ask-cluster").set_value("gb200-nvl72").run()
    assert any("gb200" in note.value for note in test.info)
    assert shown(test)


def test_a_change_that_makes_no_scenario_is_taken_back():
    test = with_section(started(), "routing")
    before = shown(test)
    test.number_input(key="ask-redundant").set_value(7).run()
    assert any("must divide the 512 routed + 7 redundant" in e.value.replace("\\", "") for e in test.error)
    assert test.number_input(key="ask-redundant").value == 0
    assert shown(test) == before


def test_fewer_gpus_bring_a_dense_tp_that_divides_them():
    test = with_section(started(), "layout")
    test.selectbox(key="ask-gpus").set_value(2).run()
    assert any("dense TP is 2" in note.value for note in test.info)
    assert not test.exception


def test_the_own_model_again_is_the_own_scenario_again():
    test = started()
    before = shown(test)
    test.selectbox(key="ask-model").set_value("llama-3.1-70b").run()
    test.selectbox(key="ask-model").set_value("longcat-flash").run()
    assert shown(test) == before
    assert "set" not in test.query_params


def test_a_scenario_that_does_not_fit_says_by_how_much():
    test = started()
    test.number_input(key="ask-context").set_value(131_072).run()
    assert not test.exception
    (error,) = test.error
    assert r"largest batch that fits\: 6 requests per GPU" in error.value
    test.button(key="refusal-batch").click().run()
    assert not test.error
    assert test.number_input(key="ask-batch").value == 6
    fits(test, answered("deployment.context_tokens=131072", "deployment.batch_per_gpu=6"))


def test_layout_of_attention_and_ffns_on_gpus_of_their_own():
    """Each control changes its own pool, and the usual layout has one again; the command line takes the same."""
    sets = (
        "deployment={phase: decode, attention_gpus: 32, ffn_gpus: 16, batch_per_gpu: 32, context_tokens: 4096}",
        "ffns.cluster=h200-ib",
    )

    def opened():
        return with_section(started(v="1", scenario="deepseek-v3-h800", set=list(sets)), "layout")

    for label, value, words in (
        ("GPUs of attention", 64, "Attention DP 64, experts EP 16, 80 GPUs in all."),
        ("GPUs of FFNs", 32, "Attention DP 32, experts EP 32, 64 GPUs in all."),
        ("Attention TP", 2, "Attention DP 16, experts EP 16, 48 GPUs in all."),
        ("Expert TP", 2, "Attention DP 32, experts EP 8, 48 GPUs in all."),
        ("Dense TP", 4, "Attention DP 32, experts EP 16, 48 GPUs in all."),
    ):
        test = opened()
        next(one for one in test.selectbox if one.label == label).select(value).run()
        assert not test.error, label
        assert words in [caption.value for caption in test.caption], label
        fits(test, answered(*test.query_params["set"], name="deepseek-v3-h800"))  # sections before their keys
    asked = Asked("deepseek-v3-h800").changed(dict(one.split("=", 1) for one in sets))
    changes, said = usual_layout(asked)
    again = asked.changed(changes).scenario()
    assert (again.deployment.ffn_gpus, again.ffns, again.deployment.num_gpus * again.serving.replicas) == (
        0,
        None,
        48,
    )
    assert "48 GPUs" in said


def test_a_bad_link_leaves_the_default_and_is_shown_as_text():
    test = started(v="1", scenario="<b>nobody</b>[x](javascript:alert(1))")
    (error,) = test.error
    assert r"\<b\>nobody" in error.value
    assert r"\[x\]\(javascript\:alert" in error.value
    fits(test, answered())


def test_the_baseline_is_part_of_the_link():
    vs = urlencode({"v": "1", "scenario": "deepseek-v3-h800"})
    test = started(v="1", scenario="longcat-flash-h800", vs=vs)
    assert "deepseek-v3-h800" in test.query_params["vs"]
    assert not test.error


def test_it_listens_on_this_machine_only_unless_asked():
    command = dashboard_command(8501, address="127.0.0.1", headless=True)
    assert "--server.address=127.0.0.1" in command
    assert "--browser.gatherUsageStats=false" in command


def test_ten_people_at_once_neither_mix_nor_fail():
    batches = [[4 * person + 1 + turn for turn in range(2)] for person in range(10)]
    wanted = {b: answered(f"deployment.batch_per_gpu={b}") for own in batches for b in own}

    def person(number, port):
        first, *others = batches[number]
        session = Session(port, f"v=1&scenario=longcat-flash-h800&set=deployment.batch_per_gpu%3D{first}")
        seen = [session.run()]
        seen += [session.run(**{"ask-batch": batch}) for batch in others]
        session.close()
        return seen

    with dashboard() as port, ThreadPoolExecutor(10) as pool:
        everything = list(pool.map(lambda number: person(number, port), range(10)))
    for own, pages in zip(batches, everything, strict=True):
        for batch, page in zip(own, pages, strict=True):
            assert page.exceptions == []
            assert page.errors == [plain(text) for text in wanted[batch]["dangers"]]
            speed = wanted[batch]["tokens_per_s_per_user"]
            assert page.metrics["Tokens/s per user"] == significant(speed)
            assert page.metrics["Output tokens/s per GPU"] == significant(
                wanted[batch]["output_tokens_per_s_per_gpu"]
            )


def opened(page, **query):
    """A page of the dashboard, opened by its address."""
    code = f"""
import importlib
import streamlit as st
from dashboard import session
session.start()
session.write_link(session.link())
importlib.import_module("dashboard.views.{page}").render(session.scenario())
"""
    test = AppTest.from_string(code, default_timeout=patient_s(60.0))
    for key, value in query.items():
        test.query_params[key] = value
    return test.run()


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
@pytest.mark.parametrize("page", ["overlap", "experts", "compare"])
def test_every_page_shows_every_scenario(page, name):
    test = opened(page, v="1", scenario=name)
    assert not test.exception
    assert not test.error


def test_a_model_without_experts_is_told_so():
    sets = [
        "model=llama-3.1-70b",
        "deployment.overlap=sequential",
        "deployment.mtp.draft_tokens=0",
        "routing={}",
    ]
    sets.append("deployment.batch_per_gpu=16")
    test = opened("experts", v="1", scenario="longcat-flash-h800", set=sets)
    assert not test.exception
    assert "has no experts" in test.info[0].value.replace("\\", "")


def test_overlap_shows_what_sbo_gains():
    test = opened("overlap")
    (table,) = test.dataframe
    rows = table.value.set_index("overlap")
    assert rows.loc["sbo", "step_time_s"] == pytest.approx(1e3 * answered()["step_time_s"])
    assert rows.loc["sequential", "overlap_pct"] == 0.0
    for overlap in ("sequential", "tbo"):  # what two batches gain depends on the batch; SBO always gains here
        own = answered(f"deployment.overlap={overlap}")["step_time_s"]
        assert rows.loc[overlap, "step_time_s"] == pytest.approx(1e3 * own)
        assert rows.loc["sbo", "step_time_s"] < 0.9 * rows.loc[overlap, "step_time_s"]
    charts = [one for one in test.main if one.type == "plotly_chart"]
    assert len(charts) == 2


def test_a_prefill_step_has_its_own_columns_and_no_empty_ones():
    test = opened("overlap", v="1", scenario="longcat-flash-h800", set="deployment.phase=prefill")
    (table,) = test.dataframe
    assert not table.value.isna().any().any()
    assert {"input_tokens_per_s_per_gpu", "usd_per_million_input_tokens"} <= set(table.value)
    assert not {"tokens_per_s_per_user", "usd_per_million_output_tokens"} & set(table.value)


BATCH, LAYOUT = "deployment.batch_per_gpu=100000", "deployment.precision.experts=fp4"


@pytest.mark.parametrize(
    ("page", "change", "button"),
    [
        ("overlap", BATCH, "refusal-batch"),
        ("trust", BATCH, "refusal-batch"),
        ("what_if", LAYOUT, "refusal-unchanged"),
        ("overlap", LAYOUT, "refusal-unchanged"),
        ("compare", LAYOUT, "refusal-unchanged"),
        ("traffic", LAYOUT, "refusal-unchanged"),
    ],
)
def test_a_refusal_offers_a_way_out(page, change, button):
    """The largest batch that fits, or the scenario without the changes; and it works."""
    test = opened(page, v="1", scenario="longcat-flash-h800", set=change)
    assert test.error
    test.button(key=button).click().run()
    assert not test.exception
    assert not test.error


def test_any_key_has_a_control_and_a_bad_value_is_taken_back():
    test = with_section(started(), "any")
    test.selectbox(key="any-key").set_value("serving.max_running").run()
    test.text_input(key="any-serving.max_running").set_value("50").run()
    assert "serving.max_running=50" in test.query_params["set"]
    assert any("exceed" in error.value for error in test.error)  # 96 requests are more than 50
    test.text_input(key="refusal-serving.max_running").set_value("200").run()
    assert not test.error
    fits(test, answered("serving.max_running=200"))
    test.text_input(key="any-serving.max_running").set_value("none of it").run()
    assert any("as it was" in error.value for error in test.error)
    assert "serving.max_running=200" in test.query_params["set"]
    test.text_input(key="any-serving.max_running").set_value("").run()
    assert "set" not in test.query_params


def test_a_refused_batch_leaves_the_curve_of_those_that_fit():
    test = started(v="1", scenario="longcat-flash-h800", set=BATCH)
    assert [one.type for one in test.main if one.type == "plotly_chart"]
    assert max(test.session_state["asked"].scenario().deployment.batch_per_gpu, 0) == 100_000


def test_compared_figures_have_names_and_units():
    (table,) = opened("compare").dataframe
    rows = table.value.set_index("figure")
    assert set(rows.index) <= set(NAMES.values())
    values = answered("deployment.overlap=sequential"), answered()
    assert list(rows.loc["TPOT", ["A", "B"]]) == [duration(one["tpot_s"]) for one in values]
    assert rows.loc["TPOT", "change_pct"] == pytest.approx(
        100 * (values[1]["tpot_s"] / values[0]["tpot_s"] - 1)
    )


def test_compare_has_the_change_and_its_parts_and_can_be_pinned_and_swapped():
    test = opened("compare")
    base = answered("deployment.overlap=sequential")["tokens_per_s_per_user"]
    change = 100 * (answered()["tokens_per_s_per_user"] / base - 1)
    assert [m.delta for m in test.metric if m.label == "Tokens/s per user"] == [f"{change:+.1f}%"]
    (swap,) = [button for button in test.button if button.label.startswith("Swap")]
    swap.click().run()
    assert not test.exception
    back = 100 * (base / answered()["tokens_per_s_per_user"] - 1)
    assert [m.delta for m in test.metric if m.label == "Tokens/s per user"] == [f"{back:+.1f}%"]
    assert "vs" in test.query_params


def test_skew_is_worked_out_when_asked():
    sets = ["deployment.attention_dp=16", "deployment.ep=16", "deployment.batch_per_gpu=8"]
    test = opened("experts", v="1", scenario="longcat-flash-h800", set=sets)
    before = len([one for one in test.main if one.type == "plotly_chart"])
    test.button(key="experts-start").click().run()
    assert not test.exception
    assert len([one for one in test.main if one.type == "plotly_chart"]) == before + 1


def test_gpus_without_a_price_save_time_and_their_tokens_cost_nothing():
    test = opened("experts", v="1", scenario="longcat-flash-h800", set=["prices.usd_per_gpu_hour=0"])
    (said,) = [one.value for one in test.markdown if "zero" in one.value and "instead of" in one.value]
    assert "nan" not in said
    assert "less per token" in said


def test_closed_sections_are_drawn_when_they_are_opened_and_change_nothing():
    test = started()
    closed = {one.key for one in (*test.selectbox, *test.number_input)}
    before = shown(test)
    for name, key in (
        ("routing", "ask-popularity"),
        ("layout", "ask-gpus"),
        ("engine", "ask-seed"),
        ("any", "any-key"),
    ):
        assert key not in closed
        opened_too = {one.key for one in (*with_section(test, name).selectbox, *test.number_input)}
        assert key in opened_too
    assert shown(test) == before
    assert "set" not in test.query_params
    test.session_state["section-engine"] = False
    test.run()
    assert "ask-seed" not in {one.key for one in test.number_input}
    with_section(test, "engine").number_input(key="ask-seed").set_value(5).run()
    assert sets_of(test) == ["seed=5"]


def test_compare_says_what_it_compares_with_where_nothing_overlaps():
    sets = ["deployment.overlap=sequential", "deployment.batch_per_gpu=64"]
    test = opened("compare", v="1", scenario="longcat-flash-h800", set=sets)
    assert "without overlap" not in test.selectbox(key="compare-with").value
    assert "without overlap" in opened("compare").selectbox(key="compare-with").value


def test_a_price_of_ones_own_has_no_source_of_the_catalogues():
    test = started(
        v="1", scenario="longcat-flash-h800", set=["prices={base: h800-deepseek-lease, usd_per_gpu_hour: 5}"]
    )
    assert test.selectbox(key="ask-prices").value == "your own"
    assert not [one.value for one in test.sidebar.caption if "deepseek" in one.value]


@pytest.mark.parametrize("popularity", ["", "uniform", "power-law"])
def test_a_stated_histogram_can_be_left(popularity):
    histogram = ", ".join(["2.0"] * 8 + ["1.0"] * 504)
    routing = f"routing={{popularity: histogram, histogram: [{histogram}]}}"
    test = started(v="1", scenario="longcat-flash-h800", set=[routing, "deployment.batch_per_gpu=32"])
    with_section(test, "routing").selectbox(key="ask-popularity").set_value(popularity).run()
    assert shown(test)
    assert not test.error
    assert test.selectbox(key="ask-popularity").value == popularity
