"""Makes tar shards for tests: whole ones, and others damaged on purpose."""

import io
import json
import tarfile

from PIL import Image


def png(number, width=5):
  """A small picture that no other number has."""
  data = io.BytesIO()
  Image.new("RGB", (width, 4), (number % 256, number // 256, 255)).save(data, "PNG")
  return data.getvalue()


def pair(number, text=None):
  """The two members of a sample."""
  return [
      (f"{number:05}.png", png(number)),
      (f"{number:05}.txt", (text or f"caption {number}").encode()),
  ]


def pairs(*numbers):
  return [member for number in numbers for member in pair(number)]


def archive(members, form=tarfile.USTAR_FORMAT):
  """An archive of (name, content), or (TarInfo, content or None)."""
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode="w", format=form) as opened:
    for name, content in members:
      info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
      info.size = len(content or b"")
      opened.addfile(info, None if content is None else io.BytesIO(content))
  return file.getvalue()


def special(name, kind, target=""):
  """A member that is no file."""
  info = tarfile.TarInfo(name)
  info.type, info.linkname = kind, target
  return info, None


def block(name, size, kind=b"0", extended=0):
  """A header written by hand, which may claim anything."""
  head = bytearray(512)
  head[: len(name)] = name
  head[124:136] = b"%011o\0" % size
  head[156:157] = kind
  head[257:265] = b"ustar  \0"
  head[482] = extended
  head[148:156] = b" " * 8
  head[148:156] = b"%06o\0 " % sum(head)
  return bytes(head)


def padded(content):
  """A content up to the next block."""
  return content + bytes(-len(content) % 512)


def header(data, name):
  """Offset of the header of a member."""
  with tarfile.open(fileobj=io.BytesIO(data)) as opened:
    return opened.getmember(name).offset


def flipped(data, *offsets):
  """The same bytes, each of those at `offsets` with one bit flipped."""
  changed = bytearray(data)
  for offset in offsets:
    changed[offset] ^= 1
  return bytes(changed)


def described(number, **fields):
  """A sample whose captions are in JSON."""
  return [
      (f"{number:05}.png", png(number)),
      (f"{number:05}.json", json.dumps(fields).encode()),
  ]


def shard(folder, members, name="00000.tar"):
  """Writes a shard of members, or of bytes; returns its path."""
  data = members if isinstance(members, bytes) else archive(members)
  (folder / name).write_bytes(data)
  return str(folder / name)


def read_one(source, index):
  """(image file, captions) of an example."""
  return source[index]["image"].data, source[index]["text"]


def read(source):
  """Those of all examples."""
  return [read_one(source, index) for index in range(len(source))]


def expected(*numbers):
  """What `read` gives for `pairs`."""
  return [(png(n), (f"caption {n}",)) for n in numbers]
