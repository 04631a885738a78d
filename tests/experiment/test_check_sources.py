"""What is wrong with the data of a run is said before anything is trained on it."""

import numpy as np
import pytest
import tiny
from PIL import Image

from basic import train
from basic.data import tokenizer
from basic.experiment import build, check_sources, input_pipeline, schema, settings


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch):
  tiny.install(monkeypatch)


@pytest.fixture
def pictures(tmp_path):
  """A folder of six pictures in two classes, a copy of it, and one of others."""
  for folder, first in (("a", 0), ("copy", 0), ("b", 60)):
    for number in range(first, first + 6):
      path = tmp_path / folder / f"class {number % 2}" / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.new("RGB", (9, 8), (number, 0, 0)).save(path)
  return {name: str(tmp_path / name) for name in ("a", "copy", "b")}


def folder(path, **changes):
  return {"name": "folder", "path": path, **changes}


def checked(caplog, tmp_path, source, judged, **changes):
  """The configuration, and what is said of a run with one evaluation."""
  evals = {"x": {"name": "retrieval", "source": judged}}
  config = settings.complete(tiny.config(source=source, evals=evals, **changes))
  check_sources.check_sources([config], tmp_path)
  return caplog.text


def labels(source):
  return {"name": "labels", "source": source}


def mixed(*sources):
  return {
      "name": "mixture", "sources": {f"s{n}": s for n, s in enumerate(sources)},
      "fields": ("image", "text"),
  }


@pytest.mark.parametrize(("trained", "judged", "said"), [
    (lambda p: folder(p["a"]), lambda p: folder(p["b"]), False),
    (lambda p: folder(p["a"]), lambda p: folder(p["a"]), True),
    (lambda p: folder(p["a"]), lambda p: folder(p["copy"]), True),  # fingerprint
    (lambda p: mixed(folder(p["a"]), folder(p["b"])), lambda p: folder(p["b"]), True),
    (lambda p: folder(p["a"]), lambda p: labels(folder(p["a"])), True),
    (lambda p: labels(folder(p["a"])), lambda p: labels(folder(p["b"])), False),
    (lambda p: tiny.scenes(), lambda p: tiny.scenes(split="test"), False),
    (lambda p: tiny.scenes(), lambda p: folder(p["b"]), False),
])
def test_an_evaluation_on_the_data_of_training_is_said(
    pictures, tmp_path, caplog, trained, judged, said
):
  text = checked(
      caplog, tmp_path, trained(pictures), judged(pictures), batch_size=2)
  assert ("evals.x reads the data that the run trains on" in text) == said


@pytest.mark.parametrize(("rows", "said"), [(6, False), (8, True)])
def test_a_batch_that_is_larger_than_the_data_is_said(
    pictures, tmp_path, caplog, rows, said
):
  text = checked(
      caplog, tmp_path, folder(pictures["a"]), folder(pictures["b"]), batch_size=rows)
  assert ("batch_size is 8, and the data has 6 examples" in text) == said


def test_a_run_that_has_begun_is_not_checked_again(pictures, tmp_path, caplog):
  (tmp_path / "config.json").write_text("{}")
  assert not checked(
      caplog, tmp_path, folder(pictures["a"]), folder(pictures["a"]), batch_size=8)


def test_a_missing_evaluation_is_found_before_the_vocabulary_is_trained(
    pictures, tmp_path, monkeypatch
):
  monkeypatch.setattr(tokenizer, "train", lambda *a, **k: pytest.fail("trained"))
  evals = {"x": {"name": "retrieval", "source": folder(f"{tmp_path}/none")}}
  given = tiny.config(source=folder(pictures["a"]), evals=evals, batch_size=2)
  with pytest.raises(FileNotFoundError, match="none does not exist") as raised:
    train.train(given, tmp_path / "run")
  assert "It is `evals.x.source` of the configuration." in raised.value.__notes__


def test_a_run_opens_each_source_once(monkeypatch, tmp_path):
  opened, make = [], schema._make

  def noted(kind, given, extra):
    opened.append((kind, given["name"]))
    return make(kind, given, extra)

  monkeypatch.setattr(schema, "_make", noted)
  given = tiny.config(stages=(dict(steps=1), dict(steps=1)))
  config = settings.complete(given)
  build.run(config, tmp_path)
  sources = [name for kind, name in opened if kind == "sources"]
  used = [config["source"], *(e["source"] for e in config["evals"].values())]
  assert len(sources) == len({repr(each) for each in used})
  first = schema.make("sources", config["source"])
  assert schema.make("sources", config["source"]) is not first


def test_what_is_shared_has_the_same_settings():
  with schema.sharing():
    one = schema.make("sources", {"name": "shapes", "length": 4, "seed": 1})
    assert schema.make("sources", {"name": "shapes", "seed": 1, "length": 4}) is one
    other = schema.make("sources", {"name": "shapes", "length": 4, "seed": 2})
  assert not np.array_equal(other[0]["image"], one[0]["image"])


@pytest.mark.parametrize("length", [4, 9, 60])
def test_captions_that_are_cut_off_are_counted_once(caplog, tmp_path, length):
  given = tiny.config(text=dict(name="toy", vocab=40, length=length))
  config = settings.complete(given)
  made = input_pipeline.run_tokenizer([config], tmp_path)
  longer = tokenizer.Tokenizer(made.content, 200)
  source, cut, total = schema.make("sources", config["source"]), 0, 0
  for index in np.linspace(0, len(source) - 1, 50).astype(int):
    for caption in source[index]["text"]:
      total += 1
      cut += np.count_nonzero(longer(caption)) > length
  said = f"{100 * cut / total:.3g}% of the captions have more than text.length="
  assert total < 1000 and caplog.text.count("is cut off") == (cut > 0)
  assert not cut or f"{said}{length} " in caplog.text


def test_the_length_that_captions_need_is_said(caplog):
  content = tokenizer.train(["a b c d"] * 9, vocab=12)
  made = tokenizer.Tokenizer(content, 4)
  ids = len(tokenizer.Tokenizer(content, 99).ids("a b c d"))
  input_pipeline._say_how_long(made, ["a"] * 98 + ["a b c d", "a b c d a b c d"])
  assert f"99% have at most {ids + 1}." in caplog.text
