"""How programs parse their command line, report errors and stop on a signal.

Exit status: 0 on success; 1 on an error, whose message is the last thing printed
(`python -X dev` adds the traceback); 42 after a signal, with everything saved; 45
if too much of the data cannot be read, or a read does not end.
"""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

STOPPED = 42
DAMAGED = 45
# Errors whose message tells the user what to do.
EXPLAINED = (ValueError, ArithmeticError, OSError, RuntimeError, ImportError)
# Notes that libraries add to every error and that do not help a user.
_OF_LIBRARIES = (
    "JAX has removed its internal frames", "Grain has removed its internal frames",
    "If you are trying to batch elements after a sparse transformation",
)


class Stopped(Exception):
  """The program was asked to stop by a signal; its state is saved."""


class DamagedData(RuntimeError):
  """Too many examples cannot be read; the newest checkpoint is from before."""


class Stalled(DamagedData):
  """A read does not end; nothing can end the thread that waits for it."""


@contextlib.contextmanager
def sentences() -> Iterator[None]:
  """Ends the program with the message of an error instead of a traceback.

  Raises:
    SystemExit: 42 for `Stopped`; 45 for `DamagedData`; 1 and the message for the
      errors in `EXPLAINED`. Other errors, and those of the compiler, are raised
      with their traceback.
  """
  logging.set_verbosity(logging.WARNING)  # Orbax and JAX log every step at INFO.
  if not sys.flags.dev_mode:
    sys.unraisablehook = _unraisable
  try:
    yield
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(STOPPED)
  except DamagedData as error:
    print("\n".join([f"{error}", *_notes(error)]), file=sys.stderr)
    if isinstance(error, Stalled):
      # An exit would wait for the thread that waits for the read.
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(DAMAGED)
    sys.exit(DAMAGED)
  except EXPLAINED as error:
    if sys.flags.dev_mode or isinstance(error, jax.errors.JaxRuntimeError):
      raise
    notes = _notes(error)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      notes.append(
          "The disk is full. Make room on it and start the same command again; "
          "it goes on from its newest checkpoint."
      )
    sys.exit("\n".join([f"{type(error).__name__}: {error}", *notes]))


def _notes(error: BaseException) -> list[str]:
  """The notes of an error, except those that libraries add to every error."""
  return [
      note for note in getattr(error, "__notes__", ())
      if not any(text in note for text in _OF_LIBRARIES)
  ]


def _unraisable(error: Any) -> None:
  """Prints errors that could not be raised, except those that follow a failed save.

  TensorStore operations that end after their event loop is closed print one
  traceback each, dozens of them around the message that says what to do.
  """
  follows = isinstance(error.exc_value, RuntimeError) and (
      str(error.exc_value) == "Event loop is closed"
  )
  if not follows:
    sys.__unraisablehook__(error)


def parser(
    parse: Callable[[list[str]], list[str]],
    split: Callable[[list[str]], tuple[list[str], list[str]]],
) -> Callable[[list[str]], list[str]]:
  """Wraps a command-line parser so that settings are taken out before it.

  Args:
    parse: parses the flags and returns what is none.
    split: arguments -> (the others, settings as "name=value").

  Returns:
    A parser that returns [program, *settings], and ends the program with a
    message for arguments that are neither flags nor settings.
  """

  def parsed(arguments: list[str]) -> list[str]:
    own, settings = split(arguments)
    program, *others = parse(own)
    if others:
      sys.exit(
          f"found {' '.join(others)!r}, which is no flag; settings are given as "
          "--config.name=value."
      )
    return [program, *settings]

  return parsed


@contextlib.contextmanager
def requests() -> Iterator[list[str]]:
  """Records SIGTERM and Ctrl-C; a second signal has its usual effect.

  Only in the main thread and with a single process: several processes would
  have to agree on the step at which to stop.

  Yields:
    The names of the signals received so far.

  Example:
    >>> with requests() as asked:
    ...   signal.raise_signal(signal.SIGTERM)
    ...   print(asked)
    ['SIGTERM']
  """
  asked: list[str] = []
  alone = jax.process_count() == 1
  main = threading.current_thread() is threading.main_thread()
  before = {
      number: signal.getsignal(number) or signal.SIG_DFL
      for number in (signal.SIGTERM, signal.SIGINT)
      if alone and main
  }

  def note(number, frame):
    asked.append(signal.Signals(number).name)
    signal.signal(number, before[number])

  for number in before:
    signal.signal(number, note)
  try:
    yield asked
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
