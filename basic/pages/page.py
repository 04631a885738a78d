"""Builds the report of a run as one self-contained HTML page."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from basic.pages import gallery, summary, unreadable

Samples = gallery.Samples

_FILES = (
    ("config.json", "the complete configuration"),
    ("run.json", "command, versions and devices"),
    ("metrics.jsonl", "all numbers, one JSON object a line"),
)

_NO_SAMPLES = "<p>This page was built without samples.</p>"

_STYLE = """
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
h4 small { font-weight: 400; display: block; overflow-wrap: anywhere; }
p { max-width: 44rem; }
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
dl { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem 1rem;
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
.query ul { display: grid; grid-template-columns: repeat(3, 1fr); gap: .6rem;
  flex: none; width: 100%; }
.query li { flex-direction: column; gap: .25rem; padding: 0; }
.query img { width: 100%; height: auto; aspect-ratio: 1; }
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
}
"""


def page(
    *,
    title: str,
    command: str,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    samples: Samples | None,
    quarantine: Sequence[Mapping[str, Any]] = (),
) -> str:
  """Builds the report page of a run.

  Args:
    title: heading of the page.
    command: the command line that started the run.
    config: the complete configuration, as `config.json` holds it.
    meta: the content of `run.json`; missing entries are left out.
    rows: the lines of `metrics.jsonl`, oldest first.
    samples: held-out examples to show; None leaves the galleries out.
    quarantine: the lines of `quarantine.jsonl`.

  Returns:
    An HTML document with styles, plots and images inline. Its only links are to
    its own sections and to the files in the same folder.

  Raises:
    ValueError: if `samples` are inconsistent.
  """
  if samples is not None:
    gallery.check(samples)
  sections = (
      ("Results", summary.cards(rows) + summary.table(rows)),
      ("Curves", summary.curves(rows)),
      ("Data", unreadable.section(rows, quarantine)),
      ("Similarities", _similarities(samples)),
      ("Gallery", _gallery(samples)),
      ("The run", _run(command, config, meta)),
  )
  links = "".join(
      f'<a href="#{_anchor(name)}">{name}</a>' for name, _ in sections
  )
  body = "".join(
      f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
      for name, content in sections
  )
  return (
      '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
      '<meta name="viewport" content="width=device-width, initial-scale=1">'
      f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
      f"<body><header><h1>{html.escape(title)}</h1>"
      f'{_facts(config, meta, rows)}<nav aria-label="Sections">{links}</nav>'
      f"</header><main>{body}</main></body></html>\n"
  )


def _facts(
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> str:
  """The line under the heading: steps, examples, devices, dates, commit."""
  facts = []
  if rows:
    steps = max(row["step"] for row in rows)
    facts.append(f"{steps:,} steps")
    size = config.get("batch_size")
    if isinstance(size, int):
      facts += [f"batches of {size:,}", f"{steps * size:,} examples"]
  if "device_kind" in meta:
    facts.append(f"{meta.get('device_count', 1)} \N{MULTIPLICATION SIGN} "
                 f"{meta['device_kind']}")
  if meta.get("started"):
    first, *again = meta["started"]
    facts.append("started " + first.replace("T", " ").replace("Z", " UTC"))
    if again:
      facts.append(f"resumed {len(again)} times, last {again[-1][:10]}")
  if meta.get("commit"):
    facts.append(f"commit {meta['commit'][:10]}")
  items = "".join(f"<span>{html.escape(fact)}</span>" for fact in facts)
  return f'<p class="facts">{items}</p>'


def _similarities(samples: Samples | None) -> str:
  if samples is None:
    return _NO_SAMPLES
  parts = gallery.similarity_histogram(samples) + gallery.heat_map(samples)
  return f'<div class="pair">{parts}</div>'


def _gallery(samples: Samples | None) -> str:
  if samples is None:
    return _NO_SAMPLES
  return (
      "<h3>Images and their nearest captions</h3>"
      f"{gallery.captions_of_images(samples)}"
      "<h3>Captions and their nearest images</h3>"
      f"{gallery.images_of_captions(samples)}"
  )


def _run(
    command: str, config: Mapping[str, Any], meta: Mapping[str, Any]
) -> str:
  files = "".join(
      f'<li><a href="{name}">{name}</a>, {purpose}</li>'
      for name, purpose in _FILES
  )
  settings = json.dumps(config, indent=2, sort_keys=True)
  about = json.dumps(meta, indent=2, sort_keys=True)
  return (
      f"<pre><code>{html.escape(command)}</code></pre><ul>{files}</ul>"
      "<details><summary>Complete configuration</summary>"
      f"<pre>{html.escape(settings)}</pre></details>"
      "<details><summary>Versions and devices</summary>"
      f"<pre>{html.escape(about)}</pre></details>"
  )


def _anchor(name: str) -> str:
  return name.lower().replace(" ", "-")
