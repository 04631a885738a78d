"""python -m basic.embed: files of embeddings, in which every row is found again."""

import json

import numpy as np
import pytest
import tensorflow_datasets
import tiny
from PIL import Image

import basic
from basic import embed
from basic.data import array_records, embedding_files
from basic.experiment import schema
from basic.sources import digits


@pytest.fixture(autouse=True)
def toys_are_installed(monkeypatch, tmp_path):
  tiny.install(monkeypatch)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


SOURCE = dict(name="digits", canvas=24, channels=1, split="test", length=10)


def assert_rows(found, source, model, readable=slice(None)):
  """The rows of a file are what the model gives for the examples of the source."""
  examples = [source[n] for n in np.arange(len(source))[readable]]
  images = model.embed_images([each["image"] for each in examples])
  texts = [each["text"] for each in examples]
  captions = model.embed_texts([t if isinstance(t, str) else t[0] for t in texts])
  # float32, in batches of another size.
  np.testing.assert_allclose(found["image"][readable], images, atol=2e-6)
  np.testing.assert_allclose(found["text"][readable], captions, atol=2e-6)


def test_a_file_holds_the_embeddings_in_the_order_of_the_source(tmp_path):
  out = tmp_path / "new" / "z.npz"
  counts = embed.embed(
      source=SOURCE, workdir=str(tiny.whole()), out=str(out), batch_size=4)
  assert counts == {"examples": 10, "embedded": 10}
  source = digits.digits(**{k: x for k, x in SOURCE.items() if k != "name"})
  with np.load(out) as found:
    assert_rows(found, source, basic.load(tiny.whole()))
    assert found["readable"].all() and found["id"].tolist() == list(range(10))
    assert json.loads(str(found["about"][0]))["source"] == SOURCE
  assert [path.name for path in out.parent.iterdir()] == ["z.npz"]


def test_a_data_set_is_what_tfds_reads(tmp_path):
  out = tmp_path / "z"
  embed.embed(source=SOURCE, workdir=str(tiny.whole()), out=str(out))
  builder = tensorflow_datasets.builder_from_directory(str(out))
  rows = list(builder.as_data_source(split=embedding_files.SPLIT))
  assert [int(row["id"]) for row in rows] == list(range(10))
  assert all(bool(row["readable"]) for row in rows)
  found = {name: np.stack([row[name] for row in rows]) for name in ("image", "text")}
  assert found["image"].dtype == np.float32
  source = digits.digits(**{k: x for k, x in SOURCE.items() if k != "name"})
  assert_rows(found, source, basic.load(tiny.whole()))


def test_what_cannot_be_read_is_listed_and_has_no_embedding(tmp_path):
  out = tmp_path / "z.npz"
  counts = embed.embed(
      source=dict(name="faulty", length=10, torn=4), workdir=str(tiny.whole()),
      out=str(out), batch_size=3)
  assert counts == {
      "examples": 10, "embedded": 7, "unreadable: truncated image": 3}
  readable = np.arange(10) % 4 != 0
  with np.load(out) as found:
    assert found["readable"].tolist() == readable.tolist()
    assert np.isnan(found["image"][~readable]).all()
    assert_rows(found, tiny.faulty(length=10, torn=4), basic.load(tiny.whole()),
                readable)
  lines = (tmp_path / "z.npz.unreadable.jsonl").read_text().splitlines()
  assert [json.loads(line)["index"] for line in lines] == [0, 4, 8]
  assert json.loads(lines[0])["message"].startswith("truncated image: it ends")


def test_pictures_are_found_again_by_their_names_from_the_command_line(
    tmp_path, capsys
):
  names = ["a.png", "b.png", "sub/c.png"]
  (tmp_path / "p/sub").mkdir(parents=True)
  for n, name in enumerate(names):
    Image.new("L", (30, 20), 80 * n).save(tmp_path / "p" / name)
  embed.main([
      "--workdir", str(tiny.whole()), "--source.name=folder",
      f"--source.path={tmp_path}/p", "--source.layout=pictures", "--limit=2",
      "--out", str(tmp_path / "z.npz"),
  ])
  assert capsys.readouterr().out == "examples  2\nembedded  2\n"
  with np.load(tmp_path / "z.npz") as found:
    assert found["name"].tolist() == names[:2] and "text" not in found
    expected = basic.load(tiny.whole()).embed_images(tmp_path / "p/b.png")
    np.testing.assert_allclose(found["image"][1:], expected, atol=2e-6)
  embed.main(["--help"])
  assert "--source.layout=pictures" in capsys.readouterr().out


def test_a_file_that_cannot_be_completed_is_not_there(tmp_path):
  def broken(start, stop):
    raise OSError("disk")

  good = embedding_files.Column.of(np.zeros((3, 2), np.float32))
  bad = embedding_files.Column((3, 2), np.dtype(np.float32), broken)
  with pytest.raises(OSError, match="disk"):
    embedding_files.write_npz(tmp_path / "z.npz", {"a": good, "b": bad})
  assert list(tmp_path.iterdir()) == []
  with pytest.raises(OSError, match="disk"):
    embedding_files.write_array_record(tmp_path / "z", {"a": good, "b": bad})
  assert not (tmp_path / "z").exists()
  embedding_files.write_array_record(tmp_path / "z", {"a": good})
  assert (tmp_path / "z" / array_records.METADATA).exists()


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 9])
def test_parts_and_shards_of_any_size_hold_all_rows(tmp_path, rows, monkeypatch):
  monkeypatch.setattr(embedding_files, "_ROWS", 3)
  monkeypatch.setattr(embedding_files, "_SHARD", 4)
  array = np.arange(2.0 * rows, dtype=np.float32).reshape(rows, 2)
  names = np.array([f"ü{n}\udce9" for n in range(rows)])
  columns = {
      "x": embedding_files.Column.of(array), "n": embedding_files.Column.of(names)}
  embedding_files.write_npz(tmp_path / "z.npz", columns)
  with np.load(tmp_path / "z.npz") as found:
    np.testing.assert_array_equal(found["x"], array)
    assert found["n"].tolist() == names.tolist()
  embedding_files.write_array_record(tmp_path / "z", columns)
  assert len(list((tmp_path / "z").glob("*.array_record-*"))) == -(-rows // 4)
  builder = tensorflow_datasets.builder_from_directory(str(tmp_path / "z"))
  read = list(builder.as_data_source(split=embedding_files.SPLIT))
  np.testing.assert_array_equal(np.stack([row["x"] for row in read]), array)
  assert [row["n"].decode(errors="surrogateescape") for row in read] == names.tolist()


@pytest.mark.parametrize(("changes", "words"), [
    (dict(workdir=None), "give one of --workdir RUN and --weights"),
    (dict(weights="hf_clip:x"), "give one of --workdir RUN and --weights"),
    (dict(out="exists.npz"), "exists; remove it, or give another"),
    (dict(out=""), "--out is empty"), (dict(limit=0), "limit is 0"),
    (dict(source=dict(name="digit")), "digits"),
])
def test_what_cannot_work_is_refused_before_anything_is_encoded(
    tmp_path, monkeypatch, changes, words
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "exists.npz").write_bytes(b"")
  settings = dict(source=SOURCE, workdir=str(tiny.whole()), out="z.npz")
  with pytest.raises(ValueError, match=words):
    embed.embed(**{**settings, **changes})


def secretive(*, url: str, api_key: str, options: dict[str, str]):
  """Digits behind secrets."""
  del url, api_key, options
  return digits.digits(canvas=24, channels=1, split="test", length=4)


def test_secrets_of_a_source_are_not_written(tmp_path, monkeypatch):
  plugin = schema.plugin
  monkeypatch.setattr(schema, "plugin", lambda folder, name: (
      secretive if name == "secretive" else plugin(folder, name)))
  source = dict(name="secretive", url="https://me:hidden1@host/x", api_key="hidden2",
                options=dict(password="hidden3"))
  out = tmp_path / "z.npz"
  embed.embed(source=source, workdir=str(tiny.whole()), out=str(out))
  with np.load(out) as found:
    about = json.loads(str(found["about"][0]))
  assert about["source"] == {
      "name": "secretive", "url": "https://[redacted]@host/x",
      "api_key": "[redacted]", "options": {"password": "[redacted]"},
  }
  kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
  assert any(path.name == "about.json" for path in kept)
  for path in (out, *kept):
    assert b"hidden" not in path.read_bytes(), path
