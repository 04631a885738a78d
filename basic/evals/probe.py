"""A linear model on frozen embeddings: of classes, or of numbers."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from basic import types
from basic.evals import _frozen, _linear, _selection


def probe(
    *,
    views: tuple[str, ...] = ("image",),
    label: str = "label",
    numbers: bool | None = None,
    l2: float | None = None,
    validation: float = 0.2,
    standardize: bool = False,
    top: tuple[int, ...] = (1, 5),
    steps: int = 1000,
    tolerance: float = 1e-6,
    seed: int = 0,
) -> types.ReferenceEvaluator:
  """Fits a linear model on the reference, and judges it on the source.

  Classes get multinomial logistic regression, fitted by L-BFGS on all examples at
  once; numbers get ridge regression in closed form,

      min_W,b  sum_i [log sum_c exp z_ic - z_i,y(i)] + l2/2 |W|^2,  z = x W + b
      min_w,b  sum_i (x_i w + b - y_i)^2 + l2 |w|^2

  so C of scikit-learn's LogisticRegression is 1 / l2 (2 / l2 for two classes, for
  which it has a single vector), and alpha of its Ridge is l2. `l2` is chosen on a
  part of the reference, held out by class, among 1e-6 to 1e6 with eight values a
  decade, for accuracy, then cross-entropy (for numbers, the squared error);
  then the model is fitted on the whole reference.

  Args:
    views: whose embeddings are the features, side by side and not normalised;
      each of the field of a batch that has its name.
    label: the field to predict, integers or floats, one a row.
    numbers: whether they are numbers and not classes; None: floats are.
    l2: the strength of the regularisation, positive; None: chosen.
    validation: fraction of the reference to choose on, above 0 and below 1.
    standardize: whether each feature is shifted and scaled to mean 0 and
      standard deviation 1 on what the model is fitted on. CLIP's protocol does
      not.
    top: each k of the accuracy among the k best. One above the number of classes
      is left out.
    steps: of L-BFGS at most.
    tolerance: L-BFGS ends where no entry of the gradient of the mean loss is
      larger.
    seed: of the choice of what is held out.

  Returns:
    An evaluator over batches with the fields of `views` and `label`, of the
    source and of its reference. Metrics of classes: "@1", "@5", ... as fractions,
    where a class that the reference lacks is a miss; "/per_class@1", the mean
    over classes of the fraction of each. Of numbers: "/mae"; "/r2"; "/spearman".
    "/l2"; "/count" and "/reference_count".

  Raises:
    ValueError: if a setting is out of its range; when called, if there is no
      example, a field is missing, or labels are not one number a row.

  References:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, 2021, appendix A.3. https://arxiv.org/abs/2103.00020

  Example:
    >>> def encode(batch):  # a tower that returns what it sees
    ...   return types.Embedded(
    ...       {"image": types.Features(np.asarray(batch["image"]))}, {})
    >>> batch = {"image": np.float32([[1], [2], [3]]), "label": np.float32([3, 5, 7])}
    >>> data = [(batch, np.array([True] * 3))]
    >>> print(f'{probe(l2=1e-6)(encode, data, data)["/r2"]:.3f}')
    1.000
  """
  _check(views, l2, validation, top, steps, tolerance)

  def evaluate(
      encode: Callable[[types.Batch], types.Embedded],
      batches: Iterable[tuple[types.Batch, Any]],
      reference: Iterable[tuple[types.Batch, Any]],
  ) -> types.Metrics:
    known = _frozen.embed("probe", encode, reference, views, (label,))
    asked = _frozen.embed("probe", encode, batches, views, (label,))
    x, x_asked = (
        np.concatenate([each.views[view] for view in views], axis=1)
        for each in (known, asked)
    )
    y, y_asked = known.fields[label], asked.fields[label]
    floats = np.issubdtype(y.dtype, np.floating)
    if floats if numbers is None else numbers:
      model = _linear.of_numbers(y, y_asked)
    else:
      model = _linear.of_classes(
          y, y_asked, top=top, steps=steps, tolerance=tolerance
      )
    strength = l2
    if strength is None:
      strength = _chosen(model, x, standardize, validation, seed)
    predict = _linear.fitted(model, x, model.y, standardize)
    return {
        **model.metrics(predict(strength, x_asked)), "/l2": float(strength),
        "/count": float(len(x_asked)), "/reference_count": float(len(x)),
    }

  return evaluate


def _chosen(model, x, standardize, validation, seed):
  """The regularisation that is best for a part that is held out."""
  held = _selection.held_out(model.groups, validation, seed)
  rest = ~held if not held.all() else held
  predict = _linear.fitted(model, x[rest], model.y[rest], standardize)
  return _selection.search(
      lambda l2: model.quality(predict(l2, x[held]), model.y[held])
  )


def _check(views, l2, validation, top, steps, tolerance):
  """Raises ValueError for settings that cannot work."""
  if not views or min(steps, *top) < 1:
    raise ValueError(
        f"probe found views={tuple(views)}, top={tuple(top)} and steps={steps} and "
        "needs a view, and whole numbers from 1."
    )
  if not (l2 is None or l2 > 0) or not tolerance > 0 or not 0 < validation < 1:
    raise ValueError(
        f"probe found l2={l2}, tolerance={tolerance} and validation={validation}; "
        "it takes positive numbers, None for an l2 that is chosen, and a fraction "
        "above 0 and below 1 to validate on."
    )
