"""Time to read, decode, crop and batch JPEG files, beside other ways to do so.

    python benchmarks/pipeline.py --small

JPEG files of 256 pixels are read from a tar shard, cropped at random to 224,
flipped and batched as uint8, by

    ours           basic.data.pipeline, with threads
    opencv         a loop that calls OpenCV, and does nothing else
    webdataset     webdataset, PIL and torch's DataLoader, two workers
    worker         ours, with one worker process of one thread
    two_workers    ours, with two

All are compared in CPU seconds, of all their processes; the workers in seconds too,
which say something only where nothing else runs. `--small` also prints microseconds
for each stage of ours.
"""

import argparse
import io
import json
import math
import os
import pathlib
import tarfile
import tempfile
import time

import numpy as np
import rounds

SIZE, SIDE, BATCH = 224, 256, 128
CLOCKED = ("two_workers", "worker")


def draw(rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
  """A picture like a photograph: smooth shades, shapes with edges, some grain."""
  import cv2

  image = np.full((side, side, 3), rng.integers(60, 200, 3), np.float32)
  for cells in (4, 16, 64):
    noise = rng.normal(0, 160 / cells**0.5, (cells, cells, 3)).astype(np.float32)
    image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
  for _ in range(6):
    center, radius = rng.integers(0, side, 2), int(rng.integers(8, side // 4))
    color = [float(c) for c in rng.integers(0, 256, 3)]
    cv2.circle(image, [int(c) for c in center], radius, color, -1)
  image += rng.normal(0, 3, image.shape)
  return image.clip(0, 255).astype(np.uint8)


def shard(folder: pathlib.Path, count: int) -> pathlib.Path:
  """A tar file of JPEG files and their classes, as webdataset reads it."""
  import cv2

  path = folder / "shard-000000.tar"
  rng = np.random.default_rng(0)
  with tarfile.open(path, "w") as archive:
    for number in range(count):
      data = cv2.imencode(
          ".jpg", draw(rng), [cv2.IMWRITE_JPEG_QUALITY, 90]
      )[1].tobytes()
      for name, content in (("jpg", data), ("cls", b"%d" % (number % 10))):
        info = tarfile.TarInfo(f"{number:06d}.{name}")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
  return path


class Shard:
  """The JPEG files of a tar file, by number."""

  def __init__(self, path: str):
    self._path = path
    with tarfile.open(path) as archive:
      self._places = [
          (member.offset_data, member.size) for member in archive
          if member.name.endswith(".jpg")
      ]
    self._file = open(path, "rb")

  def __reduce__(self):
    return Shard, (self._path,)

  def __len__(self):
    return len(self._places)

  def data(self, index: int) -> bytes:
    start, size = self._places[index]
    return os.pread(self._file.fileno(), size, start)

  def __getitem__(self, index: int):
    from basic.data import decoding

    return {"image": decoding.Encoded(self.data(index)), "id": index}


def ours(path: str, count: int, **changes):
  """Our stream; between two rounds it reads ahead and then rests."""
  from pipeline import Shard as Importable  # A worker process imports it too.

  from basic.data import examples, images, pipeline

  stream = pipeline.stream(
      Importable(path), batch_size=BATCH, seed=0,
      prepare=examples.prepare(
          tokenize=None,
          augment=images.augment(size=SIZE, crop="random", mirror=True),
      ),
      **changes,
  )

  def once():
    for _ in range(count // BATCH):
      batch = next(stream)["image"]
      assert batch.shape == (BATCH, SIZE, SIZE, 3)

  return once


def box(rng: np.random.Generator, height: int, width: int):
  """(top, left, height, width) of a random crop, for the others."""
  while True:
    area = rng.uniform(0.3, 1.0) * height * width
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      top = rng.integers(height - h, endpoint=True)
      return top, rng.integers(width - w, endpoint=True), h, w


def opencv(path: str, count: int):
  """What the result needs, and nothing else, in a loop."""
  import cv2

  cv2.setNumThreads(0)
  source, rng = Shard(path), np.random.default_rng(0)

  def once():
    for _ in range(count // BATCH):
      batch = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
      for row, index in enumerate(rng.integers(len(source), size=BATCH)):
        image = cv2.imdecode(
            np.frombuffer(source.data(index), np.uint8), cv2.IMREAD_COLOR_RGB
        )
        y, x, h, w = box(rng, *image.shape[:2])
        smaller = SIZE < max(h, w)
        scaled = cv2.resize(
            image[y:y + h, x:x + w], (SIZE, SIZE),
            interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC,
        )
        batch[row] = cv2.flip(scaled, 1) if rng.random() < 0.5 else scaled

  return once


def webdataset(path: str, count: int):
  """webdataset as its manual uses it, with two worker processes."""
  import torch
  import webdataset as wds
  from PIL import Image

  rng = np.random.default_rng(0)

  def crop(image):
    """What torchvision's RandomResizedCrop and RandomHorizontalFlip do."""
    top, left, h, w = box(rng, image.height, image.width)
    image = image.resize(
        (SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + w, top + h)
    )
    if rng.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(image))

  dataset = (
      wds.WebDataset([path] * 2, shardshuffle=False, resampled=True)
      .shuffle(500).decode("pil").to_tuple("jpg", "cls").map_tuple(crop, int)
      .batched(BATCH)
  )
  batches = iter(
      torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)
  )

  def once():
    for _ in range(count // BATCH):
      assert next(batches)[0].shape == (BATCH, SIZE, SIZE, 3)

  return once


CONTENDERS = {
    "ours": lambda *a: ours(*a, threads=2),
    "opencv": opencv,
    "webdataset": webdataset,
    "worker": lambda *a: ours(*a, workers=1, threads=1),
    "two_workers": lambda *a: ours(*a, workers=2, threads=1),
}


def cpu_seconds() -> float:
  """CPU seconds of this process and all that it started, until they rest."""
  import psutil

  me = psutil.Process()

  def now():
    times = [p.cpu_times() for p in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)

  before = now()
  while True:  # What is read ahead belongs to the round that made room for it.
    time.sleep(0.2)
    if now() - before < 0.02:
      return now()
    before = now()


def stages(path: str) -> dict[str, float]:
  """Microseconds of an example in each stage of ours, in one thread."""
  import cv2

  from basic.data import (
    batches,
    draws,
    examples,
    images,
    orders,
    threads,
    tokenizer,
  )

  cv2.setNumThreads(0)
  source = Shard(path)
  order, drawn = orders.order(source, seed=0), draws.Draws(0)
  crop = images.augment(size=SIZE, crop="random", mirror=True)
  encoded = [source[i]["image"] for i in range(256)]
  pixels = [each.decode() for each in encoded]
  crops = [crop(image, drawn(i)) for i, image in enumerate(pixels)]
  captions = [f"a photo of {i} small brown dogs on the grass" for i in range(256)]
  words = tokenizer.Tokenizer(tokenizer.train(captions, vocab=64, seed=0), 32)
  rows = [examples.Row(i, {"image": image}) for i, image in enumerate(crops)]
  memory = {"image": np.empty((256, SIZE, SIZE, 3), np.uint8)}

  def block():
    whole = batches.Block(
        256, memory, (0, batches.kinds(rows[0].arrays or {}))
    )
    for place, row in enumerate(rows):
      whole.put(place, row)

  reader = threads.Threads(
      lambda number: rows[number % 256], batches.Rows(0, 256, (0, 1)),
      lambda size: batches.Block(size, memory), threads=2, prefetch=2,
  )
  actions = {
      "order and random numbers": lambda: [
          (order(i), drawn(i)) for i in range(256)
      ],
      "read": lambda: [source[i] for i in range(256)],
      "decode": lambda: [each.decode() for each in encoded],
      "crop and flip": lambda: [
          crop(image, drawn(i)) for i, image in enumerate(pixels)
      ],
      "tokenize": lambda: [words(caption) for caption in captions],
      "write into the batch": block,
      "the same, through threads": lambda: next(reader),
  }
  found = {}
  for name, action in actions.items():
    took = []
    for _ in range(7):
      start = time.process_time()
      action()
      took.append(time.process_time() - start)
    found[name] = min(took) / 256 * 1e6
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--small", action="store_true", help="two CPU cores")
  parser.add_argument("--contender")
  parser.add_argument("--clock", action="store_true", help="seconds, not CPU's")
  parser.add_argument("--path")
  parser.add_argument("--examples", type=int, default=2_048)
  parser.add_argument("--rounds", type=int, default=7)
  parser.add_argument("--json")
  options = parser.parse_args()
  if options.contender:
    rounds.serve(
        lambda: CONTENDERS[options.contender](options.path, options.examples),
        rounds.resident, time.perf_counter if options.clock else cpu_seconds,
        cpu_seconds,
    )
    return
  results = {}
  with tempfile.TemporaryDirectory() as folder:
    path = shard(pathlib.Path(folder), 2_000)
    arguments = ["--path", str(path), "--examples", str(options.examples)]
    size = path.stat().st_size / 2_000 / 1024
    for title, names, clock in (
        ("CPU seconds", list(CONTENDERS), []), ("seconds", CLOCKED, ["--clock"]),
    ):
      results[title] = rounds.compare(
          __file__, names, [*arguments, *clock], options.rounds
      )
      print(rounds.table(
          f"{title} for {options.examples} images of {size:.0f} KiB",
          results[title],
      ), flush=True)
    results["microseconds"] = stages(str(path))
    print("\n| stage | microseconds |\n|---|---|")
    for name, value in results["microseconds"].items():
      print(f"| {name} | {value:.1f} |")
  if options.json:
    pathlib.Path(options.json).write_text(
        json.dumps({"machine": rounds.machine(), **results}, indent=2)
    )


if __name__ == "__main__":
  main()
