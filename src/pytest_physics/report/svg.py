"""matplotlib figures as inline SVG that takes its colours from the page.

Figures are drawn in a few marker colours that stand for nothing but themselves (:data:`INK`, :data:`SERIES`, …); afterwards every marker is
replaced by a CSS variable, so that one drawing is right in light, in dark and on paper. Text stays text, in the page's font.
The same figure gives the same bytes: fixed hash salt, no date, no user's matplotlibrc, coordinates to a hundredth of a point, points of
long lines to a tenth.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pytest_physics.report.format import printable

INK = "#010a01"
MUTED = "#010a02"
GRID = "#010a03"
BAND = "#010a04"
SURFACE = "#010a05"
ALERT = "#010a06"
SERIES = ("#010b01", "#010b02", "#010b03", "#010b04", "#010b05")
"""Colours of data series, in order; figures with more series repeat them."""

_VARIABLES = {
    INK: "--ink", MUTED: "--muted", GRID: "--line", BAND: "--band", SURFACE: "--surface", ALERT: "--refuted",
    **{color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)},
}  # fmt: skip

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the layout does not depend on the machine's fonts
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "path.simplify": False,  # the envelope is the only reduction
}


@contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Settings under which figures are made and saved; the caller's matplotlib settings are back afterwards."""
    with mpl.rc_context(), warnings.catch_warnings():
        # the browser draws the text with its own fonts, so a character that matplotlib's font lacks is no loss
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield


def new_figure(width_in: float = 10.0, height_in: float = 3.0) -> Figure:
    """A figure without pyplot: nothing is registered, nothing has to be closed."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def horizontal_grid(axes: Axes) -> None:
    """Only lines that help to read the values."""
    axes.grid(visible=False, axis="x")


def inline(figure: Figure, *, prefix: str, label: str) -> str:
    """``figure`` as an ``<svg>`` element for an HTML page; ``prefix`` keeps its ids apart from those of other figures."""
    buffer = io.StringIO()
    # absent metadata leaves the RDF block out, with its date and its addresses
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<defs>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*\n\s*", " ", body).replace("> <", "><")
    used = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body) for name in pair}
    body = re.sub("<[^>]+>", lambda tag: _adapted(tag[0], prefix, used), body)
    body = re.sub(r' d="(M [ML\d. z-]{40,})"', lambda line: f' d="{_in_steps(line[1])}"', body)
    body = _styled_once(body)
    width, height = (72 * inches for inches in figure.get_size_inches())
    return f'<svg class="figure" role="img" aria-label="{_attribute(label)}" viewBox="0 0 {width:g} {height:g}">{body.strip()}'


def _attribute(text: str) -> str:
    return printable(text, 300).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _styled_once(body: str) -> str:
    """The style of a marker at its shape, where all of its uses have the same one, and not at each of hundreds."""
    found: dict[str, set[str]] = {}
    for name, style in re.findall(r'<use href="#([^"]+)"[^>]*?(?: style="([^"]*)")?/>', body):
        found.setdefault(name, set()).add(style)
    once = {name: styles.pop() for name, styles in found.items() if len(styles) == 1}
    body = re.sub(r'(<use href="#([^"]+)"[^>]*?) style="[^"]*"/>', lambda m: f"{m[1]}/>" if m[2] in once else m[0], body)
    shape = r'(<path id="([^"]+)"[^>]*? style=")'  # its own style comes last, and wins as it did
    return re.sub(shape, lambda m: m[1] + (f"{once[m[2]]}; " if once.get(m[2]) else ""), body)


def _in_steps(line: str) -> str:
    """Path data of straight lines, each point as its step from the one before: a third of the length. Rounded before the steps are taken.

    >>> _in_steps("M 28.13 116.23 L 29.33 116.23 L 29.3 20 z")
    'M28.1 116.2h1.2v-96.2z'
    """
    out: list[str] = []
    x = y = 0
    for part in re.findall(r"([MLz]) *(?:(-?[\d.]+) (-?[\d.]+))?", line):
        right, down = (round(10 * float(text)) if text else 0 for text in part[1:])
        dx, dy = right - x, down - y
        if part[0] == "L" and (dx or dy or out[-1][0] == "M"):  # a line of no length is a dot
            out.append(f"h{_tenths(dx)}" if not dy else f"v{_tenths(dy)}" if not dx else f"l{_tenths(dx)}{' ' * (dy > 0)}{_tenths(dy)}")
        elif part[0] != "L":
            out.append("z" if part[0] == "z" else f"M{right / 10:g} {down / 10:g}")
        if part[0] != "z":
            x, y = right, down
    return "".join(out)


def _tenths(value: int) -> str:
    return f"{value / 10:g}".replace("0.", ".", 1) if abs(value) < 10 else f"{value / 10:g}"


def _adapted(tag: str, prefix: str, used: set[str]) -> str:
    """One start tag: page font and colours, short numbers, and only ids that something refers to, under ``prefix``."""
    tag = re.sub(r"font(?:-family)?: (?:([\d.]+)px )?[^;\"]*;? ?", lambda m: f"font-size: {m[1]}px; " if m[1] else "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
    return re.sub("#010[ab]0[1-6]", lambda m: f"var({_VARIABLES.get(m[0], '--ink')})", tag)
