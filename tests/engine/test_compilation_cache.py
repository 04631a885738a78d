"""Compiled programs on disk: kept, found again, and private."""

import os
import stat

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as of_jax

from basic.engine import compilation_cache


@pytest.fixture(autouse=True)
def restored():
  """The settings of the process, after a test that changed them."""
  names = (
      "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
  )
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  of_jax.reset_cache()


def test_a_program_is_kept_in_a_private_folder(tmp_path, monkeypatch):
  monkeypatch.setattr(compilation_cache, "SECONDS", 0.0)
  of_jax.reset_cache()
  path = compilation_cache.use(tmp_path / "deep" / "cache")
  assert stat.S_IMODE(path.stat().st_mode) == 0o700
  jax.jit(lambda x: jnp.tanh(x) * 0.1234)(jnp.ones(3))
  assert any(path.iterdir())


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert compilation_cache.use("~/cache") == tmp_path / "cache"


def test_a_folder_that_others_may_write_to_is_refused(tmp_path):
  tmp_path.chmod(0o770)
  with pytest.raises(ValueError, match="chmod 700"):
    compilation_cache.use(tmp_path)


def test_the_folder_of_another_user_is_refused(tmp_path, monkeypatch):
  tmp_path.chmod(0o700)
  monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
  with pytest.raises(ValueError, match="owner"):
    compilation_cache.use(tmp_path)


def test_a_file_is_refused(tmp_path):
  (tmp_path / "cache").write_text("")
  with pytest.raises(ValueError, match="name a folder"):
    compilation_cache.use(tmp_path / "cache")
