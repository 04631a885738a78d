"""No page can be made to run, to ask for or to be anything else."""

import base64
import hashlib
import re

import made
import numpy as np
import pytest

from basic.pages import comparison, document, markup, page, style

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    "\"><b style='color:red' onclick=x> javascript:x &lt; \udc80\ud83d \0\x1b"
)


def bad_names(hostile=HOSTILE):
  """A run in which every string that others can choose is hostile."""
  return dict(
      title=hostile, command=hostile,
      config={hostile: [hostile, {hostile: hostile}], "batch_size": 8},
      meta={"device_kind": hostile, "started": [hostile, hostile],
            "commit": hostile, hostile: hostile},
      rows=[
          {"step": n, hostile: 1.0, f"zeroshot/{hostile}@1": 0.5,
           f"retrieval/{hostile}/unreadable/{hostile}": 3}
          for n in (1, 2)
      ],
      samples=made.samples(captions=[hostile, *"abcde"]),
      classified=[made.classified([hostile, "b"], [0, 0, 1], [1, 1, 1], hostile)],
      quarantine=[{"index": 1, "reason": hostile, "message": hostile}],
  )


def compared(hostile=HOSTILE):
  given = bad_names(hostile)
  return comparison.comparison([
      comparison.Run(f"{n} {hostile}", {**given["config"], "x": n, "batch_size": n},
                     {**given["meta"], "command": hostile}, given["rows"])
      for n in (1, 2)
  ])


@pytest.fixture(scope="module", params=["run", "comparison"])
def text(request):
  made_of = {"run": lambda: page.page(**bad_names()), "comparison": compared}
  return made_of[request.param]()


def test_hostile_strings_become_text_and_nothing_else(text):
  text.encode()  # broken surrogates cannot make it unwritable
  found = made.Reader(text)
  tags = {tag for tag, _ in found.tags}
  assert not tags & {"script", "iframe", "object", "form", "base", "link"}
  for tag, attributes in found.tags:
    assert not any(name.startswith("on") for name in attributes)
    assert "style" not in attributes  # the policy forbids it
    if tag == "b":
      assert attributes == {"title": "the right one"}
    if tag == "img":
      assert attributes["src"].startswith("data:image/")
  assert "alert(1)" in found.text
  assert not re.search("[\ud800-\udfff\0\x1b]", text)


def test_the_policy_allows_the_style_sheet_and_inline_images_alone(text):
  policy, = (
      attributes["content"] for tag, attributes in made.Reader(text).tags
      if attributes.get("http-equiv") == "Content-Security-Policy"
  )
  rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
  sheet, = re.findall("<style>(.*?)</style>", text, re.DOTALL)
  digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
  assert rules == {
      "default-src": "'none'", "img-src": "data:", "base-uri": "'none'",
      "form-action": "'none'", "style-src": f"'sha256-{digest}'",
  }
  # It counts only for what comes after it.
  assert text.index("Content-Security-Policy") < text.index("<style>")


def test_every_class_of_a_colour_or_width_has_a_rule(text):
  names = {
      name for _, attributes in made.Reader(text).tags
      for name in (attributes.get("class") or "").split()
      if re.fullmatch(r"[qws]\d+", name)
  }
  assert names
  for name in names:
    assert f".{name} {{" in style.SHEET


def test_a_section_that_forgets_a_surrogate_can_still_be_written():
  document.document("a", "", [("b", "\udc80")]).encode()


def test_keys_and_values_of_nested_data_are_cleaned():
  assert markup.clean({"a\udc80": [("b\0", 1), None, 2.5]}) == {
      "a\ufffd": [["b\ufffd", 1], None, 2.5]}
  assert markup.clean("a\tb\nc caf\xe9 \U0001f99b") == "a\tb\nc caf\xe9 \U0001f99b"


@pytest.mark.parametrize("fraction", [0.0, 0.004, 0.5, 1.0, 7.0, -1.0, np.nan])
def test_every_number_has_a_bar_and_a_colour(fraction):
  assert f".{markup.bar(fraction)} {{" in style.SHEET
  assert f".{markup.level(fraction)} {{" in style.SHEET


@pytest.mark.slow
def test_the_largest_page_is_below_ten_megabytes():
  # Everything at once: noise, which no image format makes small, at 200 samples;
  # strings that are five times as long when they are escaped; every table full.
  draw = np.random.default_rng(0)
  long = '"' * 400
  given = bad_names(long)
  given["samples"] = made.samples(200)._replace(
      images=np.repeat(
          draw.integers(0, 256, (100, 256, 256, 3)).astype(np.uint8), 2, axis=0),
      captions=[f"{i}{long}" for i in range(200)],
  )
  labels = draw.integers(0, 60, 10_000)
  given["classified"] = [
      made.classified([f"{i}{long}" for i in range(60)], labels,
                      draw.integers(0, 60, 10_000), f"{n}{long}")
      for n in range(20)
  ]
  given["quarantine"] = given["quarantine"] * 10_000
  given["config"] = {f"{i}{long}": long for i in range(100)}
  given["rows"] = [
      {"step": n, **{f"{long}{k}/a@{j}": draw.random()
                     for k in range(120) for j in range(9)}}
      for n in range(400)
  ]
  assert 1e6 < len(page.page(**given).encode()) < 10e6
  runs = [
      comparison.Run(f"{n}{long}", {f"{i}{long}": n for i in range(400)}, {},
                     given["rows"])
      for n in range(comparison.MOST)
  ]
  assert 1e6 < len(comparison.comparison(runs).encode()) < 10e6


def test_a_page_of_noise_is_small():
  draw = np.random.default_rng(0)
  shown = made.samples(60)._replace(
      images=draw.integers(0, 256, (60, 224, 224, 3)).astype(np.uint8))
  assert len(made.build(rows=[], samples=shown).encode()) < 2e6
