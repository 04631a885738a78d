"""A file that costs too much is refused before anything is decoded."""

import os
import pickle
import subprocess
import sys
import zlib

import crafted
import cv2
import numpy as np
import pytest
from PIL import Image

from basic import types
from basic.data import decoding, decoding_limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def reason(data, **options):
  with pytest.raises(types.Unreadable) as raised:
    decoding.decode(data, **options)
  return raised.value.reason


def refuse_work(*args, **options):
  raise AssertionError("a file that costs too much was decoded")


@pytest.mark.parametrize("name", crafted.FILES)
def test_a_costly_file_is_refused_before_a_decoder_sees_it(name, monkeypatch):
  make, expected = crafted.FILES[name]
  data = make()
  monkeypatch.setattr(cv2, "imdecode", refuse_work)
  monkeypatch.setattr(Image, "open", refuse_work)
  assert reason(data) == expected


MEASURE = """
import pickle, resource, sys, time
from basic import types
from basic.data import decoding

def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

unit = 1_024 if sys.platform == "linux" else 1
for name, data in pickle.load(sys.stdin.buffer):
  before = peak()
  try:
    decoding.decode(data)
  except types.Unreadable:
    print((peak() - before) * unit, name)
"""


@pytest.mark.slow
def test_a_costly_file_is_refused_within_fifty_megabytes():
  files = [(name, make()) for name, (make, _) in crafted.FILES.items()]
  done = subprocess.run(
      [sys.executable, "-c", MEASURE], input=pickle.dumps(files), check=True,
      capture_output=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
  )
  lines = [line.split(" ", 1) for line in done.stdout.decode().splitlines()]
  assert {name for _, name in lines} == set(crafted.FILES)
  assert max(int(size) for size, _ in lines) < 50 * 2**20


def header(**changes):
  return decoding_limits.Header("PNG", 100, 50, 24, bytes(1_000))._replace(
      **changes)


@pytest.mark.parametrize(("changes", "pixels", "expected"), [
    ({}, 5_000, None),
    ({}, 4_999, "image too large"),
    ({"bits": 32}, 5_000, None),
    ({"bits": 33}, 5_000, "image too large"),
    ({"height": 1_000}, 50_000, None),
    ({"height": 1_001}, 60_000, "extreme aspect ratio"),
    ({"height": 0}, 5_000, "broken image header"),
    ({"payload": 1_000}, 5_000, None),
    ({"payload": 1_001}, 5_000, "truncated image"),
    ({"scans": 16}, 5_000, None),
    ({"scans": 17}, 5_000, "too many parts"),
    ({"scans": 64}, 10**6, None),
    ({"scans": 65}, 10**6, "too many parts"),
    ({"height": 4_096, "width": 4_096}, 10**8, None),
    ({"height": 4_096, "width": 4_097}, 10**8, "image too large"),
    ({"height": 4_096, "width": 4_097, "data": bytes(100_688)}, 10**8, None),
])
def test_each_limit_is_where_it_is_said(changes, pixels, expected):
  if expected is None:
    decoding_limits.check(header(**changes), pixels)
    return
  with pytest.raises(types.Unreadable) as raised:
    decoding_limits.check(header(**changes), pixels)
  assert raised.value.reason == expected


def test_parts_are_counted_by_the_size_of_the_file():
  decoding_limits.check_parts(1_024 + 3, 3 * 1_024, "chunks")
  with pytest.raises(types.Unreadable, match="over 1027 chunks"):
    decoding_limits.check_parts(1_024 + 4, 3 * 1_024, "chunks")


MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")


def written(image, name, **options):
  """A file, or None for a mode that Pillow does not write in this format."""
  try:
    return crafted.saved(image, name, **options)
  except (OSError, ValueError, KeyError):
    return None


def of(pixels, mode):
  if mode == "I;16":
    return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
  if mode == "PA":
    return Image.fromarray(pixels).convert("RGBA").convert("PA")
  return Image.fromarray(pixels).convert(mode)


def check_legitimate(pixels, most, formats=FORMATS, modes=MODES):
  """Decodes an image in every format and mode: `most` files or more."""
  count = 0
  for name in formats:
    for mode in modes:
      for options in OPTIONS.get(name, ({},)):
        data = written(of(pixels, mode), name, **options)
        if data is not None:
          assert decoding.decode(data).shape == pixels.shape, (name, mode)
          count += 1
  assert count >= most


OPTIONS = {
    "JPEG": ({}, {"progressive": True, "quality": 10}, {"subsampling": 0},
             {"optimize": True, "quality": 1},
             {"optimize": True, "quality": 1, "progressive": True}),
    "PNG": ({}, {"compress_level": 0}),
    "WEBP": ({}, {"lossless": True}),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"},
             {"compression": "jpeg"}, {"compression": "group4"}),
    "AVIF": ({"speed": 10},),
}


@pytest.mark.parametrize("sides", [(1, 1), (3, 50), (64, 47), (257, 200)])
@pytest.mark.parametrize("kind", ["one color", "noise"])
def test_a_legitimate_file_is_never_refused(sides, kind):
  pixels = np.zeros((*sides, 3), np.uint8)
  if kind == "noise":
    pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
  check_legitimate(pixels, 55)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA"])
def test_a_large_file_of_one_color_is_never_refused(mode):
  check_legitimate(np.zeros((4_000, 4_000, 3), np.uint8), 2, modes=(mode,))


@pytest.mark.slow
def test_a_large_photograph_is_never_refused():
  few = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  soft = cv2.resize(few, (6_400, 4_800), interpolation=cv2.INTER_CUBIC)
  check_legitimate(soft, 6, ("JPEG", "BMP"), ("RGB",))


def seeds():
  """Small files of every kind of decoder and metadata."""
  rng = np.random.default_rng(0)
  soft = cv2.resize(rng.integers(0, 256, (5, 6, 3), np.uint8), (40, 32))
  turned = Image.Exif()
  turned[0x0112] = 6
  exif = {"exif": turned.tobytes()}
  found = []
  for name in FORMATS:
    for mode in ("L", "P", "RGB", "RGBA", "CMYK"):
      for options in (*OPTIONS.get(name, ({},)), exif):
        data = written(of(soft, mode), name, **options)
        found += [] if data is None else [(name, data)]
    if name in ("GIF", "WEBP", "PNG", "AVIF", "TIFF"):
      images = [of(soft, "RGB"), of(soft[::-1].copy(), "RGB")]
      found.append((name, crafted.saved(
          images[0], name, save_all=True, append_images=images[1:])))
  return found


def mutated(data, rng):
  """The file with bytes changed, cut, repeated or moved; early ones mostly."""
  changed = bytearray(data)
  for _ in range(rng.integers(1, 5)):
    early = rng.random() < 0.7
    at = int(rng.integers(min(len(changed), 120) if early else len(changed)))
    kind, length = rng.integers(5), int(rng.integers(1, 40))
    if kind == 0:
      changed[at] = rng.integers(256)
    elif kind == 1:
      changed[at:at + 4] = bytes(rng.choice([0, 255, 127, 128], 4).tolist())
    elif kind == 2:
      del changed[at:at + length]
    elif kind == 3:
      changed[at:at] = changed[at:at + length]
    else:
      del changed[max(at, 12):]
    if not changed:
      return b"\xff\xd8\xff"
  return bytes(changed)


def with_checksums(data):
  """A PNG whose chunks have right checksums, so that their content is read."""
  parts, at = [data[:8]], 8
  while at + 12 <= len(data):
    length = int.from_bytes(data[at:at + 4])
    body = data[at + 4:at + 8 + length]
    parts.append(data[at:at + 4] + body + zlib.crc32(body).to_bytes(4))
    at += 12 + length
  return b"".join(parts) + data[at:]


def check_mutations(count, seed):
  """Every mutated file is refused, or gives an image of the header's size."""
  rng = np.random.default_rng(seed)
  files, outcomes = seeds(), dict.fromkeys(FORMATS, 0)
  for n in range(count):
    name, data = files[n % len(files)]
    changed = mutated(data, rng)
    if name == "PNG" and rng.random() < 0.7:
      changed = with_checksums(changed)
    encoded = decoding.Encoded(changed)
    try:
      pixels = encoded.decode()
    except types.Unreadable:
      continue
    assert pixels.shape == (*encoded.size, 3) and pixels.dtype == np.uint8
    outcomes[name] += 1
  return outcomes


def test_a_mutated_file_never_escapes():
  assert min(check_mutations(600, 0).values()) > 0  # Some are still readable.


@pytest.mark.slow
def test_ten_thousand_mutated_files_never_escape():
  check_mutations(10_000, 1)
