"""Pictures of emoji by several vendors: which concept each shows, and its pixels.

Drawings come as Iconify's JSON: the body of an SVG by name. Those of one vendor
come as WebP files named by code points.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from basic.data import decoding
from basic.preparation import _emoji_packages, _emoji_words

_ASSET = re.compile(r"assets/([0-9a-f]+(?:[-_][0-9a-f]+)*)\.(?:webp|png)")


class Vendor(NamedTuple):
  """A set of pictures in one style.

  Attributes:
    name: short, for keys of examples.
    package: with the pictures.
    designer: who drew them, where the package does not say it.
    notice: what else its licence, or its history, asks to say.
  """

  name: str
  package: _emoji_packages.Package
  designer: str = ""
  notice: str = ""


def _iconify(name: str, version: str, sha256: str) -> _emoji_packages.Package:
  return _emoji_packages.Package(f"@iconify-json/{name}", version, sha256)


TRAINED = (
    Vendor("openmoji", _iconify(
        "openmoji", "1.2.29",
        "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    ), notice="All emojis designed by OpenMoji, the open-source emoji and icon "
    "project. What is made of them is shared under the same licence."),
    Vendor("noto", _iconify(
        "noto", "1.2.9",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    )),
    Vendor("twemoji", _iconify(
        "twemoji", "1.2.5",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    )),
    Vendor("emojione", _iconify(
        "emojione", "1.2.3",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ), notice="Emoji artwork of EmojiOne 2, as EmojiTwo continues it."),
    Vendor("fxemoji", _iconify(
        "fxemoji", "1.2.2",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    )),
)
# The flat pictures of the same designers are not trained on either.
UNSEEN = Vendor(
    "fluent-3d", _emoji_packages.Package(
        "@lobehub/fluent-emoji-3d", "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ), designer="Microsoft (Fluent Emoji, MIT), packed by LobeHub",
)
VENDORS = (*TRAINED, UNSEEN)


class Licence(NamedTuple):
  """Under which terms a vendor's pictures are, as their package says."""

  title: str
  url: str
  author: str


class Picture(NamedTuple):
  """A picture of a concept.

  Attributes:
    vendor: its name.
    concept: what it shows.
    draw: size in pixels -> a PNG file, RGB on white.
  """

  vendor: str
  concept: _emoji_words.Concept
  draw: Callable[[int], bytes]


def wanted(path: str) -> bool:
  """Whether a file of a vendor's package is one that is read here."""
  named = ("info.json", "icons.json", "chars.json", "package.json")
  return path in named or _ASSET.fullmatch(path) is not None


def licence(vendor: Vendor, content: _emoji_packages.Content) -> Licence:
  """The licence of a vendor's pictures, from the package itself."""
  if "info.json" in content.files:
    info = content.json("info.json")
    said, author = info["license"], info["author"]
    return Licence(
        said.get("spdx", said["title"]), said.get("url", ""),
        f"{author['name']} ({author['url']})",
    )
  about = content.json("package.json")
  return Licence(
      about["license"], about.get("homepage", ""), vendor.designer or about["author"]
  )


def renderer() -> Callable[..., Any]:
  """The function that renders an SVG; ImportError, with what to do, if none."""
  try:
    import resvg_py
  except ImportError as error:
    raise ImportError(
        "the drawings are rendered by resvg: pip install resvg-py"
    ) from error
  return resvg_py.svg_to_bytes


def pictures(
    vendor: Vendor,
    content: _emoji_packages.Content,
    concepts: Sequence[_emoji_words.Concept],
    older_names: Mapping[str, str],
) -> Iterator[Picture]:
  """The pictures of a vendor whose concept is known, in the order of concepts.

  Args:
    vendor: whose pictures.
    content: of the vendor's package.
    concepts: all of them.
    older_names: Unicode's names by code, which older sets use.
  """
  if "icons.json" not in content.files:
    assets = {
        _emoji_words.code(match[1]): content.files[path]
        for path in sorted(content.files) if (match := _ASSET.fullmatch(path))
    }
    for concept in concepts:
      if concept.code in assets:
        yield Picture(vendor.name, concept, _scaled(assets[concept.code]))
    return
  icons = content.json("icons.json")
  names = _icon_names(content, icons, concepts, older_names)
  for concept in concepts:
    drawing = _svg(icons, names.get(concept.code, ""))
    if drawing is not None:
      yield Picture(vendor.name, concept, _drawing(drawing))


def _icon_names(content, icons, concepts, older_names) -> dict[str, str]:
  """Names of icons by code: as the package says, else by what they are called."""
  chars = json.loads(content.files.get("chars.json", b"{}"))
  if chars:
    return {_emoji_words.code(text): name for text, name in chars.items()}
  named = {
      _emoji_words.squeezed(name): name
      for name in (*icons.get("aliases", {}), *icons["icons"])
  }
  found = {}
  for concept in concepts:
    for name in (concept.names["en"], older_names.get(concept.code, "")):
      icon = named.get(_emoji_words.squeezed(name))
      if icon is not None:
        found.setdefault(concept.code, icon)
  return found


def _svg(icons: Mapping[str, Any], name: str) -> str | None:
  """An icon as SVG; None if there is none, or it is a turned or mirrored alias."""
  for _ in range(5):  # Aliases of aliases end soon.
    alias = icons.get("aliases", {}).get(name)
    if alias is None or name in icons["icons"]:
      break
    if set(alias) - {"parent", "hidden"}:
      return None
    name = alias["parent"]
  icon = icons["icons"].get(name)
  if icon is None:
    return None
  left, top, width, height = (
      icon.get(key, icons.get(key, default)) for key, default in
      (("left", 0), ("top", 0), ("width", 16), ("height", 16))
  )
  side = max(width, height)
  left, top = left - (side - width) / 2, top - (side - height) / 2
  return (
      '<svg xmlns="http://www.w3.org/2000/svg" '
      'xmlns:xlink="http://www.w3.org/1999/xlink" '
      f'viewBox="{left:g} {top:g} {side:g} {side:g}">{icon["body"]}</svg>'
  )


def _drawing(svg: str) -> Callable[[int], bytes]:
  """Renders an SVG on white."""

  def draw(size: int) -> bytes:
    return _png(decoding.decode(bytes(renderer()(
        svg_string=svg, width=size, height=size, background="#ffffff",
        skip_system_fonts=True,
    ))))

  return draw


def _scaled(data: bytes) -> Callable[[int], bytes]:
  """Scales an image file down, transparent parts on white."""

  def draw(size: int) -> bytes:
    pixels = decoding.decode(data)
    if pixels.shape[:2] != (size, size):
      pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
    return _png(pixels)

  return draw


def _png(pixels: np.ndarray) -> bytes:
  """RGB pixels as a PNG file."""
  written, data = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))
  if not written:
    raise RuntimeError("OpenCV could not write a PNG.")
  return data.tobytes()
