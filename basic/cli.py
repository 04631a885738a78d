"""How a program starts and ends: done, refused in a sentence, or stopped.

Exit status: 0 done; 1 refused or failed, and the last lines say why (with
`python -X dev` also where); 42 asked to stop, with everything saved.
"""

import contextlib
import errno
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging

STOPPED = 42
# What is raised with a sentence for whoever runs the program.
EXPLAINED = (ValueError, ArithmeticError, OSError, RuntimeError, ImportError)
# Notes that libraries add to every error, and that say nothing to a user.
_OF_LIBRARIES = (
    "JAX has removed its internal frames", "Grain has removed its internal frames",
    "If you are trying to batch elements after a sparse transformation",
)
# What a setting of the command line that does not exist raises in ml_collections.
_NO_SUCH_SETTING = (
    AttributeError, IndexError, KeyError, OSError, TypeError, ValueError,
)


class Stopped(Exception):
  """The program was asked to stop, and what it made is saved."""


@contextlib.contextmanager
def sentences() -> Iterator[None]:
  """Ends the program with a sentence where it would end with a traceback.

  Raises:
    SystemExit: 42 for `Stopped`; 1 and the sentence for what bad input raises.
      Everything else passes, and so does what the compiler raises: there the
      traceback is the message.
  """
  logging.set_verbosity(logging.WARNING)  # Orbax and JAX narrate at INFO.
  if not sys.flags.dev_mode:
    sys.unraisablehook = _unraisable
  try:
    yield
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(STOPPED)
  except EXPLAINED as error:
    if sys.flags.dev_mode or isinstance(error, jax.errors.JaxRuntimeError):
      raise
    notes = [
        note for note in getattr(error, "__notes__", ())
        if not any(text in note for text in _OF_LIBRARIES)
    ]
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
      notes.append(
          "The disk is full. Make room on it and start the same command again; "
          "it goes on from its newest checkpoint."
      )
    sys.exit("\n".join([f"{type(error).__name__}: {error}", *notes]))


def _unraisable(error: Any) -> None:
  """Shows what nobody could catch, but for the echoes of a failed save.

  Reads and writes of tensorstore that end after their event loop report one
  traceback each, by the dozen, around the sentence that says what to do.
  """
  echo = isinstance(error.exc_value, RuntimeError) and (
      str(error.exc_value) == "Event loop is closed"
  )
  if not echo:
    sys.__unraisablehook__(error)


def parser(
    parse: Callable[[list[str]], list[str]],
) -> Callable[[list[str]], list[str]]:
  """Makes a reader of command lines that refuses wrong settings in a sentence.

  Args:
    parse: reads the command line and raises for a `--config.name` that the
      configuration file does not have.

  Returns:
    The same, ending the program with a sentence where `parse` would raise.
  """

  def parsed(arguments: list[str]) -> list[str]:
    try:
      return parse(arguments)
    except _NO_SUCH_SETTING as error:
      origin = traceback.extract_tb(error.__traceback__)[-1].filename
      if "ml_collections" not in origin:
        raise  # The configuration's own mistake, which a traceback shows best.
      innermost: Any = error
      while isinstance(innermost, BaseException) and innermost.args:
        innermost = innermost.args[0]  # An error may hold another one.
      sys.exit(
          f"--config cannot be set so: {' '.join(str(innermost).split())} (Only "
          "what the file names can be set on the command line: "
          f"{' '.join(a for a in arguments if a.startswith('--config.'))})"
      )

  return parsed


@contextlib.contextmanager
def requests() -> Iterator[list[str]]:
  """Takes SIGTERM and Ctrl-C as requests; a second one does not wait.

  Only in the main thread of a program that runs alone: the processes of a
  cluster would have to agree on a step.

  Yields:
    The names of the signals that came so far.

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
