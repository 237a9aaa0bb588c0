"""What ``perfmodel step`` does; :mod:`perfmodel.cli` describes its options."""

from collections.abc import Sequence
from pathlib import Path

from perfmodel.commands.process import print_json
from perfmodel.commands.several import answer_several, lists_values
from perfmodel.output.tell import tell


def run_step(
    scenario: str,
    set_: Sequence[str] | None = None,
    *,
    json: bool = False,
    trace: Path | None = None,
    html: Path | None = None,
    ops: bool = False,
    why: bool = False,
) -> None:
    """Answer one step, or one per combination where ``set_`` lists values.

    Raises:
        PerfModelError: as :func:`perfmodel.answers.step.answer_step`, and what a scenario or a file has wrong.
    """
    if lists_values(set_ or ()):
        answer_several(scenario, set_ or (), "step", json=json, files={"--trace": trace, "--html": html})
        return
    if html is not None:  # before anything is written
        from perfmodel.files import check_writable

        check_writable(html)
    from perfmodel.spec.catalogue import check_scenario

    check_scenario(scenario)
    from perfmodel.load import load_scenario  # which takes longer than to refuse a name

    asked = load_scenario(scenario, set_ or ())
    if html is not None or trace is not None:
        from perfmodel.output.inputs import check_outputs

        check_outputs({"--html": html, "--trace": trace}, [scenario], set_ or ())

    from perfmodel.answers.step import (
        answer_step,  # what only an answer needs is imported once there will be one
    )

    answer = answer_step(asked)
    if trace is not None:
        from perfmodel.output.step.trace import write_trace

        write_trace(answer.step, trace)
    if html is not None:
        from perfmodel.output.step.page import write_step_html

        write_step_html(answer, html)
    if json:
        print_json(answer.values)
    else:
        from perfmodel.output.caveats import print_basis, print_warnings
        from perfmodel.output.step.table import print_step

        print_step(answer, ops=ops)
        print_basis(answer.values, answer.rest, why=why)
        print_warnings(answer.values)
    for path in (trace, html):
        if path is not None:
            tell(f"wrote {path}")
