"""Every kind of damage of a tar shard has its outcome and its exact count."""

import random
import tarfile

import pytest
import tar_shards
from tar_shards import expected, read, read_one, shard

from basic import types
from basic.sources import _tar_samples
from basic.sources import tar as module

tar = module.tar


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("kept", [10, 25, 49])
def test_a_shard_cut_anywhere_keeps_what_is_whole(tmp_path, kept):
  """The usual reader loses samples here, and says nothing."""
  data = tar_shards.archive(tar_shards.pairs(*range(50)))
  at = tar_shards.header(data, f"{kept:05}.txt")
  for cut, damage in (
      (at, {"image without caption": 1, "no end mark": 1}),
      (at + 100, {"bytes skipped": 100, "image without caption": 1,
                  "truncated shard": 1}),
      (at + 515, {"bytes skipped": 3, "truncated sample": 1,
                  "truncated shard": 1}),
      (at + 1024, {"no end mark": 1}),
  ):
    whole = kept + (cut == at + 1024)
    source = tar(shards=shard(tmp_path, data[:cut], f"{cut}.tar"))
    assert read(source) == expected(*range(whole))
    assert source.damage == damage


def test_a_sample_cut_before_its_image_is_a_truncated_one(tmp_path):
  path = shard(tmp_path, tar_shards.archive([("a.json", b"{}" * 300)])[:700])
  shard(tmp_path, tar_shards.pairs(1), "00001.tar")
  source = tar(shards=(path, f"{tmp_path}/00001.tar"))
  assert source.damage == {
      "bytes skipped": 188, "truncated sample": 1, "truncated shard": 1
  }


WHOLE = tar_shards.archive(tar_shards.pairs(1, 2, 3))
PNG2, TXT2 = (tar_shards.header(WHOLE, f"00002.{e}") for e in ("png", "txt"))
PNG3 = tar_shards.header(WHOLE, "00003.png")
END = tar_shards.header(WHOLE, "00003.txt") + 1024


def replaced(number, *members):
  """Three pairs, one of them replaced by other members."""
  return [
      member for n in (1, 2, 3)
      for member in (members if n == number else tar_shards.pair(n))
  ]


def sparse():
  data = bytearray(WHOLE)
  data[PNG2 + 156 : PNG2 + 157] = b"S"
  data[PNG2 + 148 : PNG2 + 156] = b" " * 8
  data[PNG2 + 148 : PNG2 + 156] = b"%06o\0 " % sum(data[PNG2 : PNG2 + 512])
  return bytes(data)


# name: (shard with the samples 1, 2 and 3, which ones are usable, the damage)
DAMAGE = {
    "caption missing": (
        replaced(2, tar_shards.pair(2)[0]), (1, 3), {"image without caption": 1}),
    "image missing": (
        replaced(2, tar_shards.pair(2)[1]), (1, 3), {"caption without image": 1}),
    "neither": (replaced(2, ("00002.json", b"{}")), (1, 3), {"no image": 1}),
    "empty image": (
        replaced(2, ("00002.png", b""), tar_shards.pair(2)[1]), (1, 3),
        {"empty image": 1}),
    "empty caption": (
        replaced(2, tar_shards.pair(2)[0], ("00002.txt", b"")), (1, 3),
        {"empty caption": 1}),
    "a key again later": (
        [*tar_shards.pairs(1, 2, 3), *tar_shards.pairs(1, 2)], (1, 2, 3),
        {"duplicate key": 2}),
    "a key twice in turn": (
        replaced(2, *tar_shards.pairs(2, 2)), (1, 2, 3), {"duplicate key": 1}),
    "a path that leads out": (
        replaced(2, ("../00002.png", b"x"), ("../00002.txt", b"x")), (1, 3),
        {"unsafe name": 1}),
    "an absolute path": (
        replaced(2, ("/tmp/00002.png", b"x"), ("/tmp/00002.txt", b"x")), (1, 3),
        {"unsafe name": 1}),
    "a link": (
        replaced(2, tar_shards.special("00002.png", tarfile.SYMTYPE, "/etc/passwd"),
                 tar_shards.pair(2)[1]), (1, 3), {"link": 1}),
    "a hard link": (
        replaced(2, tar_shards.special("00002.png", tarfile.LNKTYPE, "00001.png"),
                 tar_shards.pair(2)[1]), (1, 3), {"link": 1}),
    "a device": (
        replaced(2, tar_shards.special("00002.png", tarfile.CHRTYPE),
                 tar_shards.pair(2)[1]), (1, 3), {"device": 1}),
    "a pipe": (
        replaced(2, tar_shards.special("00002.png", tarfile.FIFOTYPE),
                 tar_shards.pair(2)[1]), (1, 3), {"device": 1}),
    "a folder": (
        [tar_shards.special("part", tarfile.DIRTYPE), *tar_shards.pairs(1, 2, 3)],
        (1, 2, 3), {}),
    "a sparse member": (sparse(), (1, 3), {"sparse member": 1}),
    "files of other programs": (
        [("README", b"x"), (".DS_Store", b"x"), ("._00001.png", b"x"),
         ("__info__/a.txt", b"x"), *tar_shards.pairs(1, 2, 3)], (1, 2, 3),
        {"not part of a sample": 4}),
    "a bad header of an image": (
        tar_shards.flipped(WHOLE, PNG2 + 5), (1, 3),
        {"bad header": 1, "bytes skipped": TXT2 - PNG2, "caption without image": 1}),
    "a bad header of a caption": (
        tar_shards.flipped(WHOLE, TXT2 + 130), (1, 3),
        {"bad header": 1, "bytes skipped": 1024, "image without caption": 1}),
    "two bad headers": (
        tar_shards.flipped(WHOLE, PNG2, TXT2), (1, 3),
        {"bad header": 1, "bytes skipped": PNG3 - PNG2}),
    "zeros in the middle": (
        WHOLE[:PNG2] + bytes(PNG3 - PNG2) + WHOLE[PNG3:], (1, 3),
        {"end mark inside": 1, "bytes skipped": PNG3 - PNG2}),
    "no end mark": (WHOLE[:END], (1, 2, 3), {"no end mark": 1}),
    "two archives in one file": (
        tar_shards.archive(tar_shards.pairs(1)) + tar_shards.archive(
            tar_shards.pairs(2, 3)), (1, 2, 3),
        {"end mark inside": 1, "bytes skipped": 10240 - 4 * 512}),
    "something after the end": (
        WHOLE + b"signature" * 100, (1, 2, 3),
        {"end mark inside": 1,
         "bytes skipped": 900 + len(WHOLE) - END}),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_has_its_outcome_and_its_count(tmp_path, kind):
  members, usable, damage = DAMAGE[kind]
  source = tar(shards=shard(tmp_path, members))
  assert read(source) == expected(*usable)
  assert source.damage == damage


@pytest.mark.parametrize(("content", "damage"), [
    (b"", {"empty shard": 1}),
    (bytes(10240), {"empty shard": 1}),
    (b"<html>404 Not Found</html>" * 50,
     {"not a tar archive": 1, "bytes skipped": 1300}),
])
def test_a_shard_without_samples_is_counted_beside_others(
    tmp_path, content, damage
):
  shard(tmp_path, content)
  shard(tmp_path, tar_shards.pairs(4, 5), "00001.tar")
  source = tar(shards=f"{tmp_path}/*.tar")
  assert read(source) == expected(4, 5) and source.damage == damage
  assert source.shards.tolist() == [0]


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bytes_leave_every_sample_right_or_accounted_for(tmp_path, seed):
  """A flip in a content changes that content alone; any other one is counted."""
  rng = random.Random(seed)
  data = tar_shards.archive(tar_shards.pairs(*range(12)))
  for number in range(25):
    changed = tar_shards.flipped(data, rng.randrange(26 * 512))
    source = tar(shards=shard(tmp_path, changed, f"{number}.tar"))
    found, unreadable = [], 0
    for index in range(len(source)):
      try:
        found.append(read_one(source, index))
      except types.Unreadable:
        unreadable += 1
    wrong = [sample for sample in found if sample not in expected(*range(12))]
    lost = 12 - len(found)
    assert lost <= 1 and len(wrong) <= 1
    assert not lost or unreadable or source.damage["bytes skipped"]
    assert not wrong or not source.damage


def test_damage_is_logged_when_the_source_is_opened(tmp_path, caplog):
  path = shard(tmp_path, DAMAGE["caption missing"][0])
  tar(shards=path)
  assert "2 of 3 samples in 1 shards are usable" in caplog.text
  assert "1 image without caption" in caplog.text


def test_a_sample_that_would_fill_the_memory_is_left_out(tmp_path, monkeypatch):
  monkeypatch.setattr(_tar_samples, "LARGEST_SAMPLE", 5000)
  members = replaced(2, tar_shards.pair(2)[0], ("00002.txt", b"x" * 6000))
  source = tar(shards=shard(tmp_path, members))
  assert read(source) == expected(1, 3)
  assert source.damage == {"sample too large": 1}
