"""Images are decoded as a viewer shows them, or refused for a reason."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from basic import types
from basic.data import decoding

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
    decoding.decode(data, **options)
  return raised.value.reason


@pytest.mark.parametrize(
    "name", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP", "AVIF"]
)
def test_every_format_comes_out_as_it_went_in(name):
  options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(name, {})
  data = encoded(picture(), name, **options)
  found = decoding.decode(data)
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
  np.testing.assert_allclose(decoding.decode(data), on_white(data), atol=0.51)


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
  np.testing.assert_array_equal(decoding.decode(data), on_white(data))


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
  found = decoding.decode(bytes(data))
  np.testing.assert_array_equal(
      found, decoding.decode(encoded(of_mode("RGBA"), "PNG")))
  assert (found[:, :7] == 255).all()


def test_what_a_first_frame_does_not_cover_is_white():
  small = encoded(picture(), "WEBP", lossless=True)[12:]
  frame = bytes(6) + struct.pack("<I", WIDTH - 1)[:3] + struct.pack(
      "<I", HEIGHT - 1)[:3] + bytes(4) + small
  body = b"VP8X" + struct.pack("<I", 10) + b"\x02" + bytes(3) + struct.pack(
      "<I", WIDTH + 3)[:3] + struct.pack("<I", HEIGHT + 1)[:3]
  body += b"ANIM" + struct.pack("<I", 6) + bytes(6)
  body += b"ANMF" + struct.pack("<I", len(frame)) + frame
  found = decoding.decode(
      b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
  assert found.shape == (HEIGHT + 2, WIDTH + 4, 3)
  np.testing.assert_array_equal(found[:HEIGHT, :WIDTH], picture())
  assert (found[HEIGHT:] == 255).all() and (found[:, WIDTH:] == 255).all()


def test_a_transparent_level_of_sixteen_bits_is_white():
  data = encoded(of_mode("I;16"), "PNG")
  level = int(np.asarray(of_mode("I;16"))[3, 4])
  chunk = b"tRNS" + struct.pack(">H", level)
  chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
  found = decoding.decode(data[:33] + chunk + data[33:])
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
  header = decoding.read_header(data, 1_000)
  assert header.plain or (name, mode) == ("BMP", "L")  # That has a palette.
  if header.plain:
    np.testing.assert_array_equal(
        decoding._decode_fast(header), decoding._decode_any(header)
    )


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_image_is_upright_whatever_its_format(name):
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees clockwise
  data = encoded(picture(), name, exif=exif.tobytes())
  found = decoding.decode(data).astype(int)
  expected = np.rot90(picture(), -1).astype(int)
  assert found.shape == expected.shape
  assert np.abs(found - expected).mean() < 6  # lossy JPEG and WebP


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_pillows_and_its_size_is_known(name, turn):
  exif = Image.Exif()
  exif[0x0112] = turn
  data = encoded(picture(), name, exif=exif.tobytes())
  with Image.open(io.BytesIO(data)) as image:
    expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
  found = decoding.decode(data)
  assert found.shape == expected.shape
  assert decoding.Encoded(data).size == expected.shape[:2]
  assert np.abs(found.astype(int) - expected).max() <= 1  # AVIF's rounding


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description %s</x:xmpmeta>'


@pytest.mark.parametrize("said", [
    b'tiff:Orientation="6"/>', b"><tiff:Orientation>6</tiff:Orientation>"])
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_xmp_turns_an_image_that_exif_does_not(name, said):
  xmp = XMP % said
  if name == "PNG":
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"pnginfo": info}
  else:
    options = {"xmp": xmp}
  data = encoded(picture(), name, **options)
  assert decoding.decode(data).shape == (WIDTH, HEIGHT, 3)
  exif = Image.Exif()
  exif[0x0112] = 3
  data = encoded(picture(), name, exif=exif.tobytes(), **options)
  assert decoding.decode(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("zipped", [False, True])
def test_exif_in_a_text_of_a_png_turns_the_image(zipped):
  exif = Image.Exif()
  exif[0x0112] = 6
  body = exif.tobytes()
  text = f"\nexif\n{len(body):8d}\n{body.hex()}\n"
  info = PngImagePlugin.PngInfo()
  info.add_text("Raw profile type exif", text, zip=zipped)
  found = decoding.decode(encoded(picture(), pnginfo=info))
  np.testing.assert_array_equal(found, np.rot90(picture(), -1))


@pytest.mark.parametrize("exif", [
    b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0XX*\0" + bytes(20),
    b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x01" * 30,
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0",
])
def test_broken_exif_turns_nothing(exif):
  found = decoding.decode(encoded(picture(), "WEBP", lossless=True, exif=exif))
  np.testing.assert_array_equal(found, picture())


def test_sixteen_bits_become_eight():
  gray = picture()[..., 0]
  data = cv2.imencode(".png", gray.astype(np.uint16) * 257)[1].tobytes()
  expected = np.repeat(gray[..., None], 3, axis=2)
  np.testing.assert_array_equal(decoding.decode(data), expected)
  colour = picture()[..., ::-1].astype(np.uint16) * 257
  data = cv2.imencode(".png", colour)[1].tobytes()
  np.testing.assert_array_equal(decoding.decode(data), picture())


def test_gray_has_three_equal_channels_or_one():
  gray = picture()[..., 0]
  data = encoded(gray)
  one = decoding.decode(data, channels=1)
  np.testing.assert_array_equal(one, gray[..., None])
  np.testing.assert_array_equal(
      decoding.decode(data), np.repeat(gray[..., None], 3, axis=2)
  )


def test_one_channel_is_luminance():
  found = decoding.decode(encoded(picture()), channels=1).astype(float)
  expected = picture() @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
  np.testing.assert_allclose(found[..., 0], expected, atol=1)  # rounding


def test_transparent_parts_are_white():
  alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
  alpha[:, 10:] = 255
  found = decoding.decode(encoded(np.concatenate([picture(), alpha], axis=-1)))
  assert (found[:, :10] == 255).all()
  np.testing.assert_array_equal(found[:, 10:], picture()[:, 10:])


def test_a_transparent_palette_is_white():
  image = Image.new("P", (WIDTH, HEIGHT), 1)
  image.putpalette([0, 0, 0, 10, 20, 30])
  found = decoding.decode(encoded(image, transparency=1))
  assert (found == 255).all()
  assert (decoding.decode(encoded(image)) == (10, 20, 30)).all()


def test_cmyk_becomes_rgb():
  cmyk = Image.fromarray(picture()).convert("CMYK")
  found = decoding.decode(encoded(cmyk, "JPEG", quality=95)).astype(int)
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
    decoding.decode(b"<html>404 not found</html>")


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
  decoding.decode(data, max_pixels=HEIGHT * WIDTH)
  assert reason(data, max_pixels=HEIGHT * WIDTH - 1) == "image too large"


@pytest.mark.parametrize("shape", [(1, 21), (21, 1)])
def test_a_sliver_is_refused(shape):
  assert reason(encoded(np.zeros(shape, np.uint8))) == "extreme aspect ratio"
  assert decoding.decode(encoded(np.zeros((1, 20), np.uint8))).shape == (1, 20, 3)


def test_floating_point_pixels_are_refused():
  data = encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
  assert reason(data) == "unsupported pixels"


def test_two_channels_are_refused():
  with pytest.raises(ValueError, match="1 or 3"):
    decoding.decode(encoded(picture()), channels=2)


@pytest.mark.parametrize(("data", "kind"), [
    (b"\0\0\0\x18ftypheic" + b"\0" * 99, "HEIC; save it as JPEG or PNG"),
    (b"\0\0\0\x18ftypmif1" + b"\0" * 99, "HEIC; save it as JPEG or PNG"),
    (b"\0\0\0\x18ftypisom" + b"\0" * 99, "a video; a picture is expected"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "SVG; draw it as PNG"),
    (b"<svg xmlns='...'/>", "SVG; draw it as PNG"),
    (b"\n<!DOCTYPE html><svg>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
    (b"%PDF-1.7", "PDF"), (b"\xff\x0a\xfa", "JPEG XL"),
])
def test_a_file_of_another_kind_is_named(data, kind):
  with pytest.raises(types.Unreadable) as raised:
    decoding.decode(data)
  assert str(raised.value).startswith(f"unknown image format: it is {kind}")
  assert repr(data[:12]) in str(raised.value)


@pytest.mark.parametrize("data", [b"<?xml version='1.0'?><rss/>", b"no picture"])
def test_a_file_of_no_known_kind_shows_its_start(data):
  with pytest.raises(types.Unreadable) as raised:
    decoding.decode(data)
  assert str(raised.value) == f"unknown image format: it starts with {data[:12]!r}"


def test_a_file_that_ends_in_its_header_says_how_long_it_is():
  file = io.BytesIO()
  Image.new("RGB", (64, 48)).save(file, "JPEG")
  with pytest.raises(types.Unreadable, match="the file, of 100 bytes") as raised:
    decoding.decode(file.getvalue()[:100])
  assert raised.value.reason == "broken image header"
