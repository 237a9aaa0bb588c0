"""``perfmodel experts``: the same step with other numbers of zero-computation experts."""

from typing import Annotated

import typer

from perfmodel.commands.options import AsJson, Overrides, ScenarioName, Why
from perfmodel.commands.process import print_json


def experts(
    scenario: ScenarioName,
    set_: Overrides = None,
    zero: Annotated[
        str | None,
        typer.Option(metavar="N,N,..", help="Numbers of zero-computation experts (default 0,128,256,384)."),
    ] = None,
    real: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,..", help="Instead: mean numbers of real experts per token, with the model as it is."
        ),
    ] = None,
    json: AsJson = False,
    why: Why = False,
) -> None:
    """What zero-computation experts buy: the same step with other numbers of them. Cost, not quality."""
    from perfmodel.errors import SpecError
    from perfmodel.explore import zero_experts
    from perfmodel.load import load_scenario
    from perfmodel.spec.number_list import number_list

    if zero is not None and real is not None:
        raise SpecError("--zero and --real: vary one of them at a time")
    asked = load_scenario(scenario, set_ or ())
    if real is not None:
        variants = zero_experts.vary_real_experts(asked, number_list("--real", real, float))
    else:
        numbers = zero_experts.ZERO_EXPERTS if zero is None else number_list("--zero", zero, int)
        variants = zero_experts.vary_zero_experts(asked, numbers)
    values = zero_experts.as_values(asked, variants)
    if json:
        print_json(values)
    else:
        from perfmodel.output.caveats import print_basis, print_warnings
        from perfmodel.output.experts import print_variants

        print_variants(asked, variants)
        print_basis(values, why=why)
        print_warnings(values)
