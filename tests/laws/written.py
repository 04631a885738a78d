"""Small data sets of every format, with the same eight pictures and captions."""

import io
import pathlib
import tarfile
from collections.abc import Callable

import google_crc32c
import pyarrow
import pyarrow.parquet
import tensorflow_datasets
from PIL import Image

from basic.data import array_records
from basic.experiment import schema
from basic.sources import tar


def prepared(folder: pathlib.Path) -> str:
  """A prepared data set of eight images with a caption and a label each."""
  tensorflow_datasets.disable_progress_bar()
  features = tensorflow_datasets.features

  class Law(
      tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True
  ):
    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
      return tensorflow_datasets.core.DatasetInfo(
          builder=self,
          features=features.FeaturesDict({
              "image": features.Image(shape=(None, None, 3)),
              "caption": features.Text(),
              "label": features.ClassLabel(names=["ant", "bee"]),
          }),
      )

    def _split_generators(self, manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for number in range(8):
        data = io.BytesIO()
        Image.new("RGB", (5, 4), (number, 0, 255)).save(data, "PNG")
        data.seek(0)
        caption = f"caption {number}"
        yield number, {"image": data, "caption": caption, "label": number % 2}

  builder = Law(
      data_dir=str(folder), file_format="array_record"
  )
  builder.download_and_prepare()
  return str(builder.data_path)


def shard(folder: pathlib.Path) -> str:
  """A tar shard of eight samples with two captions and a label each."""
  path = folder / "00000.tar"
  with tarfile.open(path, "w") as opened:
    for number in range(8):
      image = io.BytesIO()
      Image.new("RGB", (5, 4), (number, 0, 255)).save(image, "PNG")
      for extension, content in (
          ("png", image.getvalue()), ("txt", b"caption %d" % number),
          ("json", b'{"alt": "another %d"}' % number), ("cls", b"%d" % (number % 2)),
      ):
        member = tarfile.TarInfo(f"{number:05}.{extension}")
        member.size = len(content)
        opened.addfile(member, io.BytesIO(content))
  tar.build_indexes(shards=str(path), index=None, workers=1)
  return str(path)


def pictures(folder: pathlib.Path) -> str:
  """A folder of eight pictures in two classes, with a table of captions."""
  rows = ["file_name\tcaption\tlabel\n"]
  for number in range(8):
    name = f"{'ab'[number % 2]}/{number}.png"
    (folder / name).parent.mkdir(exist_ok=True)
    Image.new("RGB", (5, 4), (number, 0, 255)).save(folder / name)
    rows.append(f"{name}\tcaption {number}\t{'ab'[number % 2]}\n")
  (folder / "table.tsv").write_text("".join(rows))
  return str(folder)


def parquet(folder: pathlib.Path) -> str:
  """A Parquet file of eight images with captions and labels."""
  images = []
  for number in range(8):
    image = io.BytesIO()
    Image.new("RGB", (5, 4), (number, 0, 255)).save(image, "PNG")
    images.append(image.getvalue())
  path = folder / "pictures.parquet"
  pyarrow.parquet.write_table(pyarrow.table({
      "image": images,
      "caption": [f"caption {n}" for n in range(8)],
      "label": [n % 2 for n in range(8)],
  }), path, row_group_size=3)
  return str(path)


def tfrecord(folder: pathlib.Path) -> str:
  """A TFRecord file of the records of the Parquet file."""
  source = schema.make("sources", {
      "name": "parquet", "files": parquet(folder), "classes": ("ant", "bee"),
  })
  layout = array_records.layout(source[0], source.classes)

  def checked(data):
    crc = google_crc32c.value(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return data + masked.to_bytes(4, "little")

  records = [array_records.record(source[n], layout) for n in range(8)]
  path = folder / "pictures.tfrecord"
  path.write_bytes(b"".join(
      checked(len(data).to_bytes(8, "little")) + checked(data) for data in records
  ))
  return str(path)


# What stands in braces in the settings of a source -> what writes it.
WRITERS: dict[str, Callable[[pathlib.Path], str]] = {
    "{prepared}": prepared, "{shard}": shard, "{pictures}": pictures,
    "{parquet}": parquet, "{tfrecord}": tfrecord,
}
