"""Measured routing from CSV and Parquet: what is read, what it does to a scenario, and what is said of bad files."""

import json

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError, SpecError
from perfmodel.load import load_scenario
from perfmodel.routing.activation import activation, moments
from perfmodel.spec.model import Moe
from perfmodel.spec.routing_files import read_activation, read_histogram

MOE = Moe(num_experts=4, num_zero_experts=2, top_k=2, ffn_size=8)
BASE = "longcat-flash-h800"


def csv(tmp_path, text, name="routing.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def parquet(path, frame, note=None):
    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    if note is not None:
        table = table.replace_schema_metadata({"perfmodel": json.dumps(note)})
    pyarrow.parquet.write_table(table, path)
    return path


TRACE = "layer,token,expert\n" + "\n".join(
    f"{layer},{token},{expert}"
    for layer, token, expert in [
        (0, 0, 0), (0, 0, 5), (0, 1, 0), (0, 1, 3), (0, 2, 4), (0, 2, 5),
        (1, 0, 1), (1, 0, 2), (1, 1, 1), (1, 1, 3), (1, 2, 1), (1, 2, 4),
    ]
)  # fmt: skip


def test_a_trace_gives_both_popularity_and_activation(tmp_path):
    path = csv(tmp_path, TRACE)
    counts, source = read_histogram(path, MOE)
    assert counts == [[2, 0, 0, 1], [0, 3, 1, 1]]
    assert source == "routing.csv"
    pmf, _ = read_activation(path, MOE)
    assert pmf == [pytest.approx([1 / 3, 1 / 3, 1 / 3]), pytest.approx([0, 1 / 3, 2 / 3])]
    real = sum(k * p for row in pmf for k, p in enumerate(row)) * 3
    assert real == pytest.approx(sum(map(sum, counts)))  # pairs are conserved


def test_parquet_equals_csv_and_layers_may_be_left_out(tmp_path):
    frame = pandas.DataFrame({"expert": [0, 2], "tokens": [5, 7]})
    found, _ = read_histogram(parquet(tmp_path / "p.parquet", frame), MOE)
    assert found == read_histogram(csv(tmp_path, "expert,tokens\n0,5\n2,7\n"), MOE)[0] == [[5, 0, 7, 0]]


def test_a_scenario_takes_files_from_its_own_folder_and_overrides_from_the_shell(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(
        [(layer, e, int(n)) for layer in range(28) for e, n in enumerate(rng.integers(1, 999, 512))],
        columns=["layer", "expert", "tokens"],
    )
    parquet(tmp_path / "popular.parquet", frame)
    numbers = [(layer, k, 10 + layer if k in (4, 12) else 0) for layer in range(28) for k in range(13)]
    parquet(
        tmp_path / "active.parquet", pandas.DataFrame(numbers, columns=["layer", "real_experts", "tokens"])
    )
    (tmp_path / "mine.yaml").write_text(
        f"base: {BASE}\nrouting: {{popularity: histogram, histogram: popular.parquet, activation: active.parquet}}\n"
    )
    found = load_scenario(tmp_path / "mine.yaml")
    assert len(found.routing.histogram) == len(found.routing.activation) == 28
    assert found.mean_real_experts == pytest.approx(8.0)
    assert moments(activation(found.model.moe, found.routing, 8.0))[1] == pytest.approx(4.0)
    answer = answer_step(found)
    assert "routing comes from popular.parquet, active.parquet" in answer.values["warnings"]
    assert answer.values["over_steps"]["imbalance"]["mean"] > 1.1
    monkeypatch.chdir(tmp_path)
    there = load_scenario(BASE, ["routing.activation=active.parquet"])
    assert there.routing.activation == found.routing.activation
    assert there.hash != load_scenario(BASE).hash


def test_a_toy_is_named_as_one(tmp_path):
    frame = pandas.DataFrame({"real_experts": [8], "tokens": [1]})
    path = parquet(tmp_path / "a.parquet", frame, {"toy": True})
    texts = answer_step(load_scenario(BASE, [f"routing.activation={path}"])).values["warnings"]
    assert any("toy model, which supports no claim" in text for text in texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("expert,tokens\n0,1\n1,x\n", r"line 3: tokens = x: must be a whole number"),
        ("expert,tokens\n0,1\n1,-1\n", r"line 3: tokens = -1"),
        ("expert,tokens\n0,1.5\n", r"line 2: tokens = 1.5"),
        ("expert,tokens\n0,\n", r"line 2: tokens = nan"),
        ("expert,tokens\n", "has 0 rows"),
        ("", "can't|can be read"),
        ("expert,count\n0,1\n", "has the columns expert, count; it must have expert and tokens"),
        ("expert,tokens\n0,1,2,3\n", "more fields than the header"),
        ("expert,expert,tokens\n0,1,2\n", "names a column twice"),
        ("layer,token,expert\n0,7,1\n0,7,1\n", "layer 0, token 7 has expert 1 twice"),
        ("expert,tokens\n4,1\n", "expert = 4: this model's go from 0 to 3"),
        ("expert,tokens\n1,1\n1,2\n", "expert 1 stands there twice"),
        ("layer,expert,tokens\n0,1,1\n2,1,2\n", "layer 1 is missing"),
        ("layer,expert,tokens\n99999999,1,1\n", "layer = 99999999: must be from 0 to 511"),
        ("token,expert\n0,6\n", "expert = 6: this model's go from 0 to 5"),
    ],
)
def test_bad_files_say_where_and_what(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_histogram(csv(tmp_path, text), MOE)


def test_columns_that_are_not_used_may_hold_anything(tmp_path):
    counts, _ = read_histogram(csv(tmp_path, "expert,probability,tokens\n0,0.5,3\n"), MOE)
    assert counts == [[3, 0, 0, 0]]


def test_a_layer_without_real_experts_keeps_its_place(tmp_path):
    path = csv(tmp_path, "layer,token,expert\n0,0,1\n1,0,5\n")
    assert read_histogram(path, MOE)[0] == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert read_activation(path, MOE)[0] == [[0, 1, 0], [1, 0, 0]]
    only = csv(tmp_path, "layer,token,expert\n0,0,4\n")
    with pytest.raises(SpecError, match="tokens for 0 experts of a layer, a token wakes up to 12"):
        load_scenario(
            BASE,
            [
                "routing.popularity=histogram",
                f"routing.histogram={csv(tmp_path, 'expert,tokens' + chr(10) + '0,0')}",
            ],
        )
    assert read_histogram(only, MOE)[0] == [[0, 0, 0, 0]]


def test_bad_activation_and_bad_names(tmp_path):
    with pytest.raises(DataError, match="layer 0 has no tokens"):
        read_activation(csv(tmp_path, "real_experts,tokens\n1,0\n"), MOE)
    with pytest.raises(DataError, match=r"must be a file that ends in \.parquet or \.csv"):
        read_activation(tmp_path / "x.json", MOE)
    with pytest.raises(DataError, match="no such file"):
        read_activation(tmp_path / "x.csv", MOE)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_activation(tmp_path / "x.parquet", MOE)
    few = csv(tmp_path, "layer,real_experts,tokens\n0,8,1\n1,8,1\n")
    with pytest.raises(
        SpecError, match=r"routing\.activation has 2 rows, the model's 28 MoE layers need one each"
    ):
        load_scenario(BASE, [f"routing.activation={few}"])
    with pytest.raises(SpecError, match=r"llama-3\.1-70b has no experts"):
        load_scenario(BASE, ["model=llama-3.1-70b", f"routing.activation={few}"])


# --- plain matrices and engines' numbers of layers --------------------------------------------------------------

COUNTS = np.array([[0, 0, 0, 0], [4, 0, 1, 3], [1, 2, 2, 3]])
"""Tokens per layer and expert; the first layer is dense."""


def saved(path, array, **more):
    np.save(path, array, **more)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: saved(folder / "eplb.npy", COUNTS),
        lambda folder: saved(folder / "recorder.npy", np.stack([COUNTS, 0 * COUNTS]).astype(np.int32)),
        lambda folder: csv(folder, "0,0,0,0\n4,0,1,3\n1,2,2,3\n"),
    ],
)
def test_a_matrix_is_tokens_per_layer_and_expert(tmp_path, make):
    rows, source = read_histogram(make(tmp_path), MOE)
    assert rows == [[4, 0, 1, 3], [1, 2, 2, 3]]
    assert source.endswith((".npy", ".csv"))


def test_layers_may_be_numbered_as_the_engine_does(tmp_path):
    long = "layer,expert,tokens\n" + "".join(
        f"{layer},{expert},{COUNTS[layer - 2, expert]}\n" for layer in (3, 4) for expert in range(4)
    )
    assert read_histogram(csv(tmp_path, long), MOE)[0] == COUNTS[1:].tolist()


def test_what_pickles_is_refused_and_what_is_no_matrix(tmp_path):
    for path, says in (
        (saved(tmp_path / "objects.npy", np.array([{}, 1], dtype=object)), "no plain array"),
        (saved(tmp_path / "flat.npy", COUNTS.ravel()), r"has the shape \(12,\)"),
        (saved(tmp_path / "other.npy", COUNTS[:, :3]), "has 3 experts; this model has 4"),
        (saved(tmp_path / "negative.npy", COUNTS - 1), "layer 0, expert 0: must be a number, 0 or above"),
        (saved(tmp_path / "none.npy", 0 * COUNTS), "no expert has any token"),
        (saved(tmp_path / "words.npy", np.array([["a"]])), "plain numbers"),
        (csv(tmp_path, "1,2,3,4\n1,2,x,4\n"), "line 2: must be 4 numbers"),
        (csv(tmp_path, "", "dump.pt"), r"save its counts with numpy first"),
    ):
        with pytest.raises(DataError, match=says):
            read_histogram(path, MOE)
    claims = tmp_path / "claims.npy"
    claims.write_bytes((tmp_path / "flat.npy").read_bytes().replace(b"(12,)", b"(1e9)"))
    with pytest.raises(DataError, match="no plain array"):
        read_histogram(claims, MOE)


def test_a_matrix_in_a_scenario(tmp_path):
    scenario = load_scenario("longcat-flash-h800")
    counts = np.arange(1, 1 + scenario.model.num_layers * 512).reshape(-1, 512)
    path = saved(tmp_path / "counts.npy", counts)
    skewed = load_scenario(
        "longcat-flash-h800", ["routing.popularity=histogram", f"routing.histogram={path}"]
    )
    assert answer_step(skewed).values["step_time_s"] > answer_step(scenario).values["step_time_s"]
