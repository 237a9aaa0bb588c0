"""Every constant of an engine is told, wherever the engine is."""

import pytest

from dashboard.trusted import _engine
from perfmodel.answers.constants import FRONT_END_WORDS, HOST_WORDS, engine_constants
from perfmodel.answers.step import answer_step
from perfmodel.load import load_scenario
from perfmodel.report.assumptions import assumptions
from perfmodel.spec.host import Host
from perfmodel.spec.serving import FrontEnd

MAIN = "longcat-flash-h800"


def test_every_number_of_host_and_front_end_has_words():
    """A constant that is added gets words, or this fails."""
    host = {
        name for name, field in Host.model_fields.items() if field.default == 0.0 and name != "asynchronous"
    }
    front = {name for name, field in FrontEnd.model_fields.items() if field.default == 0.0}
    assert host == set(HOST_WORDS)
    assert front == set(FRONT_END_WORDS)


FIGURES = [
    *((f"deployment.host.{key}", number, f"{number} us") for number, key in enumerate(HOST_WORDS, start=11)),
    *(
        (f"serving.front_end.{key}", number / 1e3, f"{number} ms")
        for number, key in enumerate(FRONT_END_WORDS, 21)
    ),
    ("serving.front_end.servers", 31, "31 server processes"),
    ("serving.front_end.stream_interval", 32, "every 32 tokens"),
]


def test_report_and_dashboard_tell_each_of_them():
    scenario = load_scenario(MAIN, [f"{path}={value}" for path, value, _ in FIGURES])
    (told,) = [row["value"] for row in assumptions(answer_step(scenario), None) if row["what"] == "engine"]
    for text in (told, _engine(scenario)):
        assert all(words in text for _, _, words in FIGURES), text
        assert "not counted" not in text


@pytest.mark.parametrize("engine", ["sglang", "vllm", "trtllm"])
def test_what_is_at_zero_is_named_as_not_counted(engine):
    scenario = load_scenario(MAIN, [f"engine={engine}"])
    text = "; ".join(engine_constants(scenario))
    for key, (words, name) in HOST_WORDS.items():
        assert (words in text) is bool(getattr(scenario.deployment.host, key))
        assert (name in text.partition("not counted: ")[2]) is not bool(
            getattr(scenario.deployment.host, key)
        )
