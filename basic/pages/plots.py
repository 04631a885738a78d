"""Draws curves, histograms and thumbnails as text for an HTML page.

Plots are inline SVG without style attributes, which the pages forbid. Their
colours are CSS variables of the page, so that they fit light and dark mode, and
their labels are text, not paths. Names that others chose are in the legend, which
is HTML: Matplotlib would have to measure them, in a font that may lack them.
"""

import base64
import io
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib.figure
import matplotlib.image
import matplotlib.ticker
import numpy as np
from jaxtyping import Float, Int, UInt8

from basic.pages import markup

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
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
_SIZE = (3.9, 2.4)  # inches; on a phone 9 points are then 11 pixels
_WIDE = (4.8, 3.0)
_BINS = 300  # bins of a curve with more points than twice this
_ALL_BINS = 600  # of all curves of a plot together, if they are many
# Beyond the reach of the axis, whose limits are sums and products of numbers.
_HUGE = 1e150
_DASHES = ("-", "--", ":")  # for more series than colours
_QUALITY = 85  # of JPEG

Curve = tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]


def curves(
    series: Mapping[str, Curve],
    *,
    unit: str,
    percent: bool = False,
    marks: Sequence[int] = (),
    label: str = "",
) -> str:
  """Plots metrics over steps.

  A long curve shows the mean of each bin of steps and a band from its minimum to
  its maximum, so that no spike is lost. Values that are not finite leave a gap.

  Args:
    series: legend label -> (steps, values).
    unit: label of the y axis, in the letters of Latin scripts.
    percent: whether to format values as percent.
    marks: steps at which a dashed line is drawn: the boundaries of stages.
    label: what is drawn, for those who cannot see it; the unit if empty.

  Returns:
    A legend, if there are several series, and an <svg> element.
  """
  bins = min(_BINS, max(30, _ALL_BINS // max(1, len(series))))
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(_SIZE)
    for (color, dash), (steps, values) in zip(
        _looks(), series.values(), strict=False
    ):
      x, mean, low, high = _binned(steps, values, bins)
      marker = "o" if len(x) <= 24 else ""
      axes.plot(
          x, mean, color=color, linestyle=dash, marker=marker, markersize=3.5
      )
      if len(x) < len(steps):
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    first, last = _span(series)
    if first == last:  # an axis in steps, not in parts of one
      axes.set_xlim(first - 1, last + 1)
    for step in marks:
      if first <= step <= last:
        axes.axvline(step, color=INK, linewidth=0.8, linestyle="--")
    _format_y_axis(axes, [values for _, values in series.values()], percent)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_short))
    names = f"{label or unit} by step: {', '.join(series)}"
    return legend(list(series)) + _svg(figure, names)


def points(
    series: Mapping[str, Curve], *, across: str, unit: str, percent: bool = False
) -> str:
  """Plots values against a positive number on a logarithmic axis.

  Args:
    series: legend label -> (numbers, values); each is joined by a line.
    across: label of the x axis.
    unit: label of the y axis.
    percent: whether to format values as percent.

  Returns:
    A legend, if there are several series, and an <svg> element.
  """
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(_SIZE)
    for (color, dash), (numbers, values) in zip(
        _looks(), series.values(), strict=False
    ):
      axes.plot(
          numbers, _drawable(values), color=color, marker="o", markersize=4,
          linestyle=dash,
      )
    _format_y_axis(axes, [values for _, values in series.values()], percent)
    axes.set_xscale("log", base=2)
    ticks = sorted({float(n) for numbers, _ in series.values() for n in numbers})
    axes.set_xticks(ticks[:: -(-len(ticks) // 6)])
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(_short))
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel(across)
    axes.set_ylabel(unit)
    return legend(list(series)) + _svg(
        figure, f"{unit} by {across}: {', '.join(series)}"
    )


def legend(names: Sequence[str]) -> str:
  """The names of series with their colours; empty if there is only one.

  Args:
    names: in the order in which they are drawn.

  Returns:
    HTML.
  """
  if len(names) < 2:
    return ""
  items = "".join(
      f'<li><i class="s{n % len(SERIES)} d{n // len(SERIES) % len(_DASHES)}">'
      f"</i>{markup.text(each, 80)}</li>"
      for n, each in enumerate(names)
  )
  return f'<ul class="legend">{items}</ul>'


def histogram(
    series: Mapping[str, Float[np.ndarray, "..."]], *, unit: str
) -> str:
  """Plots a histogram of each series, normalised to area 1.

  Args:
    series: legend label -> values, finite.
    unit: label of the x axis.

  Returns:
    A legend, if there are several series, and an <svg> element.
  """
  everything = np.concatenate([np.ravel(x) for x in series.values()])
  low, high = float(everything.min()), float(everything.max())
  edges = np.linspace(low - 0.01, high + 0.01, 49)
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(_WIDE)
    for values, color in zip(
        series.values(), itertools.cycle(SERIES), strict=False
    ):
      if not len(values):
        continue
      heights, _ = np.histogram(np.ravel(values), edges, density=True)
      axes.stairs(heights, edges, color=color, alpha=0.22, fill=True)
      axes.stairs(heights, edges, color=color, linewidth=1.6)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("density")
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    return legend(list(series)) + _svg(
        figure, f"density of {unit}: {', '.join(series)}"
    )


def thumbnail(image: UInt8[np.ndarray, "h w c"], size: int) -> str:
  """Encodes an image as a data URI, as PNG or JPEG, whichever is smaller.

  Args:
    image: of 1, 3 or 4 channels; at least a pixel.
    size: in pixels; a longer side is reduced to at most that.

  Returns:
    "data:image/png;base64,..." or "data:image/jpeg;base64,...".
  """
  if image.shape[-1] == 1:
    image = np.repeat(image, 3, axis=-1)
  step = math.ceil(max(image.shape[:2]) / size)
  if step > 1:
    down, across = (min(step, side) for side in image.shape[:2])
    h, w = image.shape[0] // down * down, image.shape[1] // across * across
    blocks = image[:h, :w].reshape(h // down, down, w // across, across, -1)
    image = np.round(blocks.mean((1, 3))).astype(np.uint8)
  found = "png", _encoded(image, "png", metadata={"Software": None})
  # Small images are drawn with sharp pixels, which JPEG would blur.
  if max(image.shape[:2]) >= 32 and image.shape[-1] == 3:
    other = "jpeg", _encoded(image, "jpeg", pil_kwargs={"quality": _QUALITY})
    found = min(found, other, key=lambda each: len(each[1]))
  kind, content = found
  return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(image: np.ndarray, kind: str, **settings: Any) -> bytes:
  file = io.BytesIO()
  pixels = np.ascontiguousarray(image)
  matplotlib.image.imsave(file, pixels, format=kind, **settings)
  return file.getvalue()


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


def _span(series: Mapping[str, Curve]) -> tuple[int, int]:
  """The first and the last step of all curves."""
  steps = np.concatenate([steps for steps, _ in series.values() if len(steps)] or
                         [np.zeros(1, int)])
  return int(steps.min()), int(steps.max())


def _looks() -> Iterator[tuple[str, str]]:
  """Colours, and dashes where there are more series than colours."""
  return itertools.cycle(
      (color, dash) for dash in _DASHES for color in SERIES
  )


def _drawable(values: np.ndarray) -> np.ndarray:
  """NaN, which leaves a gap, in place of what has no place on an axis."""
  return np.where(np.abs(values) < _HUGE, values, np.nan)


def _binned(
    steps: Int[np.ndarray, "n"], values: Float[np.ndarray, "n"], bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """(steps, mean, minimum, maximum) of at most so many bins."""
  values = _drawable(values)
  if len(steps) <= 2 * bins:
    return steps, values, values, values
  parts = [p for p in np.array_split(np.arange(len(steps)), bins) if len(p)]
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
  finite = finite[np.abs(finite) < _HUGE]
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


def _svg(figure, label: str) -> str:
  """The figure as an <svg> element with CSS variables as colours."""
  file = io.StringIO()
  # Element ids must be unique on the page.
  with matplotlib.rc_context({"svg.hashsalt": ascii(label)}):
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
  opening = f'<svg role="img" aria-label="{markup.text(label)}" {size}>'
  return opening + text[text.index(">") + 1:]


def _tidy(tag: str) -> str:
  """Replaces colours, fonts and styles in a tag; drops surplus digits and ids."""
  tag = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", tag)
  tag = tag.replace(f"font-family: '{_STYLE['font.family']}'; ", "")
  tag = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", tag)
  for color, variable in _VARIABLES.items():
    tag = tag.replace(color, variable)
  return re.sub(r' style="([^"]*)"', lambda m: _attributes(m[1]), tag)


def _attributes(style: str) -> str:
  """A style as presentation attributes, which need no permission."""
  pairs = (each.split(":", 1) for each in style.split(";") if each.strip())
  return "".join(f' {key.strip()}="{value.strip()}"' for key, value in pairs)
