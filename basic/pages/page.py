"""Builds the report of a run as one self-contained HTML page."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from basic.pages import (
    classes,
    document,
    duplicates,
    embedding_map,
    hardest,
    markup,
    nearest,
    samples,
    similarities,
    stages,
    summary,
    unreadable,
)

Samples = samples.Samples
Classified = classes.Classified

_FILES = (
    ("config.json", "the complete configuration"),
    ("run.json", "command, versions and devices"),
    ("metrics.jsonl", "all numbers, one JSON object a line"),
)
_LONGEST = 60_000  # characters of a configuration

_NO_SAMPLES = "<p>This page was built without samples.</p>"


def page(
    *,
    title: str,
    command: str,
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    samples: Samples | None,
    classified: Sequence[Classified] = (),
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
    classified: answers of zero-shot evaluations.
    quarantine: the lines of `quarantine.jsonl`.

  Returns:
    An HTML document with styles, plots and images inline. Its only links are to
    its own sections and to the files in the same folder.

  Raises:
    ValueError: if `samples` are inconsistent.
  """
  config, meta, rows = map(markup.clean, (config, meta, rows))
  shown = _shown(samples)
  sections = (
      ("Results", summary.cards(rows) + summary.table(rows)),
      ("Curves", summary.curves(rows, stages.boundaries(config))),
      ("Classes", classes.section([_cleaned(each) for each in classified])),
      ("Similarities", _similarities(shown)),
      ("Map", _NO_SAMPLES if shown is None else embedding_map.section(shown)),
      ("Gallery", _gallery(shown)),
      ("Hardest pairs", _hardest(shown)),
      ("Data", unreadable.section(rows, markup.clean(quarantine))
       + ("" if shown is None else duplicates.section(shown))),
      ("The run", _run(command, config, meta)),
  )
  return document.document(
      title, _facts(config, meta, rows), [each for each in sections if each[1]]
  )


def _shown(given: Samples | None) -> Samples | None:
  """The samples as they can be shown: finite, with captions that can be written."""
  if given is None:
    return None
  samples.check(given)
  return samples.finite(given._replace(captions=markup.clean(given.captions)))


def _cleaned(found: Classified) -> Classified:
  return found._replace(classes=markup.clean(list(found.classes)))


def _facts(
    config: Mapping[str, Any],
    meta: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> str:
  """The line under the heading: steps, examples, devices, dates, commit."""
  facts = stages.facts(config, rows)
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
  items = "".join(f"<span>{markup.text(fact)}</span>" for fact in facts)
  return f'<p class="facts">{items}</p>'


def _similarities(shown: Samples | None) -> str:
  if shown is None:
    return _NO_SAMPLES
  if shown.text_embeddings is None:
    return ""
  parts = similarities.histogram(shown) + similarities.heat_map(shown)
  return f'<div class="pair">{parts}</div>'


def _gallery(shown: Samples | None) -> str:
  if shown is None:
    return _NO_SAMPLES
  images = f"<h3>Images and their nearest images</h3>{nearest.images_of_images(shown)}"
  if shown.text_embeddings is None:
    return images
  return (
      "<h3>Images and their nearest captions</h3>"
      f"{nearest.captions_of_images(shown)}"
      "<h3>Captions and their nearest images</h3>"
      f"{nearest.images_of_captions(shown)}{images}"
  )


def _hardest(shown: Samples | None) -> str:
  if shown is None:
    return _NO_SAMPLES
  if shown.text_embeddings is None:
    return ""
  return (
      f"<h3>Right pairs of lowest margin</h3>{hardest.positives(shown)}"
      f"<h3>Wrong pairs of highest similarity</h3>{hardest.negatives(shown)}"
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
      f'<pre tabindex="0"><code>{markup.text(command, _LONGEST)}</code></pre>'
      f"<ul>{files}</ul>"
      "<details><summary>Complete configuration</summary>"
      f'<pre tabindex="0">{markup.text(settings, _LONGEST)}</pre></details>'
      "<details><summary>Versions and devices</summary>"
      f'<pre tabindex="0">{markup.text(about, _LONGEST)}</pre></details>'
  )
