"""Lists of `show`: rows that are kept are those that are counted, and a plain table is what rich prints."""

import io
import json
import shutil
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.output.catalogue import kept
from perfmodel.output.catalogue.models import model_rows
from perfmodel.output.catalogue.table import KINDS, list_values, plain_table, print_list


def by_rich(title, rows, monkeypatch):
    """What rich prints into a pipe: a cell that only it can print makes it print the table."""
    out = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr("perfmodel.output.catalogue.table.plain_table", lambda *_: None)
        print_list(title, rows)
    return out.getvalue()


def test_kept_rows_are_the_counted_ones():
    assert kept.kept_rows() == model_rows(), "models or families have changed: make model-rows"
    assert list_values("models") == model_rows()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    for folder in kept.SOURCES:
        shutil.copytree(kept.DATA / folder, tmp_path / folder)
    shutil.copy(kept.FILE, tmp_path)
    monkeypatch.setattr(kept, "DATA", tmp_path)
    monkeypatch.setattr(kept, "FILE", tmp_path / kept.FILE.name)
    assert kept.kept_rows() is not None
    return tmp_path


def longer(path):
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: longer(folder / "models" / "deepseek-v3.json"),
        lambda folder: longer(folder / "families" / "common.yaml"),
        lambda folder: (folder / "families" / "new.yaml").touch(),
        lambda folder: (folder / "models" / "index.yaml").unlink(),
        lambda folder: (folder / "models" / "glm-5.json").rename(folder / "models" / "glm-6.json"),
        lambda folder: (folder / "model_rows.json").unlink(),
        lambda folder: (folder / "model_rows.json").write_text("[]"),
        lambda folder: (folder / "model_rows.json").write_text(json.dumps({"rows": []})),
        lambda folder: (folder / "model_rows.json").write_text("{"),
    ],
)
def test_of_other_files_nothing_is_kept(copied, change):
    change(copied)
    assert kept.kept_rows() is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("calibrations", "traces")])
def test_a_plain_table_is_what_rich_prints(kind, monkeypatch):
    rows = list_values(kind)
    found = plain_table(kind, rows)
    assert found in (None, by_rich(kind, rows, monkeypatch))
    if kind in ("models", "gpus", "clusters"):
        assert found is not None


CELLS = st.one_of(
    st.text(st.characters(codec="ascii"), max_size=30),
    st.text(st.sampled_from("ab :[]\\/-"), max_size=60),
    st.sampled_from([":smile:", "a :warning: b", "[bold]x", "\\[x]", "é", "日本", "a\tb"]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
)
NAMES = st.text(st.characters(codec="ascii"), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(title=st.text(st.sampled_from("abc "), min_size=1, max_size=12), data=st.data())
def test_any_plain_table_is_what_rich_prints(title, data):
    names = data.draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    row = st.fixed_dictionaries(dict.fromkeys(names, CELLS))
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    found = plain_table(title, rows)
    if found is not None:
        with pytest.MonkeyPatch.context() as patch:
            assert found == by_rich(title, rows, patch)


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_that_are_asked_for_are_richs(name, monkeypatch):
    rows = [{"name": "a"}]
    assert plain_table("names", rows) is None  # wider than its columns
    assert plain_table("name", rows) is not None
    monkeypatch.setenv(name, "1")
    assert plain_table("name", rows) is None
