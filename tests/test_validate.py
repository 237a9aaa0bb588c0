"""`perfmodel validate` as a user meets it: the JSON contract, ceilings, own measurements, and the HTML page."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from browser import PICTURES, browser
from oracle_env import required
from typer.testing import CliRunner

from perfmodel import cli
from perfmodel.errors import DataError, PerfModelError
from perfmodel.output.charts import validation as charts
from perfmodel.output.charts.validation import hover, interval_text
from perfmodel.output.formats import with_unit
from perfmodel.output.progress import suite_progress
from perfmodel.output.validation.page import MAX_ROWS, page, quantity_name, validation_html
from perfmodel.spec.catalogue import DATA
from perfmodel.validation import ceilings, suites, user_data
from perfmodel.validation.ceilings import Ceiling, above, recorded
from perfmodel.validation.rows import Row, summarise, unanswered
from perfmodel.validation.suites import SUITES, Suite, Validation, run_suites
from perfmodel.validation.user_data import read_measurements

ROW_KEYS = {
    "suite", "id", "model", "quantity", "unit", "measured", "predicted", "low", "high", "error_pct", "role", "reason",
    "source", "matches_printed", "peer_predicted", "system", "engine", "settings",
}  # fmt: skip
SUMMARY_KEYS = {
    "suite", "quantity", "role", "n", "answered", "median_abs_pct", "p90_abs_pct", "mean_abs_pct", "bias_pct",
    "coverage_pct", "mean_interval_width_pct", "peer_n", "peer_median_abs_pct", "median_abs_pct_beside_peer",
}  # fmt: skip


def row(number, **changes):
    values = {
        "suite": "made", "id": f"row-{number}", "model": "m", "quantity": "tpot_s", "unit": "s", "measured": 0.02,
        "predicted": 0.021, "role": "check", "source": "https://example.org/table",
    }  # fmt: skip
    return Row(**(values | changes))


def rows():
    return [
        row(1, predicted=0.022, low=0.018, high=0.026, peer_predicted=0.03),
        row(2, predicted=0.018, low=0.017, high=0.019, peer_predicted=0.021),
        row(3, predicted=0.0202, low=0.0192, high=0.0212),
        row(4, predicted=None, reason="load not recorded", peer_predicted=0.02),
        row(
            5,
            quantity="output_tokens_per_s_per_gpu",
            unit="tokens/s",
            measured=2000.0,
            predicted=2500.0,
            role="fit",
        ),
        row(
            6,
            model="other",
            quantity="usd_per_million_output_tokens",
            unit="USD",
            measured=0.1,
            predicted=0.089,
        ),
    ]


@pytest.fixture
def made(monkeypatch):
    """A registry with one suite of made-up rows."""
    monkeypatch.setattr(suites, "SUITES", {"made": Suite("made-up rows", lambda progress, executor: rows())})
    monkeypatch.setattr(suites, "_module", lambda name: ModuleType(name))


def validate(*args):
    done = CliRunner().invoke(cli.app, ["validate", *map(str, args)])
    assert done.exception is None or isinstance(done.exception, SystemExit | PerfModelError), done.exception
    return done


# JSON and summary


def test_json_has_the_contract(made):
    done = validate("--json")
    values = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert values.keys() == {"rows", "summary", "warnings", "provenance"}
    assert all(found.keys() == ROW_KEYS for found in values["rows"])
    assert all(line.keys() >= SUMMARY_KEYS for line in values["summary"])
    unanswered_row = values["rows"][3]
    assert (unanswered_row["predicted"], unanswered_row["error_pct"]) == (None, None)
    assert unanswered_row["reason"] == "load not recorded"
    assert values["provenance"]["calibration"].startswith("roofline-")


def test_summary_counts_what_it_says():
    line = summarise(rows())[0]
    assert (line["n"], line["answered"]) == (4, 3)
    assert line["median_abs_pct"] == pytest.approx(10)
    assert line["p90_abs_pct"] == pytest.approx(10)
    assert line["bias_pct"] == pytest.approx(1 / 3)
    assert line["coverage_pct"] == pytest.approx(200 / 3)
    assert line["peer_n"] == 2  # the row that only the peer answers is not counted for it
    assert line["peer_median_abs_pct"] == pytest.approx((50 + 5) / 2)
    assert line["median_abs_pct_beside_peer"] == pytest.approx(10)
    assert summarise(rows())[1]["peer_median_abs_pct"] is None


def test_roles_of_a_quantity_follow_each_other():
    mixed = [row(1), row(2, quantity="ttft_s"), row(3, role="fit")]
    assert [(line["quantity"], line["role"]) for line in summarise(mixed)] == [
        ("tpot_s", "check"), ("tpot_s", "fit"), ("ttft_s", "check"),
    ]  # fmt: skip


def test_unanswered_rows_are_counted_by_reason():
    found = unanswered([row(n, predicted=None, reason="a" if n else None) for n in range(3)])
    assert found == [("made", "a", 2), ("made", "no reason given", 1)]


def test_the_table_shows_markup_as_text(made, monkeypatch):
    hostile = [row(1, id="[red]id[/] [/nonsense]"), row(2, predicted=None, reason="[bold]why")]
    monkeypatch.setattr(suites, "SUITES", {"made": Suite("t", lambda progress, executor: hostile)})
    text = validate().stdout
    assert "[red]id[/] [/nonsense]" in text
    assert "[bold]why" in text
    assert re.search(r"made +1 +\[bold\]why", text)


def test_of_many_rows_the_table_lists_those_furthest_off(monkeypatch, made):
    many = [row(n, predicted=0.02 * (1 + n / 1000)) for n in range(150)]
    monkeypatch.setattr(suites, "SUITES", {"made": Suite("t", lambda progress, executor: many)})
    text = validate().stdout
    assert "row-149" in text
    assert "row-100 " not in text
    assert "up to 20 rows, furthest off, of 150" in " ".join(text.split())


# suites


def test_help_names_every_suite_and_loads_none():
    code = (
        "import sys; from typer.testing import CliRunner; from perfmodel.cli import app; "
        "print(CliRunner().invoke(app, ['validate', '--help'], env={'COLUMNS': '400'}).stdout); "
        "print([m for m in sys.modules if m.startswith('perfmodel.validation.longcat') or m == 'numpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert all(name in done.stdout for name in SUITES)
    assert all(option in done.stdout for option in ("--suite", "--data", "--html", "--check", "--json"))


@pytest.mark.parametrize("name", SUITES)
def test_a_registered_suite_has_a_module_and_a_title(name):
    assert callable(suites._module(name).rows)
    assert SUITES[name].title


def test_progress_reaches_a_suite_that_reports_it(monkeypatch):
    module = ModuleType("perfmodel.validation.made_up")
    module.rows = lambda progress=None: progress("made-up", 1, 2) or [row(1)]
    module.calibrations = lambda: ["h800-sxm-1234"]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = {"made-up": Suite("t", lambda progress, executor: suites._suite_rows("made-up", progress))}
    monkeypatch.setattr(suites, "SUITES", registry)
    told = []
    result = run_suites("made-up", progress=lambda *what: told.append(what))
    assert told == [("made-up", 1, 2)]
    assert result.calibrations[-1] == "h800-sxm-1234"


def test_progress_is_for_terminals_only(capsys, monkeypatch):
    with suite_progress() as tell:
        assert tell is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with suite_progress() as tell:
        tell("silicon", 120, 399)
        tell("silicon", 121, 399)  # too soon after the last
    text = capsys.readouterr().err
    assert "suite silicon: 120 of 399 rows" in text
    assert "121" not in text
    assert text.endswith("\r\x1b[K")


# ceilings


@pytest.fixture
def ceiling(monkeypatch, made):
    def record(**limits):
        monkeypatch.setattr(ceilings, "recorded", lambda: {("made", "tpot_s", "check"): Ceiling(**limits)})

    return record


@pytest.mark.parametrize(
    ("limits", "code", "words"),
    [
        ({"answered_at_least": 3, "median_abs_pct": 10.1}, 0, ()),
        ({"answered_at_least": 3, "median_abs_pct": 9.9}, 1, ("made tpot_s check", "10 %", "9.9 %")),
        ({"answered_at_least": 4}, 1, ("made tpot_s check", "3 rows answered", "at least 4")),
        ({"answered_at_least": 3, "as_printed": True}, 0, ()),
    ],
)
def test_check_fails_above_a_ceiling_and_passes_below(ceiling, limits, code, words):
    ceiling(**limits)
    done = validate("--check")
    assert done.exit_code == code
    assert all(word in done.stderr for word in words)
    assert validate().exit_code == 0


def test_a_cell_that_does_not_round_to_the_printed_one_is_named(ceiling):
    ceiling(answered_at_least=1, as_printed=True)
    found = above([row(1, matches_printed=True), row(2, matches_printed=False)], ["made"])
    assert len(found) == 1
    assert "row-2" in found[0]
    assert "printed" in found[0]


def test_rows_that_vanish_are_missed(ceiling):
    ceiling(answered_at_least=1)
    assert above([], ["made"])
    assert not above([], ["another"])


def test_a_suite_does_not_answer_for_another_that_begins_alike():
    assert not [text for text in above([], ["deepseek"]) if text.startswith("deepseek-fleet")]
    assert [text for text in above([], ["deepseek-fleet"]) if text.startswith("deepseek-fleet")]
    assert [text for text in above([], ["longcat-measured"]) if text.startswith("longcat-measured-serving")]


def test_recorded_ceilings_belong_to_registered_suites():
    for suite, _, _ in recorded():
        assert any(suite == name or suite.startswith(f"{name}-") for name in SUITES)
    assert sum(limits.as_printed for limits in recorded().values()) == 5


@pytest.mark.parametrize("text", ["a: 1\n", "a: {b: {c: {bogus: 1}}}\n", "a: {b: {c: 3}}\n"])
def test_a_broken_ceilings_file_is_refused(text, tmp_path, monkeypatch):
    (tmp_path / "ceilings.yaml").write_text(text)
    monkeypatch.setattr(ceilings, "CEILINGS", tmp_path / "ceilings.yaml")
    with pytest.raises(DataError, match=r"ceilings\.yaml"):
        recorded.__wrapped__()


# the user's own measurements

SILICON = {
    "id": "mine-1", "model": "deepseek-ai/DeepSeek-R1", "system": "h200_sxm", "backend": "sglang", "precision": "fp8",
    "mode": "agg", "isl": "1024", "osl": "1024", "concurrency": "64", "gpus": "8",
    "parallel_or_prefill": "tp8 dp1 moe_tp1 ep8", "ttft_ms": "312.5", "tpot_ms": "21.4",
}  # fmt: skip
SERVING = {
    "id": "mine-1", "model": "DeepSeek-V3", "system": "H800-SXM IB", "phase": "decode",
    "metric": "output_tok_s_per_gpu", "value": "1850", "unit": "tok/s/GPU",
}  # fmt: skip


def csv_text(*records):
    return "\n".join([",".join(records[0]), *(",".join(record.values()) for record in records)]) + "\n"


@pytest.fixture
def predictors(monkeypatch):
    """Stand-ins for the modules that predict the rows of a user's file."""
    for name in ("silicon", "serving"):
        module = ModuleType(f"perfmodel.validation.{name}")

        def predict_rows(records, *, suite, role):
            return [row(n, id=found["id"], suite=suite, role=role(found)) for n, found in enumerate(records)]

        module.predict_rows = predict_rows
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("record", [SILICON, SERVING], ids=["silicon", "serving"])
def test_own_measurements_run_alone_or_beside_a_suite(record, tmp_path, predictors):
    path = tmp_path / "mine.csv"
    path.write_text(csv_text(record, record | {"id": "mine-2"}))
    alone = json.loads(validate("--data", path, "--json").stdout)["rows"]
    assert [(found["suite"], found["role"], found["id"]) for found in alone] == [
        ("data", "user", "mine-1"),
        ("data", "user", "mine-2"),
    ]
    both = json.loads(validate("--suite", "longcat-theory", "--data", path, "--json").stdout)["rows"]
    assert {found["suite"] for found in both} == {"longcat-theory", "data"}


@pytest.mark.parametrize(
    ("name", "layout", "number"), [("silicon_serving", "silicon", 399), ("serving", "serving", 61)]
)
def test_the_published_files_are_right_by_the_same_checks(name, layout, number):
    found = read_measurements(DATA / "published" / f"{name}.csv")
    assert (found.layout, len(found.records)) == (layout, number)
    assert all(record.keys() == user_data.LAYOUTS[layout].checks.keys() for record in found.records)


def test_ttft_or_tpot_alone_is_enough(tmp_path):
    alone = {key: value for key, value in SILICON.items() if key != "ttft_ms"}
    (tmp_path / "mine.csv").write_text(csv_text(alone))
    assert read_measurements(tmp_path / "mine.csv").records[0]["ttft_ms"] == ""


def test_a_spreadsheets_habits_are_no_mistakes(tmp_path):
    text = csv_text(SILICON).replace("\n", "\r\n")
    (tmp_path / "mine.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    found = read_measurements(tmp_path / "mine.csv").records
    assert found[0]["id"] == "mine-1"
    assert found[0]["source"] == ""  # left out, but there


BAD_FILES = {
    "empty": (b"", ("is empty", "silicon_serving.csv", "serving.csv")),
    "header alone": (",".join(SILICON).encode() + b"\n", ("no rows",)),
    "other columns": (b"a,b\n1,2\n", ("line 1", "'a,b'", "silicon_serving.csv")),
    "semicolons": (b"id;model;tpot_ms\n", ("line 1", "commas")),
    "unknown column": (csv_text(SILICON).replace("tpot_ms", "tpott_ms").encode(), ("'tpott_ms'", "tpot_ms?")),
    "missing column": (
        csv_text({"id": "a", "ttft_ms": "1"}).encode(),
        ("missing", "model", "parallel_or_prefill"),
    ),
    "no figure's column": (
        csv_text({k: v for k, v in SILICON.items() if not k.endswith("_ms")}).encode(),
        ("missing columns ttft_ms or tpot_ms",),
    ),
    "no figure": (
        csv_text(SILICON | {"tpot_ms": "", "ttft_ms": ""}).encode(),
        ("line 2", "ttft_ms or tpot_ms"),
    ),
    "column twice": (csv_text(SERVING).replace("phase", "model").encode(), ("column model", "2 times")),
    "word for a number": (csv_text(SILICON | {"tpot_ms": "fast"}).encode(), ("line 2", "tpot_ms", "'fast'")),
    "zero": (csv_text(SILICON | {"ttft_ms": "0"}).encode(), ("line 2", "ttft_ms", "'0'", "above 0")),
    "negative": (csv_text(SERVING | {"value": "-3"}).encode(), ("line 2", "value", "'-3'")),
    "nan": (csv_text(SILICON | {"tpot_ms": "nan"}).encode(), ("tpot_ms", "'nan'")),
    "infinite": (csv_text(SILICON | {"tpot_ms": "1e999"}).encode(), ("tpot_ms", "'1e999'")),
    "comma for decimals": (csv_text(SILICON | {"tpot_ms": '"21,4"'}).encode(), ("'21,4'", "point")),
    "half a GPU": (csv_text(SILICON | {"gpus": "0.5"}).encode(), ("gpus", "'0.5'", "whole number")),
    "no model": (csv_text(SILICON | {"model": " "}).encode(), ("model", "not empty")),
    "id twice": (csv_text(SILICON, SILICON).encode(), ("line 3", "'mine-1'", "line 2")),
    "too few cells": ((csv_text(SILICON) + "a,b\n").encode(), ("line 3", "2 cells", "13 columns")),
    "not UTF-8": (csv_text(SILICON).encode() + b"\xe9t\xe9\n", ("line 3", "UTF-8", "0xe9")),
    "UTF-16": (csv_text(SILICON).encode("utf-16"), ("line 1", "UTF-8")),
    "binary": (b"\x00" * 200_000, ("line 1", "longer than")),
    "long cell": (
        csv_text(SILICON | {"model": "m" * 5000}).encode(),
        ("line 2", "model", "2,000 characters"),
    ),
    "control characters": (csv_text(SILICON | {"id": "\x1b[2J"}).encode(), ("id", "control")),
    "open quote": ((csv_text(SILICON) + '"a\n').encode(), ("line 3", "CSV")),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_told_in_one_line(name, tmp_path, predictors):
    content, words = BAD_FILES[name]
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    done = validate("--data", path)
    assert isinstance(done.exception, DataError)
    text = str(done.exception)
    assert len(text.splitlines()) == 1
    assert len(text) < 700
    for word in ("mine.csv", *words):
        assert word in text
    assert text.isprintable()


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=re.escape(f"{path}: can't be read")):
            read_measurements(path)


def test_too_many_rows(tmp_path, monkeypatch):
    assert user_data.MAX_ROWS == 1_000_000
    monkeypatch.setattr(user_data, "MAX_ROWS", 2)
    (tmp_path / "mine.csv").write_text(csv_text(*({**SILICON, "id": str(n)} for n in range(3))))
    with pytest.raises(DataError, match="more than 2 rows"):
        read_measurements(tmp_path / "mine.csv")


def test_the_command_refuses_without_a_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "perfmodel", "validate", "--data", tmp_path / "none.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("perfmodel: --data")
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_page_path_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "run_suites", lambda *args, **kwargs: pytest.fail("ran"))
    done = validate("--html", tmp_path / "none" / "page.html")
    assert isinstance(done.exception, DataError)


# the page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def validation(found, **changes):
    values = {
        "rows": tuple(found),
        "above_ceiling": (),
        "suites": ("longcat-theory",),
        "calibrations": ("c-1",),
    }
    return Validation(**(values | changes))


def hostile_rows():
    texts = {
        key: f"{key} {HOSTILE}" for key in ("id", "model", "source", "suite", "quantity", "role", "unit")
    }
    return [row(1, **texts), row(2, **texts | {"id": "x"}, predicted=None, reason=f"reason {HOSTILE}")]


def data_of(text):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found[1])


def test_hostile_text_is_inert():
    text = validation_html(validation(hostile_rows(), above_ceiling=(HOSTILE,)))
    body = text[text.index("<body>") :]
    assert "<script>alert(1)" not in body
    assert "<img" not in body
    assert data_of(text)["rows"][0]["id"] == f"id {HOSTILE}"
    assert "<script" not in hover(hostile_rows()[0])
    script = body[body.rindex("<script>") :]
    assert "innerHTML" not in script
    assert "insertAdjacentHTML" not in script


def test_nothing_is_loaded_from_elsewhere():
    text = validation_html(validation(rows()))
    assert "default-src 'none'" in text
    assert text.count("* plotly.js v") == 1
    head = text[: text.index("<script>")]
    assert "url(" not in head
    assert "@import" not in head
    assert not re.search(r"<(link|img|iframe|script src)", text[text.index("<body>") :])


def test_the_page_says_what_the_summary_says():
    made_up = validation(
        rows(), above_ceiling=("made tpot_s check: worse",), suites=(), data=Path("my data.csv")
    )
    shown = page(made_up)
    assert shown["sentence"].startswith("6 figures of your file my data.csv; perfmodel answers 5 of them")
    assert shown["command"] == "perfmodel validate --data 'my data.csv'"
    line = shown["summary"][0]
    assert (line["median"], line["bias"], line["peer"], line["own"]) == (
        "10.0%",
        "+0.3%",
        "27.5%",
        "10.0% (2)",
    )
    assert shown["unanswered"][0]["reason"] == "load not recorded"
    assert "made tpot_s check: worse" in validation_html(made_up)


def test_figures_hold_the_rows():
    figures = data_of(validation_html(validation(rows())))["figures"]
    points = [trace for trace in figures["scatter"]["data"] if "customdata" in trace]
    assert [trace["name"] for trace in points] == ["made"]
    assert points[0]["customdata"] == [0, 1, 2, 4, 5]
    assert points[0]["y"][0] == 0.022
    assert math.isclose(points[0]["error_y"]["array"][0], 0.004)
    assert [trace["name"] for trace in figures["errors"]["data"]] == ["made", "made: peer"]


def test_same_rows_same_bytes():
    assert validation_html(validation(rows())) == validation_html(validation(rows()))


def test_a_page_without_rows_and_one_with_too_many():
    assert data_of(validation_html(validation([])))["rows"] == []
    pairs = [row(n, quantity=q) for n in range(MAX_ROWS) for q in ("tpot_s", "ttft_s")]
    shown = page(validation(pairs))
    assert shown["sample"] == "5,000 of 10,000 rows"
    assert [line["n"] for line in shown["summary"]] == [MAX_ROWS, MAX_ROWS]
    drawn = json.loads(shown["data"])["rows"]
    share = sum(found["quantity"] == "tpot_s" for found in drawn) / len(drawn)
    assert 0.45 < share < 0.55


def test_numbers_have_their_units():
    figures = ((0.0358, "s"), (0.109, "USD"), (2.3e9, "B/s"), (0.5, "1"), (1240.0, "tokens/s"), (None, "s"))
    texts = ["35.8 ms", "$0.109", "2.30 GB/s", "0.500", "1,240 tokens/s", "-"]
    assert [with_unit(*figure) for figure in figures] == texts
    assert interval_text(row(1, low=0.018, high=0.026)) == "18.0 to 26.0 ms"
    assert interval_text(row(1, low=0.0009, high=0.0011)) == "900 µs to 1.10 ms"
    assert interval_text(row(1, unit="USD", low=0.1, high=0.2)) == "$0.100 to $0.200"
    assert interval_text(row(1)) == ""
    assert [quantity_name(q) for q in ("tpot_s", "dispatch_s", "mfu")] == ["TPOT", "dispatch", "MFU"]


PROBE = """
<pre id="probe"></pre><script>
const at = id => document.getElementById(id);
const tell = () => at("probe").append(JSON.stringify({
  shown: at("shown").textContent,
  ids: Array.from(document.querySelectorAll("#rows tbody tr"), line => line.cells[0].textContent),
  points: at("figure-scatter").data.filter(t => t.customdata).flatMap(t => Array.from(t.customdata)),
  errors: at("figure-errors").data.flatMap(t => Array.from(t.x)).length,
}) + "\\n");
const tick = (facet, value) => document.querySelector(`[data-facet=${facet}] input[value="${value}"]`).click();
const search = words => { at("text").value = words; at("text").dispatchEvent(new Event("input")); };
const sort = name => Array.from(document.querySelectorAll("#rows th button")).find(b => b.textContent === name).click();
tell();
tick("name", "TPOT"); tell();
tick("answer", "answered"); tell();
at("reset").click(); tick("model", "other"); tell();
at("reset").click(); search("ROW-4 not"); tell();
search("recorded"); tell();
at("reset").click(); sort("error"); tell();
</script>"""
"""Uses the page's filters in turn and writes down what it then shows."""


def dom_of(text, tmp_path):
    """The page as chromium has it after its scripts ran; no message on the console."""
    chromium = shutil.which("chromium")
    if chromium is None:
        if required("browser"):
            pytest.fail("no chromium; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium")
    path = tmp_path / "page.html"
    path.write_text(text)
    quiet = ("background-networking", "component-update", "sync", "gpu")
    flags = [f"--disable-{feature}" for feature in quiet]
    flags += ["--headless", "--no-sandbox", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [chromium, *flags, "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


@pytest.mark.browser
def test_filters_really_filter(tmp_path):
    dom = dom_of(validation_html(validation(rows())).replace("</body>", f"{PROBE}</body>"), tmp_path)
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, flags=re.DOTALL)[1]
    start, tpot, answered, other, none, word, by_error = map(json.loads, found.strip().splitlines())
    assert start["shown"].startswith("Shown: 6 of 6 rows, 5 answered; median |error| 10.0%, bias +3.0%")
    assert "inside the 80% interval 66.7% of 3" in start["shown"]
    assert start["points"] == [0, 1, 2]  # one unit at a time
    assert start["errors"] == 5 + 3
    assert tpot["ids"] == ["row-1", "row-2", "row-3", "row-4"]
    assert "4 of 6 rows, 3 answered; median |error| 10.0%, bias +0.3%" in tpot["shown"]
    assert answered["ids"] == ["row-1", "row-2", "row-3"]
    assert other["ids"] == ["row-6"]
    assert other["points"] == [5]  # the chart goes to the only unit that is left
    assert "1 of 6 rows, 1 answered; median |error| 11.0%, bias -11.0%" in other["shown"]
    assert none["ids"] == ["row-4"]  # every word must be there, "not" is in its reason
    assert word["ids"] == ["row-4"]
    assert "1 of 6 rows, 0 answered." in word["shown"]
    assert by_error["ids"] == ["row-5", "row-1", "row-3", "row-2", "row-6", "row-4"]


@pytest.mark.browser
def test_chromium_shows_hostile_rows_as_text(tmp_path):
    dom = dom_of(validation_html(validation([*rows(), *hostile_rows()])), tmp_path)
    body = dom[dom.index("<body>") :]
    assert "<img" not in body
    assert "<script>alert" not in body
    assert "onerror=alert(2)&gt;" in body[body.index('id="rows"') :]
    for name in ("scatter", "errors"):
        assert "main-svg" in body[body.index(f'id="figure-{name}"') :][:2000]


@pytest.mark.browser
def test_the_suite_that_ships_has_a_page(tmp_path):
    done = validate("--suite", "longcat-theory", "--html", tmp_path / "v.html")
    assert done.exit_code == 0
    dom = dom_of((tmp_path / "v.html").read_text(), tmp_path)
    assert len(re.findall(r"<tr>", dom[dom.index('id="rows"') :])) == 22  # 21 rows and their heading


@pytest.mark.browser
def test_nothing_is_cut_on_a_phone(tmp_path):
    """Tables scrolled sideways without a sign of it, menus ended beyond the edge, a legend covered the axis."""
    path = tmp_path / "page.html"
    path.write_text(validation_html(validation(rows())))
    with browser() as chrome:
        opened = chrome.new_page(viewport={"width": 420, "height": 900})
        opened.goto(path.as_uri())
        opened.wait_for_selector("#figure-errors .main-svg")
        widths = "Array.from(document.querySelectorAll('.scroll'), one => one.scrollWidth - one.clientWidth)"
        assert opened.evaluate(widths) == [0, 0]
        assert opened.evaluate("document.documentElement.scrollWidth") == 420
        for facet in opened.query_selector_all("details.facet"):
            facet.query_selector("summary").click()
            box = facet.query_selector(".menu").bounding_box()
            assert 0 <= box["x"] < box["x"] + box["width"] <= 420
        labels = opened.evaluate(
            "Array.from(document.querySelector('#rows tbody tr').cells, one => one.dataset.label)"
        )
        assert all(labels)
        PICTURES.mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=PICTURES / "validation-narrow.png", full_page=True)


def test_the_legend_has_the_suites_that_are_drawn():
    found = dict(page(validation(rows()))["legend"])
    drawn = {row.suite for row in rows() if row.predicted is not None}
    assert drawn <= set(found)
    assert set(found) - drawn == {charts.PEER}
    figure = charts.scatter_chart(rows())
    assert figure.layout.showlegend is False
    assert {trace.name: trace.marker.color for trace in figure.data if trace.customdata is not None} == {
        suite: colour for suite, colour in found.items() if suite in drawn
    }
