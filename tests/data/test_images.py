"""Images are decoded as a viewer shows them, or refused for a reason."""

import io
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from basic import types
from basic.data import images

HEIGHT, WIDTH = 12, 20


def picture():
  """Smooth, so that JPEG hardly changes it; every edge has its own colour."""
  y, x = np.mgrid[:HEIGHT, :WIDTH]
  channels = [x * 12, y * 20, 255 - x * 6 - y * 6]
  return np.stack(channels, axis=-1).astype(np.uint8)


def encoded(image, name="PNG", **options):
  data = io.BytesIO()
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  image.save(data, name, **options)
  return data.getvalue()


def reason(data, **options):
  with pytest.raises(types.Unreadable) as raised:
    images.decode(data, **options)
  return raised.value.reason


@pytest.mark.parametrize(
    "name", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP", "AVIF"]
)
def test_every_format_comes_out_as_it_went_in(name):
  options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(name, {})
  data = encoded(picture(), name, **options)
  found = images.decode(data)
  assert found.dtype == np.uint8 and found.shape == (HEIGHT, WIDTH, 3)
  error = np.abs(found.astype(int) - picture()).max()
  # Palettes and lossy codecs move a value a little; the others not at all.
  assert error <= {"GIF": 20, "JPEG": 20, "AVIF": 30}.get(name, 0)


OPAQUE = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "I;16")
CLEAR = ("LA", "PA", "RGBA", "palette")


def of_mode(mode):
  """The picture in a mode of Pillow; left of column 7 it is transparent."""
  full = Image.fromarray(picture())
  alpha = np.where(np.arange(WIDTH) < 7, 0, 255) * np.ones((HEIGHT, 1))
  mask = Image.fromarray(alpha.astype(np.uint8))
  if mode == "I;16":
    return Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
  if mode == "P":
    return full.quantize(16)
  if mode == "palette":  # One colour of it is transparent.
    return full.quantize(16)
  if mode == "LA":
    return Image.merge("LA", (full.convert("L"), mask))
  if mode in ("RGBA", "PA"):
    return Image.merge("RGBA", (*full.split(), mask)).convert(mode)
  return full.convert(mode)


def on_white(data):
  """Pillow's own full decode, float64, and its alpha over white."""
  with Image.open(io.BytesIO(data)) as image:
    image.load()
    if image.mode.startswith("I;16"):
      gray = np.asarray(image) >> 8
      return np.repeat(gray[..., None].astype(float), 3, axis=2)
    pixels = np.asarray(image.convert("RGBA")).astype(float)
  share = pixels[..., 3:] / 255
  return pixels[..., :3] * share + 255 * (1 - share)


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("mode", [*OPAQUE, *CLEAR])
@pytest.mark.parametrize(
    "name", ["PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG", "AVIF"])
def test_every_path_decodes_what_pillow_decodes(name, mode, animated):
  if animated and name in ("BMP", "JPEG"):
    return  # These hold one image.
  options = {"WEBP": {"lossless": True}}.get(name, {})
  image = of_mode(mode)
  if mode == "palette":
    options["transparency"] = 3
  if animated:
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    options.update(save_all=True, append_images=[mirrored], duration=40)
  try:
    data = encoded(image, name, **options)
  except (OSError, ValueError, KeyError):
    return  # A mode that Pillow does not write in this format.
  # Composited in integers here and in floats there.
  np.testing.assert_allclose(images.decode(data), on_white(data), atol=0.51)


@pytest.mark.parametrize("variant", [
    {"subsampling": 0}, {"subsampling": 2}, {"progressive": True},
    {"keep_rgb": True}, {"restart_marker_rows": 1}, "YCCK", "Adobe RGB",
])
def test_every_jpeg_is_what_pillow_decodes(variant):
  if variant == "YCCK":
    data = bytearray(encoded(of_mode("CMYK"), "JPEG"))
    data[data.find(b"Adobe") + 11] = 2  # The transform that the file names.
  elif variant == "Adobe RGB":
    data = encoded(picture(), "JPEG")
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    data = data[:2] + marker + data[2:]
  else:
    data = encoded(picture(), "JPEG", **variant)
  data = bytes(data)
  np.testing.assert_array_equal(images.decode(data), on_white(data))


@pytest.mark.parametrize("animated", [False, True])
@pytest.mark.parametrize("hints", ["container", "frame", "both"])
def test_a_transparent_webp_is_white_whatever_its_headers_say(animated, hints):
  options = {"save_all": True, "append_images": [of_mode("RGBA").rotate(180)],
             "duration": 40} if animated else {}
  data = bytearray(encoded(
      of_mode("RGBA"), "WEBP", lossless=True, exact=True, **options))
  if hints != "frame" and data[12:16] == b"VP8X":
    data[20] &= ~0x10
  if hints != "container":
    data[data.find(b"VP8L") + 12] &= ~0x10
  found = images.decode(bytes(data))
  np.testing.assert_array_equal(
      found, images.decode(encoded(of_mode("RGBA"), "PNG")))
  assert (found[:, :7] == 255).all()


def test_what_a_first_frame_does_not_cover_is_white():
  small = encoded(picture(), "WEBP", lossless=True)[12:]
  frame = bytes(6) + struct.pack("<I", WIDTH - 1)[:3] + struct.pack(
      "<I", HEIGHT - 1)[:3] + bytes(4) + small
  body = b"VP8X" + struct.pack("<I", 10) + b"\x02" + bytes(3) + struct.pack(
      "<I", WIDTH + 3)[:3] + struct.pack("<I", HEIGHT + 1)[:3]
  body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
  body += b"ANMF" + struct.pack("<I", len(frame)) + frame
  found = images.decode(
      b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
  assert found.shape == (HEIGHT + 2, WIDTH + 4, 3)
  np.testing.assert_array_equal(found[:HEIGHT, :WIDTH], picture())
  assert (found[HEIGHT:] == 255).all() and (found[:, WIDTH:] == 255).all()


def test_a_transparent_level_of_sixteen_bits_is_white():
  data = encoded(of_mode("I;16"), "PNG")
  level = int(np.asarray(of_mode("I;16"))[3, 4])
  chunk = b"tRNS" + struct.pack(">H", level)
  chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
  found = images.decode(data[:33] + chunk + data[33:])
  want = picture()[..., 0].copy()
  want[:, 4] = 255
  np.testing.assert_array_equal(found[..., 0], want)


@pytest.mark.parametrize("cut", [*range(12, 48, 3), 60])
def test_a_webp_that_ends_early_is_refused(cut):
  data = encoded(of_mode("RGBA"), "WEBP", lossless=True, exif=b"Exif\0\0")
  assert reason(data[:cut]) in (
      "broken image header", "truncated image", "broken image data")


@pytest.mark.parametrize("name", ["PNG", "JPEG", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_path_decodes_what_pil_decodes(name, mode):
  data = encoded(Image.fromarray(picture()).convert(mode), name)
  header = Image.open(io.BytesIO(data))
  assert images._is_plain(header, name)
  np.testing.assert_array_equal(
      images._decode_fast(data, header), images._decode_any(header)
  )


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_whatever_its_format(name):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  data = encoded(picture(), name, exif=exif.tobytes())
  found = images.decode(data).astype(int)
  expected = np.rot90(picture(), -1).astype(int)
  assert found.shape == expected.shape
  assert np.abs(found - expected).mean() < 6  # lossy JPEG and WebP


def test_sixteen_bits_become_eight():
  gray = picture()[..., 0]
  data = cv2.imencode(".png", gray.astype(np.uint16) * 257)[1].tobytes()
  expected = np.repeat(gray[..., None], 3, axis=2)
  np.testing.assert_array_equal(images.decode(data), expected)
  colour = picture()[..., ::-1].astype(np.uint16) * 257
  data = cv2.imencode(".png", colour)[1].tobytes()
  np.testing.assert_array_equal(images.decode(data), picture())


def test_gray_has_three_equal_channels_or_one():
  gray = picture()[..., 0]
  data = encoded(gray)
  one = images.decode(data, channels=1)
  np.testing.assert_array_equal(one, gray[..., None])
  np.testing.assert_array_equal(
      images.decode(data), np.repeat(gray[..., None], 3, axis=2)
  )


def test_one_channel_is_luminance():
  found = images.decode(encoded(picture()), channels=1).astype(float)
  expected = picture() @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
  np.testing.assert_allclose(found[..., 0], expected, atol=1)  # rounding


def test_transparent_parts_are_white():
  alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
  alpha[:, 10:] = 255
  found = images.decode(encoded(np.concatenate([picture(), alpha], axis=-1)))
  assert (found[:, :10] == 255).all()
  np.testing.assert_array_equal(found[:, 10:], picture()[:, 10:])


def test_a_transparent_palette_is_white():
  image = Image.new("P", (WIDTH, HEIGHT), 1)
  image.putpalette([0, 0, 0, 10, 20, 30])
  found = images.decode(encoded(image, transparency=1))
  assert (found == 255).all()
  assert (images.decode(encoded(image)) == (10, 20, 30)).all()


def test_cmyk_becomes_rgb():
  cmyk = Image.fromarray(picture()).convert("CMYK")
  found = images.decode(encoded(cmyk, "JPEG", quality=95)).astype(int)
  assert np.abs(found - picture()).max() < 25  # lossy


@pytest.mark.parametrize("name", ["JPEG", "PNG", "GIF", "WEBP"])
def test_half_an_image_is_truncated_or_broken(name):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  data = encoded(noise, name)
  assert reason(data[: len(data) // 2]) in (
      "truncated image", "broken image header", "broken image data"
  )
  if name in ("JPEG", "PNG"):
    assert reason(data[: len(data) // 2]) == "truncated image"


def test_a_changed_byte_of_a_png_is_found():
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  data = bytearray(encoded(noise))
  data[len(data) // 2] ^= 255
  assert reason(bytes(data)) == "broken image data"


def test_what_is_no_image_says_so():
  assert reason(b"") == "empty image"
  assert reason(b"<html>404 not found</html>") == "unknown image format"
  assert reason(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40) == "broken image header"
  with pytest.raises(types.Unreadable, match="starts with b'<html>404"):
    images.decode(b"<html>404 not found</html>")


def bomb(side):
  """A PNG of a few bytes whose header promises side by side pixels."""
  def chunk(name, data):
    crc = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + crc

  size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
  body = chunk(b"IDAT", zlib.compress(b"\x00" * 100)) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + body


@pytest.mark.parametrize("side", [7_000, 12_000, 30_000])
def test_a_bomb_is_refused_by_its_header(side):
  assert reason(bomb(side)) == "image too large"


def test_the_limit_on_pixels_is_a_setting():
  data = encoded(picture())
  images.decode(data, max_pixels=HEIGHT * WIDTH)
  assert reason(data, max_pixels=HEIGHT * WIDTH - 1) == "image too large"


@pytest.mark.parametrize("shape", [(1, 21), (21, 1)])
def test_a_sliver_is_refused(shape):
  assert reason(encoded(np.zeros(shape, np.uint8))) == "extreme aspect ratio"
  assert images.decode(encoded(np.zeros((1, 20), np.uint8))).shape == (1, 20, 3)


def test_floating_point_pixels_are_refused():
  data = encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
  assert reason(data) == "unsupported pixels"


def test_two_channels_are_refused():
  with pytest.raises(ValueError, match="1 or 3"):
    images.decode(encoded(picture()), channels=2)


def test_resize_keeps_the_middle_in_its_proportions():
  image = np.zeros((10, 30, 3), np.uint8)
  image[:, 10:20] = 200
  assert (images.resize(image, 5) == 200).all()
  squashed = images.resize(image, 6, crop="none")
  assert (squashed[:, 2:4] == 200).all() and (squashed[:, :2] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 10, 17])
def test_resize_keeps_channels_and_flat_images(size, channels):
  image = np.full((10, 14, channels), 77, np.uint8)
  found = images.resize(image, size)
  np.testing.assert_array_equal(found, np.full((size, size, channels), 77))


def test_shrinking_takes_means_of_areas():
  image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  expected = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
  # Halves are rounded either way.
  assert np.abs(images.resize(image, 4) - expected).max() <= 0.5


def test_a_random_crop_is_a_part_of_the_image():
  image = np.zeros((40, 40, 3), np.uint8)
  y, x = np.mgrid[:40, :40]
  image[..., 0], image[..., 1] = y * 4, x * 4
  rng = np.random.default_rng(0)
  areas, corners = [], set()
  for _ in range(300):
    found = images.random_crop(image, 40, rng, scale=(0.25, 0.5))
    # Cubic enlarging overshoots the ramp by less than a pixel of it.
    height = np.ptp(found[..., 0].astype(int)) / 4 + 1
    width = np.ptp(found[..., 1].astype(int)) / 4 + 1
    areas.append(height * width / 1600)
    corners.add(tuple(found[0, 0, :2]))
    assert 0.7 < width / height < 1.43
  assert 0.22 < min(areas) < 0.3 and 0.45 < max(areas) < 0.56
  assert len(corners) > 100


def test_a_crop_that_never_fits_is_the_middle():
  image = np.zeros((10, 200, 3), np.uint8)
  image[:, 95:105] = 200
  rng = np.random.default_rng(0)
  found = images.random_crop(image, 4, rng, scale=(1.0, 1.0))
  assert (found == 200).all()


def test_flip_mirrors_half_of_the_time():
  rng = np.random.default_rng(0)
  mirrored = [
      np.array_equal(images.flip(picture(), rng), picture()[:, ::-1])
      for _ in range(200)
  ]
  assert 60 < sum(mirrored) < 140  # six standard deviations


@pytest.mark.parametrize("crop", ["none", "center", "random"])
def test_no_generator_no_noise(crop):
  change = images.augment(size=8, crop=crop, mirror=True)
  expected = images.resize(picture(), 8, "none" if crop == "none" else "center")
  np.testing.assert_array_equal(change(picture(), None), expected)


def test_the_same_generator_gives_the_same_noise():
  change = images.augment(size=8, crop="random", mirror=True)
  again = pickle.loads(pickle.dumps(change))
  one, two, other = (
      f(picture(), np.random.default_rng(seed))
      for f, seed in ((change, 1), (again, 1), (change, 2))
  )
  np.testing.assert_array_equal(one, two)
  assert not np.array_equal(one, other)


def test_without_a_size_an_image_keeps_its_own():
  change = images.augment()
  rng = np.random.default_rng(0)
  np.testing.assert_array_equal(change(picture(), rng), picture())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crop": "centre", "size": 8}, "'none', 'center' or 'random'"),
        ({"crop": "random"}, "needs a size"),
        ({"size": 8, "crop": "random", "scale": (0.0, 1.0)}, "least <= greatest"),
        ({"size": 8, "crop": "random", "scale": (0.9, 0.5)}, "least <= greatest"),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused(settings, said):
  with pytest.raises(ValueError, match=said):
    images.augment(**settings)


def test_a_crop_that_is_not_known_is_refused():
  with pytest.raises(ValueError, match="'center' or 'none'"):
    images.resize(picture(), 8, crop="middle")


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_foreign_scaling_is_pillows_whole_image_first(method):
  pixels = np.random.default_rng(0).integers(0, 256, (30, 21, 3), np.uint8)
  # The shorter side to 10, the longer to int(10 * 30 / 21) = 14.
  scaled = np.asarray(Image.fromarray(pixels).resize(
      (10, 14), Image.Resampling[method.upper()]))
  found = images.augment(size=10, crop="center", method=method)(pixels, None)
  np.testing.assert_array_equal(found, scaled[2:12])
  gray = images.resize(pixels[..., :1], 10, "none", method)
  assert gray.shape == (10, 10, 1)


def test_an_unknown_method_is_refused():
  with pytest.raises(ValueError, match="method is 'nearest'"):
    images.augment(size=4, method="nearest")
  with pytest.raises(ValueError, match="method is 'nearest'"):
    images.resize(np.zeros((4, 4, 3), np.uint8), 2, "none", "nearest")
