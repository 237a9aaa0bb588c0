"""Self-contained HTML pages: a jinja2 template, plotly inline where it is wanted, text escaped."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def render(template: Path, values: Mapping[str, Any], *, has_plotly: bool = True) -> str:
    """The page as text; the same values give the same bytes. What the template does not know of is an error.

    The template gets ``plotly_js`` (4.5 MB; empty without ``has_plotly``) beside ``values``, and the filters
    ``linked``, ``css_text`` and ``embedded``.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader((template.parent, Path(__file__).parent)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"linked": linked, "css_text": css_text, "embedded": embedded}
    return environment.get_template(template.name).render(plotly_js=_plotly() if has_plotly else "", **values)


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def css_text(text: str) -> Any:
    """Text as a string of CSS: all but letters, digits and spaces by number, so that nothing ends it."""
    from markupsafe import Markup

    return Markup('"{}"').format(
        Markup("".join(c if c.isascii() and (c.isalnum() or c == " ") else f"\\{ord(c):x} " for c in text))
    )


def embedded(values: Mapping[str, Any]) -> Any:
    """Values as the JSON of a ``<script type="application/json">``: no ``<`` is left that could end it."""
    from markupsafe import Markup

    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def embed(figure: Any, name: str, *, buttons: Sequence[Sequence[str]] = ()) -> str:
    """A figure, plotly's or a plain one, as HTML. The buttons are listed because plotly's own choice has one that
    uploads the chart.
    """
    config = {
        "displaylogo": False,
        "displayModeBar": "hover" if buttons else False,
        "modeBarButtons": [list(group) for group in buttons],
        "plotlyServerURL": "",
        "responsive": True,
    }
    from plotly.io import to_html

    html: str = to_html(
        figure, full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=config
    )
    return html


def linked(text: str) -> Any:
    """Text as HTML in which addresses are links; a list's commas and semicolons are not part of them."""
    from markupsafe import Markup, escape

    parts = re.split(r"(https?://[^\s;,)]+)", text)
    anchor = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    return Markup("").join(anchor.format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
