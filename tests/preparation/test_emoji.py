"""The emoji data set, made of packages that are drawn here; no network."""

import io
import json
import os
import sys
import tarfile

import cv2
import experiments
import numpy as np
import pytest

from basic import prepare
from basic.data import decoding
from basic.preparation import (
    _emoji_packages,
    _emoji_pictures,
    _emoji_words,
    emoji,
)
from basic.sources import tar

COUNT = 48
COLOURS = ("ff0000", "00ff00", "0000ff", "ffff00", "ff00ff")
TONES = ("1F3FB", "1F3FF")
GERMAN = "-auf-deutsch"


def archive(files, folder="package"):
  """A package as npm packs it, of contents by path."""
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode="w:gz") as members:
    for path, content in files.items():
      member = tarfile.TarInfo(f"{folder}/{path}")
      content = content if isinstance(content, bytes) else json.dumps(content).encode()
      member.size = len(content)
      members.addfile(member, io.BytesIO(content))
  return data.getvalue()


def code_of(n):
  return f"{0x1F600 + n:X}"


def entry(n, word, group):
  """A concept with two skin tones; every fourth also as a woman."""

  def one(code, label):
    tags = [f"{word} key", "shared"]
    return dict(label=label, hexcode=code, group=group, tags=tags)

  skins = [one(f"{code_of(n)}-{tone}", f"{word} {n}: {tone}") for tone in TONES]
  entries = [one(code_of(n), f"{word} {n}") | dict(skins=skins)]
  if n % 4 == 0:
    entries.append(one(f"{code_of(n)}-200D-2640-FE0F", f"woman {word} {n}"))
  return entries


def words():
  """The words of all drawn concepts, and entries that are no concepts."""
  files = {"LICENSE": b"MIT License", "meta/unicode-names.json": {
      code_of(n): f"OLD NAME {n}" for n in range(COUNT)}}
  for language, word in (("en", "thing"), ("de", f"Ding{GERMAN}"), ("nl", "dinge")):
    data = [e for n in range(COUNT) for e in entry(n, word, 9 if n == 1 else 3)]
    data.append(dict(label="dark skin tone", hexcode="1F3FF", group=2))
    data.append(dict(label="regional indicator A", hexcode="1F1E6"))
    files[f"{language}/data.json"] = data
  return archive(files)


def drawing(colour):
  """A square of one colour in the middle of nothing."""
  return f'<path fill="#{colour}" d="M4 4h8v8h-8z"/>'


def drawn_codes():
  for n in range(COUNT):
    yield n, code_of(n)
    yield from ((n, f"{code_of(n)}-{tone}") for tone in TONES)
    if n % 4 == 0:
      yield n, f"{code_of(n)}-200D-2640"


def iconify(vendor, colour):
  by_code = vendor.name in ("openmoji", "noto", "twemoji")
  names = {code: f"icon-{code.lower()}" for _, code in drawn_codes()}
  if not by_code:  # One has the names of today, one those of old.
    old = vendor.name == "fxemoji"
    names = {code_of(n): f"oldname{n}" if old else f"Thing-{n}" for n in range(COUNT)}
  icons = dict(
      icons={name: dict(body=drawing(colour)) for name in names.values()},
      aliases={}, width=16, height=16)
  return archive({
      "icons.json": icons, "package.json": {},
      "chars.json": {k.lower(): v for k, v in names.items()} if by_code else {},
      "info.json": dict(
          license=dict(title="T", spdx=f"L-{vendor.name}", url="u"),
          author=dict(name="Someone", url="v")),
  })


def assets():
  pixels = np.zeros((32, 32, 4), np.uint8)
  pixels[8:24, 8:24] = (255, 128, 0, 255)  # blue, green, red, alpha
  webp = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
  return archive({
      **{f"assets/{code.lower()}.webp": webp for _, code in drawn_codes()},
      "package.json": dict(license="MIT", homepage="h", author="a")})


@pytest.fixture(scope="module")
def packages():
  drawn = zip(_emoji_pictures.TRAINED, COLOURS, strict=True)
  return {
      "emojibase-data": words(), _emoji_pictures.UNSEEN.package.name: assets(),
      **{vendor.package.name: iconify(vendor, colour) for vendor, colour in drawn},
  }


SETTINGS = dict(size=16, languages="en,de", withheld="de", unseen="nl")


def make(packages, out, **changed):
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(_emoji_packages, "fetch", lambda package, npm: packages[package.name])
    return emoji.emoji(out=str(out), **{**SETTINGS, **changed})


@pytest.fixture(scope="module")
def made(packages, tmp_path_factory):
  folder = tmp_path_factory.mktemp("emoji") / "data"
  return folder, make(packages, folder)


def read(folder, split):
  """The examples of a split: {extension: content} by key."""
  found = {}
  for path in sorted(folder.glob(f"{split}-*.tar")):
    with tarfile.open(path) as members:
      for member in members:
        key, extension = member.name.split(".")
        content = members.extractfile(member).read()
        found.setdefault(key, {})[extension] = (
            json.loads(content) if extension == "json" else content)
  return found


ALL = ("train", "tones", "concepts", "style", "words", "both")


def test_every_example_has_its_pixels_its_words_and_its_class(made):
  folder, counts = made
  colours = {
      v.name: [int(c[i:i + 2], 16) for i in (0, 2, 4)]
      for v, c in zip(_emoji_pictures.TRAINED, COLOURS, strict=True)
  } | {"fluent-3d": [0, 128, 255]}
  for split in ALL:
    examples = read(folder, split)
    assert len(examples) == counts[split] > 0
    names = "concepts" if split in ("concepts", "both") else "classes"
    classes = (folder / f"{names}.en.txt").read_text().splitlines()
    for key, example in examples.items():
      about = example["json"]
      assert key == f"{about['vendor']}-{about['concept'].lower()}"
      pixels = decoding.decode(example["png"])
      assert pixels.shape == (16, 16, 3)
      np.testing.assert_array_equal(pixels[8, 8], colours[about["vendor"]])
      np.testing.assert_array_equal(pixels[0, 0], [255] * 3)
      assert example["txt"].decode() == about["names"]["en"]
      base = about["names"]["en"].split(":")[0]
      assert classes[int(example["cls"])] == base
      n = int(about["concept"].split("-")[0], 16) - 0x1F600
      assert base in (f"thing {n}", f"woman thing {n}")


def test_the_counts_are_those_of_the_drawn_packages(made):
  _, counts = made
  bases = COUNT + COUNT // 4
  held = counts["concepts held out"]
  assert counts["classes"] == bases and 0 < held < bases
  # Three vendors have everything, two the concepts that are not women.
  drawn = 3 * bases + 2 * COUNT
  assert counts["train"] + counts["concepts"] == drawn
  assert counts["both"] == held
  assert counts["style"] == bases - held - 1  # one flag


def at(folder, settings):
  """Settings of a source of the configuration, over the data that was made."""
  own = {k: v for k, v in settings.items() if k != "name"}
  own["index"] = str(folder.parent / "indexes")
  for key in ("shards", "classes"):
    if isinstance(own[key], str):
      own[key] = own[key].replace("data/emoji", str(folder))
  return tar.tar(**own)


def test_the_configuration_reads_what_was_made(made):
  folder, counts = made
  config = experiments.read("emoji")
  source = at(folder, config["source"])
  assert len(source) == counts["train"] and not source.damage
  both = next(e for e in map(source.__getitem__, range(99)) if len(e["text"]) == 4)
  weights = dict(zip(both["text"], both["text_weights"], strict=True))
  english = sum(w for text, w in weights.items() if GERMAN not in text)
  assert english / sum(weights.values()) == 20 / 24
  shared = {label: how["source"] for label, how in config["evals"].items()}
  assert len({json.dumps(each) for each in shared.values()}) == 7
  for settings in shared.values():
    judged = at(folder, settings)
    split = settings["shards"].split("/")[-1].split("-")[0]
    assert len(judged) == counts[split] and len(set(judged.classes)) > 3
    names = {judged.classes[judged[i]["label"]] for i in range(3)}
    german = ".de." in settings["classes"]
    assert all((GERMAN in name) == german for name in names)


def test_data_that_is_not_there_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  settings = experiments.read("emoji")["source"]
  with pytest.raises(FileNotFoundError, match=r"(?s)data/emoji.*basic\.prepare"):
    tar.tar(**{k: v for k, v in settings.items() if k != "name"})


def family(example):
  return example["json"]["concept"].split("-")[0]


def test_no_variant_of_a_held_out_concept_is_trained_on(made):
  folder, _ = made
  held = {family(e) for s in ("concepts", "both") for e in read(folder, s).values()}
  trained = {family(e) for s in ("train", "tones") for e in read(folder, s).values()}
  judged = {family(e) for s in ("style", "words") for e in read(folder, s).values()}
  assert held and not held & trained and judged <= trained
  every = {code_of(n) for n in range(COUNT)}
  assert held | trained == every


def test_the_new_style_and_the_new_language_are_in_no_training_example(made):
  folder, _ = made
  unseen = _emoji_pictures.UNSEEN.name
  for split in ("train", "tones"):
    for key, example in read(folder, split).items():
      assert not key.startswith(unseen)
      assert "nl" not in example["json"]["names"]
      assert "nl" not in example["json"]["keywords"]
  for split in ("style", "words", "both"):
    assert all(key.startswith(unseen) for key in read(folder, split))
  assert all(not key.startswith(unseen) for key in read(folder, "concepts"))


def test_withheld_words_are_in_no_training_example_and_all_others_are(made):
  folder, _ = made
  withheld = {family(e) for e in read(folder, "words").values()}
  flags = {code_of(1)}
  for split in ("train", "tones"):
    for example in read(folder, split).values():
      expected = {"en"} if family(example) in withheld - flags else {"en", "de"}
      assert set(example["json"]["names"]) == expected
      assert set(example["json"]["keywords"]) == expected
  assert all("de" in e["json"]["names"] for e in read(folder, "words").values())


def test_flags_are_trained_on_and_never_judged(made):
  folder, _ = made
  for split in ALL:
    flags = [e for e in read(folder, split).values() if family(e) == code_of(1)]
    assert bool(flags) == (split in ("train", "tones"))


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_packages_give_the_same_bytes_also_after_a_kill(
    made, packages, tmp_path
):
  partial = tmp_path / ".again.partial"
  partial.mkdir()
  (partial / "train-0099.tar").write_bytes(b"half of a sha")
  make(packages, tmp_path / "again")
  assert contents(tmp_path / "again") == contents(made[0])
  assert not partial.exists()


def test_a_complete_folder_is_left_as_it_is_without_npm(made):
  folder, counts = made
  assert make({}, folder) == counts


def test_a_folder_that_is_something_else_is_not_touched(made, packages, tmp_path):
  (tmp_path / "mine.txt").write_text("mine")
  with pytest.raises(ValueError, match="no folder of emoji"):
    make(packages, tmp_path)
  with pytest.raises(ValueError, match="other settings"):
    make(packages, made[0], size=32)
  assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_lost_a_shard_is_refused(made, packages, tmp_path):
  folder = tmp_path / "copy"
  make(packages, folder)
  (folder / "style-0000.tar").write_bytes(b"")
  with pytest.raises(ValueError, match=r"style-0000\.tar"):
    make(packages, folder)


def test_nothing_is_left_where_a_package_cannot_be_had(packages, tmp_path):
  some = {k: v for k, v in packages.items() if "noto" not in k}
  with pytest.raises(KeyError):
    make(some, tmp_path / "new")
  assert not list(tmp_path.iterdir())


def test_the_licence_of_every_vendor_is_the_one_its_package_states(made):
  text = (made[0] / "LICENSES.md").read_text()
  for vendor in _emoji_pictures.TRAINED:
    section = text.split(f"## {vendor.name}\n")[1].split("##")[0]
    assert f"Licence: L-{vendor.name} <u>" in section and "Someone" in section
    assert f"{vendor.package.name} {vendor.package.version}" in section
  assert "Licence: MIT" in text.split("## fluent-3d\n")[1]
  assert "Unicode-3.0" in text and "    MIT License" in text


@pytest.mark.parametrize(("first", "second"), [
    ("1F44B", "1F44B-1F3FE"),  # skin tone
    ("1F3C3-200D-2640", "1F3C3-200D-2642-200D-27A1"),  # woman; man, facing right
    ("1F9D1-200D-1F3EB", "1F469-200D-1F3EB"),  # teacher, woman teacher
    ("1F468", "1F469"), ("1F466", "1F467"), ("1F934", "1FAC5"),
    ("1F385", "1F9D1-200D-1F384"),  # Santa Claus, Mx Claus
    ("1F46B", "1F9D1-200D-1F91D-200D-1F9D1"),  # people holding hands
])
def test_variants_are_of_one_family(first, second):
  assert _emoji_words.family(first) == _emoji_words.family(second)


def test_other_concepts_are_of_other_families():
  codes = ("1F468", "1F466", "1F474", "1F468-200D-1F3EB", "1F431", "1F408")
  assert len({_emoji_words.family(code) for code in codes}) == len(codes)


@pytest.mark.parametrize("text", ["0023-fe0f-20e3", "23-20E3", "0023_20e3"])
def test_one_code_is_written_in_one_way(text):
  assert _emoji_words.code(text) == "23-20E3"


@pytest.mark.parametrize(("changed", "sentence"), [
    (dict(languages="en,xx"), "language 'xx'.*'de', 'en', 'nl'"),
    (dict(languages="en,en"), "each once"), (dict(languages=" "), "English first"),
    (dict(languages="de,en"), "English first"),
    (dict(withheld="en"), "after the first"), (dict(unseen="de"), "among languages"),
    (dict(size=4), "8 to 512"),
])
def test_wrong_settings_are_refused_in_a_sentence(
    packages, tmp_path, changed, sentence
):
  changed = {"withheld": None, **changed}
  with pytest.raises(ValueError, match=sentence):
    make(packages, tmp_path / "new", **changed)


def fake_npm(folder, script):
  path = folder / "npm"
  path.write_text(f"#!/bin/sh\n{script}\n")
  path.chmod(0o755)
  return str(path)


PACKAGE = _emoji_packages.Package("@a/b", "1.2.3", "0" * 64)


@pytest.mark.parametrize(("script", "kind", "sentence"), [
    ("echo 'npm error code E404' >&2; exit 1", FileNotFoundError,
     r"(?s)has no @a/b@1\.2\.3.*E404"),
    ("echo 'npm error code ETARGET' >&2; exit 1", FileNotFoundError, "any more"),
    ("echo 'npm error code EAI_AGAIN' >&2; exit 1", OSError,
     "(?s)needs a network.*EAI_AGAIN"),
    ("exit 3", OSError, "npm said:\nnothing"),
    ("exit 0", OSError, "left 0 archives"),
    ("echo other > x.tgz", ValueError, "other bytes"),
])
def test_what_npm_could_not_do_is_said(tmp_path, script, kind, sentence):
  with pytest.raises(kind, match=sentence):
    _emoji_packages.fetch(PACKAGE, fake_npm(tmp_path, script))


def test_a_machine_without_npm_gets_a_sentence(tmp_path):
  with pytest.raises(SystemExit, match=r"Install Node\.js, or give --npm"):
    prepare.main([
        "emoji", "--out", str(tmp_path / "new"), f"--npm={tmp_path}/npm"])
  assert not os.listdir(tmp_path)


def test_a_machine_without_resvg_gets_a_sentence_before_any_download(
    packages, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "resvg_py", None)
  with pytest.raises(ImportError, match="pip install resvg-py"):
    make({}, tmp_path / "new")


def test_the_archive_with_the_pinned_bytes_is_taken(tmp_path):
  npm = fake_npm(tmp_path, 'printf "%s" "$*" > x.tgz')
  said = b"pack @a/b@1.2.3 --ignore-scripts --loglevel=error"
  pinned = PACKAGE._replace(sha256=_emoji_packages.hashlib.sha256(said).hexdigest())
  assert _emoji_packages.fetch(pinned, npm) == said


def hostile(kind):
  data = io.BytesIO()
  with tarfile.open(fileobj=data, mode="w:gz") as members:
    member = tarfile.TarInfo("package/a.json")
    if kind == "link":
      member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "above":
      member.name = "package/../../a.json"
    elif kind == "absolute":
      member.name = "/package/a.json"
    members.addfile(member, io.BytesIO())
  return data.getvalue()


@pytest.mark.parametrize(("data", "sentence"), [
    (hostile("link"), "neither a file nor a folder"),
    (hostile("above"), "outside its folder"), (hostile("absolute"), "outside"),
    (b"no archive", "damaged"), (hostile("link")[:40], "damaged"),
], ids=("link", "above", "absolute", "no archive", "cut"))
def test_a_hostile_archive_is_refused(data, sentence):
  with pytest.raises(ValueError, match=sentence):
    _emoji_packages.read(PACKAGE, data, lambda path: True)


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch):
  monkeypatch.setattr(_emoji_packages, "_MAX_CONTENT", 1000)
  with pytest.raises(ValueError, match="more than 1000 bytes"):
    _emoji_packages.read(PACKAGE, archive({"a.json": b"0" * 1001}), lambda path: True)
