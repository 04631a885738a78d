"""Strict numerics for every test: no silent broadcasting, checked shapes."""

import os

# Eight virtual devices in every process. jax 0.10.2 dead-locks on collectives
# between virtual devices when its pool has as few threads as this has cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

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
