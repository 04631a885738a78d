"""The reader of archives agrees with tarfile on whole ones, and survives others."""

import io
import random
import tarfile

import hypothesis
import pytest
import tar_shards
from hypothesis import strategies as st

from basic.sources import _tar_format

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def walk(data):
  found = list(_tar_format.members(lambda a, b: data[a:b], len(data)))
  members = [each for each in found if isinstance(each, _tar_format.Member)]
  losses = [tuple(each) for each in found if isinstance(each, _tar_format.Loss)]
  return members, losses


def read(data):
  """[(name, content)] of the members that can be used, and losses."""
  members, losses = walk(data)
  return [
      (m.name, data[m.content : m.content + m.size]) for m in members if not m.fault
  ], losses


def oracle(data):
  with tarfile.open(fileobj=io.BytesIO(data)) as opened:
    return [(m.name, opened.extractfile(m).read()) for m in opened if m.isreg()]


# Names that ustar can hold as well.
PART = st.text("ab.é0 ", min_size=1, max_size=30).filter(
    lambda part: part.strip(".")
)
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
CONTENT = st.integers(0, 1300).map(lambda size: bytes(i % 251 for i in range(size)))


@pytest.mark.parametrize("form", FORMATS)
@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(members=st.lists(st.tuples(NAME, CONTENT), max_size=6))
def test_random_archives_are_read_as_tarfile_does(form, members):
  data = tar_shards.archive(members, form)
  found, losses = read(data)
  assert found == oracle(data) == members
  assert losses == ([] if members else [("empty shard", 1)])


@pytest.mark.parametrize("form", FORMATS[1:])
def test_long_names_and_their_records_are_read(form):
  members = [(f"{'folder/' * 40}{n}é.jpg", b"x" * n) for n in range(4)]
  data = tar_shards.archive(members, form)
  assert read(data) == (members, []) and oracle(data) == members


def test_a_prefix_of_ustar_belongs_to_the_name():
  members = [(f"{'folder/' * 20}{n}.jpg", b"x") for n in range(2)]
  data = tar_shards.archive(members)
  assert read(data) == (members, []) and oracle(data) == members


def test_archives_of_unix_version_7_have_no_magic_word():
  data = bytearray(tar_shards.archive(tar_shards.pairs(1, 2)))
  for name in ("00001.png", "00001.txt", "00002.png", "00002.txt"):
    at = tar_shards.header(bytes(data), name)
    data[at + 156] = 0
    data[at + 257 : at + 512] = bytes(255)
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
  assert read(bytes(data)) == (tar_shards.pairs(1, 2), [])


def test_old_programs_added_signed_bytes():
  data = bytearray(tar_shards.archive([("é.jpg", b"x")]))
  data[148:156] = b" " * 8
  signed = sum(byte - 256 * (byte > 127) for byte in data[:512])
  data[148:156] = b"%06o\0 " % signed
  assert read(bytes(data)) == ([("é.jpg", b"x")], [])


def test_sizes_in_base_256_are_read():
  data = bytearray(tar_shards.archive([("a.jpg", b"x" * 700)]))
  data[124:136] = b"\x80" + (700).to_bytes(11, "big")
  data[148:156] = b" " * 8
  data[148:156] = b"%06o\0 " % sum(data[:512])
  assert read(bytes(data)) == ([("a.jpg", b"x" * 700)], [])


AFTER = tar_shards.archive([("z.jpg", b"after")])


def records(**values):
  """A header with records of pax."""
  content = b""
  for key, value in values.items():
    rest = f" {key.replace('__', '.')}={value}\n".encode()
    length = next(n for n in range(9999) if n == len(str(n)) + len(rest))
    content += str(length).encode() + rest
  return tar_shards.block(b"x", len(content), b"x") + tar_shards.padded(content)


def test_name_and_size_in_pax_records_are_those_that_count():
  data = records(size=600, path="long/a.jpg") + tar_shards.block(b"a", 0)
  data += tar_shards.padded(b"x" * 600) + AFTER
  assert read(data) == ([("long/a.jpg", b"x" * 600), ("z.jpg", b"after")], [])
  assert oracle(data) == read(data)[0]


def test_global_records_disturb_nothing():
  file = io.BytesIO()
  with tarfile.open(
      fileobj=file, mode="w", format=tarfile.PAX_FORMAT,
      pax_headers={"comment": "of all"},
  ) as opened:
    opened.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
  assert read(file.getvalue()) == ([("a.jpg", b"")], [])


@pytest.mark.parametrize(("member", "fault"), [
    # A map of two more blocks precedes the content.
    (tar_shards.block(b"a.jpg", 600, b"S", 1) + bytes(504) + b"\1" + bytes(7)
     + bytes(512) + tar_shards.padded(b"x" * 600), "sparse member"),
    (records(GNU__sparse__major=1) + tar_shards.block(b"a.jpg", 600)
     + tar_shards.padded(b"x" * 600), "sparse member"),
    # Old programs give the size of a file that is not there again.
    (tar_shards.block(b"a.jpg", 600, b"1"), "link"),
    (tar_shards.block(b"a.jpg", 600, b"?") + tar_shards.padded(b"x" * 600),
     "unknown kind of member"),
    (records(size="9" * 5000) + tar_shards.block(b"a.jpg", 0), "bad header"),
    (records(size="many") + tar_shards.block(b"a.jpg", 0), "bad header"),
    (tar_shards.block(b"x", 9, b"x") + tar_shards.padded(b"99 path=a\n")
     + tar_shards.block(b"a.jpg", 0), "bad header"),
    (tar_shards.block(b"x", 9, b"x") + tar_shards.padded(b"garbage!!")
     + tar_shards.block(b"a.jpg", 0), "bad header"),
    (records(path="a\0.jpg") + tar_shards.block(b"a.jpg", 0), "unsafe name"),
    (tar_shards.block(b"", 0), "unsafe name"),
], ids=range(10))
def test_a_member_that_cannot_be_used_hides_no_other(member, fault):
  members, losses = walk(member + AFTER)
  assert [m.fault for m in members] == [fault, ""] and losses == []
  assert read(member + AFTER)[0] == [("z.jpg", b"after")]


@pytest.mark.parametrize(("claimed", "there"), [(2 << 20, 2 << 20), (10**9, 0)])
def test_a_name_that_would_fill_the_memory_is_skipped(claimed, there):
  data = tar_shards.block(b"x", claimed, b"x") + bytes(there) + AFTER
  losses = [("bad header", 1), ("bytes skipped", 512 + there)]
  assert read(data) == ([("z.jpg", b"after")], losses)


@pytest.mark.parametrize("cut", [1100, 1536, 1600])
def test_a_cut_in_a_long_name_is_a_truncated_shard(cut):
  whole = tar_shards.archive([("a.jpg", b"x")])[:1024]
  data = (whole + records(path="b.jpg" * 200) + AFTER)[:cut]
  assert read(data) == (
      [("a.jpg", b"x")], [("truncated shard", 1), ("bytes skipped", cut - 1024)]
  )


def test_a_header_of_no_member_is_counted():
  data = tar_shards.archive([("a.jpg", b"x")])[:1024] + records(path="b.jpg")
  assert read(data) == (
      [("a.jpg", b"x")], [("header without member", 1), ("no end mark", 1)]
  )
  assert read(data + bytes(1024))[1] == [("header without member", 1)]


def test_folders_of_unix_version_7_end_in_a_slash():
  assert read(tar_shards.block(b"folder/", 0) + AFTER) == ([("z.jpg", b"after")], [])


def test_directories_are_passed_over():
  data = tar_shards.archive(
      [tar_shards.special("d", tarfile.DIRTYPE), *tar_shards.pairs(1)]
  )
  assert read(data) == (tar_shards.pairs(1), [])


def test_what_precedes_and_follows_a_hole_is_read():
  """Bytes inserted in an archive shift all that follows off the grid."""
  data = tar_shards.archive(tar_shards.pairs(1, 2, 3))
  at = tar_shards.header(data, "00002.png")
  members, losses = read(data[:at] + b"inserted" + data[at:])
  assert members == tar_shards.pairs(1, 2, 3)
  assert losses == [("bad header", 1), ("bytes skipped", 8)]


def test_a_member_that_claims_more_than_follows_hides_no_other():
  data = bytearray(tar_shards.archive(tar_shards.pairs(1, 2, 3)))
  at = tar_shards.header(bytes(data), "00002.png")
  data[at + 124 : at + 136] = b"%011o\0" % 10**9
  data[at + 148 : at + 156] = b" " * 8
  data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
  members, losses = read(bytes(data))
  assert members == [m for m in tar_shards.pairs(1, 2, 3) if m[0] != "00002.png"]
  assert losses == [("size beyond the end", 1), ("bytes skipped", 512)]


def test_every_cut_keeps_the_members_that_are_whole():
  members = [(f"{n}.jpg", bytes([n + 1]) * (300 * n)) for n in range(5)]
  data = tar_shards.archive(members)
  ends, at = [], 0
  for _, content in members:
    at += 512
    ends.append(at + len(content))
    at += -(-len(content) // 512) * 512
  for cut in range(0, at + 700, 37):
    found, losses = read(data[:cut])
    assert found == [m for m, end in zip(members, ends, strict=True) if end <= cut]
    assert losses or cut > at, cut


def blocks_with_a_checksum(data):
  """Offsets of all headers, those of long names included."""
  with tarfile.open(fileobj=io.BytesIO(data)) as opened:
    return {
        at for m in opened for at in range(m.offset, m.offset_data, 512)
        if data[at + 257 : at + 262] == b"ustar"
    }


@pytest.mark.parametrize("form", FORMATS)
def test_flipped_bytes_lose_nothing_in_silence(form):
  """Headers have a checksum. Contents, and long names, have none."""
  rng = random.Random(0)
  data = tar_shards.archive(
      [*tar_shards.pairs(*range(8)), (f"{'long/' * 30}a.png", tar_shards.png(9))],
      form,
  )
  headers, whole = blocks_with_a_checksum(data), read(data)[0]
  for _ in range(300):
    offset = rng.randrange(len(data))
    changed = tar_shards.flipped(data, offset)
    found, losses = read(changed)
    faults = [m for m in walk(changed)[0] if m.fault]
    if offset // 512 * 512 in headers:
      assert (losses or faults) and [m for m in whole if m in found] == found
    elif not (losses or faults):  # or it was the end mark
      assert len(found) == len(whole)
      assert sum(a != b for a, b in zip(found, whole, strict=True)) <= 1


@pytest.mark.parametrize("seed", range(3))
def test_random_damage_never_fails_and_ends(seed):
  rng = random.Random(seed)
  data = tar_shards.archive(tar_shards.pairs(*range(6)), rng.choice(FORMATS))
  for _ in range(150):
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 30)):
      at, length = rng.randrange(len(changed)), rng.choice((1, 8, 100, 512, 700))
      match rng.randrange(4):
        case 0:
          changed[at : at + length] = rng.randbytes(length)
        case 1:
          del changed[at : at + length]
        case 2:
          changed[at:at] = rng.randbytes(length)
        case _:
          changed[at : at + length] = bytes(length)
    members, _ = walk(bytes(changed))
    for member in members:
      assert 0 <= member.start < member.content
      assert member.fault or member.content + member.size <= len(changed)
