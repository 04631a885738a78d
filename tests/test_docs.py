"""The pages in docs/ hold code that runs."""

import pathlib
import re
import sys

import numpy as np
import pytest
from PIL import Image

from basic import sources, types
from basic.experiment import schema

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
REFERENCE = {
    f"reference/{name}.md" for name in (
        "index", "settings", "python", "programs", "objectives", "encoders",
        "sources", "augmentations", "evals", "weights", "gradient", "optim",
        "preparation",
    )
}


@pytest.fixture
def birds(tmp_path, monkeypatch):
  """The package of docs/sources.md, and three pictures, one without caption."""
  blocks = re.findall(r"```python\n(.*?)```", (DOCS / "sources.md").read_text(), re.S)
  (tmp_path / "birds").mkdir()
  (tmp_path / "birds" / "data.py").write_text(blocks[0])
  monkeypatch.syspath_prepend(tmp_path)
  pictures = tmp_path / "pictures" / "train"
  pictures.mkdir(parents=True)
  for number in range(3):
    pixels = np.full((4, 6, 3), 40 * number, np.uint8)
    Image.fromarray(pixels).save(pictures / f"{number}.jpg")
    if number != 1:
      (pictures / f"{number}.txt").write_text(f"bird {number}\n")
  settings = eval(f"dict({blocks[1].strip()})")["source"]
  yield settings | {"folder": str(tmp_path / "pictures")}
  for name in ("birds", "birds.data"):
    sys.modules.pop(name, None)


def test_the_source_of_the_page_is_one(birds):
  function = schema.plugin("sources", birds["name"])
  full = {"name": birds["name"], **schema.complete("source", function, birds)}
  source = schema.make("sources", full)
  assert sources.check(source) == []
  assert source[2]["text"] == ("bird 2",)
  assert np.asarray(source[0]["image"]).shape == (4, 6, 3)
  with pytest.raises(types.Unreadable, match="no caption"):
    source[1]
  assert source.where(1) == f"{birds['folder']}/train/1.jpg"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.name)
def test_lines_of_pages_are_not_long_and_name_files_that_exist(page):
  root = DOCS.parent
  for line in page.read_text().splitlines():
    assert len(line) <= 120 or line.startswith("|"), line
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", line):
      # Pages of the reference are made with the site; test_docs_reference.py.
      assert path in REFERENCE or (page.parent / path).exists(), path
    for path in re.findall(r"`((?:basic|configs|tests|launch)/[\w/]+\.\w+)`", line):
      assert (root / path).exists(), path
