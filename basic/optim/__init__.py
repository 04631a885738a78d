"""Optimizers: from gradients to updates (with engine/step.py, the door to optax).

One optimizer a file. Every factory returns an `Optimizer`: an optax
transformation, and its learning rate as a function of the step, so that it can
be logged. Patterns on parameter paths (paths.py) say which parameters have
weight decay and which have a learning rate multiplier.

Freezing is not done here: engine/step.py splits off frozen parameters first, so
they never reach an optimizer and have no optimizer state. The optimizer state
repeats the parameter paths, so the axis table that shards a kernel shards its
moments too.
"""

from basic.optim._chain import NO_DECAY, Optimizer, with_schedule_of
from basic.optim._ema import ema_params, evaluation_params, with_ema
from basic.optim.adafactorw import adafactorw
from basic.optim.adamw import adamw
from basic.optim.lamb import lamb
from basic.optim.lars import lars
from basic.optim.lion import lion
from basic.optim.sgd import sgd

# Old names of settings, read by experiment/renamed.py.
RENAMED = {
    "average": "ema_decay",
    "factor_from": "min_dim_size_to_factor",
    "rates": "lr_multipliers",
    "trust": "trust_coefficient",
}

__all__ = [
    "NO_DECAY", "Optimizer", "adafactorw", "adamw", "ema_params",
    "evaluation_params", "lamb", "lars", "lion", "sgd", "with_ema",
    "with_schedule_of",
]
