"""Writes are atomic, and paths that a shell should have expanded are refused."""

import errno
import os

import pytest

from basic import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch
):
  path = tmp_path / "a.json"
  files.replace(path, b"old")

  def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(os, "fsync", full)
  with pytest.raises(OSError, match=r"No space left on device: .*a\.json"):
    files.replace(path, b"new")
  assert path.read_bytes() == b"old"
  assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(ValueError, match="file is a file; it takes a folder"):
      files.folder("--out", path)
  monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
  with pytest.raises(ValueError, match=r"--out is '.*/a/b', and this user may not"):
    files.folder("--out", tmp_path / "a" / "b")
  assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_file_and_folder_are_synced_in_this_order(tmp_path, monkeypatch):
  done, fsync, replace = [], os.fsync, os.replace

  def synced(descriptor):
    done.append("folder" if os.path.isdir(f"/dev/fd/{descriptor}") else "file")
    fsync(descriptor)

  def named(old, new):
    done.append("named")
    replace(old, new)

  monkeypatch.setattr(os, "fsync", synced)
  monkeypatch.setattr(os, "replace", named)
  files.replace(tmp_path / "new" / "a", b"x")
  assert done == ["file", "named", "folder"]


@pytest.mark.parametrize("path", ["~/r1", "~", "~me/r1", "$HOME/r1", "a/${B}/c"])
def test_what_a_shell_should_have_replaced_is_refused(path):
  with pytest.raises(ValueError, match=r"--workdir is .*no shell has expanded"):
    files.checked("--workdir", path)
  assert str(files.checked("--workdir", f"./{path}")) == path


@pytest.mark.parametrize("path", ["", " ", "a\0b"])
def test_a_path_that_names_nothing_is_refused(path):
  with pytest.raises(ValueError, match="--out is"):
    files.checked("--out", path)


@pytest.mark.parametrize("path", ["r1", "a/b~", "/x/cost$", "/x/~/y", "gs://b/c"])
def test_other_paths_are_what_they_are(path):
  files.checked("--workdir", path)
