"""Tar shards: their layouts, every kind of damage, and what a source promises."""

import io
import json
import pickle
import random
import tarfile

import fsspec
import numpy as np
import pytest
import tar_shards
import webdataset
from tar_shards import expected, read, read_one, shard
from webdataset import tariterators

from basic import types
from basic.data import decoding, examples, pipeline
from basic.sources import _storage, _tar_format, _tar_samples
from basic.sources import tar as module

tar = module.tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  folder = tmp_path_factory.mktemp("cache")
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
  return folder


def reason(call):
  with pytest.raises(types.Unreadable) as raised:
    call()
  return raised.value.reason


def test_shards_of_the_webdataset_package_are_read_whole(tmp_path):
  for number in range(3):
    with webdataset.TarWriter(str(tmp_path / f"{number}.tar")) as writer:
      for n in range(10 * number, 10 * number + 10):
        writer.write({
            "__key__": f"part/{n:05}", "png": tar_shards.png(n),
            "txt": f"träume {n}", "json": {"alt": f"alt {n}"}, "cls": n % 4,
            "seg.npy": b"not read", "pyd": {"never": "unpickled"},
        })
  source = tar(
      shards=str(tmp_path / "{0..2}.tar"), text=("txt", "json/alt"), label="cls",
      classes=("a", "b", "c", "d"),
  )
  assert len(source) == 30 and source.damage == {}
  assert source.shards.tolist() == [0, 10, 20]
  for n in range(30):
    example = source[n]
    assert example["image"].data == tar_shards.png(n)
    assert example["text"] == (f"träume {n}", f"alt {n}")
    assert example["label"] == n % 4 and example["id"] == n
    assert isinstance(example["image"], decoding.Encoded)
  assert source.name(12) == "part/00012"
  assert source.where(12).endswith("1.tar key part/00012")


def test_the_layout_of_img2dataset_is_read_whole(tmp_path):
  """KEY.jpg, KEY.json, KEY.txt; Parquet and statistics lie beside the shards."""
  for number in range(2):
    name = f"{number:05}"
    with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as writer:
      for n in range(5):
        meta = {"caption": f"caption {n}", "key": f"{name}{n:04}", "exif": "{}",
                "status": "success", "width": 5, "original_width": 5}
        writer.write({
            "__key__": meta["key"], "jpg": tar_shards.png(n),
            "txt": "" if n == 2 else meta["caption"], "json": json.dumps(meta),
        })
    (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    (tmp_path / f"{name}_stats.json").write_text("{}")
  source = tar(shards=f"{tmp_path}/*.tar")
  assert read(source) == expected(0, 1, 3, 4) * 2
  assert source.damage == {"empty caption": 2}
  whole = tar(shards=f"{tmp_path}/*.tar", text=("txt", "json/caption"))
  assert len(whole) == 10 and whole[2]["text"] == ("caption 2",)


@pytest.mark.parametrize(("magic", "program"), [
    (b"\x1f\x8b\x08", "gunzip"), (b"BZh9", "bunzip2"), (b"\xfd7zXZ\0", "unxz"),
    (b"\x28\xb5\x2f\xfd", "unzstd"),
])
def test_a_compressed_shard_says_how_to_unpack_it(tmp_path, magic, program):
  path = shard(tmp_path, magic + bytes(600))
  with pytest.raises(ValueError, match=program):
    tar(shards=path)


def test_a_folder_is_no_shard_and_an_index_beside_one_neither(tmp_path):
  shard(tmp_path, tar_shards.pairs(1))
  with pytest.raises(ValueError, match=r"is a folder; .*\*\.tar"):
    tar(shards=str(tmp_path))
  module.build_indexes(shards=f"{tmp_path}/*", index=None, workers=1)
  assert module.build_indexes(shards=f"{tmp_path}/*", index=None, workers=1)[
      "shards"
  ] == 1


def test_a_missing_shard_is_named(tmp_path):
  shard(tmp_path, tar_shards.pairs(1))
  with pytest.raises(FileNotFoundError, match=r"1 of 2 files .*00001\.tar"):
    tar(shards=f"{tmp_path}/{{00000..00001}}.tar")


def test_without_a_usable_sample_the_counts_are_said(tmp_path):
  path = shard(tmp_path, tar_shards.pairs(1, 2))
  with pytest.raises(ValueError, match=r"0 of 2 .* 2 image without caption"):
    tar(shards=path, text="caption")


def test_a_key_in_two_shards_is_two_samples(tmp_path):
  shard(tmp_path, tar_shards.pairs(1, 2))
  shard(tmp_path, tar_shards.pairs(2, 3), "00001.tar")
  assert read(tar(shards=f"{tmp_path}/*.tar")) == expected(1, 2, 2, 3)


LONG = "x" * 1_000_000


# What shows only when a sample is read.
@pytest.mark.parametrize(("members", "settings", "found"), [
    ([("00002.txt", b"\xff\xfe")], {}, "caption is not text"),
    ([("00002.txt", b" \n")], {}, "no caption"),
    ([("00002.txt", LONG.encode())], {}, "caption too long"),
    ([("00002.json", b"{")], {"text": "json/a"}, "broken JSON"),
    ([("00002.json", b" " * (17 << 20))], {"text": "json/a"}, "JSON too long"),
    ([("00002.json", b"[" * 100_000)], {"text": "json/a"}, "broken JSON"),
    ([("00002.json", b'{"a": 1' + b"1" * 5000 + b"}")], {"text": "json/a"},
     "broken JSON"),
    ([("00002.json", b"\xff\xfe\xff")], {"text": "json/a"}, "broken JSON"),
    ([("00002.json", b'{"a": null}')], {"text": "json/a"}, "no caption"),
    ([("00002.json", b'[1]')], {"text": "json/a"}, "no caption"),
    ([("00002.json", b'{"a": 3}')], {"text": "json/a"}, "caption is not text"),
    ([("00002.json", json.dumps({"a": LONG}).encode())], {"text": "json/a"},
     "caption too long"),
    ([("00002.cls", b"cat"), ("00002.txt", b"x")], {"label": "cls"},
     "label is not an integer"),
    ([("00002.cls", b"2"), ("00002.txt", b"x")],
     {"label": "cls", "classes": ("a", "b")}, "label out of range"),
])
def test_what_shows_on_reading_is_counted_by_its_reason(
    tmp_path, members, settings, found
):
  path = shard(tmp_path, [("00002.png", tar_shards.png(2)), *members])
  source = tar(shards=path, **settings)
  assert len(source) == 1 and source.damage == {}
  with pytest.raises(types.Unreadable) as e:
    source[0]
  assert e.value.reason == found
  assert str(e.value).count(found) == 1
  assert source.where(0) == f"{path} key 00002"


def test_the_format_of_an_image_is_found_by_its_content(tmp_path):
  path = shard(tmp_path, [("a.JPG", tar_shards.png(7)), ("a.TXT", b"x")])
  assert tar(shards=path)[0]["image"].decode()[0, 0].tolist() == [7, 0, 255]


def test_captions_are_weighted_and_missing_ones_drop_out(tmp_path):
  members = [
      *tar_shards.described(0, a="one", b={"c": ["two", "three", None, " "]}),
      *tar_shards.described(1, a="one"),
      *tar_shards.described(2, b={"c": "two"}),
      *tar_shards.described(3, b="no mapping"),
  ]
  source = tar(
      shards=shard(tmp_path, members), text={"json/a": 0.25, "json/b/c": 0.75}
  )
  assert source[0]["text"] == ("two", "three", "one")
  assert source[0]["text_weights"] == (0.375, 0.375, 0.25)
  assert source[1]["text"] == ("one",) and source[1]["text_weights"] == (0.25,)
  assert source[2]["text"] == ("two",) and source[2]["text_weights"] == (0.75,)
  assert reason(lambda: source[3]) == "no caption"


def test_captions_are_drawn_by_their_weights(tmp_path):
  members = [*tar_shards.described(0, a="x"), ("00000.txt", b"y")]
  source = tar(shards=shard(tmp_path, members), text={"txt": 3.0, "json/a": 1.0})
  arrays = examples.prepare(tokenize=lambda text: np.array([ord(text)]))
  rng = np.random.default_rng(0)
  example = source[0]
  drawn = [int(arrays(example, rng)["text"][0]) for _ in range(400)]
  # 5 standard deviations of a binomial: 5 sqrt(400 * .75 * .25) = 43
  assert abs(drawn.count(ord("y")) - 300) < 44


def test_names_of_labels_are_captions(tmp_path):
  members = [("a.jpg", b"x"), ("a.cls", b"1"), ("b.jpg", b"x")]
  path = shard(tmp_path, members)
  source = tar(shards=path, text=None, label="cls", classes=("ant", "bee"))
  assert source[0]["text"] == ("bee",) and source[0]["label"] == 1
  assert source.damage == {"no label": 1}
  assert "text" not in tar(shards=path, text=None, label="cls")[0]


def test_an_image_is_chosen_by_its_extension(tmp_path):
  members = [("a.left.png", b"l"), ("a.png", b"p"), ("a.jpg", b"j"), ("a.txt", b"x")]
  path = shard(tmp_path, members)
  data = [
      tar(shards=path, image=image)[0]["image"].data
      for image in (module.IMAGES, "jpg", "left.png", ("JPG", "left.png"))
  ]
  assert data == [b"p", b"j", b"l", b"l"]


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"channels": 2}, "channels is 2"),
    ({"text": None}, "name an extension"),
    ({"image": ()}, "name an extension"),
    ({"text": {"txt": 0.0}}, "positive numbers"),
    ({"text": {"txt": float("nan")}}, "positive numbers"),
    ({"text": {"txt": True}}, "positive numbers"),
])
def test_wrong_settings_are_refused(tmp_path, settings, sentence):
  path = shard(tmp_path, tar_shards.pairs(1))
  with pytest.raises(ValueError, match=sentence):
    tar(shards=path, **settings)


def test_one_sample_is_one_read_of_its_own_bytes(tmp_path, monkeypatch):
  path = shard(tmp_path, tar_shards.pairs(*range(100)))
  source = tar(shards=path)
  source[0]  # The rows of a shard are checked once.
  calls, real = [], _storage.read

  def counted(path, start=0, stop=None):
    calls.append((path, stop - start))
    return real(path, start, stop)

  monkeypatch.setattr(_storage, "read", counted)
  source[50]
  (rows, row), (data, length) = calls
  assert rows.endswith(".index") and row == 24
  assert data == path and length < 4 * 512


def test_a_read_that_keeps_failing_is_counted(tmp_path, monkeypatch):
  path = shard(tmp_path, tar_shards.pairs(1))
  source = tar(shards=path)
  monkeypatch.setattr(_storage, "WAIT_SECONDS", 0.0)
  (tmp_path / "00000.tar").unlink()
  (tmp_path / "00000.tar").mkdir()
  assert reason(lambda: source[0]) == "failed read"


def test_a_shard_that_changes_under_a_run_is_noticed(tmp_path):
  path = shard(tmp_path, tar_shards.pairs(1, 2))
  source = tar(shards=path)
  shard(tmp_path, tar_shards.pairs(1, 3))
  assert read_one(source, 0) == expected(1)[0]
  assert reason(lambda: source[1]) == "shard differs from its index"
  shard(tmp_path, tar_shards.archive(tar_shards.pairs(1, 2))[:1700])
  assert reason(lambda: source[1]) == "shard differs from its index"


def test_the_fingerprint_tells_content_and_settings_and_no_folder(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "b").mkdir()
  one = tar(shards=shard(tmp_path / "a", tar_shards.pairs(1, 2)))
  two = tar(shards=shard(tmp_path / "b", tar_shards.pairs(1, 2)))
  assert one.fingerprint == two.fingerprint
  other = tar(shards=shard(tmp_path / "b", tar_shards.pairs(1, 3)))
  assert other.fingerprint != one.fingerprint
  path = f"{tmp_path}/a/00000.tar"
  weighted = [
      tar(shards=path, text=text).fingerprint
      for text in ({"txt": 1.0, "json/a": 2.0}, {"json/a": 2.0, "txt": 1.0},
                   {"txt": 2.0, "json/a": 1.0})
  ]
  assert weighted[0] == weighted[1] != weighted[2]


def test_a_copy_opens_nothing_and_holds_no_files(tmp_path):
  source = tar(shards=shard(tmp_path, tar_shards.pairs(1, 2)))
  source[0]
  assert read(pickle.loads(pickle.dumps(source))) == expected(1, 2)


def test_shards_in_other_storage_are_read_alike(cache):
  system = fsspec.filesystem("memory")
  system.pipe("/tar-test/0.tar", tar_shards.archive(tar_shards.pairs(1, 2, 3)))
  source = tar(shards="memory://tar-test/{0..0}.tar")
  assert read(source) == expected(1, 2, 3)
  assert len(list((cache / "basic" / "tar").iterdir())) == 1


def test_a_stream_trains_past_what_cannot_be_read(tmp_path):
  members = [*tar_shards.pairs(*range(20)), ("x.png", b"broken"), ("x.txt", b"x")]
  source = tar(shards=shard(tmp_path, members))
  assert len(source) == 21
  prepare = examples.prepare(tokenize=lambda text: np.array([len(text)]))
  with pipeline.stream(
      source, prepare=prepare, batch_size=21, seed=0, threads=2
  ) as stream:
    batch = next(stream)
    assert batch["image"].shape == (21, 4, 5, 3)
    assert stream.unreadable == {"unknown image format": 1}


@pytest.mark.parametrize("seed", range(60))
def test_samples_are_those_of_webdataset(seed):
  """Where it does not stop for an extension that a sample has twice."""
  rng = random.Random(seed)
  members = []
  for key in rng.choices(("a", "b", "x/a", "c.d/e", "__m__/a", ".h", "__x"), k=5):
    ends = rng.sample(("png", "TXT", "json", "left.png"), rng.randrange(1, 4))
    members += [(f"{key}.{end}", rng.randbytes(3)) for end in ends]
  data = tar_shards.archive(members)
  files = tariterators.tar_file_iterator(io.BytesIO(data))
  try:
    theirs = [
        (s.pop("__key__"), tuple(s)[1:])
        for s in tariterators.group_by_keys(f | {"__url__": ""} for f in files)
    ]
  except ValueError:
    return  # Its reader ends here; ours counts a duplicate key.
  ours = list(_tar_samples.samples(
      _tar_format.members(lambda a, b: data[a:b], len(data)), lambda *_: None
  ))
  assert [s.key for s in ours] == [_tar_samples.hashed(key) for key, _ in theirs]
  assert [tuple(e for e, _ in s.pattern if e) for s in ours] == [
      extensions for _, extensions in theirs
  ]


def test_commands_are_never_run(tmp_path):
  with pytest.raises((FileNotFoundError, ValueError)):
    tar(shards=f"pipe:touch {tmp_path}/ran")
  assert not (tmp_path / "ran").exists()


def test_members_equal_those_of_tarfile(tmp_path):
  """The oracle: every sample, byte for byte, whatever the format."""
  for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    members = [
        (f"{'folder/' * 20 if n % 2 else ''}{n:05}é.{end}", content)
        for n in range(12)
        for end, content in (("png", tar_shards.png(n)), ("txt", b"c %d" % n))
    ]
    data = tar_shards.archive(members, form)
    source = tar(shards=shard(tmp_path, data, f"{form}.tar"))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
      found = [opened.extractfile(m).read() for m in opened]
    assert source.damage == {}
    for n, (image, text) in enumerate(read(source)):
      assert [image, text[0].encode()] == found[2 * n : 2 * n + 2]


@pytest.mark.parametrize("form", [
    tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT,
])
@pytest.mark.parametrize("folder", ["short", "träume" * 20])
def test_a_name_is_read_from_headers_alone(tmp_path, monkeypatch, form, folder):
  if form == tarfile.USTAR_FORMAT and len(folder) > 100:
    folder = "d" * 60 + "/" + "e" * 60  # With a prefix.
  members = [
      member for n in range(3) for member in (
          (f"{folder}/{n}.png", tar_shards.png(n) + bytes(100_000)),
          (f"{folder}/{n}.txt", b"a caption"),
      )
  ]
  source = tar(shards=shard(tmp_path, tar_shards.archive(members, form)))
  whole = _storage.read
  sizes = []

  def counted(path, start=0, stop=None):
    data = whole(path, start, stop)
    sizes.append(len(data) if path.endswith(".tar") else 0)
    return data

  monkeypatch.setattr(_storage, "read", counted)
  assert [source.name(n) for n in range(3)] == [f"{folder}/{n}" for n in range(3)]
  assert source.where(1).endswith(f"key {folder}/1") or len(folder) > 100
  assert 0 < sum(sizes) <= 4 * 4 * 512


def test_a_shard_that_differs_from_its_index_names_no_sample(tmp_path):
  path = shard(tmp_path, tar_shards.pairs(0, 1))
  source = tar(shards=path)
  shard(tmp_path, tar_shards.pairs(5, 6))
  assert [source.name(n) for n in range(2)] == ["0", "1"]
  assert source.where(1) == f"{path} sample 1"
