"""Command lines that are read without typer: what they ask for is what typer reads in them."""

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.main import get_command

from perfmodel import cli
from perfmodel.commands.plain import COMMANDS, plainly_asked
from perfmodel.commands.show import run_show
from perfmodel.commands.step import run_step

TYPED = get_command(cli.app)
RUN = {"step": run_step, "show": run_show}
WORDS = st.one_of(
    st.sampled_from(
        ["--json", "--ops", "--why", "--yaml", "--set", "--html", "--help", "-h", "--", "-", "--jso"]
    ),
    st.sampled_from(
        ["models", "longcat-flash-h800", "a=1", "a=-1", "--set=a=1", "", "a b", "ü", "a\nb", "\udc80"]
    ),
    st.text(st.characters(codec="ascii"), max_size=4),
)


@settings(max_examples=400, deadline=None)
@given(command=st.sampled_from(sorted(COMMANDS)), words=st.lists(WORDS, max_size=6))
def test_typer_reads_the_same(command, words):
    asked = plainly_asked([command, *words])
    if asked is None:
        return
    context = TYPED.commands[command].make_context(command, list(words))
    assert asked == (command, {key: value for key, value in context.params.items() if value})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_without_a_file_is_plain_and_has_one_default(command):
    options = {word: one for one in TYPED.commands[command].params for word in one.opts}
    plain = COMMANDS[command]
    files = {"--trace", "--html", "--help", "-h"}
    assert {word for word in options if word.startswith("-")} - files == {*plain.flags, *plain.texts}
    wanted = inspect.signature(RUN[command]).parameters
    for one in TYPED.commands[command].params:
        if one.name != "help":
            assert not (
                None if wanted[one.name].default is inspect.Parameter.empty else wanted[one.name].default
            )


@pytest.mark.parametrize(
    "line",
    ["", "--help", "step", "step --help", "step a b", "step a --set", "step a --set --json",
     "step a --ops=1", "step a --jso",
     "serve a", "show", "show a b c", "show models -h", "step a --html b", "step -- a", "step ü", "--version"],
)  # fmt: skip
def test_what_is_not_plain_is_typers(line):
    assert plainly_asked(line.split()) is None


def test_a_plain_line():
    line = "step a --set b=1 --json --set c=2,3"
    assert plainly_asked(line.split()) == ("step", {"scenario": "a", "set_": ["b=1", "c=2,3"], "json": True})


def test_completion_is_typers(monkeypatch):
    monkeypatch.setenv("_PERFMODEL_COMPLETE", "complete_bash")
    assert plainly_asked(["step", "a"]) is None
