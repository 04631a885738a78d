"""Draws curves, histograms and thumbnails as text for an HTML page.

Plots are inline SVG. Their colours are CSS variables of the page, so that they
fit light and dark mode, and their labels are text, not paths.
"""

import base64
import html
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
import matplotlib.image
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, Int, UInt8

# Matplotlib needs colours as numbers; these are replaced by CSS variables.
INK, FAINT = "#010101", "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_VARIABLES = {INK: "var(--muted)", FAINT: "var(--line)"} | {
    color: f"var(--series-{n})" for n, color in enumerate(SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.useoffset": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_SIZE = (3.9, 2.4)  # inches; on a phone 9 points are then 11 pixels
_WIDE = (4.8, 3.0)
_BINS = 300  # bins of a curve with more points than twice this

Curve = tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]


def curves(
    series: Mapping[str, Curve],
    *,
    unit: str,
    percent: bool = False,
) -> str:
  """Plots metrics over steps.

  A long curve shows the mean of each bin of steps and a band from its minimum to
  its maximum, so that no spike is lost. Values that are not finite leave a gap.

  Args:
    series: legend label -> (steps, values).
    unit: label of the y axis.
    percent: whether to format values as percent.

  Returns:
    An <svg> element.
  """
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(_SIZE)
    for (name, (steps, values)), color in zip(
        series.items(), itertools.cycle(SERIES), strict=False
    ):
      x, mean, low, high = _binned(steps, values)
      marker = "o" if len(x) <= 24 else ""
      axes.plot(x, mean, color=color, label=name, marker=marker, markersize=3.5)
      if len(x) < len(steps):
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    _format_y_axis(axes, [values for _, values in series.values()], percent)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_short))
    if len(series) > 1:
      _legend(axes)
    return _svg(figure, f"{unit} by step: {', '.join(series)}")


def histogram(
    series: Mapping[str, Float[np.ndarray, "..."]], *, unit: str
) -> str:
  """Plots a histogram of each series, normalised to area 1.

  Args:
    series: legend label -> values.
    unit: label of the x axis.

  Returns:
    An <svg> element.
  """
  everything = np.concatenate([np.ravel(x) for x in series.values()])
  low, high = float(everything.min()), float(everything.max())
  edges = np.linspace(low - 0.01, high + 0.01, 49)
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(_WIDE)
    for (name, values), color in zip(
        series.items(), itertools.cycle(SERIES), strict=False
    ):
      if not len(values):
        continue
      heights, _ = np.histogram(np.ravel(values), edges, density=True)
      axes.stairs(heights, edges, color=color, alpha=0.22, fill=True)
      axes.stairs(heights, edges, color=color, label=name, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("density")
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    _legend(axes)
    return _svg(figure, f"density of {unit}: {', '.join(series)}")


def png(image: UInt8[np.ndarray, "h w c"], size: int) -> str:
  """Encodes an image as a data URI.

  Args:
    image: of 1, 3 or 4 channels.
    size: in pixels; a longer side is reduced to about that.

  Returns:
    "data:image/png;base64,...".
  """
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  step = math.ceil(max(image.shape[:2]) / size)
  if step > 1:
    h, w = (side // step * step for side in image.shape[:2])
    blocks = image[:h, :w].reshape(h // step, step, w // step, step, -1)
    image = np.round(blocks.mean((1, 3))).astype(np.uint8)
  file = io.BytesIO()
  pixels = np.ascontiguousarray(image)
  without_name: Any = {"Software": None}  # Annotated as str by Matplotlib.
  matplotlib.image.imsave(file, pixels, metadata=without_name)
  return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heat(fraction: Float[np.ndarray, "..."]) -> np.ndarray:
  """Colours of a perceptually uniform colormap, for values in [0, 1].

  Returns:
    Strings "#rrggbb" in the shape of `fraction`.
  """
  table = matplotlib.colormaps["viridis"]
  rgb = np.round(255 * table(np.asarray(fraction))[..., :3]).astype(int)
  flat = ["#{:02x}{:02x}{:02x}".format(*c) for c in rgb.reshape(-1, 3).tolist()]
  return np.array(flat, object).reshape(rgb.shape[:-1])


def _figure(size: tuple[float, float]) -> tuple:
  # Not from pyplot: no global state, and no display needed.
  figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
  return figure, figure.subplots()


def _binned(
    steps: Int[np.ndarray, "n"], values: Float[np.ndarray, "n"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """(steps, mean, minimum, maximum) of at most `_BINS` bins."""
  values = np.where(np.isfinite(values), values, np.nan)
  if len(steps) <= 2 * _BINS:
    return steps, values, values, values
  parts = [p for p in np.array_split(np.arange(len(steps)), _BINS) if len(p)]
  middle = np.array([steps[p].mean() for p in parts])
  rows = []
  for part in parts:
    finite = values[part][~np.isnan(values[part])]
    finite = finite if len(finite) else np.array([math.nan])
    rows.append((finite.mean(), finite.min(), finite.max()))
  mean, low, high = np.array(rows).T
  return middle, mean, low, high


def _format_y_axis(axes, values: Sequence[np.ndarray], percent: bool) -> None:
  """Chooses the scale of the y axis: logarithmic beyond two decades."""
  finite = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
  finite = finite[np.isfinite(finite)]
  if percent:
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    return
  if len(finite) and finite.min() > 0 and finite.max() > 100 * finite.min():
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_short))
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    return
  axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
  if len(finite) and np.abs(finite).max() >= 10_000:
    axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_short))
  elif len(finite) and np.abs(finite).max() < 1e-2:
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.2g"))


def _short(number: float, _) -> str:
  """Formats 12000 as 12k."""
  for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(number) >= size:
      return f"{number / size:.4g}{letter}"
  return f"{number:.4g}"


def _legend(axes) -> None:
  axes.legend(
      loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, borderpad=0,
      handlelength=1.2, columnspacing=1.4, borderaxespad=0.2,
  )


def _svg(figure, label: str) -> str:
  """The figure as an <svg> element with CSS variables as colours."""
  file = io.StringIO()
  # Element ids must be unique on the page.
  with matplotlib.rc_context({"svg.hashsalt": label}):
    figure.savefig(file, format="svg", transparent=True, metadata={
        "Date": None, "Creator": None, "Format": None, "Type": None,
    })
  text = file.getvalue()
  text = text[text.index("<svg"):]
  text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
  text = re.sub(r"<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
  text = re.sub(r"\s*\n\s*", " ", text)
  text = re.sub(r"<[^>]*>", lambda tag: _tidy(tag[0]), text)
  size = re.findall(r'viewBox="[^"]*"', text)[0]
  opening = f'<svg role="img" aria-label="{html.escape(label)}" {size}>'
  return opening + text[text.index(">") + 1:]


def _tidy(tag: str) -> str:
  """Replaces colours and font in a tag, and drops surplus digits and ids."""
  tag = re.sub(r' id="[a-z0-9.]+_\d+"', "", tag)
  tag = tag.replace(f"font-family: '{_STYLE['font.family']}'; ", "")
  tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", tag)
  for color, variable in _VARIABLES.items():
    tag = tag.replace(color, variable)
  return tag
