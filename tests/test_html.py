"""The HTML page of a step: its numbers are the answer's, it needs no network, and a browser shows it."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from oracle_env import required

from perfmodel.answers.step import StepAnswer, answer_step
from perfmodel.errors import DataError
from perfmodel.kernels.calibration import INSIDE
from perfmodel.load import load_scenario
from perfmodel.ops.memory import Memory
from perfmodel.ops.op import OpClass
from perfmodel.output.colours import MEMORY_COLOURS, OP_CLASS_COLOURS, text_on
from perfmodel.output.formats import count, duration, percent, scaled, significant, usd
from perfmodel.output.pages import linked
from perfmodel.output.scenario.reproduce import step_command
from perfmodel.output.step.page import page as page_of
from perfmodel.output.step.page import step_html, write_step_html
from perfmodel.output.step.spans import op_runs
from perfmodel.output.step.windows import _details, exposed_rows, layer_window, op_rows, stage_rows
from perfmodel.spec import catalogue

SCHEDULES = ("sequential", "sbo", "sbo-engine", "tbo")


def answer(*overrides: str, name: str = "longcat-flash-h800") -> StepAnswer:
    return answer_step(load_scenario(name, overrides))


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.numbers: list[tuple[str, float, str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.scripts = 0
        self._data: dict[str, str | None] | None = None
        self._silent = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.scripts += tag == "script"
        if tag in ("script", "style"):
            self._silent = tag
        if tag == "data":
            self._data = dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._silent:
            self._silent = ""

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        self.text.append(data)
        if self._data is not None:
            key, value = self._data.get("data-key") or "", self._data["value"] or ""
            self.numbers.append((key, float(value), data))
            self._data = None


@pytest.fixture(scope="module")
def sbo() -> StepAnswer:
    return answer()


@pytest.fixture(scope="module")
def page(sbo: StepAnswer) -> Page:
    return Page(step_html(sbo))


def at(values: dict[str, Any], path: str) -> Any:
    found: Any = values
    for key in path.split("."):
        found = found[key]
    return found


def test_numbers_are_the_answers(sbo: StepAnswer, page: Page) -> None:
    shown = {key: value for key, value, _ in page.numbers if key}
    for key, value in shown.items():
        assert value == at(sbo.values, key), key
    headline = {"tokens_per_s_per_user", "output_tokens_per_s_per_gpu", "usd_per_million_output_tokens"}
    assert headline | {"step_time_s", "tpot_s", "num_gpus", "overlap_pct"} <= set(shown)
    assert {f"memory_bytes.{name}" for name in sbo.values["memory_bytes"]} <= set(shown)
    parts = [value for key, value, _ in page.numbers if key.startswith("breakdown_s.")]
    assert sum(parts) == pytest.approx(sbo.values["step_time_s"])


UNITS = {"": 1.0, "%": 1.0, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}


def test_numbers_in_words_are_the_numbers(page: Page) -> None:
    for key, value, text in page.numbers:
        match = re.fullmatch(r"\$?([\d,.]+) ?(\D*)", text)
        assert match, text
        said = float(match[1].replace(",", "")) * UNITS[match[2]]
        expected = 100.0 * value if key in ("mfu", "mbu") else value
        assert said == pytest.approx(expected, rel=6e-3), (key, text)


@pytest.mark.parametrize("phase", ["prefill", "mixed"])
def test_phases_show_what_they_have(phase: str) -> None:
    asked = answer(
        f"deployment.phase={phase}",
        "deployment.mtp.draft_tokens=0",
        "deployment.batch_per_gpu=8",
    )
    keys = {key for key, _, _ in Page(step_html(asked)).numbers}
    assert ("tpot_s" in keys) == (phase == "mixed")
    assert {"ttft_s", "input_tokens_per_s_per_gpu"} <= keys
    assert ("usd_per_million_input_tokens" in keys) == (phase == "prefill")


def test_nothing_is_loaded_from_elsewhere(sbo: StepAnswer, page: Page) -> None:
    assert not [
        entry for entry in page.attributes if entry[1] in ("src", "srcset", "action", "data", "poster")
    ]
    assert not [entry for entry in page.attributes if entry[0] == "link"]
    assert all(tag == "a" for tag, name, _ in page.attributes if name == "href")
    policy = next(
        value for tag, name, value in page.attributes if name == "content" and "default-src" in value
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "form-action 'none'" in policy
    text = step_html(sbo)
    assert "sendChartToCloud" not in text[text.index("<body>") :]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_plotly_is_there_once(sbo: StepAnswer) -> None:
    assert step_html(sbo).count("* plotly.js v") == 1


def test_same_answer_same_bytes(sbo: StepAnswer) -> None:
    assert step_html(sbo) == step_html(answer())


def test_hostile_title_is_text() -> None:
    text = step_html(answer("title='</title><script>alert(1)</script>'"))
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_links_end_where_the_address_does() -> None:
    assert linked("see https://a.b/c; <d>") == (
        'see <a href="https://a.b/c" rel="noopener noreferrer">https://a.b/c</a>; &lt;d&gt;'
    )


def test_missing_folder(sbo: StepAnswer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        write_step_html(sbo, tmp_path / "missing" / "step.html")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_layer_window_shows_a_middle_layer_in_full(schedule: str) -> None:
    step = answer(f"deployment.overlap={schedule}").step
    runs = op_runs(step, 0)
    window = layer_window(step.segments, runs)
    places = {run.place for run in window.runs if not window.neighbour(run)}
    assert places == ({"layer 13", "layer 14"} if schedule == "tbo" else {"layer 13"})
    assert {run.launch.micro_batch for run in window.runs} == ({0, 1} if schedule == "tbo" else {0})
    length_us = (window.end_s - window.start_s) * 1e6
    for row in (
        *op_rows(window, 1e-6, detailed=True),
        *stage_rows(window, 1e-6),
        *exposed_rows(window, 1e-6),
    ):
        assert row["start"] >= 0
        assert row["start"] + row["duration"] <= length_us + 1e-3
    lanes: dict[str, float] = {}
    for row in sorted(stage_rows(window, 1e-6), key=lambda row: row["start"]):
        assert row["start"] >= lanes.get(row["lane"], 0.0) - 1e-3  # strips never cover each other
        lanes[row["lane"]] = row["start"] + row["duration"]


def test_stages_are_the_reports(sbo: StepAnswer) -> None:
    window = layer_window(sbo.step.segments, op_runs(sbo.step, 0))
    assert [row["label"] for row in stage_rows(window, 1e-6)] == ["stage 1", "stage 2", "stage 3", "stage 4"]
    hover = " ".join(row["hover"] for row in op_rows(window, 1e-6, detailed=True))
    for word in ("GFLOP", "MB HBM", "bound by", "MFU", "MBU", "source:"):
        assert word in hover


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["deployment.batch_per_gpu=64", "deployment.mtp.acceptance=0.75", "seed=3"],
        ["prices=h100-on-demand-median", "cluster=h100-ib", "deployment.overlap=tbo"],
        ["cluster.network.gb_per_s_per_gpu=25", "deployment.precision.kv_cache=fp8"],
        ["model=deepseek-v3", "deployment.overlap=tbo", "deployment.contention=false"],
        ["deployment.attention_dp=4", "deployment.ep=4", "routing.rank_loads=[0.5, 1.5, 1, 1]"],
    ],
)
def test_command_gives_the_same_scenario(overrides: list[str]) -> None:
    scenario = load_scenario("longcat-flash-h800", overrides)
    command, is_exact = step_command(scenario)
    assert is_exact
    program, verb, name, *rest = shlex.split(command)
    assert (program, verb) == ("perfmodel", "step")
    assert rest[::2] == ["--set"] * (len(rest) // 2)
    assert load_scenario(name, rest[1::2]).hash == scenario.hash


def test_command_says_when_it_can_not_be_exact(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: longcat-flash-h800\ndeployment: {batch_per_gpu: 32}\n")
    assert step_command(load_scenario(path)) == ("perfmodel step mine.yaml", False)


def test_numbers_for_people() -> None:
    assert [significant(x) for x in (5093.3, 35.81, 0.10907, 9.996, 99.96, 999.6, 0.0, None)] == [
        "5,093", "35.8", "0.109", "10.0", "100", "1,000", "0", "-",
    ]  # fmt: skip
    assert [duration(x) for x in (1.2, 0.0358, 4.76e-6, 0.0, None)] == [
        "1.20 s",
        "35.8 ms",
        "4.76 µs",
        "0 µs",
        "-",
    ]
    assert [scaled(x, "B") for x in (84943110144, 512.0, 3e13)] == ["84.9 GB", "512 B", "30.0 TB"]
    assert [percent(x) for x in (0.664, 0.0001, 0.0, 1.2)] == ["66.4%", "<0.1%", "0.0%", "120.0%"]
    assert [usd(0.109), usd(12.34), count(96.0), count(128), count(0.5)] == [
        "$0.109",
        "$12.3",
        "96",
        "128",
        "0.5",
    ]


def test_every_class_has_a_colour_of_its_own(sbo: StepAnswer) -> None:
    assert set(OP_CLASS_COLOURS) == set(OpClass)
    assert len(set(OP_CLASS_COLOURS.values())) == len(OpClass)
    assert set(MEMORY_COLOURS) == {part.name for part in fields(Memory)}
    assert set(MEMORY_COLOURS) - set(sbo.values["memory_bytes"]) == {"states"}, "of models that have any"
    assert (text_on("#0072B2"), text_on("#F0E442")) == ("#FFFFFF", "#000000")


def test_plotly_is_imported_only_when_a_page_is_made() -> None:
    code = (
        "import sys, perfmodel.output.step.page, perfmodel.output.charts.timeline; "
        "print('plotly' in sys.modules or 'jinja2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.browser
@pytest.mark.parametrize("schedule", ["sbo", "tbo"])
def test_chromium_draws_it_without_an_error(schedule: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        if required("browser"):
            pytest.fail("no chromium; PERFMODEL_REQUIRE demands it")
        pytest.skip("no chromium")
    path = tmp_path / "step.html"
    write_step_html(answer(f"deployment.overlap={schedule}"), path)
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
    dom = done.stdout
    for name in ("layer", "step", "breakdown", "memory"):
        drawn = dom[dom.index(f'id="figure-{name}"') :][:2000]
        assert "main-svg" in drawn, name
    assert dom.count('class="point"') > 1000  # bars: every op of the step is drawn


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_every_scenario_of_the_catalogue_has_a_page(name: str) -> None:
    asked = answer(name=name)
    shown = {key: value for key, value, _ in Page(step_html(asked)).numbers if key}
    assert shown["step_time_s"] == asked.values["step_time_s"]


def test_layers_that_differ_show_the_middle_one_and_their_stages_summed_up(capsys) -> None:
    from perfmodel.output.step.table import print_step

    means = [6.0, 10.0] * 14
    unlike = answer(f"routing.layer_means={means}")
    assert "Layer 13:" in step_html(unlike)
    print_step(unlike)
    lines = [line for line in capsys.readouterr().out.splitlines() if "layers: stage" in line]
    assert len(lines) == 4
    assert all(" 28 " in line for line in lines)


def test_parts_of_a_measured_module_have_no_utilisation_of_their_own() -> None:
    """Their work is in the module's time; over their own gap in a graph MFU and MBU came out as 306 and 1,436 %."""
    answer = answer_step(load_scenario("deepseek-v3-h800"), over_steps=False)
    inside = [row for row in answer.values["ops"] if row["source"].startswith(INSIDE)]
    others = [row for row in answer.values["ops"] if row not in inside and row["stream"] == "compute"]
    assert {"attention0.o", "experts.act"} <= {row["name"] for row in inside if row["time_s"]}
    assert {(row["mfu"], row["mbu"]) for row in inside} == {(None, None)}
    assert all(row["mbu"] is not None for row in others)
    shown = {op["name"]: [text for _, text in op["numbers"][-2:]] for op in page_of(answer)["ops"]}
    assert shown["attention0.o"] == ["", ""]
    assert all(shown["ffn0.gate_up"])
    runs = {run.launch.name: run for run in op_runs(answer.step, 0)}
    assert "MFU" not in " ".join(_details(runs["attention0.o"]))
    assert "MFU" in " ".join(_details(runs["ffn0.gate_up"]))


@pytest.mark.parametrize(
    ("name", "overrides", "marks"),
    [
        ("longcat-flash-h800", [], ""),
        ("longcat-flash-h800", ["deployment.overlap=tbo"], "hatched neighbouring layers"),
        ("longcat-flash-h800", ["deployment.phase=prefill"], "of the host are its launches"),
        ("deepseek-v3-h800", [], "hatched neighbouring layers"),
        (
            "deepseek-v3-h800",
            ["deployment.phase=prefill"],
            "hatched neighbouring layers of the host are its launches",
        ),
    ],
)
def test_pale_and_hatched_bars_are_explained_where_there_are_any(name, overrides, marks) -> None:
    """The page spoke of pale ops under two-batch overlap alone, whether there were any or not."""
    found = answer_step(load_scenario(name, overrides), over_steps=False)
    figure = page_of(found)
    text = re.sub(r"<[^>]+>", "", step_html(found))
    sentence = text[text.index("Streams run side by side") - 400 : text.index("Streams run side by side")]
    for part in ("hatched", "neighbouring layers", "of the host are its launches"):
        assert (part in sentence) is (part in marks), part
    drawn = figure["figures"]["layer"]
    assert ('"opacity":[' in drawn) is ("layers" in marks or "host" in marks)
