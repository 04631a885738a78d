"""`python -m basic.prepare index` builds what is missing, and counts."""

import json
import os

import pytest
import tar_shards

from basic import prepare


def write(folder, *shards):
  for number, members in enumerate(shards):
    (folder / f"{number}.tar").write_bytes(
        members if isinstance(members, bytes) else tar_shards.archive(members)
    )


def run(capsys, folder, *arguments):
  prepare.main(["index", f"--shards={folder}/*.tar", "--json", *arguments])
  return json.loads(capsys.readouterr().out)


def test_counts_say_what_can_be_used_and_what_is_left_out(tmp_path, capsys):
  write(
      tmp_path, tar_shards.pairs(1, 2),
      [*tar_shards.pairs(2, 3), tar_shards.pair(4)[0]],
      tar_shards.archive(tar_shards.pairs(5, 6))[:2600],
  )
  assert run(capsys, tmp_path, "--workers=1") == {
      "shards": 3, "indexed now": 3, "samples": 7, "keys in several shards": 1,
      "examples": 5, "bytes skipped": 40, "image without caption": 1,
      "truncated sample": 1, "truncated shard": 1,
  }


def test_what_fits_is_kept_and_the_rest_is_built(tmp_path, capsys):
  write(tmp_path, *(tar_shards.pairs(n) for n in range(3)))
  assert run(capsys, tmp_path, "--workers=1")["indexed now"] == 3
  before = (tmp_path / "0.tar.index").stat().st_mtime_ns
  os.remove(tmp_path / "1.tar.index")
  write(tmp_path, tar_shards.pairs(0), tar_shards.pairs(1), tar_shards.pairs(7))
  counts = run(capsys, tmp_path, "--workers=1")
  assert counts["indexed now"] == 2 and counts["examples"] == 3
  assert (tmp_path / "0.tar.index").stat().st_mtime_ns == before


def test_settings_of_an_example_change_the_report_alone(tmp_path, capsys):
  write(tmp_path, tar_shards.described(1, a="x"))
  folder = f"--index={tmp_path}/indexes"
  counts = run(capsys, tmp_path, folder, "--workers=1", "--text=json/a")
  assert counts["examples"] == 1 and os.listdir(tmp_path / "indexes")
  with pytest.raises(SystemExit, match=r"0 of 1 samples .* 1 image without"):
    run(capsys, tmp_path, folder, "--workers=1")


def test_one_bad_shard_does_not_keep_others_from_their_index(tmp_path, capsys):
  write(tmp_path, tar_shards.pairs(1), b"\x1f\x8b" + bytes(600), tar_shards.pairs(2))
  with pytest.raises(SystemExit, match=r"1 of 3 shards .*1\.tar is compressed"):
    run(capsys, tmp_path, "--workers=1")
  assert {"0.tar.index", "2.tar.index"} <= set(os.listdir(tmp_path))


def test_workers_are_a_positive_number(tmp_path, capsys):
  write(tmp_path, tar_shards.pairs(1))
  with pytest.raises(SystemExit, match="workers is 0"):
    run(capsys, tmp_path, "--workers=0")


@pytest.mark.slow
def test_processes_build_the_same_indexes(tmp_path, capsys):
  write(tmp_path, *(tar_shards.pairs(n, n + 10) for n in range(4)))
  run(capsys, tmp_path, "--workers=1")
  alone = [(tmp_path / f"{n}.tar.index").read_bytes() for n in range(4)]
  for n in range(4):
    os.remove(tmp_path / f"{n}.tar.index")
  assert run(capsys, tmp_path, "--workers=3")["indexed now"] == 4
  assert [(tmp_path / f"{n}.tar.index").read_bytes() for n in range(4)] == alone
