"""Files are named by patterns, read with retries, and told by their content."""

import builtins
import errno

import fsspec
import pytest

from basic.sources import _storage


@pytest.fixture
def files(tmp_path):
  for number in range(12):
    (tmp_path / f"{number:03}.tar").write_bytes(bytes([number]) * 20_000)
  return tmp_path


def names(folder, *patterns):
  found = _storage.expand([f"{folder}/{pattern}" for pattern in patterns])
  return [path.removeprefix(f"{folder}/") for path in found]


@pytest.mark.parametrize(("pattern", "expected"), [
    ("{000..002}.tar", ["000.tar", "001.tar", "002.tar"]),
    ("{002..000}.tar", ["002.tar", "001.tar", "000.tar"]),
    ("{009..011}.tar", ["009.tar", "010.tar", "011.tar"]),
    ("00{7,3}.tar", ["007.tar", "003.tar"]),
    ("0{0,1}{0..1}.tar", ["000.tar", "001.tar", "010.tar", "011.tar"]),
    ("01*.tar", ["010.tar", "011.tar"]),
    ("004.tar", ["004.tar"]),
])
def test_patterns_name_files_in_order(files, pattern, expected):
  assert names(files, pattern) == expected
  remote = _storage.expand(f"file://{files}/{pattern}")
  assert [path.rsplit("/", 1)[1] for path in remote] == expected


def test_a_missing_file_is_named_with_how_many_are_missing(files):
  with pytest.raises(FileNotFoundError, match=r"3 of 4 files .*/012\.tar"):
    names(files, "{011..014}.tar")
  with pytest.raises(FileNotFoundError, match="no file matches"):
    names(files, "*.zip")


def test_a_file_named_twice_is_refused(files):
  with pytest.raises(ValueError, match=r"000\.tar twice"):
    names(files, "00*.tar", "000.tar")
  with pytest.raises(ValueError, match="no paths"):
    _storage.expand([])


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_ranges_of_a_file_are_read_where_they_lie(tmp_path, prefix):
  (tmp_path / "f").write_bytes(bytes(range(200)))
  path = f"{prefix}{tmp_path}/f"
  assert _storage.size(path) == 200
  assert _storage.read(path) == bytes(range(200))
  assert _storage.read(path, 10, 20) == bytes(range(10, 20))
  assert _storage.read(path, 190) == bytes(range(190, 200))
  assert _storage.read(path, 190, 300) == bytes(range(190, 200))
  assert _storage.read(path, 5, 5) == b""
  with _storage.open_binary(path) as file:
    assert file.read(3) == bytes(range(3))


def test_an_unknown_kind_of_storage_says_what_is_missing():
  with pytest.raises(ValueError, match="unheard://"):
    _storage.size("unheard://bucket/file")


def failing(monkeypatch, times, code=errno.EIO):
  """Makes the next `times` calls of `open` fail; returns a list of all calls."""
  calls, real = [], builtins.open

  def fails(path, *arguments, **named):
    calls.append(path)
    if len(calls) <= times:
      raise OSError(code, "planted", str(path))
    return real(path, *arguments, **named)

  monkeypatch.setattr(_storage, "WAIT_SECONDS", 0.0)
  monkeypatch.setattr(builtins, "open", fails)
  return calls


def test_a_read_that_fails_briefly_is_tried_again(files, monkeypatch):
  calls = failing(monkeypatch, _storage.ATTEMPTS - 1)
  assert _storage.read(f"{files}/003.tar", 0, 2) == b"\3\3"
  assert len(calls) == _storage.ATTEMPTS


def test_a_read_that_keeps_failing_names_the_file_and_the_attempts(
    files, monkeypatch
):
  calls = failing(monkeypatch, 100)
  with pytest.raises(OSError, match="planted") as raised:
    _storage.read(f"{files}/003.tar")
  assert len(calls) == _storage.ATTEMPTS
  assert "003.tar could not be read in 4 attempts" in raised.value.__notes__[0]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES])
def test_what_another_attempt_would_not_mend_is_not_tried_again(
    files, monkeypatch, code
):
  calls = failing(monkeypatch, 100, code)
  with pytest.raises(OSError):
    _storage.read(f"{files}/003.tar")
  assert len(calls) == 1


def test_the_wait_doubles(monkeypatch):
  waits = []
  monkeypatch.setattr(_storage.time, "sleep", waits.append)

  def fails():
    raise OSError("planted")

  with pytest.raises(OSError):
    _storage.retry(fails, "f")
  assert waits == [0.5, 1.0, 2.0]


def test_the_fingerprint_tells_content_names_and_sizes(files, tmp_path):
  paths = _storage.expand(f"{files}/*.tar")
  before = _storage.fingerprint(paths)
  assert _storage.fingerprint(paths) == before
  assert _storage.fingerprint(paths[::-1]) != before
  for offset in (0, 10_500, 19_999):  # the start, the middle, the end
    data = bytearray((files / "005.tar").read_bytes())
    data[offset] ^= 1
    (files / "005.tar").write_bytes(data)
    assert _storage.fingerprint(paths) != before
    data[offset] ^= 1
    (files / "005.tar").write_bytes(data)
  assert _storage.fingerprint(paths) == before
  (files / "005.tar").write_bytes(data + b"\0")
  assert _storage.fingerprint(paths) != before


def test_the_fingerprint_does_not_depend_on_the_folder(files, tmp_path_factory):
  elsewhere = tmp_path_factory.mktemp("copy")
  for path in files.iterdir():
    (elsewhere / path.name).write_bytes(path.read_bytes())
  assert _storage.fingerprint(_storage.expand(f"{elsewhere}/*.tar")) == (
      _storage.fingerprint(_storage.expand(f"{files}/*.tar"))
  )


def test_memory_is_a_storage_like_any_other():
  system = fsspec.filesystem("memory")
  for number in range(3):
    system.pipe(f"/shards/{number}.tar", bytes([number]) * 9)
  assert _storage.expand("memory://shards/{0..2}.tar") == tuple(
      f"memory://shards/{n}.tar" for n in range(3)
  )
  assert [p.rsplit("/", 1)[1] for p in _storage.expand("memory://shards/*.tar")] == [
      "0.tar", "1.tar", "2.tar"
  ]
  assert _storage.read("memory://shards/2.tar", 7, 20) == b"\2\2"
