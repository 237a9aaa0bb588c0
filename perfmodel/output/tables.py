"""The style of all tables on a terminal."""

from rich.table import Table

from perfmodel.answers.caveats import condition
from perfmodel.spec.scenario import Scenario


def titled(title: str, scenario: Scenario) -> str:
    """The title of an answer's figures, with the condition under which they hold where there is one."""
    even = condition(scenario)
    return f"{title}, {even}" if even else title


def table_of(title: str, *columns: str) -> Table:
    """An empty table in the style of all others; columns of figures are right-justified."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    texts = (
        "op",
        "class",
        "part",
        "quantity",
        "stream",
        "bound by",
        "source",
        "row",
        "suite",
        "role",
        "as printed",
        "reason",
        "kind",
        "ops",
        "deployment",
        "",
    )
    for column in columns:
        table.add_column(column, justify="left" if column in texts else "right", overflow="fold")
    return table
