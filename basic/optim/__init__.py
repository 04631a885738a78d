"""Turns gradients into updates (with engine/step.py, the door to optax).

One optimizer a file. Every factory returns an `Optimizer`: the transformation,
and its learning rate as a function of the step so that it can be recorded. What
decays, and at which rate a part learns, is said by patterns on parameter paths
(see paths.py).

Freezing is not said here: engine/step.py splits the parameters first, so frozen
ones never reach an optimizer and have no slots. The optimizer's state repeats the
parameter paths, so the table that places a kernel places its moments too.
"""

from basic.optim._average import averaged, evaluation_params, with_average
from basic.optim._chain import NO_DECAY, Optimizer
from basic.optim.adafactorw import adafactorw
from basic.optim.adamw import adamw
from basic.optim.lamb import lamb
from basic.optim.lars import lars
from basic.optim.lion import lion
from basic.optim.sgd import sgd

__all__ = [
    "NO_DECAY", "Optimizer", "adafactorw", "adamw", "averaged",
    "evaluation_params", "lamb", "lars", "lion", "sgd", "with_average",
]
