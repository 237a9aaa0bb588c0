"""Self-contained HTML pages: a jinja2 template, plotly inline, text escaped."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def render(template: Path, values: Mapping[str, Any]) -> str:
    """The page as text; the same values give the same bytes. What the template does not know of is an error.

    The template gets ``plotly_js`` beside ``values``, and the filter ``linked``.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["linked"] = linked
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(plotly_js=get_plotlyjs(), **values)


def linked(text: str) -> Any:
    """Text as HTML in which addresses are links; a list's commas and semicolons are not part of them."""
    from markupsafe import Markup, escape

    parts = re.split(r"(https?://[^\s;,)]+)", text)
    anchor = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    return Markup("").join(anchor.format(part) if i % 2 else escape(part) for i, part in enumerate(parts))
