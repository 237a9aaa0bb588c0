"""Page 1 of a report: what a day's traffic needs, twelve months, what could go wrong; its pictures, and its print."""

import importlib.util
import json
import re
import shutil
import xml.etree.ElementTree as ET
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_env import required
from scipy.stats import poisson
from test_serve import node
from typer.testing import CliRunner

from perfmodel.answers.serve import answer_serve
from perfmodel.cli import app
from perfmodel.economics.requests import serving_metrics
from perfmodel.economics.spares import GPU_FAILURES_PER_DAY, mean_nodes_away, spare_nodes
from perfmodel.errors import PerfModelError, SpecError
from perfmodel.explore.fleet import Traffic, with_fleet
from perfmodel.explore.need import Need, need_of
from perfmodel.explore.speeds import at_speed, drawn_rate
from perfmodel.load import load_scenario
from perfmodel.output.pages import css_text, embedded
from perfmodel.output.report.decision_words import amount, large, least, sentence
from perfmodel.output.report.files import report_json
from perfmodel.output.report.markdown import report_markdown
from perfmodel.output.report.page import report_html
from perfmodel.output.report.plain_words import by_weight
from perfmodel.output.svg import bars, lines
from perfmodel.output.svg.paper import WIDTH
from perfmodel.output.svg.scale import Scale, tick_text
from perfmodel.report.content import build_report
from perfmodel.report.decision import Outlook, _Size, growth_of
from perfmodel.report.part import Options
from perfmodel.report.terms import HOURS_PER_MONTH, Ownership, terms
from perfmodel.serving.serve import serve
from perfmodel.spec.catalogue import DATA
from perfmodel.spec.documents import read_document
from perfmodel.spec.slo import USUAL

DOCS = Path(__file__).parent.parent / "docs"
SLO = ["slo.ttft_ms=400", "slo.tpot_ms=30"]
EVIL = '</style><script>alert(1)</script>" } body { display: none'


def traffic(*more):
    return node(
        "workload.request_rate=2",
        "workload.num_requests=150",
        "workload.output_tokens=100",
        "prices.usd_per_gpu_hour=3",
        *more,
    )


def report_of(scenario, outlook=None, **day):
    options = Options(
        traffic=Traffic(**({"peak_to_mean": 2.0, "requests_per_day": 2e6} | day)),
        outlook=outlook or Outlook(),
    )
    return build_report([scenario], options, command="perfmodel report x")


@pytest.fixture(scope="module")
def kept():
    """One with objectives, growing."""
    return report_of(traffic(*SLO), Outlook((0.0, 3.0, 8.0)))


@pytest.fixture(scope="module")
def found(kept):
    return kept.values["scenarios"][0]["decision"]


@pytest.fixture(scope="module")
def flagship():
    """The scenario that everybody sees first, with a stated day."""
    scenario = load_scenario(
        "longcat-flash-h800", ["workload.num_requests=3000", "slo.ttft_ms=2000", "slo.tpot_ms=80"]
    )
    return build_report(
        [scenario], Options(traffic=Traffic(2.0, tokens_per_day=5e8)), command="perfmodel report x"
    )


# --- how many, and what they cost -----------------------------------------------------------------------------------


@given(st.floats(1e-6, 600.0), st.sampled_from([0.9, 0.99, 0.999]))
def test_spares_are_the_quantile_of_a_poisson(mean, availability):
    assert spare_nodes(mean, availability=availability) == poisson.ppf(availability, mean)


def test_spares_of_thousands_of_nodes():
    assert spare_nodes(5000.0) == pytest.approx(poisson.ppf(0.999, 5000.0), abs=2)
    assert mean_nodes_away(16_384) == pytest.approx(419 / 54)  # a day's failures, each away for a day
    assert pytest.approx(4.74e-4, rel=1e-2) == GPU_FAILURES_PER_DAY


def test_size_by_hand(found):
    peak = 2e6 / 86_400 * 2.0
    assert found["basis"] == "slo"
    assert found["peak_requests_per_s"] == pytest.approx(peak)
    gpus = found["gpus"]
    assert gpus["replicas"] == ceil(peak / found["requests_per_s_per_replica"])
    assert gpus["serving"] == 8 * gpus["replicas"]
    assert gpus["spare"] == 8 * poisson.ppf(0.999, gpus["serving"] * GPU_FAILURES_PER_DAY)
    assert gpus["total"] == gpus["serving"] + gpus["spare"]
    assert gpus["usd_per_month"] == pytest.approx(gpus["total"] * 3.0 * 24 * 365 / 12)
    tokens = 2e6 * (1024 + 100) * 365 / 12
    assert found["usd_per_million_tokens"] == pytest.approx(gpus["usd_per_month"] / tokens * 1e6)
    assert found["usd_per_million_output_tokens"] == pytest.approx(
        gpus["usd_per_month"] / (tokens * 100 / 1124) * 1e6, rel=1e-3
    )


def test_the_rate_is_that_of_the_fleet(kept):
    serve_values = kept.values["scenarios"][0]["serve"]
    decided = kept.values["scenarios"][0]["decision"]
    assert (
        decided["requests_per_s_per_replica"] == serve_values["fleet"]["by_slo"]["requests_per_s_per_replica"]
    )


def test_latencies_are_those_of_the_busiest_time(kept, found):
    """Simulated again by hand: one replica of those that are paid for, at its share of the peak."""
    scenario = kept.parts[0].scenario
    first = serve(scenario)
    share = found["peak_requests_per_s"] / found["gpus"]["replicas"]
    requests = at_speed(first.requests, share / drawn_rate(first.requests))
    again = serving_metrics(serve(scenario, requests=requests).records, scenario)
    assert found["latencies"]["ttft_s"] == pytest.approx(again["ttft_s"])
    assert found["latencies"]["tpot_s"] == pytest.approx(again["tpot_s"])
    assert found["latencies"]["ttft_s"]["p99"] <= 0.4 * 1.01
    assert found["latencies"]["tpot_s"]["p99"] <= 0.03 * 1.01


def test_months_grow_as_stated(found):
    months = found["months"]
    assert [row["month"] for row in months] == list(range(1, 13))
    for row in months:
        assert row["low"]["usd"] <= row["expected"]["usd"] <= row["peak"]["usd"]
    assert months[11]["expected"]["requests_per_day"] == pytest.approx(2e6 * 1.03**11)
    assert months[11]["peak"]["requests_per_day"] == pytest.approx(2e6 * 1.08**11)
    assert months[0]["expected"]["gpus"] == found["gpus"]["total"]
    assert found["year_usd"]["peak"] == pytest.approx(sum(row["peak"]["usd"] for row in months))
    flat = report_of(traffic(*SLO)).values["scenarios"][0]["decision"]
    assert len({row["peak"]["usd"] for row in flat["months"]}) == 1


def test_ends_are_searched_with_stretched_steps():
    answer = with_fleet(answer_serve(traffic(*SLO)), Traffic(2.0, requests_per_day=2e6))
    need = need_of(answer)
    assert need.fast_requests_per_s > need.requests_per_s > need.slow_requests_per_s


def test_without_objectives_usual_ones_are_taken_and_told():
    report = report_of(traffic())
    found = report.values["scenarios"][0]["decision"]
    assert found["basis"] == "slo"
    assert (found["objectives"]["ttft_ms"], found["objectives"]["tpot_ms"]) == (USUAL.ttft_ms, USUAL.tpot_ms)
    assert not found["objectives_stated"]
    stated = report_of(traffic("slo.ttft_ms=2000", "slo.tpot_ms=80")).values["scenarios"][0]["decision"]
    assert stated["objectives_stated"]
    assert found["gpus"] == stated["gpus"]
    assert "taken since none is stated" in report_html(report)
    assert "MLPerf" in report_html(report)


def test_where_nothing_keeps_the_usual_objectives_replicas_keep_up():
    """Prompts that alone take longer than users usually wait."""
    found = report_of(traffic("workload.input_tokens=60000", "workload.num_requests=40")).values["scenarios"]
    decided = found[0]["decision"]
    assert found[0]["serve"]["ttft_s"]["p50"] > USUAL.ttft_ms / 1e3
    assert decided["basis"] == "keeping up"
    assert decided["objectives"]["ttft_ms"] is None


def test_a_closed_loop_too_short_is_made_longer():
    """Of 16 users with one request each all prompts come at once, and nobody comes after them."""
    long = ["workload.max_concurrency=16", "workload.output_tokens=100", "prices.usd_per_gpu_hour=3"]
    rates = [
        report_of(node(f"workload.num_requests={n}", *long)).values["scenarios"][0]["decision"]
        for n in (16, 800)
    ]
    assert rates[0]["requests_per_s_per_replica"] == pytest.approx(
        rates[1]["requests_per_s_per_replica"], rel=0.06
    )


def test_a_closed_loop_counts_what_it_served():
    scenario = node("workload.max_concurrency=16", "workload.num_requests=150", "prices.usd_per_gpu_hour=3")
    values = report_of(scenario).values["scenarios"][0]
    found = values["decision"]
    assert found["basis"] == "closed loop"
    assert found["requests_per_s_per_replica"] == pytest.approx(values["serve"]["requests_per_s"])
    assert found["latencies"]["ttft_s"] == values["serve"]["ttft_s"]


def test_objectives_that_nothing_keeps_decide_nothing():
    report = report_of(traffic("slo.ttft_ms=1"))
    part = report.values["scenarios"][0]
    assert part["decision"] is None
    assert "no number of replicas" in part["decision_reason"]
    assert "no number of replicas" in report_html(report)


def test_the_way_from_full_batches_adds_up(found):
    rows = found["bridge"]
    assert sum(row["usd"] for row in rows) == pytest.approx(found["usd_per_million_tokens"])
    assert all(row["usd"] >= 0.0 for row in rows[2:])


def test_risks_are_the_dearest_first_and_one_at_a_time(kept, found):
    rows = found["risks"]
    assert rows == sorted(rows, key=lambda row: -row["more_usd_per_month"])
    slow = next(row for row in rows if "slower" in row["what"])
    assert slow["usd_per_month"] == pytest.approx(found["months"][0]["peak"]["usd"])
    price = next(
        one for one in kept.values["scenarios"][0]["sensitivity"]["levers"] if one["lever"] == "GPU price"
    )
    told = [row for row in rows if row["what"].startswith("GPUs cost")]
    for row in told:
        assert row["usd_per_month"] == pytest.approx(
            found["gpus"]["total"] * price["high"]["value"] * HOURS_PER_MONTH
        )


def test_each_kind_of_gpus_has_spares_of_its_own():
    """32 H20 of attention and 16 L40S of FFNs per replica, 40 replicas: a node stands in for its own kind alone."""
    apart = {
        "attention_gpus": 32,
        "ffn_gpus": 16,
        "phase": "decode",
        "batch_per_gpu": 8,
        "context_tokens": 1024,
    }
    overrides = [
        f"deployment={json.dumps(apart)}",
        "cluster=h20-roce",
        "calibration=",
        "ffns.cluster=l40s-pcie",
        "ffns.prices.usd_per_gpu_hour=1",
    ]
    scenario = load_scenario("deepseek-v3-h800", overrides)
    size = _Size(scenario, Need("slo", 1.0, None, None, scenario.fleet_gpus), None)
    found = size.of(40.0, 1.0)
    sizes = [cluster.node.num_gpus for cluster in (scenario.cluster, scenario.ffn_cluster)]
    nodes = [poisson.ppf(0.999, gpus * GPU_FAILURES_PER_DAY) for gpus in (32 * 40, 16 * 40)]
    assert found["spare_nodes"] == sum(nodes)
    assert found["spare"] == sum(count * gpus for count, gpus in zip(nodes, sizes, strict=True))
    assert sum(nodes) > poisson.ppf(0.999, 48 * 40 * GPU_FAILURES_PER_DAY)


@pytest.mark.parametrize("spares", [0, 5])
def test_stated_spares(spares):
    gpus = report_of(traffic(*SLO), Outlook(spare_nodes=spares)).values["scenarios"][0]["decision"]["gpus"]
    assert gpus["spare"] == 8 * spares
    assert gpus["spare_basis"] == "as stated"


# --- by term --------------------------------------------------------------------------------------------------------


def test_owned_by_hand():
    scenario = load_scenario("longcat-flash-h800")
    rows = terms(scenario, 100, Ownership(40_000.0, 4.0, 0.10, 1.2))
    assert rows[0]["is_own"]
    assert rows[0]["usd_per_month"] == pytest.approx(100 * 2.0 * 730)
    owned = rows[-1]
    power = 1.275 * 1.2 * 0.10
    assert owned["usd_per_gpu_hour"] == pytest.approx(40_000 / (4 * 8760) + power)
    assert owned["payback_months"] == pytest.approx(40_000 / ((2.0 - power) * 730))
    assert owned["source"] == "as stated"
    assert any("reserved" in row["term"] for row in rows)
    assert any("on-demand" in row["term"] for row in rows)
    stand_ins = [row for row in rows[1:-1] if "H100" not in row["note"]]
    assert not stand_ins  # H800 is quoted nowhere else: every other row says whose price it is


def test_what_nobody_sells_is_not_priced():
    gb300 = load_scenario("longcat-flash-h800", ["cluster=gb300-nvl72", "prices.usd_per_gpu_hour=4"])
    rows = terms(gb300, 8, Ownership())
    assert [row["term"] for row in rows if "owned" in row["term"]] == []
    owned = terms(gb300, 8, Ownership(usd_per_gpu=60_000.0))[-1]
    assert owned["usd_per_gpu_hour"] > 60_000 / (5 * 8760) - 1e-9


@pytest.mark.parametrize(
    "stated", [{"usd_per_gpu": 0.0}, {"years": -1.0}, {"usd_per_kwh": float("nan")}, {"pue": 0.5}]
)
def test_ownership_out_of_range(stated):
    with pytest.raises(SpecError, match="must be above"):
        Ownership(**stated)


def test_growth_in_words_and_out_of_range():
    assert growth_of(None) == (0.0, 0.0, 0.0)
    assert growth_of("4") == (4.0, 4.0, 4.0)
    assert growth_of("0,3,8") == (0.0, 3.0, 8.0)
    for text in ("a", "1,2", "1,2,3,4", ""):
        with pytest.raises(SpecError, match="growth-pct"):
            growth_of(text)
    for bad in ((3.0, 2.0, 8.0), (0.0, 0.0, 1e9), (float("nan"),) * 3):
        with pytest.raises(SpecError, match="rising order"):
            Outlook(bad)


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_first_sentence_decides(flagship):
    """It holds GPUs, $ a month and latencies, with the figures of --json; the page stays small and whole."""
    html = report_html(flagship)
    found = json.loads(report_json(flagship))["scenarios"][0]
    body = re.sub(r"<(style|script)\b.*?</\1>", "", html, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", " ", body[body.index("</h1>") :])
    first = " ".join(text.split()).partition(". ")[0] + "."
    assert first == found["decision_answer"]
    decided = found["decision"]
    assert f"{decided['gpus']['total']:,} h800-sxm GPUs" in first
    assert f"{amount(decided['gpus']['usd_per_month'])} a month" in first
    assert f"{decided['latencies']['tokens_per_s_per_user']['p50']:.3g} tokens/s per user" in first
    assert "first token after" in first
    assert len(html) < 600_000
    assert "plotly.js v" not in html


def test_a_comparison_opens_with_the_one_that_costs_least(kept):
    dear = report_of(traffic(*SLO, "prices.usd_per_gpu_hour=9")).parts[0]
    third = report_of(traffic(*SLO, "prices.usd_per_gpu_hour=4")).parts[0]
    text = least([dear, kept.parts[0], third])
    assert text.startswith(f"{kept.parts[0].label} costs least of 3: ")
    assert amount(kept.values["scenarios"][0]["decision"]["gpus"]["usd_per_month"]) in text
    assert "models differ" not in text
    assert least([kept.parts[0]]) == ""


def test_the_docs_quote_it(flagship):
    quoted = " ".join(re.findall(r"^> (.*)$", (DOCS / "report.md").read_text(), re.MULTILINE))
    assert quoted == sentence(flagship.parts[0])


def test_the_data_is_in_the_page(flagship):
    html = report_html(flagship)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(data) == json.loads(report_json(flagship))


def test_every_format_says_the_decision(kept):
    text = report_markdown(kept)
    assert "### The decision" in text
    assert amount(kept.values["scenarios"][0]["decision"]["gpus"]["usd_per_month"]) in text.replace("\\", "")
    assert sentence(kept.parts[0]).split(",")[0] in text.replace("\\", "")


def test_no_op_is_named_by_its_id(flagship):
    html = report_html(flagship)
    body = re.sub(r"<(script|pre)\b.*?</\1>", "", html, flags=re.DOTALL)
    ids = {task.op.name for segment in flagship.parts[0].step.step.segments for task in segment.tasks}
    dotted = {name for name in ids if "." in name}
    assert dotted
    assert not [name for name in dotted if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", body)]


def test_caveats_by_weight():
    texts = [
        "2 % of the run's time: a",
        "under 1 % of the step's time: b",
        "if experts are used evenly",
        "59 % of the step's time: c",
    ]
    assert [text[-1] for text in by_weight(texts)] == ["y", "c", "a", "b"]
    of = ["x: gemm (34% of the kernels' time)", "y: cast (8% of the kernels' time)"]
    assert by_weight(of[::-1]) == of


def test_hostile_names_end_no_style_and_no_data():
    styled = str(css_text(EVIL))
    assert "<" not in styled[1:-1]
    assert '"' not in styled[1:-1]
    assert "}" not in styled
    data = {"a": EVIL, "b": "<!--"}
    assert "<" not in str(embedded(data))
    assert json.loads(str(embedded(data))) == data


def test_the_glossary_is_that_of_the_docs():
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE))
    for name, meaning in read_document(DATA / "glossary.yaml").items():
        plain = re.sub(r" \(\[[^\]]*\]\([^)]*\)\)", "", rows[name]).replace("`", "")
        assert plain == meaning, name


def test_the_command_needs_a_day_for_months(tmp_path):
    for option in (["--growth-pct", "3"], ["--spare-nodes", "1"], ["--plan-gpus", "8"], ["--own-years", "3"]):
        result = CliRunner().invoke(app, ["report", "longcat-flash-h800", "--json", *option])
        assert isinstance(result.exception, PerfModelError)
        assert "belongs to a day of traffic" in str(result.exception)


# --- pictures -------------------------------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def usd_text(value):
    return f"${value:,.3g}"


def test_shares_fill_the_bar():
    parts = [
        bars.Part("a <b>", 3.0, "#112233", "k.a"),
        bars.Part("c", 1.0, "#445566"),
        bars.Part("none", 0.0, "#000000"),
    ]
    root = ET.fromstring(bars.share_chart(parts, title="t", text=usd_text))
    widths = [float(one.get("width")) for one in root.iter(f"{SVG}rect") if one.get("height") == "40"]
    assert widths == pytest.approx([0.75 * WIDTH, 0.25 * WIDTH])
    assert "a <b>" in "".join(root.itertext())
    assert "none" not in "".join(root.itertext())


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=6), st.floats(0.1, 10.0))
def test_a_waterfall_ends_where_it_should(deltas, start):
    end = start + sum(deltas)
    changes = [bars.Change(f"c{i}", delta, f"k.{i}") for i, delta in enumerate(deltas)]
    text = bars.waterfall_chart(changes, start=start, end=end, names=("<a>", "b"), title="USD", text=usd_text)
    marks = [one for one in ET.fromstring(text).iter(f"{SVG}rect") if one.get("data-key")]
    assert sum(float(one.get("data-value")) for one in marks) == pytest.approx(end - start, abs=1e-6)
    for one in marks:
        assert -1e-6 <= float(one.get("x")) <= WIDTH


def test_a_tornado_says_which_end_is_dearer():
    swings = [bars.Swing("a & b", 0.5, 2.0, "low", "high", "k.0"), bars.Swing("c", 1.5, 0.9, "l", "h", "k.1")]
    text = bars.tornado_chart(swings, base=1.0, title="USD", text=usd_text, interval=(0.8, 1.4))
    root = ET.fromstring(text)
    colours = {one.get("data-key"): one.get("fill") for one in root.iter(f"{SVG}rect") if one.get("data-key")}
    assert colours["k.0.high"] == colours["k.1.low"] != colours["k.0.low"] == colours["k.1.high"]


def test_curves_fall_with_use_and_points_have_names():
    text = lines.utilisation_chart(
        0.1, interval=(0.08, 0.2), broken=lines.Break(0.7, 14.3, (11.0, 28.0)), text=usd_text
    )
    curve = next(iter(ET.fromstring(text).iter(f"{SVG}polyline"))).get("points").split()
    heights = [float(point.split(",")[1]) for point in curve]
    assert heights == sorted(heights)
    points = [lines.Point(f"<{i}>", 10.0 + i, 1.0 - 0.1 * i, None, (0.5, 1.2)) for i in range(9)]
    words = "".join(ET.fromstring(lines.speed_cost_chart(points, text=usd_text)).itertext())
    assert all(f"<{i}>" in words for i in range(9))


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9))
def test_ticks_are_round_within_and_told_apart(low, span):
    scale = Scale(low, low + span, 0.0, 700.0)
    ticks = scale.ticks()
    if span < 1e-6 * abs(low):
        return
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-6 * span <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    if span > 1e-3 * abs(low):
        text = tick_text(ticks)
        assert len({text(tick) for tick in ticks}) == len(ticks)


def test_amounts_to_read():
    assert amount(584_000.0) == "$584,000"
    assert amount(44_200_000.0) == "$44.2 million"
    assert large(5e10) == "50.0 billion"
    assert large(365_047.2) == "365,047"


# --- print ----------------------------------------------------------------------------------------------------------


@pytest.mark.browser
def test_a4_breaks_no_table(tmp_path):
    """In a browser that shows the page as printed on A4: nothing is wider than the page, five scenarios beside each
    other included, and page 1 holds all of the decision.
    """
    browser = shutil.which("chromium")
    if browser is None:
        if required("browser"):
            pytest.fail("no chromium; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium")
    from playwright.sync_api import sync_playwright

    scenarios = [
        load_scenario(name, ["workload.num_requests=200"])
        for name in ("longcat-flash-h800", "deepseek-v3-h800") * 3
    ]
    day = Traffic(2.0, tokens_per_day=5e8)
    several = build_report(scenarios[:5], Options(traffic=day))
    one = build_report(scenarios[:1], Options(traffic=day, outlook=Outlook((0.0, 3.0, 8.0))))
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": 703, "height": 1000}, color_scheme="dark")
        said = []
        page.on("console", lambda message: said.append(message.text))
        for report in (several, one):
            page.set_content(report_html(report))
            (tmp_path / "x.html").write_text(report_html(report))
            page.emulate_media(media="print")
            wide = page.evaluate(
                "() => [...document.querySelectorAll('table, svg, p, pre')].filter(one => "
                "one.getBoundingClientRect().right > 704 || one.scrollWidth > 704).map(one => "
                "one.outerHTML.slice(0, 99))"
            )
            assert wide == []
            cut = page.evaluate(
                "() => [...document.querySelectorAll('tr')].filter(one => "
                "getComputedStyle(one).breakInside !== 'avoid').length"
            )
            assert cut == 0
        high = page.evaluate("() => document.getElementById('decision').getBoundingClientRect().bottom")
        assert high < 297 / 25.4 * 96 - (18 + 15) / 25.4 * 96
        paper = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(255, 255, 255)"  # dark is for screens
        opened.close()
    assert not said


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 420])
def test_axe_finds_no_violation(flagship, scheme, width):
    browser = shutil.which("chromium")
    if browser is None or importlib.util.find_spec("axe_playwright_python") is None:
        if required("axe"):
            pytest.fail("no chromium or no axe-playwright-python; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium or no axe-playwright-python")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.set_content(report_html(flagship))
        found = Axe().run(page)
        opened.close()
    assert found.violations_count == 0, found.generate_report()


def test_prompts_on_other_gpus_cost_their_own_price():
    """A deployment on two clusters: a month is that of each kind of GPU at its own price."""
    sets = ["prefill.cluster=b200-ib", "prefill.serving.replicas=1", "workload.num_requests=150"]
    scenario = load_scenario("longcat-flash-h800-pd", sets)
    found = report_of(scenario, Outlook(spare_nodes=0), requests_per_day=1e4).values["scenarios"][0][
        "decision"
    ]
    apart = scenario.prefill.deployment.num_gpus * scenario.prefill.serving.replicas
    own = scenario.fleet_gpus - apart
    hour = own * scenario.prices.usd_per_gpu_hour + apart * scenario.prefill.prices.usd_per_gpu_hour
    gpus = found["gpus"]
    assert gpus["total"] == gpus["replicas"] * scenario.fleet_gpus
    assert gpus["usd_per_month"] == pytest.approx(gpus["replicas"] * hour * HOURS_PER_MONTH)
    assert found["terms"][0]["usd_per_month"] == pytest.approx(gpus["usd_per_month"])
    assert sum(
        row["usd"] for row in found["bridge"] or [{"usd": found["usd_per_million_tokens"]}]
    ) == pytest.approx(found["usd_per_million_tokens"])
