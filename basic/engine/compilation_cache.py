"""Compiled programs kept on disk, so that a second run need not compile.

Off unless asked for. What JAX reads back is machine code that it runs: the
folder must be its user's alone.
"""

import os
import pathlib
import stat

import jax

# Shorter compilations are not worth a file.
SECONDS = 0.5


def use(folder: str | os.PathLike) -> pathlib.Path:
  """Keeps programs that JAX compiles from now on, and takes those kept before.

  Entries are found by the program, the compiler's version and the processor, so
  that a wrong one is never taken. Nothing removes old ones.

  Args:
    folder: made with permissions 0700 where it does not exist; ~ is the home.

  Returns:
    The absolute path.

  Raises:
    ValueError: if it belongs to someone else or others may write there, or is
      no folder.
  """
  path = pathlib.Path(folder).expanduser().absolute()
  try:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
  except FileExistsError:
    raise ValueError(
        f"the compilation cache {path} is a file; name a folder"
    ) from None
  about = path.stat()
  if about.st_uid != os.getuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
    raise ValueError(
        f"the compilation cache {path} has owner {about.st_uid} and permissions "
        f"{stat.S_IMODE(about.st_mode):04o}: others could put programs there "
        f"that would run as you; chmod 700 it, or name another folder"
    )
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)
  return path
