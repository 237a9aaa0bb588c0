"""Self-contained HTML pages: a jinja2 template, plotly inline, text escaped."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def render(template: Path, values: Mapping[str, Any]) -> str:
    """The page as text; the same values give the same bytes. What the template does not know of is an error.

    The template gets ``plotly_js`` beside ``values``, and the filter ``linked``.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((template.parent, Path(__file__).parent)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["linked"] = linked
    return environment.get_template(template.name).render(plotly_js=get_plotlyjs(), **values)


def embed(figure: Any, name: str, *, buttons: Sequence[Sequence[str]] = ()) -> str:
    """A figure as HTML. The buttons are listed because plotly's own choice has one that uploads the chart."""
    config = {
        "displaylogo": False,
        "displayModeBar": "hover" if buttons else False,
        "modeBarButtons": [list(group) for group in buttons],
        "plotlyServerURL": "",
        "responsive": True,
    }
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config
    )
    return html


def linked(text: str) -> Any:
    """Text as HTML in which addresses are links; a list's commas and semicolons are not part of them."""
    from markupsafe import Markup, escape

    parts = re.split(r"(https?://[^\s;,)]+)", text)
    anchor = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    return Markup("").join(anchor.format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
