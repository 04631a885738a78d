"""The style of the pages, and the policy that allows nothing else."""

import base64
import hashlib

import numpy as np

from basic.pages import markup, plots

_RULES = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --card: #fff; --ink: #1c1e22; --muted: #5b616b;
  --line: #e3e0d8; --accent: #1f5fc4; --right: #1a7f4b;
  --series-0: #1f5fc4; --series-1: #c2571a; --series-2: #1a7f4b;
  --series-3: #8a4bb5; --series-4: #b3263e; --series-5: #6b6f1d;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14161a; --card: #1c1f25; --ink: #e9e6df; --muted: #a4abb6;
  --line: #333841; --accent: #86b1ff; --right: #6fd39b;
  --series-0: #7aaaff; --series-1: #f2a065; --series-2: #6fd39b;
  --series-3: #c79bf0; --series-4: #ff8b98; --series-5: #d3d065;
} }
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 74rem; padding: 2.5rem 1.25rem 5rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1, h2, h3 {
  font-family: Charter, "Iowan Old Style", Georgia, "Liberation Serif", serif;
  line-height: 1.2; font-weight: 600; text-wrap: balance;
}
h1 { font-size: 2.2rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.5rem; margin: 3.5rem 0 1rem; }
h3 { font-size: 1.1rem; margin: 2rem 0 .75rem; color: var(--muted); }
h4 { font-size: .95rem; margin: 0 0 .5rem; }
section > h4 { margin-top: 1.75rem; }
h4 small { font-weight: 400; display: block; overflow-wrap: anywhere; }
p { max-width: 44rem; overflow-wrap: anywhere; }
/* Text that runs from right to left does not drag its neighbours along. */
th, td, li, p, span, code, h1, h2, h3, h4 { unicode-bidi: isolate; }
a { color: var(--accent); }
small, figcaption { color: var(--muted); font-size: .8rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; }
code { font-size: .92em; overflow-wrap: anywhere; }
pre {
  margin: 0; padding: 1rem; overflow-x: auto; font-size: .8rem;
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
}
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin-top: 1rem; }
figure, .figure, .card {
  margin: 0; padding: 1rem; min-width: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: .75rem;
}
figure { display: flex; flex-direction: column; }
figcaption { margin-top: .6rem; }
.plots figcaption { margin-top: auto; padding-top: .6rem; }
dl { display: grid; gap: .75rem 1rem; max-width: 44rem;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  margin: 1rem 0 .25rem; }
dt { font-size: .8rem; }
dd { margin: 0; font-size: 1.35rem; font-weight: 600; }
figcaption em { color: var(--series-4); font-style: normal; }
svg { display: block; width: 100%; height: auto; }
.facts { display: flex; flex-wrap: wrap; gap: 0 1.5rem; margin: 0; }
.facts, .key, dt { color: var(--muted); }
.headline, .plots, .cards { display: grid; gap: 1rem; }
.headline { grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
.plots, .cards {
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20.5rem), 1fr));
}
.figure { display: flex; flex-direction: column; }
.figure strong { font-size: 2rem; font-weight: 600; line-height: 1.25;
  letter-spacing: -.02em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
.results { margin-top: 1rem; font-size: .9rem; }
.results th, .results td { padding: .35rem 0 .35rem 1.5rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
.results th[scope=row] { text-align: left; font-weight: 400; padding-left: 0; }
.results thead th { color: var(--muted); font-weight: 500; }
.results.texts th, .results.texts td { text-align: left; padding: .35rem 1.25rem
  .35rem 0; vertical-align: top; }
.results.texts td:nth-child(n + 2) { white-space: normal; overflow-wrap: anywhere; }
.results.texts td:nth-child(2) { min-width: 5.5rem; }
.results.texts th[scope=row] { white-space: normal; min-width: 6rem; }
.results.runs td:last-child { min-width: 22rem; }
.pair { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
.heat td, .heat th { padding: 0; font-weight: 400; }
.heat { width: 100%; max-width: 36rem; table-layout: fixed; }
.heat thead td { width: 1.9rem; }
.heat tbody td { height: 1.25rem; }
.heat thead th { height: 8rem; vertical-align: bottom; }
.heat thead span { display: inline-block; writing-mode: vertical-rl;
  transform: rotate(180deg); max-height: 8rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; font-size: .68rem;
  line-height: 1; color: var(--muted); }
.heat img { display: block; width: 1.25rem; height: 1.25rem; object-fit: cover;
  border-radius: .2rem; }
.key { display: flex; align-items: center; gap: .5rem; margin-top: .75rem;
  font-size: .8rem; }
.key i { width: 8rem; height: .6rem; border-radius: .3rem; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none;
  margin: 0 0 .3rem; padding: 0; font-size: .8rem; color: var(--muted); }
.legend li { display: flex; align-items: baseline; gap: .4rem; min-width: 0;
  overflow-wrap: anywhere; }
.legend i { flex: none; width: 1rem; border-top: 3px solid; align-self: center; }
.legend .d1 { border-top-style: dashed; }
.legend .d2 { border-top-style: dotted; }
.bar { display: block; width: 7rem; height: .5rem; margin-top: .5rem;
  border-radius: .25rem; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--right); }
.map svg circle:hover { stroke: var(--ink); stroke-width: 3; fill-opacity: 1; }
.confusion { width: auto; max-width: none; table-layout: auto; }
.confusion td { width: 1.1rem; min-width: 1.1rem; height: 1.1rem; padding: 0;
  text-align: center; font-size: .72rem; }
.confusion.small tbody td { width: 2rem; min-width: 2rem; height: 1.8rem; }
.confusion thead th { height: auto; padding-bottom: .3rem; }
.confusion tbody th { max-width: 9rem; padding-right: .5rem; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; text-align: right;
  font-size: .72rem; color: var(--muted); position: sticky; left: 0;
  background: var(--card); }
.confusion .own { box-shadow: inset 0 0 0 1px var(--muted); }
.stack { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
.pair.wide { grid-template-columns: minmax(0, 3fr) minmax(min(100%, 19rem), 2fr); }
.pixels { image-rendering: pixelated; }
.card { display: flex; gap: 1rem; align-items: flex-start; }
.card img { width: 6.5rem; height: 6.5rem; object-fit: cover; flex: none;
  border-radius: .4rem; background: var(--line); }
.card ul { list-style: none; margin: 0; padding: 0; flex: 1; min-width: 0; }
.card li { position: relative; display: flex; gap: .75rem; font-size: .85rem;
  line-height: 1.3; padding: .3rem 0 .55rem; justify-content: space-between; }
.card span, .query p { min-width: 0; overflow-wrap: anywhere; }
.card li i { position: absolute; left: 0; bottom: .2rem; height: 3px;
  min-width: 2px; border-radius: 2px; background: var(--muted); }
.card .right { color: var(--right); }
.card .right i { background: var(--right); }
.card .own { border-top: 1px dashed var(--line); }
.query { flex-direction: column; gap: .6rem; }
.query p { margin: 0; font-size: .92rem; }
.query ul { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .6rem;
  flex: none; width: 100%; }
.query li { flex-direction: column; gap: .25rem; padding: 0;
  justify-content: flex-start; }
.query img { width: 100%; height: auto; aspect-ratio: 1; }
.query .asked { display: flex; gap: .75rem; align-items: center; width: 100%; }
.query .asked img { width: 5rem; height: 5rem; flex: none; }
.query.four ul { grid-template-columns: repeat(4, minmax(0, 1fr)); }
.query .right img { outline: 3px solid var(--right); outline-offset: 1px; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .6rem; }
@media (max-width: 30rem) {
  body { padding: 1.5rem .9rem 4rem; }
  h1 { font-size: 1.7rem; }
  .headline { grid-template-columns: 1fr 1fr; gap: .6rem; }
  .figure { padding: .75rem; }
  .results th, .results td { padding-left: .75rem; }
  .results small { display: block; }
  .results.texts th, .results.texts td { padding-right: .75rem; }
  .results th[scope=row] { white-space: normal; }
  .figure strong { font-size: 1.6rem; }
  .card:not(.query) img { width: 5rem; height: 5rem; }
  .pair.wide { grid-template-columns: minmax(0, 1fr); }
  .bar { width: 4rem; }
  .map svg circle { r: 9px; }
}
"""

_HEAT = plots.heat(np.linspace(0, 1, markup.LEVELS))

SHEET = "".join([
    _RULES,
    *(f".q{n} {{ background: {color}; }}\n" for n, color in enumerate(_HEAT)),
    # On the lighter colours, digits are dark.
    *(f".q{n} {{ color: {'#fff' if n < 20 else '#111'}; }}\n"
      for n in range(markup.LEVELS)),
    *(f".w{n} {{ width: {n}%; }}\n" for n in range(101)),
    *(f".legend .s{n} {{ border-color: var(--series-{n}); }}\n"
      for n in range(len(plots.SERIES))),
    f".key i {{ background: linear-gradient(90deg, {', '.join(_HEAT[::4])}); }}\n",
])


def policy() -> str:
  """The Content-Security-Policy: this style sheet, inline images, nothing else.

  Neither scripts nor style attributes, fonts, frames, forms or anything that is
  not in the page itself; so text that slipped in as markup could do nothing.
  """
  digest = base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode()
  return (
      f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
      "base-uri 'none'; form-action 'none'"
  )
