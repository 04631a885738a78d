"""The filter keeps what ALIGN's rules keep, however its work is divided."""

import dataclasses
import inspect
import io
import itertools
import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from basic import preparation, types
from basic.data import decoding, hashing
from basic.preparation import _features, _rules
from basic.preparation import filter as command
from basic.sources import mixture, subset

WORDS = "a red blue green cat dog fish on in the".split()


@dataclasses.dataclass
class Crawl:
  """Examples in memory; None is unreadable. Notes which were read."""

  examples: list
  fingerprint: str = "1"
  fails_at: int = -1

  def __post_init__(self):
    self.read = []

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    if not 0 <= index < len(self.examples):
      raise IndexError(index)
    self.read.append(index)
    if index == self.fails_at:
      raise OSError("the network is down")
    if self.examples[index] is None:
      raise types.Unreadable("no image")
    return self.examples[index]


def picture(height, width, seed=0):
  """A smooth picture with structure, other ones for other seeds."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (5, 5, 3), np.uint8)
  return np.asarray(Image.fromarray(coarse).resize((width, height)))


def png(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return decoding.Encoded(file.getvalue())


def crawl(seed, length=60):
  """Pictures that repeat, of many sizes, with captions that repeat."""
  rng = np.random.default_rng(seed)
  pictures = [
      picture(*rng.integers(4, 40, 2), seed=number) for number in range(20)
  ]
  examples = []
  for _ in range(length):
    image = pictures[rng.integers(20)]
    texts = tuple(
        " ".join(rng.choice(WORDS, rng.integers(1, 6)))
        for _ in range(rng.integers(1, 4))
    )
    readable = rng.random() > 0.05
    examples.append({"image": image, "text": texts} if readable else None)
  return Crawl(examples)


def expected(source, *, shorter_side, aspect_ratio, image_texts, text_images,
             fewest_words, most_words, common_tokens):
  """{kept example: its kept captions}, by loops over all examples."""
  raw = [
      (k, e["image"].tobytes(), e["image"].shape, e["text"])
      for k, e in enumerate(source.examples) if e is not None
  ]

  def tokens(text):
    found = text.split()
    return set(found) | {" ".join(pair) for pair in itertools.pairwise(found)}

  captions = [text for *_, texts in raw for text in texts]
  counts = {
      token: sum(token in tokens(text) for text in captions)
      for token in set().union(*map(tokens, captions))
  }
  ranked = sorted(counts.values(), reverse=True)
  least = ranked[common_tokens - 1] if common_tokens < len(ranked) else 0
  kept = {}
  for k, image, (height, width, _), texts in raw:
    of_image = {t for _, other, _, ts in raw if other == image for t in ts}
    if min(height, width) <= shorter_side:
      continue
    if max(height, width) / min(height, width) >= aspect_ratio:
      continue
    if len(of_image) > image_texts:
      continue
    left = [
        i for i, text in enumerate(texts)
        if len({image for _, image, _, ts in raw if text in ts}) <= text_images
        and min(counts[token] for token in tokens(text)) >= least
        and fewest_words <= len(text.split()) <= most_words
    ]
    if left:
      kept[k] = left
  return kept


def found(source, out):
  """{kept example: its kept captions}, as the source `subset` reads them."""
  kept = subset.subset(source=source, kept=str(out))
  numbers = np.load(out / "examples.npy").tolist()
  assert len(numbers) == len(kept)
  result = {}
  for place, number in enumerate(numbers):
    texts = source.examples[number]["text"]
    result[number] = [
        i for i, text in enumerate(texts) if text in kept[place]["text"]
    ]
  return result


RULES = dict(
    shorter_side=8, aspect_ratio=2.5, image_texts=8, text_images=2,
    fewest_words=2, most_words=4, common_tokens=70,
)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("changed", [
    {}, {"image_texts": 6}, {"common_tokens": 50}, {"text_images": 1},
    {"fewest_words": 0, "most_words": 9, "common_tokens": 10_000},
])
def test_it_keeps_what_the_rules_keep(tmp_path, seed, changed):
  # Pages repeat too, and then other parts have the same image and caption.
  source, rules = Crawl(crawl(seed).examples * 2), RULES | changed
  counts = command.filter(source=source, out=str(tmp_path), **rules, workers=1, part=50)
  kept = expected(source, **rules)
  assert kept and found(source, tmp_path) == kept
  assert counts["kept"] == len(kept)
  assert counts["kept captions"] == sum(map(len, kept.values()))


def test_every_rule_drops_something_and_the_counts_add_up(tmp_path):
  source = crawl(0, length=300)
  counts = command.filter(
      source=source, out=str(tmp_path), workers=1, part=100,
      **RULES | {"image_texts": 28, "text_images": 6, "common_tokens": 100,
               "fewest_words": 3},
      evaluation={"test": Crawl(source.examples[:1])},
  )
  images = {n: c for n, c in counts.items() if n.startswith(("unread", "image/"))}
  captions = {n: c for n, c in counts.items() if n.startswith("caption/")}
  assert len(images) == 6 and len(captions) == 4
  assert min(images.values()) > 0 and min(captions.values()) > 0
  assert counts["examples"] == 300 == counts["kept"] + sum(images.values())
  assert counts["captions"] == counts["kept captions"] + sum(captions.values())
  report = json.loads((tmp_path / "report.json").read_text())
  reasons = np.load(tmp_path / "reasons.npy")
  for code, name in enumerate(report["reasons"][2:], start=2):
    assert (reasons == code).sum() == report["counts"][name] == counts[name]


def test_the_defaults_are_those_that_align_published():
  published = {  # arXiv 2102.05918, section 3
      "shorter_side": 200, "aspect_ratio": 3.0, "image_texts": 1_000,
      "text_images": 10, "fewest_words": 3, "most_words": 20,
      "common_tokens": 100_000_000,
  }
  arguments = inspect.signature(command.filter).parameters
  assert {name: arguments[name].default for name in published} == published


TEXT = "one caption of five words"


@pytest.mark.parametrize(("examples", "kept"), [
    ([{"image": picture(200, 300), "text": (TEXT,)}], []),
    ([{"image": picture(201, 300), "text": (TEXT,)}], [0]),
    ([{"image": picture(201, 603), "text": (TEXT,)}], []),
    ([{"image": picture(602, 201), "text": (TEXT,)}], [0]),
    ([{"image": picture(201, 300), "text": ("two words",)}], []),
    ([{"image": picture(201, 300), "text": ("just three words",)}], [0]),
    ([{"image": picture(201, 300), "text": ("w " * 20,)}], [0]),
    ([{"image": picture(201, 300), "text": ("w " * 21,)}], []),
    ([{"image": picture(201, 300)}], [0]),  # no captions to judge
    ([{"image": picture(201, 300), "text": TEXT}], [0]),
    ([{"image": picture(202, 202, seed=k), "text": (TEXT,)} for k in range(10)],
     list(range(10))),
    ([{"image": picture(202, 202, seed=k), "text": (
        TEXT.upper() if k % 2 else f" {TEXT}".replace(" ", "  "),
    )} for k in range(11)], []),
    ([{"image": picture(202, 202), "text": (TEXT,)}] * 11, list(range(11))),
    ([{"image": picture(202, 202), "text": tuple(
        f"caption number {k}" for k in range(start, start + 50)
    )} for start in range(0, 1000, 50)], list(range(20))),
    ([{"image": picture(202, 202), "text": tuple(
        f"caption number {k}" for k in range(start, start + 77)
    )} for start in range(0, 1001, 77)], []),
])
def test_a_limit_is_the_last_value_that_passes(tmp_path, examples, kept):
  command.filter(source=Crawl(examples), out=str(tmp_path), workers=1)
  assert np.load(tmp_path / "examples.npy").tolist() == kept


def test_images_of_evaluation_sets_are_dropped(tmp_path):
  photo = datasets.load_sample_images().images[0]
  copy = np.asarray(Image.fromarray(photo[20:-22]).resize((400, 260)))
  white = np.full((300, 300, 3), 255, np.uint8)
  source = Crawl([
      {"image": image, "text": (TEXT,)}
      for image in (photo, copy, photo[:, ::-1].copy(), picture(300, 300, seed=1))
  ] + [{"image": png(white)}, {"image": png(white - 1)}])
  counts = command.filter(
      source=source, out=str(tmp_path), workers=1,
      evaluation={"photos": Crawl([{"image": photo}, None]),
                  "flat": Crawl([{"image": png(white)}])},
  )
  # A mirrored picture is another one, and so is another flat one.
  assert np.load(tmp_path / "examples.npy").tolist() == [2, 3, 5]
  assert counts["image/evaluation set"] == 3
  assert counts["evaluation/photos/unreadable"] == 1
  assert counts["evaluation/flat/flat"] == 1


def test_the_distance_is_the_last_that_counts_as_the_same(tmp_path):
  one, two = picture(210, 210, seed=1), picture(210, 210, seed=2)
  bits = int(hashing.nearest(
      hashing.unsigned([hashing.perceptual(one)]),
      hashing.unsigned(hashing.views(two)),
  )[0])
  for distance, kept in ((bits, 0), (bits - 1, 1)):
    counts = command.filter(
        source=Crawl([{"image": one}]), out=str(tmp_path), workers=1,
        evaluation={"two": Crawl([{"image": two}])}, distance=distance,
    )
    assert counts["kept"] == kept


def test_a_flat_picture_is_near_no_hash():
  features = _features.extract(
      Crawl([{"image": np.full((210, 210, 3), 9, np.uint8)}]), 0, 1
  )
  none = hashing.unsigned([])
  every = _rules.Evaluation(image=none, look=hashing.unsigned([0, 1, 2**63]))
  rules = _rules.Rules(200, 3.0, None, None, 3, 20, None, distance=6)
  decision = _rules.decide(
      features, rules, _rules.Tables(none, none, None), every
  )
  assert decision.counts["kept"] == 1


def test_it_goes_on_where_it_was_stopped(tmp_path):
  source = crawl(1)
  settings = dict(workers=1, part=10, **RULES)
  command.filter(source=source, out=str(tmp_path / "whole"), **settings)
  broken = dataclasses.replace(source, fails_at=34)
  with pytest.raises(OSError, match="the network is down") as raised:
    command.filter(source=broken, out=str(tmp_path / "two"), **settings)
  assert "while reading example 34 of 60" in raised.value.__notes__
  again = dataclasses.replace(source)
  command.filter(source=again, out=str(tmp_path / "two"), **settings)
  assert again.read == list(range(30, 60))
  for name in ("examples.npy", "captions.npy", "reasons.npy", "report.json"):
    one, two = tmp_path / "whole" / name, tmp_path / "two" / name
    assert one.read_bytes() == two.read_bytes()


def test_other_rules_need_no_second_reading(tmp_path):
  source = crawl(2)
  command.filter(source=source, out=str(tmp_path), workers=1, **RULES)
  again = dataclasses.replace(source)
  changed = RULES | {"shorter_side": 15, "text_images": 1}
  command.filter(source=again, out=str(tmp_path), workers=1, **changed)
  assert again.read == []
  assert found(source, tmp_path) == expected(source, **changed)


def test_an_evaluation_set_may_be_added_and_is_read_once(tmp_path):
  source = crawl(2)
  command.filter(source=source, out=str(tmp_path), workers=1, **RULES)
  before = np.load(tmp_path / "examples.npy")
  again = dataclasses.replace(source)
  test = Crawl([source.examples[before[0]]])
  for _ in range(2):
    counts = command.filter(
        source=again, out=str(tmp_path), workers=1, evaluation={"test": test},
        **RULES,
    )
  assert again.read == [] and test.read == [0]
  assert counts["image/evaluation set"] > 0
  assert before[0] not in np.load(tmp_path / "examples.npy")


def test_processes_give_what_one_process_gives(tmp_path):
  source = crawl(3)
  for workers in (1, 2):
    command.filter(
        source=source, out=str(tmp_path / str(workers)), workers=workers, part=20,
        **RULES,
    )
  same_files(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path):
  parent = subprocess.Popen([
      sys.executable, "-m", "basic.prepare", "filter", "--source.name=shapes",
      "--source.length=1000000", "--part=200", "--workers=2", f"--out={tmp_path}",
  ])
  part = tmp_path / "features" / "000000.npz"
  while not part.exists():
    assert parent.poll() is None
    time.sleep(0.1)
  listed = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
  workers = [
      pathlib.Path(f"/proc/{child}/stat") for child in listed.read_text().split()
  ]
  parent.kill()
  parent.wait()
  assert len(workers) >= 2
  for _ in range(600):
    if not any(worker.exists() for worker in workers):
      return
    time.sleep(0.1)
  pytest.fail("the workers still wait for work")


def same_files(one, two):
  for name in ("examples.npy", "captions.npy", "reasons.npy", "report.json"):
    assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_a_beam_pipeline_gives_what_one_process_gives(tmp_path, monkeypatch):
  pytest.importorskip(
      "apache_beam", reason="the extra `prepare` is not installed"
  )
  from basic.preparation import _beam

  source, counted = Crawl(crawl(4).examples * 2), {}

  def read(self, title, task, numbers, plain=_beam.Beam.read):
    counted[title] = plain(self, title, task, numbers)
    return counted[title]

  monkeypatch.setattr(_beam.Beam, "read", read)
  for name, flags in (("one", ()), ("beam", ("--runner=DirectRunner",))):
    counts = command.filter(
        source=source, out=str(tmp_path / name), workers=1, part=20, runner=flags,
        evaluation={"test": Crawl(source.examples[:2])}, **RULES,
    )
  same_files(tmp_path / "one", tmp_path / "beam")
  counters = {name: count for name, count in counted["decide"].items() if count}
  assert counters == {
      name: count for name, count in counts.items()
      if count and not name.startswith("evaluation/")
  }


def test_beams_flags_without_beam_end_in_a_sentence(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  monkeypatch.delitem(sys.modules, "basic.preparation._beam", raising=False)
  monkeypatch.delattr(preparation, "_beam", raising=False)
  with pytest.raises(ImportError, match="Install the extra `prepare`"):
    command.filter(
        source=crawl(0), out=str(tmp_path), runner=("--runner=DirectRunner",)
    )


def test_other_data_in_the_same_folder_are_refused(tmp_path):
  source = crawl(0)
  command.filter(source=source, out=str(tmp_path), workers=1, **RULES)
  for other, part in (
      (dataclasses.replace(source, fingerprint="2"), 5_000),
      (Crawl(source.examples[:-1]), 5_000), (source, 10),
  ):
    with pytest.raises(ValueError, match="holds parts of source with"):
      command.filter(source=other, out=str(tmp_path), workers=1, part=part)


def test_a_damaged_part_is_named(tmp_path):
  source = crawl(0)
  command.filter(source=source, out=str(tmp_path), workers=1, part=30, **RULES)
  path = tmp_path / "features" / "000001.npz"
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 255
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"000001\.npz is damaged"):
    command.filter(source=source, out=str(tmp_path), workers=1, part=30, **RULES)


def test_more_than_64_captions_are_chosen_from(tmp_path):
  texts = tuple(f"caption number {k}" if k % 3 else "short" for k in range(150))
  source = Crawl([
      {"image": picture(202, 202), "text": texts},
      {"image": picture(202, 202, seed=1), "text": (TEXT, "short")},
  ])
  command.filter(source=source, out=str(tmp_path), workers=1, part=1)
  kept = subset.subset(source=source, kept=str(tmp_path))
  assert kept[0]["text"] == tuple(text for text in texts if text != "short")
  assert kept[1]["text"] == (TEXT,)


def test_the_folder_may_be_remote():
  source, out = crawl(0), "memory://crawl/kept"
  command.filter(source=source, out=out, workers=1, **RULES)
  kept = subset.subset(source=source, kept=out)
  assert len(kept) == len(expected(source, **RULES))


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"shorter_side": -1}, "shorter_side is -1; expected 0 or more"),
    ({"aspect_ratio": 0.5}, "aspect_ratio is 0.5; expected 1 or more"),
    ({"aspect_ratio": float("nan")}, "aspect_ratio is nan"),
    ({"text_images": 0}, "text_images is 0"),
    ({"common_tokens": 0}, "common_tokens is 0"),
    ({"distance": 33}, "expected 0 to 32 bits"),
    ({"most_words": 2}, "no caption would be left"),
    ({"part": 0}, "part is 0"),
    ({"workers": 0}, "workers is 0"),
    ({"out": "~/kept"}, "no shell has expanded"),
    ({"source": Crawl([])}, "has no examples"),
    ({"source": Crawl([{"text": "a"}])}, "and no image"),
])
def test_what_cannot_be_is_refused(tmp_path, settings, sentence):
  whole = {"source": crawl(0), "out": str(tmp_path), "workers": 1} | settings
  with pytest.raises(ValueError, match=sentence):
    command.filter(**whole)


def test_a_source_with_an_order_of_its_own_is_refused_before_it_is_read(tmp_path):
  source = crawl(0)
  mixed = mixture.mixture(sources={"a": source})
  source.read.clear()
  with pytest.raises(ValueError, match="filter its parts, and mix the subsets"):
    command.filter(source=mixed, out=str(tmp_path / "out"))
  assert not source.read and not list(tmp_path.iterdir())
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="file is a file; it takes a folder"):
    command.filter(source=source, out=str(tmp_path / "file"))
