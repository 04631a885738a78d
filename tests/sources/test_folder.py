"""Folders of pictures are read as people have them, and every fault is named."""

import collections
import csv
import json
import logging
import os
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from basic import sources, types
from basic.sources import _table
from basic.sources import folder as module

NAMES = [f"{number}.png" for number in range(4)]


@pytest.fixture
def pictures(tmp_path):
  """Four pictures, the red of each is its number."""
  for number, name in enumerate(NAMES):
    Image.new("RGB", (5, 4), (number, 0, 9)).save(tmp_path / name)
  return tmp_path


def opened(path, **settings):
  return module.folder(path=str(path), **settings)


def red(example):
  return int(np.asarray(example["image"])[0, 0, 0])


def reason(source, index):
  with pytest.raises(types.Unreadable) as raised:
    source[index]
  return raised.value.reason


def write(path, rows, **how):
  with open(path, "w", newline="") as file:
    csv.writer(file, **how).writerows(rows)


ROWS = [
    ["0.png", "plain"], ["1.png", 'with "quotes", and\ta tab'],
    ["2.png", "two\nlines\r\nor three"], ["3.png", "träume \u2028 von; a|b"],
]


@pytest.mark.parametrize(("name", "how"), [
    ("a.csv", {}), ("a.tsv", {"delimiter": "\t"}), ("a.csv", {"delimiter": "\t"}),
    ("a.csv", {"delimiter": ";"}), ("a.csv", {"quoting": csv.QUOTE_ALL}),
    ("a.csv", {"lineterminator": "\n"}),
])
@pytest.mark.parametrize("end", ["as it is", "no last line feed", "BOM"])
def test_a_table_says_what_was_written_into_it(pictures, name, how, end):
  write(pictures / name, [["filepath", "title"], *ROWS], **how)
  data = (pictures / name).read_bytes()
  if end == "no last line feed":
    (pictures / name).write_bytes(data.rstrip(b"\r\n"))
  if end == "BOM":
    (pictures / name).write_bytes(b"\xef\xbb\xbf" + data)
  source = opened(pictures)
  assert len(source) == 4 and source.classes == ()
  for number, (_, title) in enumerate(ROWS):
    assert source[number]["text"] == (title,)
    assert red(source[number]) == number == source[number]["id"]
  assert sources.check(source) == []


def test_the_table_of_open_clip_is_read_as_pandas_reads_it(pictures):
  pandas = pytest.importorskip("pandas")
  titles = [title for _, title in ROWS[:2]] + ['a 5" disk', "a, b"]
  frame = pandas.DataFrame({"filepath": NAMES, "title": titles})
  frame.to_csv(pictures / "train.csv", sep="\t", index=False)
  found = pandas.read_csv(pictures / "train.csv", sep="\t")
  source = opened(pictures)
  assert [source[i]["text"][0] for i in range(4)] == found["title"].tolist()


def test_rows_are_what_the_csv_module_of_python_finds(tmp_path):
  """Random fields of the characters that matter, against `csv.reader`."""
  rng = np.random.default_rng(0)
  for trial in range(60):
    rows = [["filepath", "title"]] + [
        ["".join(rng.choice(list('ab",\n\r\t ')) for _ in range(rng.integers(7)))
         for _ in range(2)] for _ in range(20)
    ]
    path = tmp_path / f"{trial}.csv"
    write(path, rows)
    with open(path, newline="", encoding="utf-8") as file:
      expected = [row for row in csv.reader(file) if row][1:]
    table = _table.Table(str(path), ",")
    found = [list(table.row(i).values()) for i in range(len(table))]
    assert found == expected


@pytest.mark.parametrize("remote", [False, True])
def test_json_lines_may_hold_several_captions(pictures, remote):
  rows = [
      {"file_name": "0.png", "text": "one"}, {"file_name": "1.png", "text": ["a", "b"]}
  ]
  lines = "\n\n".join(json.dumps(row) for row in rows)
  (pictures / "metadata.jsonl").write_text(lines)
  (pictures / "other.csv").write_text("file_name,text\n3.png,not read\n")
  source = opened(f"file://{pictures}" if remote else pictures)
  assert [source[i]["text"] for i in range(2)] == [("one",), ("a", "b")]
  assert [red(source[i]) for i in range(len(source))] == [0, 1]


def test_several_columns_of_captions_have_probabilities(pictures):
  rows = [
      {"path": "0.png", "alt": "x", "made": ["y", "z"]},
      {"path": "1.png", "alt": " ", "made": ["y"]},
      {"path": "2.png", "alt": "", "made": []},
  ]
  (pictures / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
  source = opened(pictures, text=("alt", "made"), weights=(1.0, 3.0))
  assert source[0]["text"] == ("x", "y", "z")
  assert source[0]["text_weights"] == (1.0, 1.5, 1.5)
  assert source[1]["text_weights"] == (3.0,)
  assert reason(source, 2) == "no caption"
  never = opened(pictures, text=("alt", "made"), weights=(1.0, 0.0))
  assert reason(never, 1) == "no caption"
  assert "text_weights" not in opened(pictures, text="made")[0]


def test_labels_are_numbers_or_names(pictures):
  write(pictures / "a.csv", [
      ["image", "class", "title"], ["0.png", "red_ant", "a"],
      ["1.png", "bee", "b"], ["2.png", "red_ant", "c"], ["3.png", "", "d"],
  ])
  source = opened(pictures)
  assert source.classes == ("bee", "red ant")
  assert [int(source[i]["label"]) for i in range(3)] == [1, 0, 1]
  assert source[0]["label"].dtype == np.int32
  assert reason(source, 3) == "label is not an integer"
  assert "label" not in opened(pictures, label="")[3]
  named = opened(pictures, text="", classes=("red_ant", "bee"))
  assert named[0]["text"] == ("red ant",) and named[0]["label"] == 0
  write(pictures / "a.csv", [
      ["image", "label", "", ""], ["0.png", "1", "", ""], ["1.png", "7", "", ""],
      ["2.png", "1.0", "", ""], ["3.png", "1.5", "", ""],
  ])
  numbered = opened(pictures, classes=("x", "y"))
  assert numbered[0]["text"] == numbered[2]["text"] == ("y",)
  assert reason(numbered, 1) == "label out of range"
  assert reason(numbered, 3) == "label is not an integer"
  write(pictures / "a.csv", [["image", "label"], ["0.png", "1"], ["1.png", "2.0"]])
  with pytest.raises(ValueError, match="set `text` or `classes`"):
    opened(pictures)


def test_paths_are_absolute_or_start_where_the_pictures_are(pictures, tmp_path):
  inside, tables = tmp_path / "in", tmp_path / "tables"
  inside.mkdir()
  tables.mkdir()
  rows = [
      ["filepath", "title"], ["0.png", "a"], [f"{pictures}/1.png", "b"],
      ["in/../2.png", "c"], ["../../../../../../etc/none.png", "d"],
  ]
  for place in (pictures / "t.csv", tables / "t.csv"):
    write(place, rows)
    source = opened(pictures, table=str(place))
    assert [red(source[i]) for i in range(3)] == [0, 1, 2]
    assert reason(source, 3) == "missing file"
  assert opened(pictures / "t.csv").fingerprint == source.fingerprint
  write(tables / "t.csv", [["filepath", "title"], ["../0.png", "a"]])
  assert red(opened(tables)[0]) == 0


def test_a_row_that_cannot_be_used_is_counted_and_no_other_is_lost(
    pictures, caplog
):
  os.mkfifo(pictures / "pipe.png")
  (pictures / "empty.png").touch()
  (pictures / "text.png").write_text("no picture")
  os.link(pictures / "0.png", pictures / "other.jpg")
  os.symlink(pictures / "0.png", pictures / "link.png")
  os.symlink(pictures / "nowhere.png", pictures / "dangling.png")
  rows = {
      b"0.png\ta": None, b"1.png\tb\tc": "ragged row", b"2.png": "ragged row",
      b'3.png\t"never closed': "broken row", b"0.png\tb": None,
      b"1.png\t\xff\xfe": "row is not UTF-8", b"2.png\t": "no caption",
      b"\tno file": "no image", b"missing.png\ta": "missing file",
      b"pipe.png\ta": "not a file", b".\ta": "not a file",
      b"/dev/zero\ta": "not a file", b"empty.png\ta": "empty image",
      b"0.png/1\ta": "missing file", b"dangling.png\ta": "missing file",
      b"a\0b\ta": "missing file", b"x" * 5000 + b"\ta": "failed read",
      b"http://a/0.png\ta": "web address", b"link.png\ta": None,
      b"other.jpg\ta": None, b"2.png\t" + b"x" * 100_001: "caption too long",
      b'3.png\t"' + b"y" * 140_000 + b'"': "broken row", b"3.png\tlast": None,
  }
  table = b"filepath\ttitle\n" + b"\n".join(rows) + b"\n"
  (pictures / "t.tsv").write_bytes(table)
  with caplog.at_level(logging.INFO):
    source = opened(pictures)
  assert len(source) == len(rows)
  for index, expected in enumerate(rows.values()):
    if expected is None:
      assert np.asarray(source[index]["image"]).shape == (4, 5, 3)
    else:
      assert reason(source, index) == expected
  (said,) = caplog.messages
  assert caplog.records[0].levelno == logging.WARNING
  assert f"{len(rows)} examples" in said
  counts = collections.Counter(rows.values())
  for why in counts.keys() - {None, "empty image"}:  # No picture is read yet.
    assert f"{counts[why]} {why}" in said


def test_a_picture_that_is_none_is_found_when_it_is_decoded(pictures):
  (pictures / "text.png").write_text("no picture")
  write(pictures / "a.csv", [["filepath", "title"], ["text.png", "a"]])
  with pytest.raises(types.Unreadable, match="unknown image format"):
    opened(pictures)[0]["image"].decode()


def test_json_lines_that_are_broken_are_counted(pictures):
  lines = [
      '{"file_name": "0.png", "text": "a"}', '{"file_name": "1.png", "te',
      '[1]', "[" * 100_000, '{"file_name": "1.png"}',
      '{"file_name": "1.png", "text": 3}', '{"file_name": 7, "text": "a"}',
      '{"file_name": "\\ud83d.png", "text": "a"}',
      '{"file_name": "1.png", "text": "\\ud83d"}',
      '{"file_name": "1.png", "text": "a", "more": {"x": 1}}',
  ]
  (pictures / "a.jsonl").write_text("\r\n".join(lines))
  source = opened(pictures)
  reasons = ["broken row"] * 3 + [
      "no caption", "caption is not text", "no image", "missing file",
      "caption is not text",
  ]
  assert [reason(source, index) for index in range(1, 9)] == reasons
  assert red(source[0]) == 0 and red(source[9]) == 1


@pytest.mark.parametrize(("table", "sentence"), [
    (b"", "has no rows"),
    (b"filepath,title\n", "has no rows"),
    (b"0.png,a cat\n1.png,a dog\n", r"no header: .*'0\.png'.*`columns`"),
    (b"where,what\n0.png,a\n", r"\['where', 'what'\].*images: set `image`"),
    (b"filepath,what\n0.png,a\n", r"\['filepath', 'what'\].*captions: set `text`"),
    (b"filepath,filepath\n0.png,a\n", "two of which have the same name"),
    (b"filepath,t\xefs\n0.png,a\n", "header .* cannot be read.*UTF-8"),
    ("filepath,title\n0.png,a\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    (b"filepath,title\r0.png,a\r", r"end in \\r alone"),
    (b"\x1f\x8b123", "gunzip"), (b"PK\3\4", "spreadsheet"),
    (b"filepath,title\n0.png,\n", "none of 1 .*1 no caption"),
    (b"filepath,title\nhttp://a/b.jpg,a\n", "1 web address.*img2dataset"),
])
def test_a_table_that_is_none_is_refused_in_a_sentence(pictures, table, sentence):
  (pictures / "a.csv").write_bytes(table)
  with pytest.raises(ValueError, match=sentence):
    opened(pictures)


def test_other_wrong_starts_are_refused_in_a_sentence(pictures, tmp_path):
  with pytest.raises(FileNotFoundError, match="does not exist"):
    opened(pictures / "nowhere")
  with pytest.raises(FileNotFoundError, match=r"no table b\.csv"):
    opened(pictures, table="b.csv")
  with pytest.raises(ValueError, match="neither captions nor classes"):
    opened(pictures)
  with pytest.raises(ValueError, match="settings of tables"):
    opened(pictures, text="caption")
  with pytest.raises(ValueError, match="no table directly in it"):
    opened(pictures, layout="table")
  with pytest.raises(ValueError, match="is no table"):
    opened(pictures / "0.png")
  with pytest.raises(ValueError, match="channels is 2"):
    opened(pictures, channels=2)
  write(pictures / "a.csv", [["filepath", "title"], ["9.png", "a"]])
  with pytest.raises(FileNotFoundError, match=f"start at {pictures}"):
    opened(pictures)
  with pytest.raises(ValueError, match=r"no column 'alt'; it has \['filepath'"):
    opened(pictures, text="alt")
  with pytest.raises(ValueError, match="one non-negative number for each"):
    opened(pictures, weights=(1.0, 2.0))
  with pytest.raises(ValueError, match=r"tables \['a.csv', 'b.tsv'\]"):
    (pictures / "b.tsv").touch()
    opened(pictures)
  (pictures / "a.jsonl").write_text('[{"file_name": "0.png"}]')
  with pytest.raises(ValueError, match="one JSON array"):
    opened(pictures, table="a.jsonl")


@pytest.mark.parametrize(("name", "source"), [
    ("0.tar", "tar"), ("0.parquet", "parquet"), ("0.txt", None),
])
def test_a_folder_of_something_else_says_what_reads_it(tmp_path, name, source):
  (tmp_path / name).touch()
  said = f"source '{source}' reads those" if source else r"it has 1 \.txt"
  with pytest.raises(ValueError, match=said):
    opened(tmp_path)


def test_a_table_without_a_header_has_its_columns_named(pictures):
  (pictures / "a.csv").write_text("0.png,a\n1.png,b\n")
  source = opened(pictures, columns=("filepath", "title"))
  assert len(source) == 2 and source[1]["text"] == ("b",)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_pictures_have_the_text_file_of_their_name(tmp_path, prefix, caplog):
  """The layout `files` of img2dataset, with what macOS and failures leave."""
  for shard in ("00001", "00000"):
    (tmp_path / shard).mkdir()
    for number in range(3):
      key = f"{shard}{number:04}"
      Image.new("RGB", (5, 4), (number, 0, 9)).save(tmp_path / shard / f"{key}.jpg")
      (tmp_path / shard / f"{key}.txt").write_text(f"caption {key}\n")
      (tmp_path / shard / f"{key}.json").write_text("{}")
    (tmp_path / f"{shard}.parquet").touch()
    (tmp_path / f"{shard}_stats.json").write_text("{}")
  (tmp_path / "00000/000000003.txt").write_text("its picture is lost")
  (tmp_path / "00000/._000000000.jpg").touch()
  (tmp_path / "00000/000000000.txt").write_bytes(b"\xef\xbb\xbfwith a BOM")
  (tmp_path / "00000/000000001.txt").write_bytes(b"\xff\xfe")
  (tmp_path / "00001/000010000.txt").write_text(" \n")
  (tmp_path / "00001/000010001.txt").unlink()
  (tmp_path / "00001/000010001.json").write_text('{"caption": ["a", "b"]}')
  (tmp_path / "00001/000010002.txt").unlink()
  (tmp_path / "00001/000010002.json").write_text("{")
  with caplog.at_level(logging.INFO):
    source = opened(f"{prefix}{tmp_path}")
  assert len(source) == 6
  assert source[0]["text"] == ("with a BOM",)
  assert reason(source, 1) == "caption is not text"
  assert source[2]["text"] == ("caption 000000002",)
  assert reason(source, 3) == "no caption" and source[4]["text"] == ("a", "b")
  assert reason(source, 5) == "broken caption file"
  assert "1 text files without a picture" in caplog.text
  assert pickle.loads(pickle.dumps(source)).fingerprint == source.fingerprint


def test_what_is_found_is_no_warning_unless_something_is_left_out(
    pictures, caplog
):
  for number in range(4):
    (pictures / f"{number}.txt").write_text("a")
  for lost, level in ((None, logging.INFO), ("9.txt", logging.WARNING)):
    if lost:
      (pictures / lost).touch()
    caplog.clear()
    with caplog.at_level(logging.INFO):
      opened(pictures)
    assert [record.levelno for record in caplog.records] == [level]


def test_folders_are_classes_in_the_order_of_torchvision(tmp_path, caplog):
  where = ["b_c/x.png", "b_c/in/y.JPG", "a/2.jpeg", "a/10.png", "a/.z.png", "o.png"]
  for place in where:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (5, 4)).save(tmp_path / place)
  (tmp_path / "a/notes.md").touch()
  os.symlink(tmp_path, tmp_path / "a/loop")
  os.symlink(tmp_path / "b_c", tmp_path / "d")
  with caplog.at_level(logging.INFO):
    source = opened(tmp_path)
  expected = [  # As torchvision's make_dataset: os.walk sorted, then names sorted.
      (os.path.join(root, name), label)
      for label, folder in enumerate(["a", "b_c", "d"])
      for root, _, names in sorted(os.walk(tmp_path / folder)) if "loop" not in root
      for name in sorted(names) if name[0] != "." and not name.endswith(".md")
  ]
  assert source.classes == ("a", "b c", "d")
  rows = [source._rows.example(i) for i in range(len(source))]
  assert [(path, fields["label"]) for path, fields in rows] == expected
  assert source[len(source) - 1]["text"] == ("d",)
  assert "1 pictures outside" in caplog.text and "loop links to" in caplog.text
  assert sources.check(source) == []


def test_a_name_that_is_no_text_is_a_name(tmp_path):
  (tmp_path / "a").mkdir()
  path = os.path.join(os.fsencode(tmp_path), b"a", b"\xff.png")
  with open(path, "wb") as file:
    Image.new("RGB", (5, 4), (3, 0, 0)).save(file, "PNG")
  source = opened(tmp_path)
  assert red(source[0]) == 3 and source.fingerprint


def test_the_fingerprint_tells_content(pictures):
  table = pictures / "a.csv"
  write(table, [["filepath", "title"], ["0.png", "a"], ["1.png", "b"]])
  seen = [opened(pictures).fingerprint]
  write(table, [["filepath", "title"], ["0.png", "a"], ["1.png", "c"]])
  seen.append(opened(pictures).fingerprint)
  Image.new("RGB", (5, 4), (77, 0, 9)).save(pictures / "1.png")
  seen.append(opened(pictures).fingerprint)
  assert len(set(seen)) == 3


def test_a_copy_is_small_and_refuses_a_table_that_changed(pictures):
  table = pictures / "a.csv"
  write(table, [["filepath", "title"], *[["0.png", "a"]] * 1000])
  source = opened(pictures)
  copy = pickle.dumps(source)
  assert len(copy) < 1000
  write(table, [["filepath", "title"], *[["0.png", "a"]] * 1001])
  with pytest.raises(ValueError, match=re.escape("has changed since")):
    pickle.loads(copy)


def test_no_row_is_held_in_memory(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("filepath,title\n" + "0.png,some caption\n" * 10_000)
  assert _table.Table(str(path))._starts.nbytes <= 8 * 10_002


def test_pictures_alone_are_read_where_that_is_asked_for(pictures):
  (pictures / "deep/er").mkdir(parents=True)
  os.rename(pictures / "3.png", pictures / "deep/er/3.png")
  with pytest.raises(ValueError, match="set `layout` to 'pictures'"):
    opened(pictures / "deep/er")
  source = opened(pictures, layout="pictures")
  assert [source.name(n) for n in range(4)] == [*NAMES[:3], "deep/er/3.png"]
  assert [red(source[n]) for n in range(4)] == list(range(4))
  assert source[0].keys() == {"id", "image"}
  assert sources.check(source) == []
  assert pickle.loads(pickle.dumps(source)).name(3) == "deep/er/3.png"


def test_the_name_of_an_example_is_the_path_of_its_picture(pictures):
  write(pictures / "a.csv", [["filepath", "title"], *ROWS, ["", "no path"]])
  source = opened(pictures)
  assert [source.name(n) for n in range(5)] == [*NAMES, "4"]
