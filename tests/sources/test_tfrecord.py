"""TFRecord files are read without TensorFlow; damage is found by checksums."""

import io
import pickle
import struct

import numpy as np
import pytest
from PIL import Image
from tensorflow_datasets.core import example_serializer, features
from tensorflow_datasets.proto import tf_example_generated_pb2

from basic import prepare, sources, types
from basic.sources import tfds
from basic.sources import tfrecord as module

pytest.importorskip("google_crc32c")


def png(number):
  data = io.BytesIO()
  Image.new("RGB", (5, 4), (number, 0, 9)).save(data, "PNG")
  return data.getvalue()


def crc32c(data):
  """CRC32C bit by bit, from its polynomial; masked as TFRecord does."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(data):
  length = struct.pack("<Q", len(data))
  return length + crc32c(length) + data + crc32c(data)


def record(**values):
  message = tf_example_generated_pb2.Example()
  for name, several in values.items():
    feature = message.features.feature[name.replace("__", "/")]
    for value in several:
      kind = feature.int64_list if isinstance(value, int) else feature.bytes_list
      kind.value.append(value)
  return message.SerializeToString()


def plain(number, **changed):
  return record(**{
      "image__encoded": [png(number)], "caption": [f"caption {number}".encode()],
      **changed,
  })


def write(path, records):
  path.write_bytes(b"".join(map(framed, records)))
  return str(path)


def reason(source, index):
  with pytest.raises(types.Unreadable) as raised:
    source[index]
  return raised.value.reason


def test_plain_records_are_read_in_order(tmp_path):
  write(tmp_path / "a-0.tfrecord", map(plain, range(3)))
  write(tmp_path / "a-1.tfrecord", [])
  write(tmp_path / "a-2.tfrecord", map(plain, range(3, 7)))
  for prefix in ("", "file://"):
    source = module.tfrecord(files=f"{prefix}{tmp_path}/*.tfrecord")
    assert len(source) == 7 and source.shards.tolist() == [0, 3]
    for index in range(7):
      assert source[index]["image"].data == png(index)
      assert source[index]["text"] == (f"caption {index}",)
  assert sources.check(source) == []
  assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint


def test_a_folder_of_tfds_is_converted_without_tensorflow(tmp_path, capsys):
  """Records as TFDS serializes them, class names as it stores them."""
  kinds = features.FeaturesDict({
      "image": features.Image(shape=(None, None, 3)),
      "captions": features.Sequence({"text": features.Text(), "id": np.int64}),
      "label": features.ClassLabel(names=["red_ant", "bee"]),
  })
  serializer = example_serializer.ExampleSerializer(kinds.get_serialized_info())
  (tmp_path / "d").mkdir()
  kinds.save_config(str(tmp_path / "d"))
  records = [serializer.serialize_example(kinds.encode_example({
      "image": png(n), "label": n % 2,
      "captions": {"text": [f"a {n}", f"b {n}"], "id": [n, n]},
  })) for n in range(9)]
  for number in range(3):
    write(
        tmp_path / f"d/d-train.tfrecord-0000{number}-of-00003",
        records[3 * number : 3 * number + 3],
    )
  out = tmp_path / "out"
  prepare.main([
      "convert", "--source.name=tfrecord",
      f"--source.files={tmp_path}/d/d-train.tfrecord-*", f"--out={out}",
  ])
  assert "written   9" in capsys.readouterr().out
  after = tfds.tfds(
      dataset=str(out), split="train", text="captions", label="label"
  )
  assert after.classes == ("red ant", "bee") and len(after) == 9
  for index in range(9):
    assert after[index]["image"].data == png(index)
    assert after[index]["text"] == (f"a {index}", f"b {index}")
    assert after[index]["label"] == index % 2


def test_bad_records_are_counted_and_no_other_is_lost(tmp_path):
  records = [
      plain(0), plain(1, caption=[]), plain(2, caption=[b"\xff"]),
      plain(3, image__encoded=[]), plain(4, image__encoded=[png(0), png(1)]),
      record(caption=[b"a"]), plain(6, caption=[7]), b"\xff\xff\xff", plain(8),
      plain(9),
  ]
  data = bytearray(b"".join(map(framed, records)))
  data[data.index(plain(8)) + 70] ^= 1
  (tmp_path / "a").write_bytes(data)
  source = module.tfrecord(files=f"{tmp_path}/a")
  assert [reason(source, index) for index in range(1, 9)] == [
      "no caption", "caption is not text", "no image", "several images", "no image",
      "caption is not text", "no tf.train.Example", "damaged record",
  ]
  assert source[0]["image"].data == png(0) and source[9]["image"].data == png(9)


def test_labels_are_numbers_of_the_classes(tmp_path):
  records = [
      plain(0, label=[1]), plain(1, label=[2]), plain(2, label=[0, 1]),
      plain(3, label=[]),
  ]
  path = write(tmp_path / "a", records)
  source = module.tfrecord(files=path, classes=("x", "y"), text="")
  assert source[0]["text"] == ("y",) and source[0]["label"] == 1
  assert [reason(source, index) for index in (1, 2, 3)] == [
      "label out of range", "several labels", "label is not an integer"
  ]
  with pytest.raises(ValueError, match="set `text` or `classes`"):
    module.tfrecord(files=path, text="")


@pytest.mark.parametrize(("change", "sentence"), [
    (lambda data: data[:-1], "is cut off at byte .* after 2 records"),
    (lambda data: data[: len(data) // 2], "is cut off .* after 1 records"),
    (lambda data: data[:5], "is cut off at byte 0 of 5, after 0"),
    (lambda data: b"\x01" + data[1:], "is damaged, or is no TFRecord"),
    (lambda data: b"\x1f\x8b" + data[2:], "compressed with gzip"),
    (lambda data: framed(b"")[:0] + struct.pack("<Q", 2**40)
     + crc32c(struct.pack("<Q", 2**40)) + data, "has a record of 1099511627776"),
    (lambda data: b"", "have no records"),
])
def test_a_file_with_damaged_framing_is_refused(tmp_path, change, sentence):
  path = tmp_path / "a"
  write(path, map(plain, range(3)))
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ValueError, match=sentence):
    module.tfrecord(files=str(path))


def test_a_missing_feature_lists_those_that_are_there(tmp_path):
  path = write(tmp_path / "a", [plain(0)])
  with pytest.raises(ValueError, match=r"it has \['caption', 'image/encoded'\]"):
    module.tfrecord(files=path, image="jpg")
