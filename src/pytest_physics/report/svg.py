"""matplotlib figures as inline SVG that takes its colours from the page.

Figures are drawn in a few marker colours that stand for nothing but themselves (:data:`INK`, :data:`SERIES`, …); afterwards every marker is
replaced by a CSS variable, so that one drawing is right in light, in dark and on paper. Text stays text, in the page's font.
The same figure gives the same bytes: fixed hash salt, no date, no user's matplotlibrc, coordinates to a hundredth of a point.
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
    width, height = (72 * inches for inches in figure.get_size_inches())
    return f'<svg class="figure" role="img" aria-label="{_attribute(label)}" viewBox="0 0 {width:g} {height:g}">{body.strip()}'


def _attribute(text: str) -> str:
    return printable(text, 300).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _adapted(tag: str, prefix: str, used: set[str]) -> str:
    """One start tag: page font and colours, short numbers, and only ids that something refers to, under ``prefix``."""
    tag = re.sub(r"font(?:-family)?: (?:([\d.]+)px )?[^;\"]*;? ?", lambda m: f"font-size: {m[1]}px; " if m[1] else "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
    return re.sub("#010[ab]0[1-6]", lambda m: f"var({_VARIABLES.get(m[0], '--ink')})", tag)
