"""A persistent compilation cache, so that later runs start faster.

Off by default. JAX executes the machine code that it reads from the cache, so
nobody but the user may be able to write to the folder.
"""

import os
import pathlib
import stat

import jax

# Programs that compile faster than this are not stored.
SECONDS = 0.5


def use(folder: str | os.PathLike) -> pathlib.Path:
  """Stores the programs that JAX compiles from now on, and loads stored ones.

  JAX keys entries by the program, the compiler's version and the processor. Old
  entries are never removed.

  Args:
    folder: created with permissions 0700 if it does not exist; ~ is expanded.

  Returns:
    The absolute path.

  Raises:
    ValueError: if it is not a folder, belongs to another user, or is writable
      by others.
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
