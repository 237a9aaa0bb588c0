"""What a chart is drawn on: shapes and text as SVG, escaped; names for readers of screens, values for tests.

Colours of marks are given; those of text, axes and grid are the page's (classes ``ink``, ``soft``, ``grid``,
``axis``), so
that a chart fits both themes and print. A mark's ``says`` is its tooltip; its ``key`` and ``value`` are the figure of
``--json`` that it draws.
"""

from collections.abc import Sequence
from html import escape

WIDTH = 720.0
"""Of every chart, in units of its own; a page scales it."""
FONT = 12.0
LINE = 15.0
"""From one line of text to the next."""
_WIDE, _NARROW = set("MWmw@%&"), set("iljtfrI.,:;'|!()[] ")


def text_width(text: str, size: float = FONT) -> float:
    """About how wide text is, in units: of the widest sans-serif that browsers take for "
    "``system-ui``, rather too much.
    """
    per = sum(0.98 if c in _WIDE else 0.38 if c in _NARROW else 0.72 if c.isupper() else 0.62 for c in text)
    return per * size


def fitted(text: str, width: float, size: float = FONT) -> str:
    """Text cut to a width; empty where not even its beginning fits."""
    if text_width(text, size) <= width:
        return text
    for end in range(len(text) - 1, 2, -1):
        if text_width(text[:end], size) + 0.8 * size <= width:
            return f"{text[:end].rstrip()}…"
    return ""


def wrapped(text: str, width: float, size: float = FONT, most: int = 3) -> list[str]:
    """Text in lines of a width, the last one cut."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most - 1:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size) <= width:
            line += f" {words.pop(0)}"
        lines.append(fitted(line, width, size) or line[:1])
    return [*lines, fitted(" ".join(words), width, size)] if words else lines


class Paper:
    """Shapes in the order in which they were drawn."""

    def __init__(self, height: float, title: str, width: float = WIDTH) -> None:
        self.width, self.height, self.title = width, height, title
        self._shapes: list[str] = []

    def svg(self) -> str:
        """The chart; ``title`` is its text alternative."""
        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        head = f'<svg class="chart" role="img" aria-label="{escape(self.title)}" {size} xmlns="http://www.w3.org/2000/svg">'
        return "\n".join((head, *self._shapes, "</svg>"))

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: str,
        *,
        says: str = "",
        key: str = "",
        value: float | None = None,
        opacity: float = 1.0,
    ) -> None:
        """A bar; one that goes to the left has a negative width."""
        left, wide = (x + width, -width) if width < 0.0 else (x, width)
        size = f'x="{_n(left)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(height)}"'
        fill = f'fill="{colour}"' + (f' fill-opacity="{opacity:g}"' if opacity < 1.0 else "")
        self._mark("rect", f"{size} {fill}", says, key, value)

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        css: str = "axis",
        *,
        colour: str = "",
        dash: str = "",
    ) -> None:
        """A straight line, in the page's colour of a class or in one of its own."""
        how = f'stroke="{colour}" stroke-width="2"' if colour else f'class="{css}"'
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._shapes.append(f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" {how}{dashed}/>')

    def path(
        self, points: Sequence[tuple[float, float]], colour: str, *, dash: str = "", says: str = ""
    ) -> None:
        """A line through points."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._mark(
            "polyline",
            f'points="{_points(points)}" fill="none" stroke="{colour}" stroke-width="2.2"{dashed}',
            says,
        )

    def area(
        self, points: Sequence[tuple[float, float]], colour: str, opacity: float, *, says: str = ""
    ) -> None:
        """A filled outline."""
        self._mark("polygon", f'points="{_points(points)}" fill="{colour}" fill-opacity="{opacity:g}"', says)

    def dot(
        self,
        x: float,
        y: float,
        colour: str,
        *,
        says: str = "",
        key: str = "",
        value: float | None = None,
        r: float = 4.0,
    ) -> None:
        """A point."""
        self._mark("circle", f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}" fill="{colour}"', says, key, value)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        css: str = "ink",
        colour: str = "",
        size: float = FONT,
        bold: bool = False,
    ) -> None:
        """One line of text whose baseline is at ``y``."""
        how = f'fill="{colour}"' if colour else f'class="{css}"'
        weight = ' font-weight="650"' if bold else ""
        place = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-size="{_n(size)}"'
        self._shapes.append(f"<text {place} {how}{weight}>{escape(text)}</text>")

    def _mark(self, name: str, shape: str, says: str, key: str = "", value: float | None = None) -> None:
        data = f' data-key="{escape(key)}" data-value="{value!r}"' if key and value is not None else ""
        title = f"<title>{escape(says)}</title>" if says else ""
        self._shapes.append(
            f"<{name} {shape}{data}>{title}</{name}>" if title else f"<{name} {shape}{data}/>"
        )


def legend(paper: Paper, y: float, entries: Sequence[tuple[str, str, str]], x: float = 0.0) -> float:
    """Names beside their marks, in as many lines as they take: (name, colour, kind), kinds ``box``, ``line``, ``dash``,
    ``dot``. Returns where the next line would be.
    """
    at = x
    for name, colour, kind in entries:
        wide = 24.0 + text_width(name) + 14.0
        if at > x and at + wide > paper.width:
            at, y = x, y + LINE + 3.0
        if kind == "box":
            paper.rect(at + 4.0, y - 9.0, 12.0, 10.0, colour)
        elif kind == "dot":
            paper.dot(at + 10.0, y - 4.0, colour)
        else:
            paper.line(at, y - 4.0, at + 20.0, y - 4.0, colour=colour, dash="6 4" if kind == "dash" else "")
        paper.text(at + 24.0, y, name)
        at += wide
    return y + LINE + 3.0


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
