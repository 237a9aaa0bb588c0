"""The cost report: one set of numbers in every format, nothing from outside becomes markup, files are whole."""

import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from oracle_env import required
from typer.testing import CliRunner

from perfmodel.answers.step import answer_step
from perfmodel.cli import app
from perfmodel.errors import DataError, InfeasibleError, SpecError, UnsupportedError
from perfmodel.explore.fleet import Traffic
from perfmodel.load import build_scenario, load_scenario
from perfmodel.output.charts.money import speed_cost_chart, tornado_chart, waterfall_chart
from perfmodel.output.pdf import chromium
from perfmodel.output.report.as_csv import COLUMNS, report_csv, safe
from perfmodel.output.report.files import report_format, report_json
from perfmodel.output.report.markdown import report_markdown
from perfmodel.output.report.page import report_html
from perfmodel.output.report.words import answer
from perfmodel.report.content import build_report
from perfmodel.report.part import Options, check_api_price
from perfmodel.report.trust import caveats
from perfmodel.spec.documents import parse_yaml
from perfmodel.validation.recorded import recorded_results

FEW = "workload.num_requests=200"
EVIL = "=cmd|'/c calc'!A1 <img src=x onerror=alert(1)></script><script>alert(2)</script> [a](javascript:alert(3)) | `x`"


@pytest.fixture(scope="module")
def pair():
    scenarios = [load_scenario(name, [FEW]) for name in ("longcat-flash-h800", "deepseek-v3-h800")]
    options = Options(traffic=Traffic(2.5, requests_per_day=1e6), api_usd_per_million_output_tokens=0.7)
    return build_report(scenarios, options, command="perfmodel report x")


@pytest.fixture(scope="module")
def values(pair):
    return json.loads(report_json(pair), parse_constant=lambda name: pytest.fail(name))


@pytest.fixture(scope="module")
def html(pair):
    return report_html(pair)


@pytest.fixture(scope="module")
def steps():
    """A small report: one step, no traffic."""
    return build_report([load_scenario("longcat-flash-h800")], Options(serves=False))


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.numbers, self.tags, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "data":
            found = dict(attrs)
            self.numbers.append((found["data-key"], float(found["value"])))


def at(found, path):
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def figures(html):
    """The data of every chart, by the div's id."""
    found = {}
    for match in re.finditer(r'Plotly\.newPlot\(\s*"figure-([^"]+)",\s*', html):
        found[match[1]] = json.JSONDecoder().raw_decode(html, match.end())[0]
    return found


# --- one set of numbers ---------------------------------------------------------------------------------------------


def test_page_has_the_numbers_of_json(values, html):
    numbers = Page(html).numbers
    assert len(numbers) > 150
    for key, value in numbers:
        assert value == at(values, key), key
    wanted = {
        "scenarios.0.step.tpot_s",
        "scenarios.0.serve.ttft_s.p99",
        "scenarios.0.money.usd_per_month",
        "scenarios.1.decision.gpus.total",
        "scenarios.0.decision.months.11.peak.usd",
        "scenarios.0.break_even.utilisation_pct",
        "comparison.1.difference.rows.0.delta_usd",
    }
    assert wanted <= {key for key, _ in numbers}


def test_marks_have_the_numbers_of_json(values, html):
    marks = re.findall(r'data-key="([^"]+)" data-value="([^"]+)"', html)
    assert len(marks) > 80
    for key, value in marks:
        end = re.fullmatch(r"(.+sensitivity\.levers\.\d+)\.(low|high)", key)
        wanted = at(values, f"{end[1]}.{end[2]}.usd_per_million_tokens" if end else key)
        assert float(value) == wanted, key
    wanted = {
        "scenarios.0.step.breakdown_s.combine",
        "scenarios.0.decision.months.11.expected.usd",
        "scenarios.1.decision.bridge.2.usd",
        "comparison.1.difference.rows.0.delta_usd",
        "comparison.1.usd_per_million_output_tokens",
    }
    assert wanted <= {key for key, _ in marks}


def test_charts_on_request_have_the_numbers_of_json(values, pair):
    html = report_html(pair, is_interactive=True)
    assert html.count("* plotly.js v") == 1
    drawn = figures(html)
    part = values["scenarios"][0]
    time = {trace["name"]: trace["x"][0] for trace in drawn["0-time"]}
    assert time["combine"] == pytest.approx(part["step"]["breakdown_s"]["combine"] * 1e3)
    levers = part["sensitivity"]["levers"]
    low, high = drawn["0-tornado"][:2]
    base = part["sensitivity"]["usd_per_million_tokens"]
    assert [base + x for x in low["x"]] == pytest.approx(
        [one["low"]["usd_per_million_tokens"] for one in levers]
    )
    assert [base + x for x in high["x"]] == pytest.approx(
        [one["high"]["usd_per_million_tokens"] for one in levers]
    )
    steps = drawn["difference-1-usd"][0]["x"]
    found = values["comparison"][1]["difference"]
    assert steps[0] + sum(steps[1:-1]) == pytest.approx(found["usd_b"])
    assert steps[0] == found["usd_a"]


def test_json_has_steps_and_traffic_in_the_contracts_keys(values):
    part = values["scenarios"][0]
    assert {"step_time_s", "usd_per_million_output_tokens", "breakdown_s", "intervals"} <= part["step"].keys()
    assert {"ttft_s", "e2e_s", "usd_per_million_total_tokens", "fleet"} <= part["serve"].keys()
    assert {"scenarios", "comparison", "validation", "warnings", "intervals", "provenance"} <= values.keys()
    money = part["money"]
    assert sum(money["usd_by_op_class"].values()) == pytest.approx(money["usd_per_million_output_tokens"])
    assert money["usd_per_month"] == pytest.approx(128 * 2.0 * 730.0)
    assert part["step"]["intervals"]["tpot_s"] == values["intervals"]["longcat-flash-h800.step.tpot_s"]


def test_assumptions_have_sources(values):
    for part in values["scenarios"]:
        rows = {row["what"]: row for row in part["assumptions"]}
        assert {
            "model",
            "GPU",
            "cluster",
            "price",
            "calibration",
            "engine",
            "expert load",
            "traffic",
        } <= set(rows)
        assert all(row["source"] for row in part["assumptions"])
    assert "2025-02-28" in rows["price"]["source"]
    changed = build_report(
        [load_scenario("longcat-flash-h800", ["prices.usd_per_gpu_hour=3"])], Options(serves=False)
    )
    rows = {row["what"]: row for row in changed.values["scenarios"][0]["assumptions"]}
    assert rows["price"]["source"] == "the scenario"  # an amount of one's own was quoted nowhere
    assert "changed" not in rows["GPU"]["source"] + rows["cluster"]["source"]


def test_yaml_gives_the_scenario_again(values):
    for part in values["scenarios"]:
        assert part["scenario_yaml_is_exact"]
        again = build_scenario(parse_yaml(part["scenario_yaml"], "report"))
        assert again.hash == part["step"]["provenance"]["scenario_hash"]


def test_validation_is_about_the_scenario(values):
    lines = {(line["suite"], line["about"]): line for line in values["validation"]}
    assert any(suite == "calibration h800-sxm" for suite, _ in lines)
    closest = lines["longcat-measured", "same model, GPU and engine"]
    assert closest["scenarios"] == ["longcat-flash-h800"]
    (recorded,) = (
        line
        for line in recorded_results().summary()
        if (line["suite"], line["quantity"]) == ("longcat-measured", closest["quantity"])
    )
    assert closest["median_abs_pct"] == recorded["median_abs_pct"]
    assert all("theory" not in suite for suite, _ in lines)


# --- words ----------------------------------------------------------------------------------------------------------


def test_answers_in_one_sentence(steps):
    own = answer_step(load_scenario("longcat-flash-h800")).values
    low, high = own["intervals"]["usd_per_million_output_tokens"]
    assert answer(steps.parts[0]) == (
        f"longcat-flash gives each user {own['tokens_per_s_per_user']:.3g} tokens/s on 128 h800-sxm GPUs and costs "
        f"${own['usd_per_million_output_tokens']:.3f} per million output tokens at $2.00 per GPU hour (80 % interval: "
        f"${low:.3f} to ${high:.3f}), if batches are always full and experts are used evenly."
    )
    for name, sets, words in (
        ("longcat-flash-h800", ["deployment.phase=prefill"], "per million input tokens"),
        ("reference-cpu", [], "its CPUs have no price"),
        ("table7-longcat-flash", [], "no interval is known"),
    ):
        report = build_report([load_scenario(name, sets)], Options(serves=False))
        assert words in answer(report.parts[0])
        assert words in report_markdown(report)
        assert "<data" in report_html(report)


def test_same_report_same_bytes(steps):
    again = build_report([load_scenario("longcat-flash-h800")], Options(serves=False))
    assert report_html(steps) == report_html(again)
    assert report_csv(steps) == report_csv(again)


# --- what can't be answered -----------------------------------------------------------------------------------------


def test_one_that_does_not_fit_is_an_error_and_one_of_two_a_reason():
    large = load_scenario("longcat-flash-h800", ["deployment.batch_per_gpu=9000"])
    with pytest.raises(InfeasibleError):
        build_report([large], Options(serves=False))
    report = build_report([large, load_scenario("longcat-flash-h800")], Options(serves=False))
    first, second = report.values["scenarios"]
    assert first["step"] is None
    assert "memory" in first["reason"] or "bytes" in first["reason"] or "GB" in first["reason"]
    assert second["name"] == "longcat-flash-h800 (2)"
    assert second["step"]
    assert any("no answer" in text for text in report.values["warnings"])
    for text in (report_html(report), report_markdown(report), report_csv(report), report_json(report)):
        assert "No answer" in text or "no answer" in text


def test_what_is_not_served_or_modelled_has_its_reason():
    given = load_scenario("deepseek-v3-h800", ["given.attention_us=100", "deployment.batch_per_gpu=32"])
    report = build_report([given])
    assert "given.attention_us" in report.values["scenarios"][0]["serve_reason"]
    assert "Not simulated" in report_html(report)
    whole = load_scenario("longcat-flash-h800")
    unknown = whole.model_copy(update={"model": whole.model.model_copy(update={"unmodelled": "a part"})})
    with pytest.raises(UnsupportedError, match="a part is not modelled in time"):
        build_report([unknown], Options(serves=False))


def test_phases_are_not_compared():
    scenarios = [load_scenario("longcat-flash-h800", sets) for sets in ([], ["deployment.phase=prefill"])]
    report = build_report(scenarios, Options(serves=False))
    assert "not the same good" in report.values["comparison"][1]["difference_reason"]
    assert "not the same good" in report_html(report)


@pytest.mark.parametrize("usd", [0.0, -1.0, float("nan"), float("inf")])
def test_prices_that_nobody_asks(usd):
    with pytest.raises(SpecError, match="must be above 0"):
        check_api_price(usd)


# --- nothing from outside becomes markup ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evil():
    sets = [
        f"{key}={json.dumps(EVIL)}"
        for key in ("name", "title", "source", "prices.name", "prices.source", "prices.term")
    ]
    scenarios = [load_scenario("longcat-flash-h800", [*sets, FEW]), load_scenario("deepseek-v3-h800", [FEW])]
    return build_report(scenarios, Options(serves=False), command=f"perfmodel report {shlex.quote(EVIL)}")


def test_hostile_names_stay_text_in_html(evil):
    page = Page(report_html(evil))
    assert "img" not in page.tags
    assert page.tags.count("script") == 3
    assert page.tags.count("style") == 1
    assert not [entry for entry in page.attributes if entry[1].startswith("on")]
    assert not [entry for entry in page.attributes if "javascript:" in entry[2] and entry[1] == "href"]


def test_hostile_names_stay_text_in_charts():
    import pandas as pd

    levers = pd.DataFrame([{"name": EVIL, "low": 1.0, "high": 2.0, "low_label": EVIL, "high_label": EVIL}])
    points = {"speed_low": None, "speed_high": None, "usd_low": None, "usd_high": None}
    drawn = (
        tornado_chart(levers, base=1.5, title=EVIL),
        waterfall_chart(
            pd.DataFrame([{"component": EVIL, "delta": 1.0}]),
            start=1.0,
            end=2.0,
            start_label=EVIL,
            end_label=EVIL,
            title=EVIL,
        ),
        speed_cost_chart(pd.DataFrame([{"name": EVIL, "speed": 1.0, "usd": 1.0, **points}])),
    )
    for figure in drawn:
        text = json.dumps(figure.to_plotly_json(), default=str)
        assert "<img" not in text
        assert "<script" not in text
        assert "&lt;" in text


def test_hostile_names_stay_text_in_markdown(evil):
    text = report_markdown(evil)
    outside = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "\\<img" in outside
    assert not re.search(r"(?<!\\)<(img|script)", outside)
    assert "[a](javascript" not in outside
    rows = [line for line in outside.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_hostile_names_stay_text_in_csv(evil):
    rows = list(csv.reader(io.StringIO(report_csv(evil))))
    assert tuple(rows[0]) == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows)
    texts = [cell for row in rows[1:] for cell in (row[0], row[1], row[5])]
    assert not [cell for cell in texts if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert any(cell.startswith("'=cmd") for cell in texts)
    assert [safe(text) for text in ("=1", "+1", "-1", "@x", "a=1", "")] == [
        "'=1",
        "'+1",
        "'-1",
        "'@x",
        "a=1",
        "",
    ]


def test_csv_numbers_are_the_jsons(values, pair):
    rows = list(csv.DictReader(io.StringIO(report_csv(pair))))
    for row in rows:
        if row["scenario"] and row["value"] and not row["key"].startswith("difference"):
            part = next(one for one in values["scenarios"] if one["name"] == row["scenario"])
            assert float(row["value"]) == at(part, row["key"])
    cost = next(row for row in rows if row["key"] == "step.usd_per_million_output_tokens")
    bounds = values["scenarios"][0]["step"]["intervals"]["usd_per_million_output_tokens"]
    assert [float(cost["low"]), float(cost["high"])] == bounds


# --- files and the command line -------------------------------------------------------------------------------------


def run(*args):
    from perfmodel.errors import PerfModelError

    result = CliRunner().invoke(app, ["report", *map(str, args)])
    if isinstance(result.exception, PerfModelError):
        return result.exception.exit_code, str(result.exception), result.stdout
    return result.exit_code, result.stderr, result.stdout


def test_formats_by_suffix_and_by_name(tmp_path):
    assert report_format(None, tmp_path / "a.HTML") == "html"
    assert report_format(None, tmp_path / "a.md") == "md"
    assert report_format("csv", tmp_path / "a.txt") == "csv"
    with pytest.raises(SpecError, match="suffix"):
        report_format(None, tmp_path / "a.txt")
    with pytest.raises(SpecError, match="allowed: html, md, csv, json"):
        report_format("docx", None)
    with pytest.raises(DataError, match="does not exist"):
        report_format(None, tmp_path / "no" / "a.html")


def test_command_writes_and_repeats_itself(tmp_path):
    path = tmp_path / "my report.md"
    code, errors, out = run(
        "longcat-flash-h800", "--no-serve", "--set", "deployment.batch_per_gpu=64", "--out", path
    )
    assert code == 0
    assert "wrote" in errors
    assert out.startswith("longcat-flash-h800: longcat-flash gives each user")
    text = path.read_text()
    command = re.search(r"^perfmodel report .*$", text, re.MULTILINE)[0]
    path.unlink()
    assert run(*shlex.split(command)[2:])[0] == 0
    assert path.read_text() == text
    assert [one.name for one in tmp_path.iterdir()] == ["my report.md"]


def test_json_is_alone_on_stdout(tmp_path):
    code, _, out = run("longcat-flash-h800", "--no-serve", "--json", "--out", tmp_path / "a.csv")
    assert code == 0
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert found["scenarios"][0]["serve"] is None
    assert (tmp_path / "a.csv").read_text().startswith("scenario,key,value")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["longcat-flash-h800"], 2, "nowhere to write"),
        (["longcat-flash-h800", "--json", "--format", "md"], 2, "--json prints JSON"),
        (["no-such", "--json"], 2, "not in the catalogue"),
        (["longcat-flash-h800", "--json", "--no-serve", "--set", "deployment.batch_per_gpu=9000"], 3, "fit"),
        (["longcat-flash-h800", "--json", "--no-serve", "--fleet-requests-per-day", "9"], 2, "--no-serve"),
        (["longcat-flash-h800", "--json", "--api-usd-per-million-output", "-1"], 2, "must be above 0"),
    ],
)  # fmt: skip
def test_mistakes_in_one_line(args, code, words):
    found, text, out = run(*args)
    assert found == code
    assert words in text
    assert "\n" not in text.strip()
    assert out == ""


def test_outputs_are_distinct_and_no_input(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"base": "longcat-flash-h800"}')
    before = path.read_text()
    assert run(path, "--no-serve", "--out", path)[0] == 2
    assert path.read_text() == before
    if shutil.which("chromium"):
        same = tmp_path / "a.html"
        assert "--out" in run("longcat-flash-h800", "--no-serve", "--out", same, "--pdf", same)[1]


def test_without_a_browser_pdf_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt install chromium"):
        chromium()
    code, text, _ = run("longcat-flash-h800", "--pdf", tmp_path / "a.pdf")
    assert (code, "apt install chromium" in text) == (2, True)


def test_nothing_is_loaded_from_elsewhere(html):
    page = Page(html)
    assert not [entry for entry in page.attributes if entry[1] in ("src", "srcset", "action", "poster")]
    assert "link" not in page.tags
    assert "plotly.js v" not in html
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")
    assert len(page.attributes) > 100


@pytest.mark.browser
def test_chromium_opens_and_prints_it(html, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        if required("browser"):
            pytest.fail("no chromium; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium")
    from perfmodel.output.pdf import write_pdf

    path = tmp_path / "report.html"
    path.write_text(html)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [
            browser,
            *flags,
            "--virtual-time-budget=5000",
            "--dump-dom",
            f"--user-data-dir={tmp_path / 'p'}",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert done.stdout.count('<svg class="chart"') >= 12
    write_pdf(html, tmp_path / "report.pdf")
    printed = (tmp_path / "report.pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000


def test_heavy_parts_are_imported_when_a_page_is_made():
    code = (
        "import sys, perfmodel.output.report.files, perfmodel.report.content; "
        "print([name for name in ('plotly', 'jinja2', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_price_that_has_no_break_even_says_why():
    options = Options(serves=False, api_usd_per_million_output_tokens=0.7)
    for name, sets, why in (
        ("longcat-flash-h800", ["deployment.phase=prefill"], "no output tokens"),
        ("reference-cpu", [], "no price"),
    ):
        report = build_report([load_scenario(name, sets)], options)
        assert report.values["scenarios"][0]["break_even"] is None
        assert any("break-even" in text and why in text for text in report.values["warnings"])
    found = build_report([load_scenario("longcat-flash-h800")], options)
    assert found.values["scenarios"][0]["break_even_reason"] is None


def test_what_is_said_of_errors_is_true_of_the_rows_that_it_names():
    """Times to first token in the field are too small, those of warmed-up runs are not."""
    record = recorded_results()
    (text,) = [one for one in caveats(record) if "first token" in one]
    parts = dict(zip(("silicon", "silicon-field"), text.split("warmed up"), strict=True))
    for suite, words in parts.items():
        (line,) = [
            one for one in record.about(suites=[suite]).summary()
            if (one["quantity"], one["role"]) == ("ttft_s", "check")
        ]  # fmt: skip
        assert f"{line['median_abs_pct']:.0f} % off in the median" in words
        assert f"too {'small' if line['bias_pct'] < 0 else 'large'}" in words
        assert f"too {'large' if line['bias_pct'] < 0 else 'small'}" not in words
    flipped = replace(
        record, rows=[replace(row, predicted=2.0 * row.measured) for row in record.rows if row.predicted]
    )
    assert "too small" not in " ".join(caveats(flipped))
    assert "100 to 100 % too slow at every batch" in " ".join(caveats(flipped))
