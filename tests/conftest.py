"""Strict numerics for every test: no silent broadcasting, checked shapes.

Most of the time here would be the compiler's, and a law does not need speed:
programs are compiled fast rather than well, and once for all processes of a
run, those that tests start included. As users have it:

    XLA_FLAGS=--xla_backend_optimization_level=3 bash launch/test.sh
"""

import atexit
import importlib.metadata
import os
import shutil
import tempfile

# Eight virtual devices in every process. jax 0.10.2 dead-locks on collectives
# between virtual devices when its pool has as few threads as this has cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

if "--xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = " ".join([
      os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0",
      # Newer ones do not know it.
      "--xla_cpu_use_fusion_emitters=false"
      if importlib.metadata.version("jax").startswith("0.10.") else "",
  ]).strip()

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  # The first process of a run makes it, private and empty; the others find it.
  cache = tempfile.mkdtemp(prefix="basic-tests-")
  atexit.register(shutil.rmtree, cache, ignore_errors=True)
  os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import jaxtyping
import pytest

# Before the first import of `basic`, whose annotations it checks.
jaxtyping.install_import_hook("basic", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture
def double():
  """float64 throughout, so that laws can be tested to 1e-12."""
  with jax.enable_x64(True):
    yield
