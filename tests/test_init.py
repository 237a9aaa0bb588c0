"""perfmodel init: a commented scenario that runs, for every model of the catalogue; what it refuses; show --yaml and
errors as JSON.
"""

import json
import re

import pytest
from command import run_here

from perfmodel.errors import InfeasibleError, SpecError
from perfmodel.explore.first import Ask, first_scenario, parse_gpus
from perfmodel.load import load_scenario
from perfmodel.ops.limits import limits, runs
from perfmodel.output.scenario.first import first_text, parse_slo
from perfmodel.output.scenario.stated import scenario_text
from perfmodel.spec import catalogue
from perfmodel.spec.keys import key_paths

GPUS = {"kimi-k2": "16xh200", "longcat-2.0": "32xh200", "longcat-flash": "16xh100", "deepseek-v3": "8xh200"}
"""Where eight H100 do not hold the model."""


@pytest.mark.parametrize("model", catalogue.names("models"))
def test_every_model_of_the_catalogue_gets_a_scenario_that_runs(model, tmp_path):
    if catalogue.model(model).unmodelled:
        pytest.skip(str(catalogue.model(model).unmodelled))
    asked = GPUS.get(model, "8xh100")
    done = run_here(
        "perfmodel", "init", model, "--gpus", asked, "--engine", "vllm", "--osl", "64", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.yaml")
    scenario = load_scenario(str(file))
    assert scenario.fleet_gpus == int(asked.partition("x")[0])
    assert (scenario.deployment.engine, scenario.model.name) == ("vllm", model)
    assert runs(scenario)
    assert scenario.deployment.batch_per_gpu <= limits(scenario).fits
    answer = run_here("perfmodel", "step", file, "--json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["step_time_s"] > 0
    text = file.read_text()
    for key in re.findall(r"^  (\w+):", text, flags=re.MULTILINE):
        assert any(path.endswith(f".{key}") for path in key_paths()), key
    assert re.search(r"batch_per_gpu: .* # .* largest: ", text)


def test_the_file_is_what_its_command_writes_again_and_serves(tmp_path):
    words = ["gpt-oss-120b", "--gpus", "2xh100", "--engine", "vllm==0.15.1", "--isl", "200", "--osl", "20",
             "--users", "6", "--slo", "ttft_ms=500", "--usd-per-gpu-hour", "3.5", "--out", "mine.yaml"]  # fmt: skip
    done = run_here("perfmodel", "init", *words, folder=tmp_path)
    assert "next: perfmodel step mine.yaml" in done.stdout
    text = (tmp_path / "mine.yaml").read_text()
    command = re.search(r"^#   perfmodel (.*)$", text, flags=re.MULTILINE)[1].split()
    (tmp_path / "mine.yaml").unlink()
    assert run_here("perfmodel", *command, folder=tmp_path).returncode == 0
    assert (tmp_path / "mine.yaml").read_text() == text
    again = run_here("perfmodel", "init", *words, folder=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert "is there already" in again.stderr
    found = json.loads(run_here("perfmodel", "serve", tmp_path / "mine.yaml", "--json").stdout)
    scenario = load_scenario(str(tmp_path / "mine.yaml"))
    assert (found["requests"], scenario.workload.max_concurrency) == (64, 6)
    assert scenario.prices.usd_per_gpu_hour == 3.5
    assert scenario.deployment.engine_version == "0.15.1"
    assert scenario.slo.ttft_ms == 500


def test_servers_of_a_node_where_the_model_fits_and_wider_ones_where_not():
    llama = first_scenario(Ask("llama-3.1-70b", "16xh100", "vllm")).scenario
    assert (llama.serving.replicas, llama.deployment.attention_tp) == (2, 8)
    deepseek = first_scenario(Ask("deepseek-v3", "16xh100", "vllm")).scenario
    assert (deepseek.serving.replicas, deepseek.deployment.attention_dp, deepseek.deployment.ep) == (
        1,
        16,
        16,
    )
    rack = first_scenario(Ask("deepseek-v3", "72xgb200", "trtllm")).scenario
    assert rack.fleet_gpus == 72


def test_formats_that_are_published_too_where_the_checkpoints_do_not_fit():
    first = first_scenario(Ask("longcat-flash", "16xh100", "sglang"))
    assert first.scenario.deployment.precision.experts == "fp8"
    assert any("published" in note for note in first.notes)


def test_a_config_of_ones_own(tmp_path):
    source = catalogue.DATA / "models" / "qwen3-30b-a3b.json"
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_bytes(source.read_bytes())
    done = run_here("perfmodel", "init", folder, "--gpus", "1xh200", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert load_scenario(str(tmp_path / found["file"])).model.num_layers == 48
    assert any("no engine is named" in note for note in found["notes"])


def test_gpus_without_a_price_cost_gpu_hours():
    first = first_scenario(Ask("qwen3-30b-a3b", "8xb300", "vllm"))
    assert first.scenario.prices.usd_per_gpu_hour == 1
    assert any("no price" in note for note in first.notes)
    assert "yours" in first_text(first, "perfmodel init")
    priced = first_scenario(Ask("qwen3-30b-a3b", "8xb300", "vllm", usd_per_gpu_hour=5))
    assert not any("no price" in note for note in priced.notes)


@pytest.mark.parametrize(
    ("text", "found"),
    [("16xh100", (16, "h100-ib")), ("8 x H200", (8, "h200-ib")), ("gb200", (4, "gb200-nvl72")),
     ("2xh800-sxm", (2, "h800-ib")), ("16xb200-ib", (16, "b200-ib"))],
)  # fmt: skip
def test_gpus_in_words(text, found):
    assert parse_gpus(text) == found


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"gpus": "8xh1000"}, "no GPU h1000; did you mean h100"),
        ({"gpus": "many"}, "no GPU many"),
        ({"gpus": "8"}, "must be NUMBERxGPU"),
        ({"gpus": "0xh100"}, "must be 1 to"),
        ({"gpus": "12xh100"}, "nodes of h100-ib have 8 GPUs"),
        ({"model": "deepseek-ai/DeepSeek-V3"}, "did you mean deepseek-v3"),
        ({"engine": "tgi"}, "engine = 'tgi': must be one of"),
        ({"users": 4, "request_rate": 2.0}, "give one of the two"),
        ({"users": 0}, "--users 0: must be at least 1"),
        ({"request_rate": -1.0}, "--rate -1: must be above 0"),
        ({"input_tokens": 200_000}, "has positions for"),
    ],
)
def test_what_is_refused(ask, message):
    with pytest.raises(SpecError) as raised:
        first_scenario(Ask(**{"model": "qwen3-30b-a3b", "gpus": "8xh100", **ask}))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("model", "gpus", "engine"),
    [("kimi-k2", "1xh100", "vllm"), ("deepseek-v3", "8xh100", "sglang"), ("longcat-2.0", "8xh200-ib", "")],
)
def test_how_many_gpus_would_be_enough(model, gpus, engine):
    with pytest.raises(InfeasibleError) as raised:
        first_scenario(Ask(model, gpus, engine))
    said = str(raised.value)
    enough = re.search(r"\((\d+) would: --gpus (\1x[\w-]+)\): does not fit: ", said)
    assert enough, said
    assert first_scenario(Ask(model, enough[2], engine)).scenario.fleet_gpus == int(enough[1])
    assert int(enough[1]) > int(gpus.partition("x")[0])


def test_what_does_not_fit_and_odd_limits():
    with pytest.raises(InfeasibleError, match="no layout holds it"):
        first_scenario(Ask("kimi-k2", "1xh100", "vllm"))
    for text in ("ttft=5", "ttft_ms=soon", "ttft_ms=-1"):
        with pytest.raises(SpecError, match="must be KEY=MILLISECONDS"):
            parse_slo([text])


@pytest.mark.parametrize("name", catalogue.names("scenarios"))
def test_what_show_prints_can_be_fed_back(name, tmp_path):
    file = tmp_path / "again.yaml"
    file.write_text(scenario_text("scenarios", name))
    assert load_scenario(str(file)).hash == load_scenario(name).hash
    with pytest.raises(SpecError, match="belongs to show scenarios"):
        scenario_text("gpus", name)


def test_errors_are_json_where_json_is_asked(tmp_path):
    done = run_here("perfmodel", "step", "nothing", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert json.loads(done.stderr)["error"]["kind"] == "spec"
    done = run_here("perfmodel", "init", "kimi-k2", "--gpus", "1xh100", "--json", folder=tmp_path)
    told = json.loads(done.stderr)["error"]
    assert (done.returncode, told["exit_code"], told["kind"]) == (3, 3, "infeasible")
    assert "does not fit" in told["message"]
    assert run_here("perfmodel", "step", "nothing").stderr.startswith("perfmodel: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("step", "--bogus"), "No such option: --bogus"),
        (("stepp",), "No such command 'stepp'"),
        (("step",), "Missing argument 'scenario'"),
        (("serve", "longcat-flash-h800", "--workers", "x"), "Invalid value for '--workers'"),
    ],
)
def test_a_line_that_cannot_be_read_is_told_in_one(arguments, message):
    done = run_here("perfmodel", *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"perfmodel: {message}")
    assert "--help" in done.stderr
    done = run_here("perfmodel", *arguments, "--json")
    told = json.loads(done.stderr)["error"]
    assert (done.returncode, told["exit_code"], told["kind"]) == (2, 2, "usage")
    assert message in told["message"]
