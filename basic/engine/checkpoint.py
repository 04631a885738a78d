"""Saves the whole state of a run, and restores the newest one that is intact.

Parameters, optimizer state, memory, random key and the position in the data are
written together in the background; a checkpoint gets its final name when it is
complete.

Orbax notices a missing file but not a flipped bit in an array, so a digest of
the arrays is saved with every step and compared when the step is read. If a
step is damaged, this is logged and the previous one is used.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from basic import cli, paths, types
from basic.engine import checksums, stored_state, together

_log = logging.getLogger(__name__)
_PATIENCE = 3  # consecutive failed saves before the run stops


class Checkpoints:
  """The checkpoints of one run, in one directory with a folder for each step.

  Saves are asynchronous, one at a time. Whether a save succeeded is known at the
  next save or at `close`: a failed save is logged and the run continues, until
  three in a row have failed. All processes of a run call the same methods in the
  same order.

  Args:
    directory: absolute path; created if it does not exist.
    every: steps between two saves; None opens the directory read-only, also
      while a run is writing to it.
    keep: number of newest steps to keep, at least 1. With 2 there is one to fall
      back on. Step 0, if it was saved, is always kept.
    keep_every: also keep every step that is a multiple of this number.

  Raises:
    ValueError: if the directory is not absolute or a number is not positive.
  """

  def __init__(
      self,
      directory: str | os.PathLike[str],
      *,
      every: int | None,
      keep: int = 2,
      keep_every: int | None = None,
  ):
    self.directory, self.every = os.fspath(directory), every
    if not os.path.isabs(self.directory) and "://" not in self.directory:
      raise ValueError(
          f"the checkpoint directory {self.directory!r} depends on where the "
          f"program runs; give {os.path.abspath(self.directory)!r} instead"
      )
    for name, value in dict(every=every, keep=keep, keep_every=keep_every).items():
      if value is not None and value < 1:
        raise ValueError(f"{name} is {value}; give a number of at least 1")
    self._manager = ocp.CheckpointManager(
        self.directory, options=_options(every is None, keep, keep_every))
    if every is not None:
      self._remove_unfinished()
    # Never removed: threads of Orbax may log after this object is closed.
    for name in ("absl", "asyncio"):
      logging.getLogger(name).addFilter(_ONCE_ONLY)
    self._pending: int | None = None  # the step being written
    self._saved: int | None = None  # the newest step on disk
    self._damaged: set[int] = set()
    self._failures: list[Exception] = []  # consecutive

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *exception: Any) -> None:
    if jax.process_count() > 1 and isinstance(exception[1], cli.Stalled):
      return  # The other processes are elsewhere: to wait for them has no end.
    if exception and exception[0] is not None:
      # The error that ended the run must not be hidden by one that follows.
      with contextlib.suppress(RuntimeError):
        self.close()
    else:
      self.close()

  def due(self, step: int) -> bool:
    """Whether a step is a multiple of `every`; step 0 is not."""
    return self.every is not None and step > 0 and step % self.every == 0

  def latest(self) -> int | None:
    """The newest step that is saved or being saved; None if there is none."""
    if self.every is None:
      self._manager.reload()  # another process may be writing
    return self._manager.latest_step()

  def save(
      self,
      step: int,
      state: types.TrainState,
      position: Mapping[str, Any],
      force: bool = False,
  ) -> bool:
    """Starts an asynchronous save of a state if it is due.

    The state may be donated as soon as this returns. Existing steps that are not
    older than this one are from before the run fell back on an older checkpoint;
    they and damaged ones are renamed, not deleted.

    Args:
      step: number of steps taken, the name of the checkpoint.
      state: the train state, as `step.update` returns it.
      position: position in the data, as JSON data.
      force: save even if it is not due; a step that is saved is not saved again.

    Returns:
      Whether a save was started; `wait` returns when it is on disk.

    Raises:
      RuntimeError: if three consecutive saves have failed.
      TypeError: if the position is not JSON data, such as NumPy numbers.
      ValueError: if the directory was opened read-only.
    """
    if self.every is None:
      raise ValueError(f"{self.directory} was opened read-only: give `every`")
    if not (force or self.due(step)):
      return False
    self._settle()
    if step == self._saved:
      return False
    leaves = stored_state.leaves(state)
    sealed = checksums.seal([dict(position), checksums.digest(leaves)])
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(paths.unflatten(leaves)),
        integrity=ocp.args.JsonSave(sealed),
    )
    try:
      self._rename_abandoned(step)
      together.together(lambda: self._manager.save(step, args=items, force=True))
    except together.BrokenError as error:
      self._failed(step, error)
      return False
    self._pending = self._saved = step
    return True

  def restore(
      self,
      state_like: types.TrainState | Callable[[int], types.TrainState],
      step: int | None = None,
  ) -> tuple[types.TrainState, dict[str, Any]]:
    """Restores the newest intact step, with the shardings of `state_like`.

    Args:
      state_like: arrays, or `ShapeDtypeStruct`s with shardings, that give shapes,
        dtypes and shardings; the shardings may differ from those of the run that
        saved. Or a function from the step to these, if shapes depend on it.
      step: the step to restore; None: the newest intact one.

    Returns:
      (state, position): the state, bitwise as saved; the position after a round
      trip through JSON, with lists for tuples and strings for keys.

    Raises:
      FileNotFoundError: if there is no checkpoint, or not of that step.
      ValueError: if the checkpoint is of another model, or none is intact.
    """
    def read(candidate):
      like = state_like(candidate) if callable(state_like) else state_like
      return stored_state.whole(self._manager, candidate, like)

    return self._newest_intact(read, step)

  def parameters(
      self,
      place: stored_state.Place,
      step: int | None = None,
      groups: Sequence[str] = ("params",),
  ) -> stored_state.Part:
    """Some arrays of the newest intact step, for whom the others do not exist.

    Neither the optimizer nor the data of the run is needed to read them.

    Args:
      place: where arrays of the shapes of a step shall lie.
      step: the step to read; None: the newest intact one.
      groups: the beginnings of the paths to read, such as "params".

    Raises:
      FileNotFoundError: if there is no checkpoint, or not of that step.
      ValueError: if no checkpoint is intact.
    """
    return self._newest_intact(
        lambda n: stored_state.part(self._manager, n, place, groups), step
    )

  def wait(self) -> None:
    """Blocks until the last save is on disk.

    Raises:
      RuntimeError: if that save failed.
    """
    self._settle()
    if self._failures:
      raise RuntimeError(
          f"the last save in {self.directory} failed ({self._failures[-1]}); the "
          f"newest checkpoint is {self._newest()}. Make room there, or mend it, "
          "and start the same command again"
      ) from self._failures[-1]

  def close(self) -> None:
    """Waits for the last save and closes; raises as `wait` does."""
    try:
      self.wait()
    finally:
      # It may raise the error of a failed save once more, in place of ours.
      with contextlib.suppress(*([Exception] if self._failures else [])):
        self._manager.close()
      if self._failures:  # Threads of Orbax may have written more until now.
        self._remove_unfinished(logged=False)

  def _newest_intact(self, read, step):
    """What `read` returns for a step, or for the newest that is intact."""
    self._settle()
    known = sorted(self._manager.all_steps(), reverse=True)
    candidates = known if step is None else [step]
    if not known or not set(candidates) <= set(known):
      raise FileNotFoundError(
          f"{self.directory} holds the steps {known[::-1]}"
          + ("" if step is None else f" and not {step}")
      )
    for candidate in candidates:
      try:
        found = read(candidate)
        self._saved = candidate
        return found
      except together.BrokenError as error:
        if isinstance(error.__cause__, (MemoryError, jax.errors.JaxRuntimeError)):
          raise  # a fault of the machine, not of the file
        self._damaged.add(candidate)
        _log.warning("Checkpoint %d is damaged: %s", candidate, error)
    raise ValueError(
        f"of the checkpoints {candidates} in {self.directory} none is intact; the "
        "log says what was found. Nothing was deleted: give an older copy, or "
        "an empty directory to begin anew"
    )

  def _newest(self):
    """The newest checkpoint, for messages."""
    step = self.latest()
    return "none" if step is None else f"step {step}"

  def _remove_unfinished(self, logged=True):
    """Removes the folders of saves that did not finish."""
    # Orbax does this in a thread that is not joined, so it might remove what a
    # later object has begun to write.
    if jax.process_index() != 0 or not os.path.isdir(self.directory):
      return
    for unfinished in ocp.utils.tmp_checkpoints(self.directory):
      if logged:
        _log.warning("%s was not finished: removed", unfinished.get())
      # A thread of a failed save may still be writing to it; the rest is then
      # removed with the next one.
      with contextlib.suppress(OSError):
        unfinished.get().rmtree()

  def _settle(self):
    """Waits for the save in progress, if any, and records whether it failed."""
    step, self._pending = self._pending, None
    if step is None:
      return
    try:
      together.together(self._manager.wait_until_finished)
    except together.BrokenError as error:
      self._failed(step, error)
    else:
      self._failures = []

  def _failed(self, step, error):
    self._failures.append(error)
    self._saved = None
    self._remove_unfinished(logged=False)  # The next save needs the space.
    self._manager.reload()  # it had forgotten the steps that this one replaces
    count = len(self._failures)
    _log.warning(
        "Checkpoint %d was not written (%d in a row): %s", step, count, error)
    if count >= _PATIENCE:
      raise RuntimeError(
          f"{count} saves in a row have failed, the last at step {step} ({error}). "
          f"The newest checkpoint is {self._newest()}. Make room in "
          f"{self.directory}, or mend it, and start the same command again"
      ) from error

  def _rename_abandoned(self, step):
    """Renames checkpoints that are in the way of a step, so that nothing is lost."""
    old = [
        s for s in self._manager.all_steps() if s >= step or s in self._damaged]
    if not old:
      return
    root = self._manager.directory

    def rename():
      for name in old if jax.process_index() == 0 else ():
        number = sum(1 for _ in root.glob(f"{name}.abandoned-*"))
        (root / str(name)).rename(root / f"{name}.abandoned-{number}")

    together.together(rename)
    _log.warning(
        "The steps %s are not of this run's past: renamed *.abandoned-*", old)
    self._damaged.clear()
    self._manager.reload()

class _OnceOnly(logging.Filter):
  """Drops log records of errors that Orbax also raises.

  For a full disk it logs 700 lines of tracebacks around our one message.
  """

  def filter(self, record: logging.LogRecord) -> bool:
    if sys.flags.dev_mode or not record.exc_info:
      return True
    # asyncio logs the errors of tasks that outlive a failed save.
    where = [record.pathname]
    if record.name == "asyncio":
      where = [frame.filename for frame in traceback.extract_tb(record.exc_info[2])]
    return not any(f"{os.sep}orbax{os.sep}" in path for path in where)


_ONCE_ONLY = _OnceOnly()


def _options(read_only, keep, keep_every):
  if read_only:
    return ocp.CheckpointManagerOptions(read_only=True, create=False)
  policies = ocp.checkpoint_managers
  kept = [policies.LatestN(keep), policies.CustomSteps([0])]
  if keep_every is not None:
    kept.append(policies.EveryNSteps(keep_every))
  return ocp.CheckpointManagerOptions(
      # Made behind the run, a folder that cannot be made is waited for in vain
      # for five minutes.
      async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      preservation_policy=policies.AnyPreservationPolicy(kept),
  )


__all__ = ["Checkpoints"]
