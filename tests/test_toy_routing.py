"""The toy files: what the tiny model, trained for a few steps on Python's help topics, routes where."""

import csv
import json
import math

import numpy as np
import pytest
from test_reference_env import NO_TORCH, has_torch

if not has_torch():
    pytest.skip(NO_TORCH, allow_module_level=True)

import torch

from calibrate.device import toy_routing
from calibrate.device.toy_routing import (
    LENGTH,
    TOY,
    ByteText,
    Observed,
    help_topics,
    observe,
    train_toy,
    unigram_entropy,
    write,
)
from perfmodel import __version__
from perfmodel.answers.step import answer_step
from perfmodel.errors import DataError
from perfmodel.load import load_scenario
from reference_model.training import fit, new_model

SHARE = 0.01
"""Of the text, for a short evaluation."""


@pytest.fixture(scope="module")
def toy():
    return train_toy(steps=12, seed=3, held_out=SHARE)


def test_training_brings_loss_and_real_experts_nearer(toy):
    assert toy.after.loss < toy.before.loss - 1.0
    assert toy.before.mean_real < 1.2
    assert 2.0 < toy.after.mean_real < 5.5
    assert 2.0 < toy.unigram < math.log(256)


def test_tokens_are_conserved(toy):
    """Each token counts once per layer, and its real experts are those that its pairs fell on."""
    held_out = len(help_topics()) - round(len(help_topics()) * (1 - SHARE))
    for one in (toy.before, toy.after):
        assert len(one.popularity) == len(one.activation) == TOY.num_layers
        for loads, counts in zip(one.popularity, one.activation, strict=True):
            assert len(loads) == TOY.n_routed_experts
            assert len(counts) == TOY.moe_topk + 1
            assert sum(counts) == held_out // (LENGTH + 1) * LENGTH
            assert sum(k * tokens for k, tokens in enumerate(counts)) == sum(loads)
    assert toy.before != toy.after


def test_parquet_files_say_that_they_are_toys(toy, tmp_path):
    import pyarrow.parquet as pq

    popularity, activation = write(toy, tmp_path / "x.parquet")
    assert (popularity.name, activation.name) == ("x-popularity.parquet", "x-activation.parquet")
    for path, column, counts in (
        (popularity, "expert", toy.after.popularity),
        (activation, "real_experts", toy.after.activation),
    ):
        table = pq.read_table(path)
        assert table.column_names == ["layer", column, "tokens"]
        assert {str(kind) for kind in table.schema.types} == {"int64"}
        layers, values = table["layer"].to_numpy(), table[column].to_numpy()
        grid = np.full(np.shape(counts), -1)
        grid[layers, values] = table["tokens"].to_numpy()
        assert (grid == np.array(counts)).all()
        assert len(layers) == grid.size
        said = json.loads(table.schema.metadata[b"perfmodel"])
        assert said["kind"] == path.stem.removeprefix("x-")
        assert said["toy"] is True
        assert (said["num_experts"], said["top_k"], said["steps"], said["seed"]) == (16, 6, 12, 3)
        assert said["perfmodel"] == __version__
        assert "pydoc_data.topics" in said["text"]
    assert not list(tmp_path.glob(".*"))


def test_csv_has_the_same_rows_and_toy_in_its_name(toy, tmp_path):
    path, _ = write(toy, tmp_path / "my-toy.csv")
    with path.open() as file:
        header, *rows = csv.reader(file)
    assert path.name == "my-toy-popularity.csv"
    assert header == ["layer", "expert", "tokens"]
    assert [int(row[2]) for row in rows] == [n for loads in toy.after.popularity for n in loads]


def test_the_same_seed_gives_the_same_files_and_the_process_keeps_its_threads():
    threads = torch.get_num_threads()
    first, again, other = (train_toy(steps=2, seed=seed, held_out=SHARE) for seed in (1, 1, 2))
    assert first.after == again.after
    assert first.after != other.after
    assert torch.get_num_threads() == threads


def test_the_controller_of_the_training_is_on():
    model = new_model(TOY)
    text = ByteText(help_topics(), 0)
    assert observe(model, text.batch(2, 33)).mean_real < 1.5
    before = [module.bias_Z.clone() for module in model.modules() if hasattr(module, "bias_Z")]
    fit(model, text, steps=1, sequences=2, length=32)
    after = [module.bias_Z for module in model.modules() if hasattr(module, "bias_Z")]
    assert len(before) == TOY.num_layers
    for old, new in zip(before, after, strict=True):
        assert (new[:16] > old[:16]).any()
        assert (new[16:] == old[16:]).all()


def test_text_and_entropy_by_hand():
    text = ByteText(bytes(range(10)), 0)
    assert text.in_order(4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    batch = text.batch(50, 3)
    assert (batch[:, 1:] - batch[:, :-1] == 1).all()
    assert set(batch[:, 0].tolist()) == set(range(8))
    assert unigram_entropy(b"aabc") == pytest.approx(1.5 * math.log(2))


def test_moments_by_hand():
    one = Observed(0.0, ((1, 3), (2, 2)), ((1, 0, 2), (0, 2, 1)))
    assert one.mean_real == pytest.approx(8 / 6)
    assert one.std_real == pytest.approx((14 / 6 - (8 / 6) ** 2) ** 0.5)
    assert one.busiest == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy.json", r"must be \.parquet or \.csv"),
        ("routing.csv", "must contain toy"),
        ("missing/toy.parquet", "does not exist"),
    ],
)
def test_a_bad_place_is_refused_before_training(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy_routing, "train_toy", lambda *_: pytest.fail("trained first"))
    monkeypatch.setattr("sys.argv", ["toy_routing", "--out", str(tmp_path / name)])
    with pytest.raises(SystemExit):
        toy_routing.main()
    printed = capsys.readouterr().err
    assert message.replace("\\", "") in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"seed": -2}, "seed is -2"),
        ({"held_out": 0.0}, "held_out is 0.0"),
        ({"held_out": 1.0}, "held_out is 1.0"),
    ],
)
def test_bad_training(arguments, message):
    with pytest.raises(DataError, match=message):
        train_toy(**arguments)


def test_the_command_writes_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["toy_routing", "--out", str(tmp_path / "toy.parquet"), "--steps", "0"])
    short = train_toy(steps=0, held_out=SHARE)
    monkeypatch.setattr(toy_routing, "train_toy", lambda steps, seed: short)
    toy_routing.main()
    printed = capsys.readouterr().out
    assert "TOY: 0 steps" in printed
    assert str(tmp_path / "toy-activation.parquet") in printed


def test_the_simulator_reads_them(toy, tmp_path):
    """A step of the toy's shape on four ranks has the toy's activation and popularity, and says that it is a toy."""
    popularity, activation = write(toy, tmp_path / "toy.parquet")
    shape = {
        "num_layers": TOY.num_layers,
        "n_routed_experts": TOY.n_routed_experts,
        "zero_expert_num": TOY.zero_expert_num,
        "moe_topk": TOY.moe_topk,
    }
    answer = answer_step(
        load_scenario(
            "reference-cpu",
            [
                *(f"model.{key}={value}" for key, value in shape.items()),
                *("routing.popularity=histogram", f"routing.histogram={popularity}"),
                *(f"routing.activation={activation}", "deployment.attention_dp=4", "deployment.ep=4"),
            ],
        )
    )
    assert answer.values["real_experts"]["mean"] == pytest.approx(toy.after.mean_real)
    by_rank = np.array(toy.after.popularity).reshape(TOY.num_layers, 4, -1).sum(axis=2)
    explained = (by_rank.max(axis=1) / by_rank.mean(axis=1)).mean()
    assert answer.values["over_steps"]["imbalance"]["mean"] >= explained * 0.97  # chance comes on top
    assert any("toy" in text for text in answer.values["warnings"])
