"""What all pictures of a comparison share: formats, size, style, colours that colour-blind readers can tell apart."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from gptx.errors import GptxError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
WIDTH = 6.3  # inches, the width of a page's text
# the palette of Okabe and Ito (2008); arms beyond the eighth differ by marker and line style
COLOURS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8B7500")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
LINES = ("-", "--", ":", "-.")
GREY = "#767676"


def check_figure(option: str, path: Path) -> str:
    """The format of a picture, from the end of the file's name.

    Raises:
        GptxError: it is none of `FORMATS`.
    """
    ending = path.suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise GptxError(f"{option} {path}: expected a name that ends in .{', .'.join(FORMATS)}")
    return ending


def new_figure(height: float) -> "Figure":
    """An empty picture of this height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panels(number: int, panel_height: float, legend_height: float) -> tuple["Figure", list["Axes"]]:
    """A picture with this many panels in up to two columns, of these heights in inches."""
    columns = 1 if number == 1 else 2
    rows = -(-number // columns)
    figure = new_figure(rows * panel_height + legend_height)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.ravel())
    for unused in axes[number:]:
        unused.set_axis_off()
    return figure, axes[:number]


def plain(axes: "Axes") -> None:
    """A light grid, small numbers, no frame on the upper and right side."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def content(figure: "Figure", kind: str) -> bytes:
    """The content of a file of this kind."""
    out = BytesIO()
    figure.savefig(out, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
    return out.getvalue()
