"""Programs that are functions too: `python -m basic.train`, and basic.train(...)."""

import sys
import types as python_types
from collections.abc import Callable
from typing import Any


def callable_as(module: str, function: Callable[..., Any]) -> None:
  """Lets a module be called, by the name that it has in its package.

  Importing `basic.train` binds that name in `basic` to the module, whoever does it
  and whatever was bound there before. So what `basic.train` means cannot be a
  function that is exported beside the module; it is the module, which can be
  called. Everything that is in the module stays reachable.

  Args:
    module: its `__name__`.
    function: what a call does; `help` and `inspect.signature` show it.

  References:
    "Customizing module attribute access" in Python's data model: assigning the
    `__class__` of a module.
  """
  called = type("Program", (python_types.ModuleType,), {
      "__call__": staticmethod(function), "__wrapped__": staticmethod(function),
      "__doc__": function.__doc__,
  })
  sys.modules[module].__class__ = called
