"""Opens tar shards of up to 100 million records, and reads at random positions.

The indexes are synthetic: their rows lead to a few real samples, and the shards
are one file under many names. 10,000 records a shard, as img2dataset writes
them. 100 million records take 2.4 GB of disk and some minutes to lay out.

    python benchmarks/tar_index.py --folder /tmp/records --json figures.json
    python benchmarks/tar_index.py --small
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
import rounds

A_SHARD = 10_000
FULL = (10_000, 1_000_000, 100_000_000)
SMALL = (10_000, 100_000)
BATCH = 256
READS = 2_000


def real_shard(path: pathlib.Path, samples: int = 64) -> None:
  """Writes a shard of JPEGs of 256 pixels with captions."""
  import cv2

  rng = np.random.default_rng(0)
  with tarfile.open(path, "w") as opened:
    for number in range(samples):
      coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
      picture = cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC)
      image = cv2.imencode(".jpg", picture)[1].tobytes()
      for end, content in (("jpg", image), ("txt", b"a caption of a picture")):
        member = tarfile.TarInfo(f"{number:09}.{end}")
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))


def lay_out(folder: pathlib.Path, records: int) -> None:
  """Writes shards and indexes that claim `records` samples."""
  from basic.sources import _storage, _tar_index

  folder.mkdir(parents=True)
  real = folder / "real"
  real_shard(real)
  shard = _tar_index.build(str(real), str(folder / "real.index"))
  numbers = {pattern: n for n, (pattern, _) in enumerate(shard.patterns)}
  rows = np.resize(_tar_index.read_rows(shard, 0, shard.samples), A_SHARD)
  for number in range(records // A_SHARD):
    path = folder / f"{number:05}.tar"
    os.link(real, path)
    _tar_index.write(
        str(path), f"{path}.index", shard.size,
        _storage.fingerprint((str(path),)), numbers, rows, {},
    )


def measure(folder: str) -> dict[str, float]:
  """Opens the shards of a folder, takes batches and reads, in this process."""
  from basic.data import examples, images, pipeline
  from basic.sources import tar

  idle = rounds.resident()
  start, spent = time.perf_counter(), time.process_time()
  source = tar.tar(shards=f"{folder}/*.tar", missing_index="refuse")
  opened, opened_cpu = time.perf_counter() - start, time.process_time() - spent
  prepare = examples.prepare(
      tokenize=lambda text: np.zeros(16, np.int32), augment=images.augment(size=224)
  )
  with pipeline.stream(
      source, prepare=prepare, batch_size=BATCH, seed=0, threads=2
  ) as stream:
    next(stream)
    first, first_cpu = time.perf_counter() - start, time.process_time() - spent
    batches = [_seconds(lambda: next(stream)) for _ in range(5)]
    draws = _seconds(lambda: stream.ids(10**7, 10**7 + READS)) / READS
  positions = np.random.default_rng(1).integers(0, len(source), READS)
  new, known = (
      _seconds(lambda: [source[int(p)] for p in positions], time.process_time)
      for _ in range(2)
  )
  return dict(
      records=len(source), open_seconds=opened, first_batch_seconds=first,
      open_cpu_seconds=opened_cpu, first_batch_cpu_seconds=first_cpu,
      batch_seconds=statistics.median(batches), draw_us=1e6 * draws,
      read_cpu_us=1e6 * new / READS, read_again_cpu_us=1e6 * known / READS,
      peak_gib=rounds.resident() / 2**30,
      peak_over_idle_gib=(rounds.resident() - idle) / 2**30,
  )


def _seconds(action, clock=time.perf_counter) -> float:
  start = clock()
  action()
  return clock() - start


def table(rows: list[dict[str, float]]) -> str:
  """A row for each number of records."""
  names = [name for name in rows[0] if name != "records"]
  lines = [
      f"| records | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|",
      *(
          f"| {row['records']:,} | {' | '.join(f'{row[n]:.3f}' for n in names)} |"
          for row in rows
      ),
  ]
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--small", action="store_true")
  parser.add_argument("--folder", help="for the shards; kept, and used again")
  parser.add_argument("--json")
  parser.add_argument("--measure", help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.measure:
    print(json.dumps(measure(options.measure)))
    return
  with tempfile.TemporaryDirectory() as temporary:
    base = pathlib.Path(options.folder or temporary)
    rows = []
    for records in SMALL if options.small else FULL:
      folder = base / str(records)
      if not folder.exists():
        lay_out(folder, records)
      output = subprocess.run(
          [sys.executable, __file__, "--measure", str(folder)],
          check=True, stdout=subprocess.PIPE, text=True,
      ).stdout
      rows.append(json.loads(output.splitlines()[-1]))
  print(table(rows))
  if options.json:
    pathlib.Path(options.json).write_text(
        json.dumps(dict(machine=rounds.machine(), rows=rows), indent=2)
    )


if __name__ == "__main__":
  main()
