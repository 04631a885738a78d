"""A tiny collection to be searched, whose captions and names are hostile."""

import functools
import io

import numpy as np
import pytest
import tiny
from PIL import Image

import basic
from basic import types
from basic.interface import collection
from basic.serving import service

HOSTILE = "<img src=x onerror=\"document.title='broken'\"> & 'quotes'"
COUNT = 9


class Pictures:
  """Noise, of which picture 3 cannot be read."""

  def __init__(self):
    draw = np.random.default_rng(0)
    self.pixels = draw.integers(0, 256, (COUNT, 24, 24, 1)).astype(np.uint8)

  def __len__(self):
    return COUNT

  def __getitem__(self, index):
    if index == 3:
      raise types.Unreadable("truncated image", "it ends")
    return {"image": self.pixels[index], "text": (f"{HOSTILE} {index}", "more")}

  def name(self, index):
    return f"<b>{index}</b>.png" if index != 7 else "caf\udce9.png"


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue()


@functools.cache
def parts():
  """(model, source, service)."""
  with pytest.MonkeyPatch.context() as patch:
    tiny.install(patch)
    model = basic.load(tiny.whole())
    source = Pictures()
    z = model.embed_images(source.pixels)
    z[3] = np.nan
    index = collection.Index(
        collection.unit(z), source.name, source, {"truncated image": 1})
    return model, source, service.Service(model, index)
