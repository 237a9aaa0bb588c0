"""The reference of keys: page and code together, and every key has a meaning."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perfmodel.cli import app
from perfmodel.engines.profile import profile
from perfmodel.errors import SpecError
from perfmodel.output.catalogue.keys import key_rows, key_values, keys_markdown
from perfmodel.spec.keys import key_paths, unknown_key
from perfmodel.spec.reference import keys, meanings
from perfmodel.spec.scenario import Scenario

PAGE = Path(__file__).resolve().parent.parent / "docs" / "scenarios.md"
TABLE = {key.path: key for key in keys()}


def test_page_and_code_agree():
    assert keys_markdown() in PAGE.read_text(), "run: make keys"


def test_every_key_path_is_told_or_lies_in_one_that_is():
    told = set(TABLE)
    for path in key_paths():
        assert path in told or any(path.startswith(f"{one}.") for one in told), path
        key_rows(path)
    assert told <= set(key_paths())


@pytest.mark.parametrize("path", list(TABLE))
def test_every_key_has_a_type_a_meaning_and_where_its_name_says_so_a_unit(path):
    key = TABLE[path]
    assert key.type
    assert key.meaning.endswith((".", ":"))
    assert "``" not in key.meaning
    name = path.rpartition(".")[2]
    if re.search(r"_(us|ms|s|tokens|gb_per_s)$", name) and "number" in key.type:
        assert key.unit


def test_defaults_are_those_of_the_descriptions():
    checked = 0
    for path, key in TABLE.items():
        spec = Scenario
        *sections, name = path.split(".")
        for section in sections:
            spec = getattr(spec.model_fields[section].default, "__class__", None)
            if not hasattr(spec, "model_fields"):
                break
        else:
            field = spec.model_fields.get(name)
            if field is not None and isinstance(field.default, (int, float)):
                assert key.default == json.dumps(field.default) or float(key.default) == field.default
                checked += 1
    assert checked > 40


def test_ranges_and_values_are_in_the_type():
    assert TABLE["deployment.mtp.acceptance"].type == "number from 0 to 1"
    assert TABLE["deployment.slowdown.kernels"].type == "number from 1 to 1,000"
    assert TABLE["serving.policy"].type == "`mixed` or `prefill-first`"
    assert TABLE["workload.turns"].type == "distribution"
    assert TABLE["cluster.node.link_gb_per_s"].default == "required"
    assert TABLE["slo.ttft_ms"].unit == "ms"


def test_engines_defaults_are_their_profiles():
    values = key_values("serving.max_batched_tokens")
    told = {name: text.split()[0] for name, text in values["engines"].items()}
    rules = [rule for rule in profile("vllm").rules if "max_batched_tokens" in rule["set"].get("serving", {})]
    assert told["vllm"] == str(rules[-1]["set"]["serving"]["max_batched_tokens"])
    assert told["sglang, architecture blackwell"] != told["sglang"]
    assert all("https://" in text for text in values["engines"].values())


def test_a_meaning_is_the_string_under_the_field():
    assert meanings(Scenario)["seed"] == "Seed of every random stream."


def test_show_keys():
    run = CliRunner().invoke
    rows = json.loads(run(app, ["show", "keys", "--json"]).stdout)["keys"]
    assert [row["key"] for row in rows] == list(TABLE)
    assert "deployment.batch_per_gpu" in run(app, ["show", "keys", "deployment"]).stdout
    assert (
        json.loads(run(app, ["show", "keys", "workload.turns.mean", "--json"]).stdout)["key"]
        == "workload.turns"
    )
    assert "did you mean deployment.batch_per_gpu" in str(
        run(app, ["show", "keys", "deployment.batch"]).exception
    )
    with pytest.raises(SpecError, match="unknown key"):
        key_rows("nothing.of.it")


def test_a_section_is_told_as_one():
    assert (
        unknown_key("ffns")
        == "ffns: a section; state a key of it: ffns.cluster, ffns.cluster.name, ffns.cluster.gpu, ..."
    )
