"""Examples are listed once, and the list survives a kill."""

import json

import pytest

from basic.data import damage
from basic.recording import quarantine


def failures(*indices, message="torn: shard 3, key 0013"):
  return [damage.Failure(index, "torn", message) for index in indices]


def indices(folder):
  return [row["index"] for row in quarantine.read(folder)]


def test_an_example_is_listed_once_whatever_is_resumed(tmp_path):
  listed = quarantine.Quarantine(tmp_path)
  assert not listed.path.exists() and quarantine.read(tmp_path) == []
  listed.add("a", failures(3, 5, 3))
  listed.add("a", failures(5, 4))
  again = quarantine.Quarantine(tmp_path)
  assert not again.new("a", 3) and again.new("a", 6)
  again.add("a", failures(3, 6))
  assert indices(tmp_path) == [3, 5, 4, 6]
  assert quarantine.read(tmp_path)[0] == {
      "index": 3, "where": "", "reason": "torn", "message": "torn: shard 3, key 0013",
      "source": "a",
  }


def test_the_same_number_in_another_source_is_another_example(tmp_path):
  listed = quarantine.Quarantine(tmp_path)
  listed.add("a", failures(3))
  listed.add(None, failures(3))
  listed.add("b", failures(3))
  assert [row["source"] for row in quarantine.read(tmp_path)] == ["a", None, "b"]


def test_the_list_has_an_end(tmp_path):
  listed = quarantine.Quarantine(tmp_path, most=3)
  listed.add("a", failures(*range(10)))
  assert indices(tmp_path) == [0, 1, 2]
  assert not listed.new("a", 11)
  quarantine.Quarantine(tmp_path, most=4).add("a", failures(*range(10)))
  assert indices(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", range(1, 80, 13))
def test_a_line_that_a_kill_cut_off_is_written_again(tmp_path, cut):
  listed = quarantine.Quarantine(tmp_path)
  listed.add("a", failures(1, 2))
  whole = listed.path.read_bytes()
  listed.path.write_bytes(whole[:-cut])
  assert indices(tmp_path) == [1]
  quarantine.Quarantine(tmp_path).add("a", failures(1, 2))
  assert listed.path.read_bytes() == whole


@pytest.mark.parametrize("line", [
    b"{", b"[]", b'{"index": "1", "reason": "", "message": "", "source": null}',
    b'{"index": 1, "message": "", "source": null}', b"\xff",
])
def test_a_line_that_is_none_of_ours_is_refused_by_its_number(tmp_path, line):
  path = tmp_path / quarantine.NAME
  quarantine.Quarantine(tmp_path).add("a", failures(1))
  path.write_bytes(path.read_bytes() + line + b"\n")
  with pytest.raises(ValueError, match=r"line 2 of .*quarantine\.jsonl"):
    quarantine.read(tmp_path)


def test_messages_are_bounded_keep_no_secret_and_are_one_line(tmp_path):
  message = "torn: s3://me:word@host/a\n\ud800" + "x" * 10_000
  quarantine.Quarantine(tmp_path).add("a", failures(1, message=message))
  (line,) = (tmp_path / quarantine.NAME).read_bytes().splitlines()
  assert len(line) < 700 and b"word" not in line
  assert json.loads(line)["message"].startswith("torn: s3://")


def test_other_processes_know_and_do_not_write(tmp_path, monkeypatch):
  monkeypatch.setattr(quarantine.jax, "process_index", lambda: 1)
  listed = quarantine.Quarantine(tmp_path)
  listed.add("a", failures(1))
  assert not listed.new("a", 1)
  assert not listed.path.exists()
