"""A matplotlib figure as inline SVG that takes its colours and fonts from the page.

Matplotlib writes a whole document: a global style sheet, the same ids in every figure, fixed fonts
and name spaces. Inside a page its style sheet would apply to everything, and its ids would occur
more than once, so the tree is rewritten here.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ntkdist import storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Placeholders that become variables of the page's style sheet, so that a figure suits light and
# dark pages: axes and text, the accent, what is compared with it, faint lines.
INK, ACCENT, OTHER, FAINT = "#000001", "#000002", "#000003", "#000004"
CELL = "#000005"  # letters on a cell of a light colour
_VARIABLES = {
    INK: "var(--figure-ink)",
    ACCENT: "var(--accent)",
    OTHER: "var(--other)",
    FAINT: "var(--line)",
    CELL: "var(--ink)",
}
#: As C0 to C9 in figures that are drawn with the settings of the report.
CATEGORIES = tuple(f"#0000{k:02x}" for k in range(16, 26))
_VARIABLES |= {color: f"var(--c{k})" for k, color in enumerate(CATEGORIES)}
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_GREY = re.compile(r"#(..)\1\1")
_DECIMALS = re.compile(r"\d+\.\d{3,}")
_PAGE = "#ffffff"  # stays: letters on dark cells
FONT_SIZE = 12.0
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ntkdist",
    "text.parse_math": False,  # a class may be called $x$
    "axes.unicode_minus": True,
    "font.size": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE - 1,
    "ytick.labelsize": FONT_SIZE - 1,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.composite_image": False,
    "path.simplify": True,
    "legend.frameon": False,
    "axes.prop_cycle": f"cycler(color={list(CATEGORIES)})",
}


@contextmanager
def figure_settings() -> Iterator[None]:
    """Set matplotlib's defaults for figures of the report, and restore the user's afterwards."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # the browser sets the text, so that glyphs missing from matplotlib's font do not matter
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def power(value: float, _position: int | None = None) -> str:
    """Return a tick of a log axis: a plain number, or ten with a raised exponent."""
    exponent = round(math.log10(value)) if value > 0 else 0
    if value <= 0 or not math.isclose(value, 10.0**exponent, rel_tol=1e-9):
        return f"{value:,.3g}"
    if -3 <= exponent <= 4:
        return f"{value:,g}"
    return "10" + str(exponent).translate(_RAISED)


def plain_log_ticks(figure: Figure) -> None:
    """Give log axes ticks without mathematical typesetting, which a page cannot show."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            fixed = isinstance(axis.get_major_locator(), FixedLocator)
            if axis.get_scale() == "log" and not fixed:
                low, high = axis.get_view_interval()
                between = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
                axis.set_major_locator(LogLocator(subs=between, numticks=6))
                axis.set_major_formatter(FuncFormatter(power))
                axis.set_minor_formatter(NullFormatter())


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height are in CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), layout="constrained")


@contextmanager
def svg_file(address: str, width: float, height: float, *, math: bool = False) -> Iterator[Figure]:
    """Yield an empty figure and write it as an SVG file, whole or not at all, when the block ends.

    Width and height are in inches. It is drawn with the user's own settings of matplotlib. With
    ``math``, text between dollar signs is a formula, as in the labels of logarithmic axes; not for
    figures with names of classes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "ntkdist", "text.parse_math": math}
    with matplotlib.rc_context(settings), storage.writing(address) as path:
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.savefig(path, format="svg", metadata={"Date": None})


def inline_svg(name: str, alt: str, draw: Callable[..., Figure], *args: Any, **named: Any) -> str:
    """Draw a figure and return it as an ``<svg>`` element for the middle of a page.

    It has no addresses, style sheets or fixed fonts. ``name`` is unique in the page and begins
    every id in the figure; ``alt`` says what it shows, for those who do not see it. ``draw`` is
    called with the other arguments, under the settings of the report.
    """
    out = io.BytesIO()
    with figure_settings():
        figure = draw(*args, **named)
        plain_log_ticks(figure)
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(out.getvalue())
    _clean(root, name)
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.attrib = {
        "class": "figure",
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-label": alt,
        # the intrinsic size, so that nothing moves while the page is laid out
        "width": f"{float(width):.0f}",
        "height": f"{float(height):.0f}",
    }
    return ElementTree.tostring(root, encoding="unicode", method="html")


def _clean(root: ElementTree.Element, name: str) -> None:
    referenced = set(re.findall(r"#([\w.-]+)", " ".join(_references(root))))
    for parent in root.iter():
        for child in list(parent):
            local = _local(child.tag)
            if local in ("metadata", "style") or (local == "defs" and not len(child)):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.text = (element.text or "").strip() or None
        element.tail = None
        cleaned: dict[str, str] = {}
        for key, value in element.attrib.items():
            key = _local(key)
            if key == "id":
                if value not in referenced:
                    continue
                value = f"{name}-{value}"
            elif key == "href":
                value = (
                    f"#{name}-{value[1:]}" if value.startswith("#") else re.sub(r"\s", "", value)
                )
            elif key == "clip-path":
                value = value.replace("url(#", f"url(#{name}-")
            elif key == "style":
                value = _style(value)
            elif key == "d":
                value = _short(value)
            if value:
                cleaned[key] = value
        element.attrib = cleaned


def _references(root: ElementTree.Element) -> Iterator[str]:
    for element in root.iter():
        for key, value in element.attrib.items():
            if _local(key) == "clip-path" or (_local(key) == "href" and value.startswith("#")):
                yield value


def _style(text: str) -> str:
    kept = []
    for rule in text.split(";"):
        name, _, value = (part.strip() for part in rule.partition(":"))
        if name and name != "font-family":
            kept.append(f"{name}:{_color(value)}")
    return ";".join(kept)


def _color(value: str) -> str:
    """Return the page's variable for a placeholder or a grey; other colours stay."""
    if value in _VARIABLES or not _GREY.fullmatch(value) or value == _PAGE:
        return _VARIABLES.get(value, value)
    level = int(value[1:3], 16)
    return _VARIABLES[INK if level < 80 else OTHER if level < 180 else FAINT]


def _short(path: str) -> str:
    """Return path data to a hundredth of a pixel."""
    shorter = _DECIMALS.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), path)
    return " ".join(shorter.split())


def _local(name: str) -> str:
    return name.rpartition("}")[2]
