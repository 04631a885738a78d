"""Large-batch contrastive pretraining in JAX.

Image and text towers are pure functions from rows to embeddings; objectives are
pure functions over all pairs of embeddings. That cut makes contrastive batches
of 65,536 and more exact on whatever hardware is there. Start with
`python -m basic.train --config configs/digits.py --workdir runs/digits`, or in
Python:

    import basic

    config = basic.config("configs/digits.py", "optimizer.peak=1e-3", steps=500)
    run = basic.train(config, "runs/digits")     # trains, evaluates, reports
    run.metrics.curve("loss")
    model = basic.load("runs/digits")            # or "hf_clip:DIR"
    model.embed_images(["a.png"]), model.embed_texts(["a seven"])
    model.classify("a.png", ["seven", "eight"])
    model.search("a seven", model.index("pictures"))

`help(basic.load)`, and of a program `help(basic.train.train)`, say more.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from basic import evaluate as evaluate
  from basic import train as train
  from basic.experiment.configuration import config as config
  from basic.interface.metrics import Metrics as Metrics
  from basic.interface.metrics import read_metrics as read_metrics
  from basic.interface.model import Model as Model
  from basic.interface.model import load as load
  from basic.interface.training import Run as Run

# Imported when first used, so that `import basic` is instant, and a program does
# not pay for what it does not use.
_NAMES = {
    "config": "experiment.configuration",
    "load": "interface.model", "Model": "interface.model",
    "read_metrics": "interface.metrics", "Metrics": "interface.metrics",
    "Run": "interface.training",
}
# Modules that can be called: see interface/programs.py.
_PROGRAMS = ("evaluate", "train")

__all__ = [
    "Metrics", "Model", "Run", "config", "evaluate", "load", "read_metrics", "train",
]


def __getattr__(name: str) -> Any:
  if name in _PROGRAMS:
    return importlib.import_module(f"basic.{name}")
  if name not in _NAMES:
    raise AttributeError(
        f"module 'basic' has no attribute {name!r}; it offers {__all__}"
    )
  found = getattr(importlib.import_module(f"basic.{_NAMES[name]}"), name)
  globals()[name] = found
  return found


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
